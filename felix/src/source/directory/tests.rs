use std::os::unix::fs::symlink;
use std::time::Duration;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::config::SourceConfig;
use crate::model::Object;
use crate::observe::Metrics;
use crate::source::Source;

const PATIENCE: Duration = Duration::from_secs(20);

struct Fixture {
    dir: TempDir,
    source: Source,
}

/// A folder with these files, and its source.
async fn open(files: &[(&str, &str)]) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let source = source(dir.path()).await;
    Fixture { dir, source }
}

async fn source(path: &Path) -> Source {
    Source::open(&SourceConfig::Directory { path: path.to_owned() }, Metrics::new().source)
        .await
        .unwrap()
}

impl Fixture {
    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn next<const N: usize>(&mut self) -> [String; N] {
        next(&mut self.source).await
    }

    /// Waits until this is what is wrong with the file, None: nothing.
    async fn problem(&mut self, name: &str, wanted: Option<&str>) {
        let path = self.path(name).display().to_string();
        let mut status = self.source.status();
        let met = timeout(
            PATIENCE,
            status.wait_for(|s| s.problems.get(&path).map(String::as_str) == wanted),
        )
        .await;
        assert!(
            met.is_ok_and(|r| r.is_ok()),
            "wanted {wanted:?} of {path}: {:?}",
            status.borrow().problems
        );
    }

    /// Another file's change, to see that nothing else came before it.
    async fn nothing_until(&mut self, marker: &str) {
        self.write(&format!("{marker}.yaml"), &namespace(marker, ""));
        assert_eq!(self.next().await, [format!("set Namespace {marker}")]);
    }
}

async fn next<const N: usize>(source: &mut Source) -> [String; N] {
    let mut briefs: Vec<String> = Vec::new();
    while briefs.len() < N {
        let update = timeout(PATIENCE, source.recv()).await;
        let Ok(update) = update else { panic!("only {briefs:?}; {:?}", *source.status().borrow()) };
        briefs.push(match update.expect("the source has ended") {
            Update::Set(object) => format!("set {} {}", object.kind(), object.key()),
            Update::Remove(kind, key) => format!("remove {kind} {key}"),
            Update::InSync => "in sync".into(),
        });
    }
    briefs.try_into().unwrap()
}

fn namespace(name: &str, label: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels: {{l: '{label}'}}\n---\n"
    )
}

const POOL: &str = "apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pool-a}
spec: {cidr: 10.244.0.0/16}
";

#[tokio::test]
async fn every_kind_is_read_in_an_order_that_helps() {
    let web = "apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec: {nodeName: n1, containers: [{name: c, ports: [{name: http, containerPort: 80}]}]}
status: {podIPs: [{ip: 10.244.0.5}]}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: sa, namespace: shop}
---
apiVersion: v1
kind: Secret
metadata: {name: bgp, namespace: shop}
stringData: {password: hunter2}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: shop}
spec: {podSelector: {}}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: wide}
spec: {tier: Admin, priority: 1, subject: {namespaces: {}}}
";
    let json =
        "{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"shop\"}}";
    let mut f = open(&[
        ("web.yaml", web),
        ("pool.yml", POOL),
        ("ns.json", json),
        ("notes.txt", "x"),
        (".x.yaml", "x"),
    ])
    .await;
    assert_eq!(
        f.next().await,
        [
            "set IPPool pool-a",
            "set Namespace shop",
            "set ServiceAccount shop/sa",
            "set Node n1",
            "set ClusterNetworkPolicy wide",
            "set KubernetesNetworkPolicy shop/deny",
            "set Secret shop/bgp",
            "set Pod shop/web",
            "in sync",
        ]
    );
    let status = f.source.status();
    wait_ready(&mut f.source.status()).await;
    assert_eq!(status.borrow().connected(), Ok(()));
    assert!(status.borrow().problems.is_empty(), "{:?}", status.borrow().problems);
}

async fn wait_ready(status: &mut watch::Receiver<SourceStatus>) {
    timeout(PATIENCE, status.wait_for(|s| s.in_sync)).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_change_of_a_file_is_the_difference_of_its_objects() {
    let text = |c: &str| namespace("a", "1") + &namespace("b", "1") + c;
    let mut f = open(&[("x.yaml", &text(""))]).await;
    assert_eq!(f.next().await, ["set Namespace a", "set Namespace b", "in sync"]);
    f.write("x.yaml", &text(&namespace("c", "1")));
    assert_eq!(f.next().await, ["set Namespace c"]);
    f.write("x.yaml", &(namespace("a", "1") + &namespace("b", "2")));
    assert_eq!(f.next().await, ["remove Namespace c", "set Namespace b"]);
    f.write("x.yaml", "# nothing\n");
    assert_eq!(f.next().await, ["remove Namespace a", "remove Namespace b"]);
    f.write("x.yaml", &namespace("a", "1"));
    assert_eq!(f.next().await, ["set Namespace a"]);
    std::fs::remove_file(f.path("x.yaml")).unwrap();
    assert_eq!(f.next().await, ["remove Namespace a"]);
}

#[tokio::test]
async fn files_renamed_and_linked_into_place() {
    let mut f = open(&[("x.yaml", &namespace("a", "1"))]).await;
    assert_eq!(f.next().await, ["set Namespace a", "in sync"]);
    f.write(".x.yaml.tmp", &namespace("a", "2"));
    std::fs::rename(f.path(".x.yaml.tmp"), f.path("x.yaml")).unwrap();
    assert_eq!(f.next().await, ["set Namespace a"]);
    std::fs::rename(f.path("x.yaml"), f.path("y.yaml")).unwrap();
    f.nothing_until("marker-1").await;
    std::fs::rename(f.path("y.yaml"), f.path("y.yaml.off")).unwrap();
    assert_eq!(f.next().await, ["remove Namespace a"]);
    symlink(f.path("y.yaml.off"), f.path("z.yaml")).unwrap();
    assert_eq!(f.next().await, ["set Namespace a"]);
    std::fs::remove_file(f.path("z.yaml")).unwrap();
    assert_eq!(f.next().await, ["remove Namespace a"]);
    std::fs::hard_link(f.path("y.yaml.off"), f.path("z.yaml")).unwrap();
    assert_eq!(f.next().await, ["set Namespace a"]);
}

/// What a writer has not finished does not count, though its first half is good YAML.
#[tokio::test]
async fn a_file_counts_when_its_writer_closes_it() {
    use std::io::Write;
    let mut f = open(&[("x.yaml", &(namespace("a", "1") + &namespace("b", "1")))]).await;
    assert_eq!(f.next().await, ["set Namespace a", "set Namespace b", "in sync"]);
    let mut file = std::fs::File::create(f.path("x.yaml")).unwrap();
    file.write_all(namespace("a", "2").as_bytes()).unwrap();
    file.flush().unwrap();
    f.nothing_until("marker").await;
    file.write_all(namespace("b", "1").as_bytes()).unwrap();
    drop(file);
    assert_eq!(f.next().await, ["set Namespace a"]);
}

#[tokio::test]
async fn a_malformed_file_keeps_its_last_good_content() {
    let good = namespace("a", "1") + POOL;
    let mut f = open(&[("x.yaml", &good), ("y.yaml", &namespace("other", "1"))]).await;
    assert_eq!(
        f.next().await,
        ["set IPPool pool-a", "set Namespace a", "set Namespace other", "in sync"]
    );
    f.write(
        "x.yaml",
        &(namespace("a", "2") + &POOL.replace("spec: {cidr: 10.244.0.0/16}", "spec: {cidr: [7]}")),
    );
    let mut status = f.source.status();
    let path = f.path("x.yaml").display().to_string();
    let problem = timeout(PATIENCE, status.wait_for(|s| s.problems.contains_key(&path)))
        .await
        .unwrap()
        .unwrap()
        .problems[&path]
        .clone();
    assert!(problem.starts_with("line 10: IPPool pool-a: "), "{problem}");
    assert!(
        problem.contains("spec.cidr: must be a string, not a list")
            && problem.ends_with("; the file's last good content stays in force"),
        "{problem}"
    );
    f.nothing_until("marker").await;
    f.write("x.yaml", &(namespace("a", "3") + POOL));
    assert_eq!(f.next().await, ["set Namespace a"]);
    f.problem("x.yaml", None).await;
    // Malformed and then deleted: deletion is meant.
    f.write("x.yaml", "a: [");
    timeout(PATIENCE, status.wait_for(|s| s.problems.contains_key(&path))).await.unwrap().unwrap();
    std::fs::remove_file(f.path("x.yaml")).unwrap();
    assert_eq!(f.next().await, ["remove Namespace a", "remove IPPool pool-a"]);
    f.problem("x.yaml", None).await;
}

#[tokio::test]
async fn of_a_file_malformed_from_the_start_the_good_documents_count() {
    let text = namespace("a", "1")
        + "apiVersion: v1\nkind: Deployment\nmetadata: {name: d}\n---\n"
        + &namespace("b", "1");
    let mut f = open(&[("x.yaml", &text)]).await;
    assert_eq!(f.next().await, ["set Namespace a", "set Namespace b", "in sync"]);
    let path = f.path("x.yaml").display().to_string();
    let problem = f.source.status().borrow().problems[&path].clone();
    assert!(problem.starts_with("line 8: ") && problem.contains("Deployment"), "{problem}");
}

const POLICY: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from:
    - podSelector: {matchLabels: {app: lb}}
";

const FORM: &str =
    "line 7: NetworkPolicy shop/web: spec.ingress[0].form: unknown field; did you mean from?";

/// The next update, a policy of Kubernetes.
async fn next_policy(f: &mut Fixture) -> Arc<NetworkPolicy> {
    match timeout(PATIENCE, f.source.recv()).await {
        Ok(Some(Update::Set(Object::KubernetesNetworkPolicy(policy)))) => policy,
        other => panic!("{other:?}"),
    }
}

/// Without `from` the rule would let everyone in.
#[tokio::test]
async fn a_misspelt_field_of_a_policy_leaves_its_last_version_in_force() {
    let mut f = open(&[("x.yaml", POLICY)]).await;
    assert_eq!(f.next().await, ["set KubernetesNetworkPolicy shop/web", "in sync"]);
    f.write("x.yaml", &POLICY.replace("from:", "form:"));
    f.problem("x.yaml", Some(&format!("{FORM}; the file's last good content stays in force")))
        .await;
    f.nothing_until("marker").await;
    f.write("x.yaml", &POLICY.replace("app: lb", "app: proxy"));
    f.problem("x.yaml", None).await;
    assert_eq!(f.next().await, ["set KubernetesNetworkPolicy shop/web"]);
}

#[tokio::test]
async fn a_policy_that_never_was_right_allows_nothing() {
    let mut f = open(&[("x.yaml", &POLICY.replace("from:", "form:"))]).await;
    let closed = "KubernetesNetworkPolicy shop/web allows nothing until it is right";
    let policy = next_policy(&mut f).await;
    let spec = policy.spec.as_ref().unwrap();
    assert_eq!((&spec.ingress, &spec.policy_types), (&None, &Some(vec!["Ingress".to_owned()])));
    assert!(spec.pod_selector.as_ref().unwrap().match_labels.is_some());
    assert_eq!(f.next().await, ["in sync"]);
    f.problem("x.yaml", Some(&format!("{FORM}; {closed}"))).await;
    // Worse: now it cannot even be told what the document is.
    f.write("x.yaml", "a: [");
    let mut status = f.source.status();
    let path = f.path("x.yaml").display().to_string();
    let worse = |s: &SourceStatus| s.problems.get(&path).is_some_and(|p| !p.contains("form"));
    timeout(PATIENCE, status.wait_for(worse)).await.unwrap().unwrap();
    assert!(status.borrow().problems[&path].ends_with(closed));
    f.nothing_until("marker").await;
    // Still wrong, but for others now; beside it one that is right.
    let other = POLICY.replace("name: web", "name: db");
    let wrong = POLICY.replace("from:", "form:").replace("{matchLabels: {app: web}}", "{}");
    f.write("x.yaml", &format!("{wrong}---\n{other}"));
    assert_eq!(next_policy(&mut f).await.metadata.name.as_deref(), Some("db"));
    let policy = next_policy(&mut f).await;
    assert_eq!(policy.metadata.name.as_deref(), Some("web"));
    assert_eq!(policy.spec.as_ref().unwrap().ingress, None);
    f.write("x.yaml", &format!("{POLICY}---\n{other}"));
    assert!(next_policy(&mut f).await.spec.as_ref().unwrap().ingress.is_some());
    f.problem("x.yaml", None).await;
    std::fs::remove_file(f.path("x.yaml")).unwrap();
    let gone =
        ["remove KubernetesNetworkPolicy shop/db", "remove KubernetesNetworkPolicy shop/web"];
    assert_eq!(f.next().await, gone);
}

#[tokio::test]
async fn a_wrong_copy_of_a_policy_takes_nothing_from_the_right_one() {
    let mut f = open(&[("b.yaml", POLICY)]).await;
    assert_eq!(f.next().await, ["set KubernetesNetworkPolicy shop/web", "in sync"]);
    f.write("a.yaml", &POLICY.replace("from:", "form:"));
    f.nothing_until("marker").await;
    std::fs::remove_file(f.path("b.yaml")).unwrap();
    assert_eq!(next_policy(&mut f).await.spec.as_ref().unwrap().ingress, None);
}

/// What an API server and the checks behind it would say is said here.
#[tokio::test]
async fn limits_rules_and_selectors_are_checked() {
    let object = |kind: &str, spec: &str| {
        let head = format!("apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: x}}");
        format!("{head}\nspec:\n  {spec}\n")
    };
    let mut f = open(&[
        ("cel.yaml", &object("BGPPeer", "{peerIP: 192.0.2.1, peerSelector: all(), asNumber: 1}")),
        ("limit.yaml", &object("BGPPeer", "{peerIP: 192.0.2.1, asNumber: 4294967296}")),
        ("selector.yaml", &object("IPPool", "{cidr: 10.0.0.0/16, nodeSelector: a ==}")),
        ("unknown.yaml", &object("IPPool", "{cidr: 10.0.0.0/16, natOutgoin: true}")),
    ])
    .await;
    assert_eq!(f.next().await, ["in sync"]);
    let mut status = f.source.status();
    timeout(PATIENCE, status.wait_for(|s| s.problems.len() == 4)).await.unwrap().unwrap();
    let problem =
        |name: &str| status.borrow().problems[&f.path(name).display().to_string()].clone();
    for (file, wanted) in [
        ("cel.yaml", "line 4: BGPPeer x: spec: peerSelector cannot be combined with"),
        ("limit.yaml", "line 5: BGPPeer x: spec.asNumber: 4294967296 is not from 1 to 4294967295"),
        ("selector.yaml", "line 5: IPPool x: spec.nodeSelector: invalid selector"),
        ("unknown.yaml", "line 5: IPPool x: spec.natOutgoin: unknown field; did you mean"),
    ] {
        assert!(problem(file).starts_with(wanted), "{file}: {}", problem(file));
    }
}

#[tokio::test]
async fn an_object_in_two_files_counts_in_the_first() {
    let mut f = open(&[("b.yaml", &namespace("a", "b"))]).await;
    assert_eq!(f.next().await, ["set Namespace a", "in sync"]);
    f.write("c.yaml", &(namespace("x", "1") + &namespace("a", "c")));
    assert_eq!(f.next().await, ["set Namespace x"]);
    f.problem("c.yaml", Some("line 7: Namespace a is already in b.yaml:1, which counts")).await;
    std::fs::remove_file(f.path("b.yaml")).unwrap();
    assert_eq!(f.next().await, ["set Namespace a"], "the other takes its place");
    f.problem("c.yaml", None).await;
    f.write("d.yaml", &(namespace("w", "1") + &namespace("w", "2")));
    assert_eq!(f.next().await, ["set Namespace w"]);
    f.problem("d.yaml", Some("line 7: Namespace w is in the file twice; the one of line 1 counts"))
        .await;
}

/// As the kubelet exchanges the files of a ConfigMap.
#[tokio::test]
async fn a_mounted_config_map() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let version = |name: &str, label: &str| {
        std::fs::create_dir(at(name)).unwrap();
        std::fs::write(at(name).join("x.yaml"), namespace("a", label)).unwrap();
    };
    version("..1", "1");
    symlink("..1", at("..data")).unwrap();
    symlink("..data/x.yaml", at("x.yaml")).unwrap();
    let mut source = source(dir.path()).await;
    assert_eq!(next(&mut source).await, ["set Namespace a", "in sync"]);
    version("..2", "2");
    symlink("..2", at("..data_tmp")).unwrap();
    std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
    loop {
        match next::<1>(&mut source).await[0].as_str() {
            // Each change of the links is a reading of the whole folder.
            "in sync" => {}
            "set Namespace a" => break,
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_folder_that_goes_and_comes_again() {
    let mut f = open(&[("x.yaml", &namespace("a", "1")), ("y.yaml", &namespace("b", "1"))]).await;
    assert_eq!(f.next().await, ["set Namespace a", "set Namespace b", "in sync"]);
    let away = f.dir.path().with_extension("away");
    std::fs::rename(f.dir.path(), &away).unwrap();
    let mut status = f.source.status();
    timeout(PATIENCE, status.wait_for(|s| s.connected().is_err())).await.unwrap().unwrap();
    assert_eq!(status.borrow().ready(), Ok(()), "what is known stays in force");
    std::fs::remove_file(away.join("y.yaml")).unwrap();
    std::fs::rename(&away, f.dir.path()).unwrap();
    assert_eq!(f.next().await, ["remove Namespace b", "in sync"]);
    timeout(PATIENCE, status.wait_for(|s| s.connected().is_ok())).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_no_file_is_said_and_holds_nothing_up() {
    let mut f = open(&[("x.yaml", &namespace("a", "1"))]).await;
    assert_eq!(f.next().await, ["set Namespace a", "in sync"]);
    nix::unistd::mkfifo(&f.path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::fs::rename(f.path("pipe"), f.path("pipe.yaml")).unwrap();
    f.problem("pipe.yaml", Some("not a regular file")).await;
    std::fs::remove_file(f.path("pipe.yaml")).unwrap();
    f.problem("pipe.yaml", None).await;
    f.write("binary.yaml", "");
    std::fs::write(f.path("binary.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    f.problem("binary.yaml", Some("stream did not contain valid UTF-8")).await;
    f.nothing_until("marker").await;
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_a_mistake() {
    let config = SourceConfig::Directory { path: "/nonexistent".into() };
    let Err(error) = Source::open(&config, Metrics::new().source).await else {
        panic!("it opened")
    };
    assert_eq!(error.to_string(), "source.path: /nonexistent is not a directory");
}
