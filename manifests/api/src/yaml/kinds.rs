//! Which kinds there are, and a document's value as an object of one of them.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Secret, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy as KubernetesNetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::closed::closed;
use super::describe;
use crate::policy::{self, ClusterNetworkPolicy};
use crate::v3;
use crate::validate::{self, FieldError, Schema};

/// Errors name at most this many of a document's mistakes: the rest is likely the same one again.
const MAX_ERRORS: usize = 20;

macro_rules! objects {
    ($($kind:ident($type:ty) $api_version:literal $name:literal,)*) => {
        /// An object of any kind that is read.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "each is the Kubernetes kind of its name")]
        pub enum Object {
            $($kind(Box<$type>),)*
        }

        impl Object {
            /// `kind` and `apiVersion`.
            pub fn kind(&self) -> (&'static str, &'static str) {
                match self {
                    $(Self::$kind(_) => ($name, $api_version),)*
                }
            }

            /// The object's metadata.
            pub fn metadata(&self) -> &ObjectMeta {
                match self {
                    $(Self::$kind(object) => &object.metadata,)*
                }
            }
        }

        fn build(api_version: &str, kind: &str, value: Value) -> Option<Result<Object, serde_json::Error>> {
            match (api_version, kind) {
                $(($api_version, $name) => {
                    Some(from_value::<$type>(value).map(Box::new).map(Object::$kind))
                })*
                _ => None,
            }
        }
    };
}

objects! {
    Pod(Pod) "v1" "Pod",
    Namespace(Namespace) "v1" "Namespace",
    ServiceAccount(ServiceAccount) "v1" "ServiceAccount",
    Node(Node) "v1" "Node",
    Secret(Secret) "v1" "Secret",
    EndpointSlice(EndpointSlice) "discovery.k8s.io/v1" "EndpointSlice",
    KubernetesNetworkPolicy(KubernetesNetworkPolicy) "networking.k8s.io/v1" "NetworkPolicy",
    ClusterNetworkPolicy(ClusterNetworkPolicy) "policy.networking.k8s.io/v1alpha2" "ClusterNetworkPolicy",
    IPPool(v3::IPPool) "projectcalico.org/v3" "IPPool",
    IPReservation(v3::IPReservation) "projectcalico.org/v3" "IPReservation",
    IPAMConfiguration(v3::IPAMConfiguration) "projectcalico.org/v3" "IPAMConfiguration",
    BGPConfiguration(v3::BGPConfiguration) "projectcalico.org/v3" "BGPConfiguration",
    BGPPeer(v3::BGPPeer) "projectcalico.org/v3" "BGPPeer",
    BGPFilter(v3::BGPFilter) "projectcalico.org/v3" "BGPFilter",
    FelixConfiguration(v3::FelixConfiguration) "projectcalico.org/v3" "FelixConfiguration",
    NetworkPolicy(v3::NetworkPolicy) "projectcalico.org/v3" "NetworkPolicy",
    GlobalNetworkPolicy(v3::GlobalNetworkPolicy) "projectcalico.org/v3" "GlobalNetworkPolicy",
    NetworkSet(v3::NetworkSet) "projectcalico.org/v3" "NetworkSet",
    GlobalNetworkSet(v3::GlobalNetworkSet) "projectcalico.org/v3" "GlobalNetworkSet",
    HostEndpoint(v3::HostEndpoint) "projectcalico.org/v3" "HostEndpoint",
    KubeControllersConfiguration(v3::KubeControllersConfiguration) "projectcalico.org/v3" "KubeControllersConfiguration",
    Tier(v3::Tier) "projectcalico.org/v3" "Tier",
    StagedNetworkPolicy(v3::StagedNetworkPolicy) "projectcalico.org/v3" "StagedNetworkPolicy",
    StagedGlobalNetworkPolicy(v3::StagedGlobalNetworkPolicy) "projectcalico.org/v3" "StagedGlobalNetworkPolicy",
    StagedKubernetesNetworkPolicy(v3::StagedKubernetesNetworkPolicy) "projectcalico.org/v3" "StagedKubernetesNetworkPolicy",
}

fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, serde_json::Error> {
    T::deserialize(value)
}

/// A document that is no valid object.
pub(super) struct Failed {
    pub(super) object: String,
    pub(super) errors: Vec<FieldError>,
    /// What stands in for it, if it is a policy.
    pub(super) closed: Option<Object>,
}

/// Validates and decodes; an object of a namespaced kind without a namespace is in `default`, as
/// for `kubectl`, and the namespace of one that can be in none is dropped, as an API server does.
pub(super) fn decode(mut value: Value) -> Result<Object, Failed> {
    let fail = |object: &Value, mut errors: Vec<FieldError>| {
        let closed = closed(object, &errors);
        errors.truncate(MAX_ERRORS);
        Err(Failed { object: describe(object), errors, closed })
    };
    if !value.is_object() {
        return fail(
            &value,
            vec![FieldError::new("", "is not an object with apiVersion and kind")],
        );
    }
    let text =
        |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    for (field, given) in [("apiVersion", &api_version), ("kind", &kind)] {
        if given.is_empty() {
            return fail(&value, vec![FieldError::new(field, "must be given, as a string")]);
        }
    }
    let result = if api_version == v3::API_VERSION {
        namespace(&mut value, validate::is_namespaced(&kind));
        validate::validate_value(&value)
    } else {
        builtin(&api_version, &kind, &mut value)
    };
    if let Err(errors) = result {
        return fail(&value, errors);
    }
    match build(&api_version, &kind, value.clone()) {
        Some(Ok(Object::ClusterNetworkPolicy(policy))) => match policy.check() {
            errors if errors.is_empty() => Ok(Object::ClusterNetworkPolicy(policy)),
            errors => fail(&value, errors),
        },
        Some(Ok(object)) => Ok(merged(object)),
        Some(Err(_)) if kind == "Secret" => {
            fail(&value, vec![FieldError::new("data", "is not base64")])
        }
        Some(Err(error)) => fail(&value, vec![FieldError::new("", error.to_string())]),
        None => fail(&value, vec![unknown_kind(&api_version, &kind)]),
    }
}

fn unknown_kind(api_version: &str, kind: &str) -> FieldError {
    FieldError::new("kind", format!("{kind} of {api_version} is not a kind that is read here"))
}

fn namespace(value: &mut Value, namespaced: Option<bool>) {
    let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
    match (namespaced, metadata) {
        (Some(true), Some(metadata)) => {
            metadata.entry("namespace").or_insert_with(|| "default".into());
        }
        (Some(false), Some(metadata)) => {
            metadata.remove("namespace");
        }
        _ => {}
    }
}

/// A kind of Kubernetes itself, or of its special interest groups.
struct Builtin {
    namespaced: bool,
    schema: Schema,
    /// Unknown fields are errors. Only of policies, where a misspelt field changes who is let in:
    /// other kinds come from newer clusters too, with fields that mean nothing to the agent.
    strict: bool,
}

static BUILTINS: LazyLock<BTreeMap<(&str, &str), Builtin>> = LazyLock::new(|| {
    fn entry<T: JsonSchema>(
        api_version: &'static str,
        kind: &'static str,
        namespaced: bool,
    ) -> Option<((&'static str, &'static str), Builtin)> {
        let settings = SchemaSettings::openapi3().with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        });
        let schema = settings.into_generator().into_root_schema_for::<T>();
        let schema = Schema::of_object(schema.to_value()).ok()?;
        let strict = kind.ends_with("NetworkPolicy");
        Some(((api_version, kind), Builtin { namespaced, schema, strict }))
    }
    [
        entry::<Pod>("v1", "Pod", true),
        entry::<Namespace>("v1", "Namespace", false),
        entry::<ServiceAccount>("v1", "ServiceAccount", true),
        entry::<Node>("v1", "Node", false),
        entry::<Secret>("v1", "Secret", true),
        entry::<EndpointSlice>("discovery.k8s.io/v1", "EndpointSlice", true),
        entry::<KubernetesNetworkPolicy>("networking.k8s.io/v1", "NetworkPolicy", true),
        entry::<ClusterNetworkPolicy>(policy::API_VERSION, "ClusterNetworkPolicy", false),
    ]
    .into_iter()
    .flatten()
    .collect()
});

fn builtin(api_version: &str, kind: &str, value: &mut Value) -> Result<(), Vec<FieldError>> {
    let Some(builtin) = BUILTINS.get(&(api_version, kind)) else {
        return Err(vec![unknown_kind(api_version, kind)]);
    };
    // In these kinds null is the same as absent.
    drop_nulls(value);
    namespace(value, Some(builtin.namespaced));
    if !builtin.strict {
        builtin.schema.prune(value);
    }
    let mut errors = builtin.schema.errors(value);
    validate::metadata(value, builtin.namespaced, &mut errors);
    if kind == "Secret" {
        // What was found instead may be the secret.
        for error in &mut errors {
            let expected = error.message.split(", not ").next().unwrap_or_default();
            error.message = expected.to_owned();
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(entries) => entries.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// `stringData` is a way to write `data`.
fn merged(object: Object) -> Object {
    match object {
        Object::Secret(mut secret) => {
            let written = secret.string_data.take().into_iter().flatten();
            let written = written.map(|(key, text)| (key, ByteString(text.into_bytes())));
            secret.data.get_or_insert_default().extend(written);
            Object::Secret(secret)
        }
        other => other,
    }
}
