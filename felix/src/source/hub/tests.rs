use std::sync::Arc;

use api::v3;
use serde_json::json;

use super::*;
use crate::observe::Metrics;
use crate::source::status::UnsupportedField;

struct Fixture {
    hub: Hub,
    status: watch::Receiver<SourceStatus>,
    metrics: SourceMetrics,
    updates: mpsc::Receiver<Update>,
}

impl Fixture {
    fn new() -> Self {
        let (sender, updates) = mpsc::channel(16);
        let metrics = Metrics::new().source;
        let (hub, status) = Hub::new("test".into(), &Kind::ALL, sender, metrics.clone());
        Self { hub, status, metrics, updates }
    }

    async fn send(&mut self, update: Update) {
        assert!(self.hub.send(update).await.is_ok());
        assert!(self.updates.recv().await.is_some());
    }

    /// Kind, field and number of objects.
    fn unsupported(&self) -> Vec<(Kind, String, usize)> {
        let fields = self.status.borrow().unsupported.clone();
        let parts = |UnsupportedField { kind, field, objects }| (kind, field, objects);
        fields.into_iter().map(parts).collect()
    }
}

fn pool(name: &str, spec: serde_json::Value) -> Update {
    let spec = serde_json::from_value(spec).unwrap();
    Update::Set(v3::IPPool::new(name, spec).into())
}

#[tokio::test]
async fn what_is_set_and_not_acted_on_is_in_the_status() {
    let mut f = Fixture::new();
    f.send(pool("plain", json!({"cidr": "10.0.0.0/16", "natOutgoing": true}))).await;
    assert_eq!(f.unsupported(), []);
    f.send(pool("a", json!({"cidr": "10.1.0.0/16", "vxlanMode": "Always"}))).await;
    f.send(pool("b", json!({"cidr": "10.2.0.0/16", "vxlanMode": "CrossSubnet"}))).await;
    assert_eq!(f.unsupported(), [(Kind::IPPool, "spec.vxlanMode".into(), 2)]);
    let spec = serde_json::from_value(json!({"interfacePrefix": "veth"})).unwrap();
    f.send(Update::Set(v3::FelixConfiguration::new("default", spec).into())).await;
    let rules = json!([{"action": "Allow", "http": {}}, {"action": "Allow", "http": {}}, {"action": "Log"}]);
    let spec = serde_json::from_value(
        json!({"ingress": rules, "doNotTrack": true, "applyOnForward": true}),
    )
    .unwrap();
    let policy = v3::GlobalNetworkPolicy::new("deny", spec);
    f.send(Update::Set(policy.into())).await;
    assert_eq!(
        f.unsupported(),
        [
            (Kind::IPPool, "spec.vxlanMode".into(), 2),
            (Kind::FelixConfiguration, "spec.interfacePrefix".into(), 1),
            (Kind::GlobalNetworkPolicy, "spec.ingress[].http".into(), 1),
        ]
    );
    f.send(pool("a", json!({"cidr": "10.1.0.0/16"}))).await;
    for (kind, name) in [
        (Kind::IPPool, "b"),
        (Kind::FelixConfiguration, "default"),
        (Kind::GlobalNetworkPolicy, "deny"),
    ] {
        f.send(Update::Remove(kind, ObjectKey::cluster(name))).await;
    }
    assert_eq!(f.unsupported(), []);
}

/// They share their kind's name with ours, and are acted on.
#[tokio::test]
async fn a_policy_of_kubernetes_is_supported() {
    let mut f = Fixture::new();
    let policy = json!({"metadata": {"name": "p"}, "spec": {"podSelector": {}}});
    let policy = Arc::new(serde_json::from_value(policy).unwrap());
    f.send(Update::Set(Object::KubernetesNetworkPolicy(policy))).await;
    assert_eq!(f.unsupported(), []);
}

#[tokio::test]
async fn problems_are_counted() {
    let f = Fixture::new();
    let count = |kind: &'static str| f.metrics.invalid.get_or_create(&kind.into()).get();
    f.hub.problems([("x.yaml".to_owned(), "line 1: bad".to_owned())].into());
    assert_eq!(count("File"), 1);
    f.hub.problems(BTreeMap::new());
    assert_eq!(count("File"), 0);
    f.hub.problem(Kind::Pod, &ObjectKey::namespaced("a", "b"), Some("bad".into()));
    assert_eq!((count("Pod"), count("File")), (1, 0));
}
