//! Who may write policies of which tier.

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::{create, delete, expect, object, refusal, try_create, try_delete};
use crate::api_of;
use crate::control_plane::ControlPlane;

/// The groups of `tier-roles.yaml` among the examples, which are applied.
const SECURITY: &str = "security-team";
const DEVELOPERS: &str = "developers";

pub(super) async fn check(control_plane: &ControlPlane) {
    let admin = control_plane.client();
    let security = control_plane.client_as("sue", &[SECURITY, "system:authenticated"]);
    let developer = control_plane.client_as("dave", &[DEVELOPERS, "system:authenticated"]);
    let both = control_plane.client_as("bo", &[SECURITY, DEVELOPERS, "system:authenticated"]);
    writing(&admin, &security, &developer).await;
    moving(&admin, &security, &developer, &both).await;
    one_policy(&admin, control_plane).await;
    namespaces_end(&admin, control_plane).await;
}

fn policy(kind: &str, name: &str, tier: &str) -> Value {
    object(kind, name, &json!({"tier": tier}))
}

async fn writing(admin: &Client, security: &Client, developer: &Client) {
    let kinds = [
        "NetworkPolicy",
        "GlobalNetworkPolicy",
        "StagedNetworkPolicy",
        "StagedGlobalNetworkPolicy",
    ];
    for kind in kinds {
        let ours = policy(kind, "ours", "security");
        expect(kind, None, async || try_create(security, &ours).await).await;
        let words = "user sue cannot create";
        let others = policy(kind, "ours", "default");
        expect(kind, Some(words), async || try_create(security, &others).await).await;
        // No tier is the tier default.
        let others = object(kind, "ours", &json!({}));
        expect(kind, Some("of tier default"), async || try_create(security, &others).await).await;
    }
    for kind in ["NetworkPolicy", "StagedNetworkPolicy"] {
        let plain = object(kind, "plain", &json!({}));
        expect(kind, None, async || try_create(developer, &plain).await).await;
        let words =
            "of tier security: \"get\" of tiers.projectcalico.org under that name is not granted";
        let others = policy(kind, "plain", "security");
        expect(kind, Some(words), async || try_create(developer, &others).await).await;

        create(admin, &others).await.unwrap();
        let update = async |client: &Client, order: u32| {
            let change = json!({"spec": {"order": order}});
            let patch = Patch::Merge(&change);
            api_of(client, &others).patch("plain", &PatchParams::default(), &patch).await
        };
        let words = "user dave cannot update";
        assert!(refusal(update(developer, 1).await).unwrap().contains(words));
        assert_eq!(refusal(update(security, 2).await), None);
        let words = "user dave cannot delete";
        assert!(refusal(try_delete(developer, &others).await).unwrap().contains(words));
        assert_eq!(refusal(try_delete(security, &others).await), None);
        // All at once: each is asked for by itself.
        let api = api_of(developer, &others);
        let all = api.delete_collection(&DeleteParams::default(), &Default::default()).await;
        assert!(refusal(all).unwrap().contains(words));
        assert!(api.get_opt("plain").await.unwrap().is_some());
        delete(admin, &others).await;
    }
}

async fn moving(admin: &Client, security: &Client, developer: &Client, both: &Client) {
    let moved = policy("NetworkPolicy", "moved", "default");
    create(admin, &moved).await.unwrap();
    let change = json!({"spec": {"tier": "security"}});
    let to_security = async |client: &Client| {
        let parameters = PatchParams { dry_run: true, ..PatchParams::default() };
        api_of(client, &moved).patch("moved", &parameters, &Patch::Merge(&change)).await
    };
    for (user, client) in [("dave", developer), ("sue", security)] {
        let words =
            format!("user {user} cannot update networkpolicies of tier security and tier default");
        expect(user, Some(&words), async || to_security(client).await).await;
    }
    expect("bo", None, async || to_security(both).await).await;
    delete(admin, &moved).await;
}

/// Rights to one policy of a tier, by either way to write its name.
async fn one_policy(admin: &Client, control_plane: &ControlPlane) {
    let role: ClusterRole = serde_json::from_value(json!({
        "metadata": {"name": "one-policy"},
        "rules": [
            {"apiGroups": ["projectcalico.org"], "resources": ["tiers"], "verbs": ["get"]},
            {"apiGroups": ["projectcalico.org"], "resources": ["networkpolicies"], "verbs": ["*"]},
            {"apiGroups": ["projectcalico.org"], "resources": ["tier.networkpolicies"],
             "resourceNames": ["security.one"], "verbs": ["create"]},
        ],
    }))
    .unwrap();
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "one-policy"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "one-policy"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ona"}],
    }))
    .unwrap();
    let parameters = PostParams::default();
    Api::all(admin.clone()).create(&parameters, &role).await.unwrap();
    Api::all(admin.clone()).create(&parameters, &binding).await.unwrap();

    let ona = control_plane.client_as("ona", &["system:authenticated"]);
    for name in ["one", "security.one"] {
        let one = policy("NetworkPolicy", name, "security");
        expect(name, None, async || try_create(&ona, &one).await).await;
    }
    for (name, tier) in [("two", "security"), ("one", "default"), ("security.one", "default")] {
        let words = format!(
            "of tier {tier}: \"create\" of tier.networkpolicies.projectcalico.org under the name {tier}.* or"
        );
        let other = policy("NetworkPolicy", name, tier);
        expect(name, Some(&words), async || try_create(&ona, &other).await).await;
    }
    let one = policy("NetworkPolicy", "one", "security");
    create(&ona, &one).await.unwrap();
    assert!(refusal(try_delete(&ona, &one).await).unwrap().contains("user ona cannot delete"));
    delete(admin, &one).await;
}

/// What removes the policies of a namespace that ends has rights to all there is.
async fn namespaces_end(admin: &Client, control_plane: &ControlPlane) {
    let inside = policy("NetworkPolicy", "inside", "security");
    create(admin, &inside).await.unwrap();
    let groups =
        ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"];
    let user = "system:serviceaccount:kube-system:namespace-controller";
    let controller = control_plane.client_as(user, &groups);
    let api = api_of(&controller, &inside);
    api.delete_collection(&DeleteParams::default(), &Default::default()).await.unwrap();
    assert!(api_of(admin, &inside).get_opt("inside").await.unwrap().is_none());
}
