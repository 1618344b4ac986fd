//! At a real API server, on the store of tests.

use std::net::IpAddr;
use std::time::Duration;

use axum::http::Request;
use ipam::services::Service;
use ipam::store::memory::MemoryStore;
use kube::CustomResourceExt;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::*;
use crate::source::kubernetes::tests::control_plane::ControlPlane;

const PATIENCE: Duration = Duration::from_secs(60);
const SERVICES: &str = "/api/v1/namespaces/shop/services";

struct Api(Client);

impl Api {
    async fn send(&self, method: &str, path: &str, content: &str, body: &Value) -> Value {
        let request = Request::builder().method(method).uri(path).header("content-type", content);
        let request = request.body(serde_json::to_vec(body).unwrap()).unwrap();
        let answer = self.0.request::<Value>(request).await;
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    async fn create(&self, path: &str, object: &Value) -> Value {
        self.send("POST", path, "application/json", object).await
    }

    async fn patch(&self, name: &str, patch: &Value) {
        self.send("PATCH", &format!("{SERVICES}/{name}"), "application/merge-patch+json", patch)
            .await;
    }

    async fn delete(&self, name: &str) {
        self.send("DELETE", &format!("{SERVICES}/{name}"), "application/json", &json!({})).await;
    }

    async fn get(&self, path: &str) -> Value {
        self.0.request(Request::get(path).body(Vec::new()).unwrap()).await.unwrap()
    }

    /// A Service, of which only the uid is of interest.
    async fn service(&self, name: &str, annotations: Value, spec: Value) -> Service {
        let mut service = json!({
            "metadata": {"name": name, "annotations": annotations},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
        });
        for (field, value) in spec.as_object().unwrap() {
            service["spec"][field] = value.clone();
        }
        let created = self.create(SERVICES, &service).await;
        let uid = created["metadata"]["uid"].as_str().unwrap().to_owned();
        Service { namespace: "shop".to_owned(), name: name.to_owned(), uid }
    }

    async fn ingress(&self, name: &str) -> Vec<String> {
        let service = self.get(&format!("{SERVICES}/{name}")).await;
        let ingress = service["status"]["loadBalancer"]["ingress"].as_array().cloned();
        let text = |entry: Value| entry["ip"].as_str().unwrap().to_owned();
        ingress.unwrap_or_default().into_iter().map(text).collect()
    }

    /// Waits until the status is so.
    async fn announced(&self, name: &str, wanted: &[&str]) {
        let waiting = async {
            while self.ingress(name).await != wanted {
                sleep(Duration::from_millis(50)).await;
            }
        };
        let met = timeout(PATIENCE, waiting).await;
        assert!(met.is_ok(), "{name}: {:?}, not {wanted:?}", self.ingress(name).await);
    }
}

async fn holds(services: &Services, service: &Service, wanted: &[&str]) {
    let wanted: BTreeSet<IpAddr> = wanted.iter().map(|text| text.parse().unwrap()).collect();
    let handle = service.handle();
    let waiting = async {
        while services.held(&handle).await.as_ref() != Ok(&wanted) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let met = timeout(PATIENCE, waiting).await;
    assert!(met.is_ok(), "{service}: {:?}, not {wanted:?}", services.held(&handle).await);
}

async fn stopped(mut tasks: JoinSet<()>, stop: &CancellationToken) {
    stop.cancel();
    let ending = async { while tasks.join_next().await.is_some() {} };
    assert!(timeout(PATIENCE, ending).await.is_ok(), "it does not end");
}

/// One control plane serves all parts of this test: to start it takes longer than the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_at_a_real_api_server() {
    let Some(plane) = ControlPlane::start().await else { return };
    let client = plane.client().await;
    let api = Api(client.clone());
    for name in ["shop", "caracal-system"] {
        api.create("/api/v1/namespaces", &json!({"metadata": {"name": name}})).await;
    }
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    for definition in [
        v3::IPPool::crd(),
        v3::IPReservation::crd(),
        v3::IPAMConfiguration::crd(),
        v3::KubeControllersConfiguration::crd(),
    ] {
        api.create(definitions, &serde_json::to_value(definition).unwrap()).await;
    }
    let memory = MemoryStore::default();
    let services = Services::new(Arc::new(memory.clone()));
    let counts = Counts::default();
    let begin = |assign| {
        let stop = CancellationToken::new();
        let counts = counts.clone();
        (start(client.clone(), services.clone(), assign, None, counts, &stop), stop)
    };
    let (tasks, stop) = begin(AssignIps::AllServices);

    // Before there is a pool.
    let web = api.service("web", json!({}), json!({})).await;
    let pool = |name: &str, cidr: &str, mode: &str| {
        json!({
            "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": name},
            "spec": {
                "cidr": cidr, "blockSize": 30, "allowedUses": ["LoadBalancer"],
                "assignmentMode": mode, "nodeSelector": "all()",
            },
        })
    };
    let pools = "/apis/projectcalico.org/v3/ippools";
    let create = async |name: &str, cidr: &str, mode: &str| {
        let pool = pool(name, cidr, mode);
        let waiting = async {
            // Until the definition is served.
            while client
                .request::<Value>(
                    Request::post(pools)
                        .header("content-type", "application/json")
                        .body(serde_json::to_vec(&pool).unwrap())
                        .unwrap(),
                )
                .await
                .is_err()
            {
                sleep(Duration::from_millis(50)).await;
            }
        };
        assert!(timeout(PATIENCE, waiting).await.is_ok(), "no pool {name}");
    };
    create("named", "192.0.2.128/30", "Manual").await;
    create("lb", "192.0.2.0/30", "Automatic").await;
    api.announced("web", &["192.0.2.0"]).await;

    // By name, in vain, and exchanged for another.
    let annotation = json!({"projectcalico.org/loadBalancerIPs": "[\"192.0.2.0\"]"});
    let other = api.service("other", annotation, json!({})).await;
    let told = async {
        loop {
            let events = api.get("/api/v1/namespaces/shop/events").await;
            let items = events["items"].as_array().cloned().unwrap_or_default();
            let of = |event: &&Value| event["involvedObject"]["name"] == "other";
            if let Some(event) = items.iter().find(of) {
                return event["message"].as_str().unwrap_or_default().to_owned();
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let message = timeout(PATIENCE, told).await.expect("its owner is told");
    assert_eq!(message, format!("192.0.2.0 is taken by {}", web.handle()));
    let ask = |annotations: Value| json!({"metadata": {"annotations": annotations}});
    api.patch("other", &ask(json!({"projectcalico.org/loadBalancerIPs": "[\"192.0.2.3\"]"}))).await;
    api.announced("other", &["192.0.2.3"]).await;
    let changed = json!({
        "projectcalico.org/loadBalancerIPs": null,
        "projectcalico.org/ipv4pools": "[\"named\"]",
    });
    api.patch("other", &ask(changed)).await;
    api.announced("other", &["192.0.2.128"]).await;
    holds(&services, &other, &["192.0.2.128"]).await;
    // What cannot be read leaves it as it is.
    api.patch("other", &ask(json!({"projectcalico.org/ipv4pools": "named"}))).await;
    // Another class: never ours.
    api.service("theirs", json!({}), json!({"loadBalancerClass": "example.com/theirs"})).await;

    // No longer of the type; deleted while nobody looks; and back under the same name.
    api.patch("web", &json!({"spec": {"type": "ClusterIP"}})).await;
    holds(&services, &web, &[]).await;
    assert_eq!(api.ingress("other").await, ["192.0.2.128"]);
    assert_eq!(api.ingress("theirs").await, Vec::<String>::new());
    stopped(tasks, &stop).await;
    let lease =
        "/apis/coordination.k8s.io/v1/namespaces/caracal-system/leases/caracal-load-balancer";
    assert_eq!(api.get(lease).await["spec"]["holderIdentity"], Value::Null, "given away");
    api.delete("other").await;
    let again = api.service("other", json!({}), json!({})).await;
    let (tasks, stop) = begin(AssignIps::AllServices);
    holds(&services, &other, &[]).await;
    api.announced("other", &["192.0.2.1"]).await;
    holds(&services, &again, &["192.0.2.1"]).await;

    // The store is away for a while, and is told nothing twice.
    memory.set_away(true);
    let late = api.service("late", json!({}), json!({})).await;
    api.delete("other").await;
    let tried = async {
        while counts.failing.get() < 2 {
            sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(timeout(PATIENCE, tried).await.is_ok(), "nothing fails without a store");
    assert_eq!(api.ingress("late").await, Vec::<String>::new());
    memory.set_away(false);
    api.announced("late", &["192.0.2.2"]).await;
    holds(&services, &again, &[]).await;

    // Only those that ask, says the cluster, and then not any more.
    let configurations = "/apis/projectcalico.org/v3/kubecontrollersconfigurations";
    let only = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "KubeControllersConfiguration",
        "metadata": {"name": "default"},
        "spec": {"controllers": {"loadBalancer": {"assignIPs": "RequestedServicesOnly"}}},
    });
    api.create(configurations, &only).await;
    api.announced("late", &[]).await;
    holds(&services, &late, &[]).await;
    // What it had rests, as all of the other pool does.
    create("more", "192.0.2.64/30", "Automatic").await;
    api.send("DELETE", &format!("{configurations}/default"), "application/json", &json!({})).await;
    api.announced("late", &["192.0.2.64"]).await;
    stopped(tasks, &stop).await;

    // Only those that ask. What others have goes, and their status says so.
    let (tasks, stop) = begin(AssignIps::RequestedServicesOnly);
    api.announced("late", &[]).await;
    holds(&services, &late, &[]).await;
    stopped(tasks, &stop).await;
    assert_eq!(services.all().await.unwrap().by_handle, BTreeMap::new());
}
