//! The definitions and the installation in a real API server. It is skipped, and says so, where
//! there is none: see `control_plane::Binaries::find`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

mod admission;
mod cases;
mod control_plane;
mod installation;

use std::time::{Duration, Instant};

use control_plane::{Binaries, ControlPlane};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, CustomResourceExt, ResourceExt};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_real_api_server_takes_the_definitions_and_the_installation() {
    let Some(binaries) = Binaries::find() else {
        eprintln!("skipped: no kube-apiserver");
        return;
    };
    let control_plane = ControlPlane::start(&binaries).await;
    let client = control_plane.client();
    apply_definitions(&client).await;
    judge_every_case(&client).await;
    // The examples' are of the same ranges, and none may overlap another.
    let pools = Api::<api::v3::IPPool>::all(client.clone());
    pools.delete_collection(&Default::default(), &Default::default()).await.unwrap();
    installation::check(&control_plane).await;
    admission::check(&control_plane).await;
}

async fn apply_definitions(client: &Client) {
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    let parameters = PatchParams::apply("test");
    // Not ours to install, but the examples are of it too. Groups of the community need its approval,
    // or a word that there is none.
    let mut of_others = api::policy::ClusterNetworkPolicy::crd();
    let approval = ("api-approved.kubernetes.io".to_owned(), "unapproved, for a test".to_owned());
    of_others.annotations_mut().extend([approval]);
    let all = api::crd::all().unwrap().into_iter().chain([of_others]);
    let expected = all.clone().count();
    for definition in all {
        let name = definition.name_any();
        let applied = definitions.patch(&name, &parameters, &Patch::Apply(&definition)).await;
        applied.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let started = Instant::now();
    loop {
        let list = definitions.list(&Default::default()).await.unwrap();
        let established = |definition: &&CustomResourceDefinition| {
            let conditions = definition.status.iter().flat_map(|s| s.conditions.iter().flatten());
            conditions.filter(|c| c.type_ == "Established" && c.status == "True").count() == 1
        };
        for definition in &list.items {
            let conditions = definition.status.iter().flat_map(|s| s.conditions.iter().flatten());
            for condition in conditions {
                assert_ne!(condition.type_, "NonStructuralSchema", "{condition:?}");
            }
        }
        if list.items.iter().filter(established).count() == expected {
            return;
        }
        assert!(started.elapsed() < DEADLINE, "definitions are not established");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn api_of(client: &Client, object: &Value) -> Api<DynamicObject> {
    let kind = object["kind"].as_str().unwrap();
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("projectcalico.org", "v3", kind));
    let namespaced =
        ["NetworkPolicy", "NetworkSet", "StagedNetworkPolicy", "StagedKubernetesNetworkPolicy"];
    if namespaced.contains(&kind) {
        Api::namespaced_with(client.clone(), "default", &resource)
    } else {
        Api::all_with(client.clone(), &resource)
    }
}

async fn apply(client: &Client, object: &Value) -> kube::Result<DynamicObject> {
    let name = object["metadata"]["name"].as_str().unwrap();
    let parameters = PatchParams {
        field_validation: Some(kube::api::ValidationDirective::Strict),
        ..PatchParams::apply("test").force()
    };
    api_of(client, object).patch(name, &parameters, &Patch::Apply(object)).await
}

/// Tells the reason of a rejection; panics if there was none.
fn rejection(object: &Value, result: kube::Result<DynamicObject>) -> String {
    match result {
        Ok(_) => panic!("accepted: {object}"),
        Err(kube::Error::Api(status)) => status.message,
        Err(error) => panic!("{object}: {error}"),
    }
}

async fn judge_every_case(client: &Client) {
    let mut judged = (0, 0);
    // An established definition is served a moment later.
    for case in cases::all() {
        let started = Instant::now();
        while let Err(kube::Error::Api(status)) =
            api_of(client, &case.object).list(&Default::default()).await
        {
            assert!(started.elapsed() < DEADLINE, "{status:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if let Some(old) = &case.old {
            apply(client, old).await.unwrap_or_else(|error| panic!("{old}: {error}"));
        }
        let result = apply(client, &case.object).await;
        match case.message {
            None => {
                let stored = result.unwrap_or_else(|error| panic!("{}: {error}", case.object));
                // What the server stores, defaults included, is what the types read.
                let stored = serde_json::to_value(&stored).unwrap();
                let kept = keeps(&stored["spec"], &case.object["spec"]);
                assert!(kept, "stored {} for {}", stored["spec"], case.object["spec"]);
                assert_eq!(api::validate::validate_value(&stored), Ok(()));
                judged.0 += 1;
            }
            Some(message) => {
                let reason = rejection(&case.object, result);
                assert!(reason.contains(message), "expected {message:?}, found {reason:?}");
                judged.1 += 1;
            }
        }
    }
    eprintln!("{} objects accepted, {} rejected with their message", judged.0, judged.1);
    assert!(judged.0 > 20 && judged.1 > 100);
}

/// Whether everything in `wanted` is in `stored`: no field is unknown and none is pruned.
fn keeps(stored: &Value, wanted: &Value) -> bool {
    match (stored, wanted) {
        (Value::Object(stored), Value::Object(wanted)) => wanted
            .iter()
            .all(|(name, value)| stored.get(name).is_some_and(|found| keeps(found, value))),
        (Value::Array(stored), Value::Array(wanted)) => {
            stored.len() == wanted.len()
                && stored.iter().zip(wanted).all(|(found, value)| keeps(found, value))
        }
        (stored, wanted) if stored.is_number() && wanted.is_number() => {
            stored.as_f64() == wanted.as_f64()
        }
        (stored, wanted) => stored == wanted,
    }
}
