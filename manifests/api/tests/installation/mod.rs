//! `manifests/install`, with `manifests/admission`: the API server takes it, the examples are right, and the ServiceAccount may
//! do what the agent does and nothing else.

use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams, ValidationDirective};
use kube::core::{ApiResource, GroupVersionKind};
use kube::discovery::pinned_kind;
use serde_json::Value;

use crate::control_plane::ControlPlane;

mod load_balancer;

const NAMESPACE: &str = "caracal-system";

pub(crate) async fn check(control_plane: &ControlPlane) {
    let client = control_plane.client();
    let kustomization = documents(&folder().join("kustomization.yaml")).remove(0);
    assert_eq!(kustomization["namespace"], NAMESPACE);
    for path in resources(&folder()) {
        for object in documents(&path) {
            apply(&client, &object).await;
        }
    }
    for examples in ["examples", "../admission/examples"] {
        for example in fs::read_dir(folder().join(examples)).unwrap() {
            for object in documents(&example.unwrap().path()) {
                apply(&client, &object).await;
            }
        }
    }
    rights(control_plane).await;
    load_balancer::check(control_plane).await;
}

/// With the rights of a ServiceAccount.
async fn client_of(control_plane: &ControlPlane, account: &str) -> Client {
    let accounts = Api::<ServiceAccount>::namespaced(control_plane.client(), NAMESPACE);
    let request =
        TokenRequest { spec: Some(TokenRequestSpec::default()), ..TokenRequest::default() };
    let parameters = PostParams::default();
    let token = accounts.create_token_request(account, &parameters, &request).await.unwrap();
    control_plane.client_with_token(&token.status.unwrap().token.unwrap())
}

/// The files that the kustomization in a folder names, by itself and through others. The
/// definitions are applied already.
fn resources(folder: &Path) -> Vec<PathBuf> {
    let kustomization = documents(&folder.join("kustomization.yaml")).remove(0);
    let names = kustomization["resources"].as_array().unwrap();
    let paths = names.iter().map(|name| folder.join(name.as_str().unwrap()));
    let paths = paths.filter(|path| !path.ends_with("../crds"));
    paths.flat_map(|path| if path.is_dir() { resources(&path) } else { vec![path] }).collect()
}

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../install"))
}

fn documents(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    let documents = serde_saphyr::from_multiple(&text);
    documents.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

async fn apply(client: &Client, object: &Value) {
    let (version, kind) =
        (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let kind = GroupVersionKind::gvk(group, version, kind);
    let (resource, capabilities): (ApiResource, _) = pinned_kind(client, &kind).await.unwrap();
    let api: Api<DynamicObject> = if capabilities.scope == kube::discovery::Scope::Cluster {
        Api::all_with(client.clone(), &resource)
    } else {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
        Api::namespaced_with(client.clone(), namespace, &resource)
    };
    let strict = PatchParams {
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply("test").force()
    };
    let name = object["metadata"]["name"].as_str().unwrap();
    let applied = api.patch(name, &strict, &Patch::Apply(object)).await;
    applied.unwrap_or_else(|error| panic!("{object}: {error}"));
}

/// Group, resource and namespace of what the agent reads.
fn read() -> Vec<(&'static str, String, Option<&'static str>)> {
    let mut read: Vec<_> = ["pods", "namespaces", "serviceaccounts", "nodes"]
        .map(|resource| ("", resource.to_owned(), None))
        .into();
    read.push(("discovery.k8s.io", "endpointslices".to_owned(), None));
    read.push(("networking.k8s.io", "networkpolicies".to_owned(), None));
    read.push(("policy.networking.k8s.io", "clusternetworkpolicies".to_owned(), None));
    for definition in api::crd::all().unwrap() {
        read.push(("projectcalico.org", definition.spec.names.plural, None));
    }
    read.push(("", "secrets".to_owned(), Some(NAMESPACE)));
    read
}

async fn rights(control_plane: &ControlPlane) {
    let agent = client_of(control_plane, "caracal-node").await;
    let parameters = PostParams::default();

    for (group, resource, namespace) in read() {
        for verb in ["list", "watch"] {
            let may = may(&agent, verb, group, &resource, namespace).await;
            assert!(may, "must be able to {verb} {resource}.{group}");
        }
        // Before what a deleted node held is given back, the Node is asked for by name.
        let by_name = (group, &*resource) == ("", "nodes");
        let may_get = may(&agent, "get", group, &resource, namespace).await;
        assert_eq!(may_get, by_name, "get {resource}.{group}");
        for verb in ["create", "update", "patch", "delete", "deletecollection"] {
            let may = may(&agent, verb, group, &resource, namespace).await;
            assert!(!may, "must not be able to {verb} {resource}.{group}");
        }
    }
    for (group, resource, namespace) in [
        ("", "secrets", None),
        ("", "secrets", Some("default")),
        ("", "configmaps", Some(NAMESPACE)),
        ("", "services", None),
        ("apps", "daemonsets", Some(NAMESPACE)),
        ("apiextensions.k8s.io", "customresourcedefinitions", None),
        ("rbac.authorization.k8s.io", "clusterroles", None),
        ("projectcalico.org", "ipamblocks", None),
    ] {
        for verb in ["get", "list", "watch", "create", "*"] {
            let may = may(&agent, verb, group, resource, namespace).await;
            assert!(!may, "must not be able to {verb} {resource}.{group} in {namespace:?}");
        }
    }
    let pods = Api::<k8s_openapi::api::core::v1::Pod>::all(agent.clone());
    pods.list(&Default::default()).await.unwrap();
    let pool = api::v3::IPPool::new("own", api::v3::IPPoolSpec::new("10.99.0.0/16"));
    let pools = Api::<api::v3::IPPool>::all(agent);
    let refused = pools.create(&parameters, &pool).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");
}

async fn may(
    client: &Client,
    verb: &str,
    group: &str,
    resource: &str,
    namespace: Option<&str>,
) -> bool {
    let attributes = ResourceAttributes {
        verb: Some(verb.to_owned()),
        group: Some(group.to_owned()),
        resource: Some(resource.to_owned()),
        namespace: namespace.map(str::to_owned),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let reviews = Api::<SelfSubjectAccessReview>::all(client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await.unwrap();
    answer.status.is_some_and(|status| status.allowed)
}
