//! Schemas of string fields whose format the Kubernetes API server checks by itself. Formats and
//! patterns cost nothing of the CEL budget, so they also serve lists without a limit.

use schemars::{Schema, SchemaGenerator, json_schema};

/// A network in CIDR notation, of either family.
pub(super) fn cidr(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "cidr", "maxLength": 43 })
}

/// Networks in CIDR notation, of either family.
pub(super) fn cidrs(generator: &mut SchemaGenerator) -> Schema {
    list(&cidr(generator))
}

/// As [`cidrs`], at most 64.
pub(super) fn few_cidrs(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = list(&cidr(generator));
    schema.insert("maxItems".to_owned(), 64.into());
    schema
}

/// Networks in CIDR notation or single addresses, of either family.
pub(super) fn nets(_: &mut SchemaGenerator) -> Schema {
    list(&net())
}

/// As [`nets`], at most 256.
pub(super) fn rule_nets(_: &mut SchemaGenerator) -> Schema {
    let mut schema = list(&net());
    schema.insert("maxItems".to_owned(), 256.into());
    schema
}

/// Addresses of either family.
pub(super) fn ips(generator: &mut SchemaGenerator) -> Schema {
    list(&ip(generator))
}

/// An address of either family.
pub(super) fn ip(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 45,
        "anyOf": [{ "format": "ipv4" }, { "format": "ipv6" }],
    })
}

fn net() -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 45,
        "anyOf": [{ "format": "cidr" }, { "format": "ipv4" }, { "format": "ipv6" }],
    })
}

fn list(items: &Schema) -> Schema {
    json_schema!({ "type": "array", "items": items })
}
