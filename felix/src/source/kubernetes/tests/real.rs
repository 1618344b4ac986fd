use std::collections::BTreeSet;

use axum::http::Request;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Client, CustomResourceExt};
use serde_json::{Value, json};

use super::control_plane::ControlPlane;
use super::*;
use crate::config::{KubernetesConfig, SourceConfig};
use crate::model::Object;
use crate::observe::Metrics;
use crate::source::{KindState, Source, SourceStatus};

/// The API as JSON: it needs no types.
struct Rest(Client);

impl Rest {
    async fn send(&self, method: &str, path: &str, content: &str, body: Value) {
        let request = Request::builder().method(method).uri(path).header("content-type", content);
        let request = request.body(serde_json::to_vec(&body).unwrap()).unwrap();
        self.0
            .request::<Value>(request)
            .await
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"));
    }

    async fn create(&self, path: &str, object: Value) {
        self.send("POST", path, "application/json", object).await;
    }

    async fn patch(&self, path: &str, patch: Value) {
        self.send("PATCH", path, "application/merge-patch+json", patch).await;
    }

    async fn delete(&self, path: &str) {
        self.send("DELETE", path, "application/json", json!({"gracePeriodSeconds": 0})).await;
    }
}

const PODS: &str = "/api/v1/namespaces/shop/pods";
const POOLS: &str = "/apis/projectcalico.org/v3/ippools";

fn pod(name: &str, label: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": label}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "none"}]},
    })
}

/// All 17 kinds of ours and one of others, from the types themselves.
fn crds() -> Vec<CustomResourceDefinition> {
    use api::v3::*;
    vec![
        IPPool::crd(),
        IPReservation::crd(),
        IPAMConfiguration::crd(),
        KubeControllersConfiguration::crd(),
        BGPConfiguration::crd(),
        BGPPeer::crd(),
        BGPFilter::crd(),
        FelixConfiguration::crd(),
        NetworkPolicy::crd(),
        GlobalNetworkPolicy::crd(),
        NetworkSet::crd(),
        GlobalNetworkSet::crd(),
        HostEndpoint::crd(),
        Tier::crd(),
        StagedNetworkPolicy::crd(),
        StagedGlobalNetworkPolicy::crd(),
        StagedKubernetesNetworkPolicy::crd(),
        api::policy::ClusterNetworkPolicy::crd(),
    ]
}

async fn open(plane: &ControlPlane, streaming_lists: bool) -> Source {
    let config = KubernetesConfig {
        kubeconfig: Some(plane.kubeconfig()),
        secret_namespace: None,
        streaming_lists,
    };
    Source::open(&SourceConfig::Kubernetes(config), Metrics::new().source).await.unwrap()
}

/// Takes updates until `last` has come, and returns those about `watched` names, in order.
async fn until(source: &mut Source, last: &str, watched: &[&str]) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let update = match timeout(PATIENCE * 2, source.recv()).await {
            Ok(update) => update.expect("the source has ended"),
            Err(_) => {
                panic!("{last} does not come; seen {seen:?}; {:?}", *source.status().borrow())
            }
        };
        let brief = brief(&update);
        if watched.iter().any(|name| brief.ends_with(name)) {
            seen.push(brief.clone());
        }
        if brief == last {
            return seen;
        }
    }
}

/// One control plane serves all parts of this test: to start it takes longer than the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_api_server() {
    let Some(mut plane) = ControlPlane::start().await else { return };
    let rest = Rest(plane.client().await);
    for name in ["shop", "caracal-system"] {
        rest.create("/api/v1/namespaces", json!({"metadata": {"name": name}})).await;
    }
    crds_come_later(&plane, &rest).await;
    everything_is_seen(&plane, &rest).await;
    streaming_lists_agree(&plane).await;
    nodes_are_asked_for_by_name(&plane, &rest).await;
    the_server_is_killed_and_started(&mut plane, &rest).await;
    the_server_is_away_at_the_start(&mut plane).await;
}

/// What decides whether a node's addresses are given back.
async fn nodes_are_asked_for_by_name(plane: &ControlPlane, rest: &Rest) {
    let source = open(plane, false).await;
    let registry = source.registry().unwrap();
    rest.create("/api/v1/nodes", json!({"metadata": {"name": "asked"}})).await;
    let uid = registry.uid("asked").await.unwrap().expect("it is there");
    assert_eq!(uid.len(), 36, "{uid}");
    let identity = registry.identity("asked").await.unwrap().expect("it is there");
    assert_eq!((identity.uid, identity.boot_id), (uid, None), "it has no kubelet");
    rest.delete("/api/v1/nodes/asked").await;
    assert_eq!(registry.uid("asked").await, Ok(None));
    assert_eq!(registry.identity("asked").await, Ok(None));
    // A path that is not there is no node that is not there.
    let error = registry.uid("asked/proxy/x").await.unwrap_err();
    assert!(error.starts_with("node asked/proxy/x: "), "{error}");
}

async fn crds_come_later(plane: &ControlPlane, rest: &Rest) {
    let mut source = open(plane, false).await;
    until(&mut source, "in sync", &[]).await;
    let status = source.status();
    {
        let status = status.borrow();
        assert_eq!(status.kinds[&Kind::IPPool].state, KindState::NotServed);
        assert_eq!(status.kinds[&Kind::Namespace].state, KindState::Watching);
        assert_eq!(status.connected(), Ok(()));
    }
    for crd in crds() {
        let mut crd = serde_json::to_value(crd).unwrap();
        // What is valid is not the matter here.
        crd["spec"]["versions"][0]["schema"] = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
        crd["spec"]["versions"][0]["selectableFields"] = Value::Null;
        // Nor is who approved of a name.
        crd["metadata"]["annotations"] =
            json!({"api-approved.kubernetes.io": "unapproved, for a test"});
        rest.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd).await;
    }
    let mut status = source.status();
    let drain = tokio::spawn(async move { while source.recv().await.is_some() {} });
    let all_watched =
        |s: &SourceStatus| s.kinds.values().all(|kind| kind.state == KindState::Watching);
    timeout(PATIENCE * 2, status.wait_for(all_watched))
        .await
        .expect("the CRDs are noticed")
        .unwrap();
    drain.abort();
}

async fn everything_is_seen(plane: &ControlPlane, rest: &Rest) {
    let pool = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "pool-a"},
        "spec": {"cidr": "10.244.0.0/16"},
    });
    rest.create(POOLS, pool).await;
    let secret = |name| json!({"metadata": {"name": name}, "stringData": {"password": "hunter2"}});
    rest.create("/api/v1/namespaces/caracal-system/secrets", secret("bgp")).await;
    rest.create("/api/v1/namespaces/shop/secrets", secret("of-others")).await;
    let annotations = json!({"projectcalico.org/ASNumber": "64512"});
    rest.create("/api/v1/nodes", json!({"metadata": {"name": "n1", "annotations": annotations}}))
        .await;
    let policy = json!({"metadata": {"name": "deny"}, "spec": {"podSelector": {}}});
    rest.create("/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies", policy).await;
    let policy = json!({"apiVersion": api::policy::API_VERSION, "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "wide"},
        "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}}});
    let path = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies";
    rest.create(path, policy).await;
    rest.create(PODS, pod("web", "web")).await;

    let mut source = open(plane, false).await;
    let mut first = BTreeSet::new();
    loop {
        let update = timeout(PATIENCE, source.recv()).await.expect("in sync").unwrap();
        if let Update::Set(Object::Secret(secret)) = &update {
            assert_eq!(secret.data["password"], b"hunter2");
        }
        if matches!(update, Update::InSync) {
            break;
        }
        assert!(first.insert(brief(&update)), "{update:?} comes twice");
    }
    for wanted in [
        "set IPPool pool-a",
        "set Secret caracal-system/bgp",
        "set Node n1",
        "set KubernetesNetworkPolicy shop/deny",
        "set ClusterNetworkPolicy wide",
        "set Pod shop/web",
        "set Namespace shop",
    ] {
        assert!(first.contains(wanted), "{wanted} is not in {first:?}");
    }
    assert!(!first.iter().any(|name| name.ends_with("of-others")));

    // What changes, and what only seems to.
    let status = json!({"status": {"phase": "Running", "podIPs": [{"ip": "10.244.0.5"}], "podIP": "10.244.0.5"}});
    rest.patch(&format!("{PODS}/web/status"), status).await;
    rest.patch(&format!("{PODS}/web/status"), json!({"status": {"message": "of no use here"}}))
        .await;
    rest.delete(&format!("{PODS}/web")).await;
    let seen = until(&mut source, "remove Pod shop/web", &["shop/web"]).await;
    assert_eq!(seen, ["set Pod shop/web", "remove Pod shop/web"]);
}

async fn streaming_lists_agree(plane: &ControlPlane) {
    let mut initial = Vec::new();
    for streaming in [false, true] {
        let mut source = open(plane, streaming).await;
        let mut objects = BTreeSet::new();
        loop {
            match timeout(PATIENCE, source.recv()).await.expect("in sync").unwrap() {
                Update::InSync => break,
                update => objects.insert(brief(&update)),
            };
        }
        initial.push(objects);
    }
    assert_eq!(initial[0], initial[1]);
}

async fn the_server_is_killed_and_started(plane: &mut ControlPlane, rest: &Rest) {
    for name in ["stays", "vanishes", "changes"] {
        rest.create(PODS, pod(name, "before")).await;
    }
    let mut source = open(plane, false).await;
    until(&mut source, "in sync", &[]).await;
    let mut status = source.status();
    status.mark_unchanged();

    plane.kill_api();
    wait_for(&mut status, "the loss is seen", |s| s.connected().is_err()).await;
    assert_eq!(status.borrow().ready(), Ok(()), "what is known stays in force");

    plane.start_api();
    assert!(plane.ready().await, "{}", plane.log("api.log"));
    // Before the watches are back, as far as that can be: a change that nobody was told of.
    rest.delete(&format!("{PODS}/vanishes")).await;
    rest.patch(&format!("{PODS}/changes"), json!({"metadata": {"labels": {"app": "after"}}})).await;
    rest.delete(&format!("{POOLS}/pool-a")).await;
    rest.create(PODS, pod("new", "after")).await;

    let wanted: BTreeSet<&str> = [
        "remove Pod shop/vanishes",
        "set Pod shop/changes",
        "remove IPPool pool-a",
        "set Pod shop/new",
    ]
    .into();
    let mut seen = Vec::new();
    while !wanted.iter().all(|wanted| seen.iter().any(|s| s == wanted)) {
        match timeout(PATIENCE * 2, source.recv()).await {
            Ok(update) => seen.push(brief(&update.expect("the source has ended"))),
            Err(_) => panic!("seen {seen:?}; {:?}", *source.status().borrow()),
        }
    }
    assert!(
        !seen.iter().any(|s| s.ends_with("shop/stays")),
        "what stayed is not said again: {seen:?}"
    );
    let mut status = source.status();
    let drain = tokio::spawn(async move { while source.recv().await.is_some() {} });
    wait_for(&mut status, "connected again", |s| s.connected().is_ok()).await;
    drain.abort();
}

async fn the_server_is_away_at_the_start(plane: &mut ControlPlane) {
    plane.kill_api();
    let mut source = open(plane, false).await;
    let mut status = source.status();
    wait_for(&mut status, "it is said", |s| {
        s.kinds.values().all(|kind| kind.state == KindState::Disconnected)
    })
    .await;
    let reason = status.borrow().ready().unwrap_err();
    let others = format!("{} more", status.borrow().kinds.len() - 3);
    assert!(reason.contains("Connection refused") && reason.contains(&others), "{reason}");
    plane.start_api();
    assert!(plane.ready().await, "{}", plane.log("api.log"));
    let seen = until(&mut source, "in sync", &["shop/stays", "shop/vanishes"]).await;
    assert_eq!(seen, ["set Pod shop/stays"]);
    assert_eq!(source.status().borrow().ready(), Ok(()));
}
