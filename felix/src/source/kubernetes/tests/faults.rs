use serde_json::{Value, json};
use tokio::sync::watch;

use super::script::{Answer, Script, bookmark, error_event, event, namespace};
use super::*;
use crate::observe::Metrics;
use crate::source::hub::Hub;
use crate::source::kubernetes::{ListWatch, Options, resources, run};
use crate::source::listwatch::Deadlines;
use crate::source::{KindState, SourceStatus};

struct Fixture {
    script: Script,
    hub: std::sync::Arc<Hub>,
    updates: mpsc::Receiver<Update>,
    status: watch::Receiver<SourceStatus>,
    tasks: tokio::task::JoinSet<()>,
}

async fn fixture(kinds: &[Kind]) -> Fixture {
    let script = Script::start().await;
    let (sender, updates) = mpsc::channel(4);
    let (hub, status) = Hub::new("test".into(), kinds, sender, Metrics::new().source);
    Fixture { script, hub: hub.into(), updates, status, tasks: tokio::task::JoinSet::new() }
}

fn options() -> Options {
    let short = Duration::from_millis(300);
    Options {
        watch_seconds: 60,
        deadlines: Deadlines { list: short, open: short },
        ..Options::default()
    }
}

impl Fixture {
    fn watch(&mut self, kind: Kind, options: Options) {
        let resource = resources("caracal-system").into_iter().find(|r| r.kind == kind).unwrap();
        let objects = ListWatch::new(self.script.client.clone(), &resource.path, options);
        self.tasks.spawn(run(resource, objects, self.hub.clone()));
    }

    fn watch_namespaces(&mut self, options: Options) {
        self.watch(Kind::Namespace, options);
    }

    fn watch_pools(&mut self) {
        self.watch(Kind::IPPool, options());
    }
}

fn pool(name: &str, version: u32, cidr: impl Into<Value>) -> Value {
    let cidr: Value = cidr.into();
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": "IPPool",
        "metadata": {"name": name, "resourceVersion": version.to_string()},
        "spec": {"cidr": cidr},
    })
}

#[tokio::test]
async fn a_list_and_what_follows() {
    let mut f = fixture(&[Kind::Namespace]).await;
    f.script.answer(
        "namespaces",
        [
            Answer::Page(vec![namespace("a", 1, "1")], "token"),
            Answer::List(3, vec![namespace("b", 2, "1")]),
            Answer::Watch(
                vec![
                    event("ADDED", namespace("c", 4, "1")),
                    // Only what the agent does not look at has changed.
                    event("MODIFIED", namespace("c", 5, "1")),
                    bookmark(6, false),
                    event("MODIFIED", namespace("a", 7, "2")),
                    event("DELETED", namespace("b", 8, "1")),
                ],
                true,
            ),
        ],
    );
    f.watch_namespaces(options());
    assert_eq!(next(&mut f.updates).await, ["set Namespace a", "set Namespace b", "in sync"]);
    assert_eq!(
        next(&mut f.updates).await,
        ["set Namespace c", "set Namespace a", "remove Namespace b"]
    );
    let requests = f.script.requests();
    assert!(
        requests[1].contains("continue=token") && requests[2].contains("resourceVersion=3"),
        "{requests:?}"
    );
    assert!(requests[0].starts_with("/api/v1/namespaces?"), "{requests:?}");
    let status = f.status.borrow();
    assert_eq!(status.kinds[&Kind::Namespace].state, KindState::Watching);
    assert_eq!(status.kinds[&Kind::Namespace].objects, 2);
    assert_eq!((status.ready(), status.connected()), (Ok(()), Ok(())));
}

/// A watch goes on from the last version seen, bookmarks included.
#[tokio::test]
async fn a_watch_that_ends_is_taken_up_where_it_was() {
    let mut f = fixture(&[Kind::Namespace]).await;
    f.script.answer(
        "namespaces",
        [
            Answer::List(3, vec![]),
            Answer::Watch(vec![event("ADDED", namespace("a", 4, "1")), bookmark(9, false)], false),
            Answer::Watch(vec![event("ADDED", namespace("b", 10, "1"))], true),
        ],
    );
    f.watch_namespaces(options());
    assert_eq!(next(&mut f.updates).await, ["in sync", "set Namespace a", "set Namespace b"]);
    assert!(f.script.requests()[2].contains("resourceVersion=9"), "{:?}", f.script.requests());
}

/// The answer 410 Gone, as an event or to the request: what vanished meanwhile is removed, what
/// stayed is not said again.
#[tokio::test]
async fn a_watch_too_far_behind_becomes_a_list() {
    for gone in
        [Answer::Watch(vec![error_event(410, "too old")], true), Answer::Status(410, "too old")]
    {
        let mut f = fixture(&[Kind::Namespace]).await;
        f.script.answer(
            "namespaces",
            [
                Answer::List(
                    3,
                    vec![namespace("a", 1, "1"), namespace("b", 2, "1"), namespace("c", 3, "1")],
                ),
                gone,
                Answer::List(9, vec![namespace("a", 1, "1"), namespace("c", 8, "2")]),
            ],
        );
        f.watch_namespaces(options());
        assert_eq!(
            next(&mut f.updates).await,
            ["set Namespace a", "set Namespace b", "set Namespace c", "in sync"]
        );
        assert_eq!(
            next(&mut f.updates).await,
            ["set Namespace c", "remove Namespace b", "in sync"]
        );
        wait_for(&mut f.status, "watching again", |s| {
            s.kinds[&Kind::Namespace].state == KindState::Watching
        })
        .await;
    }
}

#[tokio::test]
async fn a_list_that_breaks_off_removes_nothing() {
    let mut f = fixture(&[Kind::Namespace]).await;
    f.script.answer(
        "namespaces",
        [
            Answer::List(3, vec![namespace("a", 1, "1"), namespace("b", 2, "1")]),
            Answer::Status(410, "too old"),
            Answer::Page(vec![namespace("b", 2, "2")], "token"),
            Answer::Status(500, "etcd is away"),
            Answer::List(9, vec![namespace("a", 1, "1"), namespace("b", 2, "2")]),
            Answer::Watch(vec![event("ADDED", namespace("c", 10, "1"))], true),
        ],
    );
    f.watch_namespaces(options());
    assert_eq!(next(&mut f.updates).await, ["set Namespace a", "set Namespace b", "in sync"]);
    assert_eq!(next(&mut f.updates).await, ["set Namespace b", "in sync", "set Namespace c"]);
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_asked_again() {
    let mut f = fixture(&[Kind::Namespace]).await;
    f.script.answer(
        "namespaces",
        [
            Answer::Silence,
            Answer::List(3, vec![]),
            Answer::Silence,
            Answer::Watch(vec![event("ADDED", namespace("a", 4, "1"))], true),
        ],
    );
    f.watch_namespaces(options());
    let mut seen = f.status.clone();
    let silent =
        |s: &SourceStatus| error_of(s, Kind::Namespace) == Some("list: no answer within 300ms");
    wait_for(&mut seen, "the silence is said", silent).await;
    assert!(seen.borrow().ready().unwrap_err().contains("list: no answer within 300ms"));
    assert_eq!(next(&mut f.updates).await, ["in sync", "set Namespace a"]);
}

/// The right to read Secrets is a choice, the others are waited for.
#[tokio::test]
async fn a_missing_right() {
    let mut f = fixture(&[Kind::Namespace, Kind::Secret]).await;
    f.script.answer("secrets", [Answer::Status(403, "not allowed")]);
    f.script.answer(
        "namespaces",
        [
            Answer::Status(403, "not allowed"),
            Answer::Status(403, "not allowed"),
            Answer::List(3, vec![]),
        ],
    );
    f.watch(Kind::Secret, options());
    wait_for(&mut f.status, "Secrets count as read", |s| s.kinds[&Kind::Secret].listed).await;
    assert_eq!(f.status.borrow().kinds[&Kind::Secret].state, KindState::Forbidden);
    assert_eq!(error_of(&f.status.borrow(), Kind::Secret), Some("forbidden: not allowed"));
    f.watch_namespaces(options());
    wait_for(&mut f.status, "the others are waited for", |s| {
        s.kinds[&Kind::Namespace].state == KindState::Forbidden
    })
    .await;
    assert_eq!(
        f.status.borrow().ready().unwrap_err(),
        "test: waiting for Namespace (forbidden: not allowed)"
    );
    assert_eq!(next(&mut f.updates).await, ["in sync"]);
}

/// A missing CRD holds nobody up, and is noticed when it comes.
#[tokio::test]
async fn a_kind_that_is_not_served_yet() {
    let mut f = fixture(&[Kind::Namespace, Kind::IPPool]).await;
    f.script.answer(
        "ippools",
        [
            Answer::Status(404, "not found"),
            Answer::Status(404, "not found"),
            Answer::List(5, vec![pool("p", 4, "10.0.0.0/16")]),
        ],
    );
    f.watch_namespaces(options());
    wait_for(&mut f.status, "namespaces are read", |s| s.kinds[&Kind::Namespace].listed).await;
    assert!(f.updates.try_recv().is_err(), "IPPools have not been asked for");
    f.watch_pools();
    assert_eq!(next(&mut f.updates).await, ["in sync"]);
    let state = f.status.borrow().kinds[&Kind::IPPool].clone();
    assert_eq!((state.state, state.listed), (KindState::NotServed, true));
    assert_eq!(next(&mut f.updates).await, ["set IPPool p", "in sync"]);
}

/// One denial is not believed: the server may be starting.
#[tokio::test]
async fn one_denial_is_not_enough() {
    let mut f = fixture(&[Kind::IPPool]).await;
    f.script.answer(
        "ippools",
        [Answer::Status(404, "not found"), Answer::List(5, vec![pool("p", 4, "10.0.0.0/16")])],
    );
    f.watch_pools();
    assert_eq!(next(&mut f.updates).await, ["set IPPool p", "in sync"]);
}

/// What was known of a kind stays until a list proves that it is gone.
#[tokio::test]
async fn a_kind_that_is_no_longer_served_keeps_its_objects() {
    let mut f = fixture(&[Kind::IPPool]).await;
    let two = vec![pool("p", 1, "10.0.0.0/16"), pool("q", 2, "10.1.0.0/16")];
    f.script.answer(
        "ippools",
        [
            Answer::List(3, two),
            Answer::Status(404, "not found"),
            Answer::Status(404, "not found"),
            Answer::Status(404, "not found"),
            Answer::List(9, vec![pool("q", 2, "10.1.0.0/16")]),
        ],
    );
    f.watch_pools();
    assert_eq!(next(&mut f.updates).await, ["set IPPool p", "set IPPool q", "in sync"]);
    wait_for(&mut f.status, "said", |s| s.kinds[&Kind::IPPool].state == KindState::NotServed).await;
    assert_eq!(f.status.borrow().kinds[&Kind::IPPool].objects, 2);
    assert_eq!(next(&mut f.updates).await, ["remove IPPool p", "in sync"]);
}

/// An object that cannot be decoded is named; the others, and what was known of it, are untouched.
#[tokio::test]
async fn an_object_of_another_shape() {
    let mut f = fixture(&[Kind::IPPool]).await;
    let list = |bad: u32| vec![pool("bad", 1, bad), pool("good", 2, "10.1.0.0/16")];
    f.script.answer(
        "ippools",
        [
            Answer::List(3, list(7)),
            Answer::Watch(
                vec![
                    event("MODIFIED", pool("bad", 4, "10.0.0.0/16")),
                    event("MODIFIED", pool("bad", 5, 7)),
                    event("ADDED", pool("worse", 6, 7)),
                    error_event(410, "too old"),
                ],
                true,
            ),
            Answer::List(9, list(8)),
            Answer::Watch(vec![event("DELETED", pool("bad", 10, 8))], true),
        ],
    );
    f.watch_pools();
    assert_eq!(next(&mut f.updates).await, ["set IPPool good", "in sync", "set IPPool bad"]);
    wait_for(&mut f.status, "both are named", |s| s.problems.len() == 2).await;
    let problems = f.status.borrow().problems.clone();
    assert_eq!(problems.keys().collect::<Vec<_>>(), ["IPPool bad", "IPPool worse"]);
    assert!(
        problems["IPPool bad"].ends_with("the last that could be read stays in force"),
        "{problems:?}"
    );
    assert_eq!(next(&mut f.updates).await, ["in sync", "remove IPPool bad"]);
    wait_for(&mut f.status, "nothing is left to say", |s| s.problems.is_empty()).await;
}

#[tokio::test]
async fn streaming_lists_are_used_where_they_can_be() {
    let mut f = fixture(&[Kind::Namespace]).await;
    f.script.answer(
        "namespaces",
        [Answer::Watch(
            vec![
                event("ADDED", namespace("a", 1, "1")),
                bookmark(5, true),
                event("DELETED", namespace("a", 6, "1")),
            ],
            true,
        )],
    );
    f.watch_namespaces(Options { streaming: true, ..options() });
    assert_eq!(next(&mut f.updates).await, ["set Namespace a", "in sync", "remove Namespace a"]);
    assert!(f.script.requests()[0].contains("sendInitialEvents=true"));
}

#[tokio::test]
async fn ordinary_lists_are_used_where_streaming_is_refused() {
    let without_progress = "the required storage feature RequestWatchProgress is disabled";
    for refusal in [
        Answer::Watch(vec![error_event(500, without_progress)], true),
        Answer::Status(422, "sendInitialEvents is forbidden"),
    ] {
        let mut f = fixture(&[Kind::Namespace]).await;
        f.script.answer("namespaces", [refusal, Answer::List(3, vec![namespace("a", 1, "1")])]);
        f.watch_namespaces(Options { streaming: true, ..options() });
        assert_eq!(next(&mut f.updates).await, ["set Namespace a", "in sync"]);
    }
}

/// A slow agent holds the source back and loses nothing.
#[tokio::test]
async fn back_pressure() {
    let mut f = fixture(&[Kind::Namespace]).await;
    let many = (0..100).map(|i| namespace(&format!("n{i:02}"), i + 1, "1")).collect();
    f.script.answer("namespaces", [Answer::List(100, many)]);
    f.watch_namespaces(options());
    while f.updates.len() < 4 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!f.status.borrow().in_sync, "96 are still with the source");
    for i in 0..100 {
        assert_eq!(next(&mut f.updates).await, [format!("set Namespace n{i:02}")]);
    }
    assert_eq!(next(&mut f.updates).await, ["in sync"]);
}
