//! `manifests/install/load-balancer`: optional, and with rights of its own.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Service};
use serde_json::json;

use super::*;

fn object<T: serde::de::DeserializeOwned>(json: Value) -> T {
    serde_json::from_value(json).unwrap()
}

fn is_refused<T: std::fmt::Debug>(result: kube::Result<T>) -> bool {
    matches!(&result, Err(kube::Error::Api(status)) if status.code == 403)
}

pub(super) async fn check(control_plane: &ControlPlane) {
    let folder = folder().join("load-balancer");
    let usual = documents(&super::folder().join("kustomization.yaml")).remove(0);
    assert!(
        !usual.to_string().contains("load-balancer"),
        "who does not want it has no such rights"
    );
    assert_eq!(documents(&folder.join("kustomization.yaml"))[0]["kind"], "Component");
    for path in resources(&folder) {
        for object in documents(&path) {
            apply(&control_plane.client(), &object).await;
        }
    }
    let own = client_of(control_plane, "caracal-load-balancer").await;
    for (group, resource) in [
        ("", "services"),
        ("projectcalico.org", "ippools"),
        ("projectcalico.org", "ipreservations"),
        ("projectcalico.org", "ipamconfigurations"),
        ("projectcalico.org", "kubecontrollersconfigurations"),
    ] {
        for verb in ["list", "watch"] {
            assert!(may(&own, verb, group, resource, None).await, "{verb} {resource}");
        }
        for verb in ["create", "update", "patch", "delete"] {
            assert!(!may(&own, verb, group, resource, None).await, "{verb} {resource}");
        }
    }
    for (group, resource) in [("", "secrets"), ("", "pods"), ("", "nodes"), ("", "configmaps")] {
        for verb in ["get", "list", "watch", "create"] {
            let may = may(&own, verb, group, resource, Some(NAMESPACE)).await;
            assert!(!may, "{verb} {resource}");
        }
    }
    does_its_work(control_plane, own).await;
}

/// What it does, done.
async fn does_its_work(control_plane: &ControlPlane, own: Client) {
    let parameters = PostParams::default();
    let made = Api::<Service>::namespaced(control_plane.client(), "default");
    let service = json!({
        "metadata": {"name": "web"},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
    });
    made.create(&parameters, &object(service)).await.unwrap();
    let services = Api::<Service>::namespaced(own.clone(), "default");
    services.get("web").await.unwrap();
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
    services.patch_status("web", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    let spec = json!({"metadata": {"labels": {"a": "b"}}});
    let patched = services.patch("web", &PatchParams::default(), &Patch::Merge(&spec)).await;
    assert!(is_refused(patched), "of a Service it writes the status only");

    let event = json!({
        "metadata": {"generateName": "web.", "namespace": "default"},
        "involvedObject": {"kind": "Service", "namespace": "default", "name": "web"},
        "reason": "Test", "message": "test", "type": "Warning",
    });
    let events = Api::<Event>::namespaced(own.clone(), "default");
    events.create(&parameters, &object(event)).await.unwrap();

    let lease = |name: &str| object::<Lease>(json!({"metadata": {"name": name}}));
    let leases = Api::<Lease>::namespaced(own.clone(), NAMESPACE);
    let created = leases.create(&parameters, &lease("caracal-load-balancer")).await.unwrap();
    leases.get("caracal-load-balancer").await.unwrap();
    leases.replace("caracal-load-balancer", &parameters, &created).await.unwrap();
    assert!(is_refused(leases.get("another").await));
    let elsewhere = Api::<Lease>::namespaced(own, "kube-system");
    assert!(is_refused(elsewhere.create(&parameters, &lease("caracal-load-balancer")).await));
}
