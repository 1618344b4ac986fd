//! Validation without an API server: what the CustomResourceDefinitions say (types, required and
//! unknown fields, limits, formats, CEL rules) and what they cannot say (the syntax of selectors,
//! the agreement of fields far apart).
//!
//! An agent that reads from an API server needs only [`Check::check`]: the server has done the rest,
//! or has not where the definitions there are older than the agent.

mod path;
mod schema;
mod semantics;

use std::sync::OnceLock;

use kube::core::cel::{CompiledSchema, ErrorKind, RootContext, Validator, compile_schema};
use serde::Serialize;
use serde_json::Value;

use crate::{crd, v3};
pub(crate) use schema::Schema;
pub use semantics::Check;

/// One thing wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
#[error("{path}: {message}")]
pub struct FieldError {
    /// The field, as in `spec.ingress[0].action`; never empty.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

impl FieldError {
    /// An error of the field at `path`.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

/// Validates an object as it would be created, from its kind and apiVersion on.
///
/// # Errors
/// Everything that is wrong with it, in the order of the fields; at least one.
pub fn validate(object: &impl Serialize) -> Result<(), Vec<FieldError>> {
    let object = serde_json::to_value(object)
        .map_err(|error| vec![FieldError::new("object", error.to_string())])?;
    validate_value(&object)
}

/// As [`validate`], of an object that is JSON already.
///
/// # Errors
/// Everything that is wrong with it, in the order of the fields; at least one.
pub fn validate_value(object: &Value) -> Result<(), Vec<FieldError>> {
    let api_version = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    if api_version != v3::API_VERSION {
        let message = format!("{api_version:?} is not {}", v3::API_VERSION);
        return Err(vec![FieldError::new("apiVersion", message)]);
    }
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    let Some(definition) = definition(kind) else {
        let message = format!("{kind:?} is not a kind of {}", v3::API_VERSION);
        return Err(vec![FieldError::new("kind", message)]);
    };
    into_result(definition.validate(object))
}

/// Validates a change of an object: what [`validate`] does, and that immutable fields stay.
///
/// # Errors
/// Everything that is wrong with it, in the order of the fields; at least one.
pub fn validate_update(
    object: &impl Serialize,
    old: &impl Serialize,
) -> Result<(), Vec<FieldError>> {
    validate(object)?;
    let (Ok(object), Ok(old)) = (serde_json::to_value(object), serde_json::to_value(old)) else {
        return Ok(());
    };
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    match definition(kind) {
        Some(definition) => into_result(definition.evaluate_rules(&object, Some(&old))),
        None => Ok(()),
    }
}

fn into_result(errors: Vec<FieldError>) -> Result<(), Vec<FieldError>> {
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Whether objects of a kind of this API live in namespaces; None for a kind that is not of it.
pub fn is_namespaced(kind: &str) -> Option<bool> {
    definition(kind).map(|definition| definition.namespaced)
}

/// The default that the schema gives the field at `path` (names, without the indices of lists) of
/// a kind of this API.
pub(crate) fn default_at<'a>(kind: &str, path: &[&str]) -> Option<&'a Value> {
    let mut schema = &definition(kind)?.schema;
    for name in path {
        schema = schema.property(name)?;
    }
    schema.default.as_ref()
}

/// A kind's definition. What only some users need is made when it is needed: an agent that reads
/// from an API server validates nothing, and one program's kinds are few.
struct Definition {
    kind: &'static str,
    namespaced: bool,
    schema: Schema,
    rules: OnceLock<CompiledSchema>,
    semantics: fn(&Value) -> Vec<FieldError>,
}

/// In the order of [`crd::KINDS`].
static DEFINITIONS: [OnceLock<Option<Definition>>; crd::KINDS.len()] =
    [const { OnceLock::new() }; crd::KINDS.len()];

/// The definition of a kind of this API.
fn definition(kind: &str) -> Option<&'static Definition> {
    let at = crd::KINDS.iter().position(|(name, _)| *name == kind)?;
    // Made from the types at build time: the tests show that none is lost here.
    DEFINITIONS[at].get_or_init(|| Definition::of(crd::KINDS[at].0)).as_ref()
}

/// The schema of a kind's current version, and whether its objects live in namespaces.
fn schema(kind: &str) -> Option<(Value, bool)> {
    let (_, derived) = crd::KINDS.iter().find(|(name, _)| *name == kind)?;
    let spec = crd::tidied(derived()).ok()?.spec;
    let schema = spec.versions.into_iter().next()?.schema?.open_api_v3_schema?;
    Some((serde_json::to_value(schema).ok()?, spec.scope == "Namespaced"))
}

impl Definition {
    fn of(kind: &'static str) -> Option<Self> {
        let (schema, namespaced) = schema(kind)?;
        Some(Self {
            kind,
            namespaced,
            schema: Schema::of_object(schema).ok()?,
            rules: OnceLock::new(),
            semantics: semantics::of_kind(kind)?,
        })
    }

    fn rules(&self) -> &CompiledSchema {
        self.rules.get_or_init(|| {
            let (schema, _) = schema(self.kind).unwrap_or_default();
            compile_schema(&schema)
        })
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = self.schema.errors(object);
        metadata(object, self.namespaced, &mut errors);
        // CEL and the types take the right shape for granted.
        if errors.is_empty() {
            errors = self.evaluate_rules(object, None);
            let known: Vec<String> = errors.iter().map(|error| error.path.clone()).collect();
            let more = (self.semantics)(object);
            errors.extend(more.into_iter().filter(|error| !known.contains(&error.path)));
        }
        errors
    }

    fn evaluate_rules(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let context = RootContext {
            api_version: v3::API_VERSION.to_owned(),
            api_group: v3::GROUP.to_owned(),
            kind: self.kind.to_owned(),
        };
        let result = Validator::new().validate_compiled_with_context(
            self.rules(),
            object,
            old,
            Some(&context),
        );
        let failures = result.map_or_else(kube::core::cel::ValidationErrors::into_vec, |()| vec![]);
        let error = |failure: kube::core::cel::ValidationError| {
            let path = failure.field_path.trim_start_matches('.');
            FieldError::new(if path.is_empty() { "metadata.name" } else { path }, failure.message)
        };
        failures.into_iter().filter(|failure| !has_twin(failure)).map(error).collect()
    }
}

/// The evaluator does not know CEL's `type()`. The one rule that needs it, to tell a port's number
/// from its name, is checked by [`semantics`] too.
fn has_twin(failure: &kube::core::cel::ValidationError) -> bool {
    failure.kind == ErrorKind::UnsupportedReference && failure.rule.contains("type(p) == int")
}

/// Names as Kubernetes takes them for custom resources (RFC 1123 subdomains).
pub(crate) fn metadata(object: &Value, namespaced: bool, errors: &mut Vec<FieldError>) {
    let Some(metadata) = object.get("metadata").filter(|metadata| metadata.is_object()) else {
        errors.push(FieldError::new("metadata", "must be given, with a name"));
        return;
    };
    match metadata.get("name").and_then(Value::as_str) {
        Some(name) if is_subdomain(name) => {}
        Some(name) => {
            let message = format!(
                "{name:?} is not a name: at most 253 lower case letters, digits, '-' and '.', \
                 with a letter or digit at both ends and around each '.'"
            );
            errors.push(FieldError::new("metadata.name", message));
        }
        None => errors.push(FieldError::new("metadata.name", "must be given, as a string")),
    }
    match metadata.get("namespace") {
        None => {}
        Some(Value::String(namespace)) if namespaced && is_label(namespace) => {}
        Some(Value::String(namespace)) if namespaced => {
            let message = format!("{namespace:?} is not a namespace's name");
            errors.push(FieldError::new("metadata.namespace", message));
        }
        Some(_) if namespaced => {
            errors.push(FieldError::new("metadata.namespace", "must be a string"));
        }
        Some(_) => {
            let message = "must not be given: objects of this kind are in no namespace";
            errors.push(FieldError::new("metadata.namespace", message));
        }
    }
    for field in ["labels", "annotations"] {
        match metadata.get(field) {
            None => {}
            Some(Value::Object(entries)) => {
                for (key, value) in entries.iter().filter(|(_, value)| !value.is_string()) {
                    let message = format!("must be a string, not {value}; quote it");
                    errors.push(FieldError::new(format!("metadata.{field}.{key}"), message));
                }
            }
            Some(_) => {
                let message = "must be keys with values";
                errors.push(FieldError::new(format!("metadata.{field}"), message));
            }
        }
    }
}

/// RFC 1123 subdomain: labels of any length with dots between, 253 characters in all.
fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label_of_any_length)
}

/// RFC 1123 label.
fn is_label(name: &str) -> bool {
    name.len() <= 63 && is_label_of_any_length(name)
}

fn is_label_of_any_length(label: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !label.is_empty()
        && label.bytes().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

#[cfg(test)]
mod tests;
