//! An HTTP server on the loopback that answers as it is told, in order.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use futures::StreamExt;
use futures::stream;
use kube::Client;
use parking_lot::Mutex;
use serde_json::{Value, json};

/// An answer.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// To a list: the objects, at this resource version.
    List(u32, Vec<Value>),
    /// To a list: a page, and the token of the next.
    Page(Vec<Value>, &'static str),
    /// To a watch: events, and whether the connection stays open.
    Watch(Vec<Value>, bool),
    /// To either: an error.
    Status(u16, &'static str),
    /// To either: none at all.
    Silence,
}

#[derive(Default)]
struct Shared {
    answers: HashMap<String, VecDeque<Answer>>,
    requests: Vec<String>,
}

/// The server; ends when it is dropped.
pub(super) struct Script {
    shared: Arc<Mutex<Shared>>,
    pub(super) client: Client,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Script {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Script {
    /// Where a script ends, lists are empty and watches silent.
    pub(super) async fn start() -> Self {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let mut config = kube::Config::new(format!("http://{address}").parse().unwrap());
        config.default_retry = false;
        Self { shared, client: Client::try_from(config).unwrap(), server }
    }

    /// The answers for the resource of this plural name, in order.
    pub(super) fn answer(&self, plural: &str, answers: impl IntoIterator<Item = Answer>) {
        self.shared.lock().answers.entry(plural.into()).or_default().extend(answers);
    }

    /// What has been asked for, with the query.
    pub(super) fn requests(&self) -> Vec<String> {
        self.shared.lock().requests.clone()
    }
}

async fn answer(State(shared): State<Arc<Mutex<Shared>>>, request: Request) -> Response {
    let uri = request.uri().clone();
    let is_watch = uri.query().is_some_and(|query| query.contains("watch=true"));
    let plural = uri.path().rsplit('/').next().unwrap().to_owned();
    let scripted = {
        let mut shared = shared.lock();
        shared.requests.push(uri.to_string());
        shared.answers.get_mut(&plural).and_then(VecDeque::pop_front)
    };
    let answer = scripted.unwrap_or(if is_watch {
        Answer::Watch(vec![], true)
    } else {
        Answer::List(1, vec![])
    });
    let as_json = |code: u16, value: &Value| {
        Response::builder()
            .status(code)
            .header("content-type", "application/json")
            .body(value.to_string().into())
    };
    let list = |meta: Value, items: Vec<Value>| {
        as_json(200, &json!({"apiVersion": "v1", "kind": "List", "metadata": meta, "items": items}))
    };
    match (answer, is_watch) {
        (Answer::List(version, items), false) => {
            list(json!({"resourceVersion": version.to_string()}), items)
        }
        (Answer::Page(items, token), false) => {
            list(json!({"resourceVersion": "1", "continue": token}), items)
        }
        (Answer::Watch(events, stays), true) => {
            let lines = events
                .into_iter()
                .map(|event| Ok::<_, std::io::Error>(Bytes::from(format!("{event}\n"))));
            let lines = stream::iter(lines);
            let body = if stays {
                Body::from_stream(lines.chain(stream::pending()))
            } else {
                Body::from_stream(lines)
            };
            Response::builder().body(body)
        }
        (Answer::Status(code, message), _) => as_json(code, &status(code, message)),
        (Answer::Silence, _) => std::future::pending().await,
        // The caller sees it as a failure that no script expects.
        (answer, _) => as_json(599, &status(599, &format!("{uri} asked for {answer:?}"))),
    }
    .unwrap()
}

fn status(code: u16, message: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "code": code, "reason": "Test", "message": message})
}

pub(super) fn event(kind: &str, object: impl Into<Value>) -> Value {
    let object: Value = object.into();
    json!({"type": kind, "object": object})
}

pub(super) fn error_event(code: u16, message: &str) -> Value {
    event("ERROR", status(code, message))
}

pub(super) fn bookmark(version: u32, last: bool) -> Value {
    let mut mark = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"resourceVersion": version.to_string()}});
    if last {
        mark["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    event("BOOKMARK", mark)
}

pub(super) fn namespace(name: &str, version: u32, label: &str) -> Value {
    json!({"metadata": {"name": name, "resourceVersion": version.to_string(), "labels": {"l": label}}})
}
