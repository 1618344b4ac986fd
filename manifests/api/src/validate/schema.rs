//! The structural part of a schema, in the subset that Kubernetes has.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::OnceLock;

use ipnet::IpNet;
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;

use super::FieldError;
use super::path::Path;

/// A schema, ready for use. Keywords it does not know say nothing about structure.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Schema {
    #[serde(rename = "type")]
    value_type: Option<ValueType>,
    properties: BTreeMap<String, Schema>,
    additional_properties: Option<Box<Additional>>,
    required: Vec<String>,
    items: Option<Box<Schema>>,
    #[serde(rename = "enum")]
    enumeration: Option<Vec<Value>>,
    minimum: Option<f64>,
    maximum: Option<f64>,
    min_length: Option<usize>,
    max_length: Option<usize>,
    min_items: Option<usize>,
    max_items: Option<usize>,
    pattern: Option<Pattern>,
    format: Option<String>,
    any_of: Vec<Schema>,
    #[serde(rename = "x-kubernetes-int-or-string")]
    int_or_string: bool,
    #[serde(rename = "x-kubernetes-preserve-unknown-fields")]
    preserve_unknown_fields: bool,
    nullable: bool,
    pub(super) default: Option<Value>,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ValueType {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Additional {
    Any(bool),
    Of(Box<Schema>),
}

/// A regular expression, compiled when it is first asked: most never are.
#[derive(Deserialize)]
#[serde(from = "String")]
struct Pattern {
    text: String,
    compiled: OnceLock<Option<Regex>>,
}

impl From<String> for Pattern {
    fn from(text: String) -> Self {
        Self { text, compiled: OnceLock::new() }
    }
}

impl Pattern {
    /// Nothing matches what is no regular expression, which the tests of this crate rule out.
    fn is_match(&self, text: &str) -> bool {
        let compiled = self.compiled.get_or_init(|| Regex::new(&self.text).ok());
        compiled.as_ref().is_some_and(|regex| regex.is_match(text))
    }
}

impl Schema {
    /// The schema of a whole object: what every object has is added, unchecked.
    pub(crate) fn of_object(schema: Value) -> Result<Self, serde_json::Error> {
        let mut schema: Self = serde_json::from_value(schema)?;
        for field in ["apiVersion", "kind"] {
            let text = Self { value_type: Some(ValueType::String), ..Self::default() };
            schema.properties.insert(field.to_owned(), text);
        }
        let anything = Self { preserve_unknown_fields: true, ..Self::default() };
        schema.properties.insert("metadata".to_owned(), anything);
        Ok(schema)
    }

    pub(super) fn property(&self, name: &str) -> Option<&Self> {
        let of = self.items.as_deref().unwrap_or(self);
        of.properties.get(name)
    }

    /// What is wrong with an object.
    pub(crate) fn errors(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        self.validate(object, &Path::Root, &mut errors);
        errors
    }

    /// Drops the fields that the schema does not know, wherever they are, as an API server does.
    pub(crate) fn prune(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.retain(|name, _| self.knows(name));
                for (name, value) in fields {
                    match (self.properties.get(name), self.additional_properties.as_deref()) {
                        (Some(schema), _) => schema.prune(value),
                        (None, Some(Additional::Of(schema))) => schema.prune(value),
                        (None, _) => {}
                    }
                }
            }
            Value::Array(entries) => {
                if let Some(items) = &self.items {
                    entries.iter_mut().for_each(|entry| items.prune(entry));
                }
            }
            _ => {}
        }
    }

    /// Whether an object may have the field.
    fn knows(&self, name: &str) -> bool {
        let open = match self.additional_properties.as_deref() {
            Some(Additional::Of(_)) => true,
            Some(Additional::Any(any)) => *any,
            // A schema that says nothing of its fields takes any.
            None => self.value_type.is_none() && self.properties.is_empty(),
        };
        open || self.preserve_unknown_fields || self.properties.contains_key(name)
    }

    /// Adds what is wrong with `value`.
    fn validate(&self, value: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
        let mut report = |message: String| errors.push(FieldError::new(path.to_string(), message));
        if value.is_null() && self.nullable {
            return;
        }
        if let Some(expected) = self.mismatch(value) {
            let found = brief(value);
            return report(format!("must be {expected}, not {found}"));
        }
        if let Some(values) = &self.enumeration
            && !values.contains(value)
        {
            let values: Vec<String> = values.iter().map(text).collect();
            let found = brief(value);
            return report(format!("{found} is not one of {}", values.join(", ")));
        }
        match value {
            Value::String(string) => self.validate_string(string, &mut report),
            Value::Number(number) => {
                let number = number.as_f64().unwrap_or(f64::NAN);
                self.validate_number(number, &mut report);
            }
            Value::Array(entries) => {
                let count = entries.len();
                if let Some(min) = self.min_items.filter(|min| count < *min) {
                    report(format!("must have at least {min} entries, not {count}"));
                }
                if let Some(max) = self.max_items.filter(|max| count > *max) {
                    report(format!("must have at most {max} entries, not {count}"));
                }
                for (index, entry) in entries.iter().enumerate() {
                    if let Some(items) = &self.items {
                        items.validate(entry, &Path::Entry(path, index), errors);
                    }
                }
            }
            Value::Object(fields) => self.validate_object(fields, path, errors),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn validate_object(
        &self,
        fields: &serde_json::Map<String, Value>,
        path: &Path<'_>,
        errors: &mut Vec<FieldError>,
    ) {
        for name in self.required.iter().filter(|name| !fields.contains_key(*name)) {
            let field = Path::Field(path, name).to_string();
            errors.push(FieldError::new(field, "must be given"));
        }
        for (name, value) in fields {
            let field = Path::Field(path, name);
            if let Some(property) = self.properties.get(name) {
                // Null for a field with a default means the default, as in an API server.
                if !(value.is_null() && property.default.is_some()) {
                    property.validate(value, &field, errors);
                }
                continue;
            }
            match self.additional_properties.as_deref() {
                Some(Additional::Of(schema)) => schema.validate(value, &field, errors),
                _ if self.knows(name) => {}
                _ => {
                    let message = match self.closest(name) {
                        Some(known) => format!("unknown field; did you mean {known}?"),
                        None => "unknown field".to_owned(),
                    };
                    errors.push(FieldError::new(field.to_string(), message));
                }
            }
        }
    }

    /// A property that differs in case only, or by at most two letters.
    fn closest(&self, name: &str) -> Option<&str> {
        let known = self.properties.keys().map(String::as_str);
        let distance = |known: &str| {
            if known.eq_ignore_ascii_case(name) { 0 } else { edit_distance(known, name) }
        };
        let limit = if name.len() > 3 { 2 } else { 1 };
        known.map(|k| (distance(k), k)).filter(|(d, _)| *d <= limit).min().map(|(_, k)| k)
    }

    fn validate_string(&self, string: &str, report: &mut impl FnMut(String)) {
        let length = string.chars().count();
        if let Some(min) = self.min_length.filter(|min| length < *min) {
            if min == 1 {
                report("must not be empty".to_owned());
            } else {
                report(format!("must have at least {min} characters, not {length}"));
            }
        }
        if let Some(max) = self.max_length.filter(|max| length > *max) {
            report(format!("must have at most {max} characters, not {length}"));
        }
        let formats =
            self.format.iter().chain(self.any_of.iter().filter_map(|s| s.format.as_ref()));
        let formats: Vec<&str> = formats.map(String::as_str).collect();
        if !formats.is_empty() && !formats.iter().any(|format| has_format(string, format)) {
            let names: Vec<&str> = formats.iter().map(|format| describe(format)).collect();
            report(format!("{string:?} is not {}", names.join(" or ")));
        } else if let Some(pattern) = &self.pattern
            && !pattern.is_match(string)
        {
            report(format!("{string:?} does not match {}", pattern.text));
        }
    }

    fn validate_number(&self, number: f64, report: &mut impl FnMut(String)) {
        match (self.minimum, self.maximum) {
            (Some(min), Some(max)) if number < min || number > max => {
                report(format!("{number} is not from {min} to {max}"));
            }
            (Some(min), None) if number < min => report(format!("{number} is less than {min}")),
            (None, Some(max)) if number > max => report(format!("{number} is more than {max}")),
            _ => {}
        }
    }

    /// What the value should have been, if it is of another type.
    fn mismatch(&self, value: &Value) -> Option<&'static str> {
        if self.int_or_string {
            let matches = value.is_string() || is_integer(value);
            return (!matches).then_some("an integer or a string");
        }
        let (matches, name) = match self.value_type? {
            ValueType::Object => (value.is_object(), "an object"),
            ValueType::Array => (value.is_array(), "a list"),
            ValueType::String => (value.is_string(), "a string"),
            ValueType::Integer => (is_integer(value), "an integer"),
            ValueType::Number => (value.is_number(), "a number"),
            ValueType::Boolean => (value.is_boolean(), "true or false"),
        };
        (!matches).then_some(name)
    }
}

fn is_integer(value: &Value) -> bool {
    value.is_i64() || value.is_u64()
}

/// A value as it stands in a message.
fn brief(value: &Value) -> String {
    match value {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::String(string) if string.chars().count() > 64 => "a long string".to_owned(),
        other => other.to_string(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Formats that are not checked hold for every string.
fn has_format(string: &str, format: &str) -> bool {
    match format {
        "ipv4" => string.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => string.parse::<Ipv6Addr>().is_ok(),
        "ip" => string.parse::<IpAddr>().is_ok(),
        "cidr" => string.parse::<IpNet>().is_ok(),
        _ => true,
    }
}

fn describe(format: &str) -> &str {
    match format {
        "ipv4" => "an IPv4 address",
        "ipv6" => "an IPv6 address",
        "ip" => "an IP address",
        "cidr" => "a network in CIDR notation",
        other => other,
    }
}

/// Levenshtein's.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (j, to) in b.iter().enumerate() {
            let above = row.get(j + 1).copied().unwrap_or(usize::MAX - 1);
            let cost = (diagonal + usize::from(from != *to)).min(left + 1).min(above + 1);
            if let Some(cell) = row.get_mut(j) {
                *cell = left;
            }
            diagonal = above;
            left = cost;
        }
        if let Some(cell) = row.last_mut() {
            *cell = left;
        }
    }
    row.last().copied().unwrap_or_default()
}
