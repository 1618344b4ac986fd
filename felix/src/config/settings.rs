//! Values by the path of their field, from a YAML file and the environment alike, so that every
//! error can name the origin, the field and the reason.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::{ConfigError, Origin};

/// What the name of every variable of ours begins with.
pub(super) const PREFIX: &str = "CARACAL_";

/// What was set, by the path of its field.
pub(super) struct Settings {
    fields: &'static [&'static str],
    set: BTreeMap<String, (Value, Origin)>,
}

#[derive(Debug)]
enum Value {
    Scalar(String),
    List(Vec<String>),
}

/// The variable of a field: `ipam.caFile` is `CARACAL_IPAM_CA_FILE`.
pub(super) fn variable(field: &str) -> String {
    let mut name = PREFIX.to_owned();
    for c in field.chars() {
        match c {
            '.' => name.push('_'),
            c if c.is_ascii_uppercase() => name.extend(['_', c]),
            c => name.push(c.to_ascii_uppercase()),
        }
    }
    name
}

impl Settings {
    pub(super) fn new(fields: &'static [&'static str]) -> Self {
        Self { fields, set: BTreeMap::new() }
    }

    /// Takes all of a file in; an unknown field or a wrong shape is an error.
    pub(super) fn read_yaml(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let at = |line| Some(Origin::File(path.to_owned(), line));
        let tree: Spanned<Node> = serde_saphyr::from_str(text).map_err(|error| {
            let line = error.location().map_or(0, |location| location.line());
            let reason = error.without_snippet().to_string();
            ConfigError {
                origin: at(line),
                field: String::new(),
                reason: reason.replace('\n', " "),
            }
        })?;
        let mut pending = vec![(String::new(), tree)];
        while let Some((field, Spanned { value, referenced, .. })) = pending.pop() {
            let origin = Origin::File(path.to_owned(), referenced.line());
            let error =
                |reason| ConfigError { origin: Some(origin.clone()), field: field.clone(), reason };
            let value = match value {
                // A section or a field that is there but empty is as if it were not there.
                Node::Null => continue,
                Node::Map(entries) if field.is_empty() || self.is_section(&field) => {
                    for (key, value) in entries {
                        let child = if field.is_empty() {
                            key.value
                        } else {
                            format!("{field}.{}", key.value)
                        };
                        if !self.fields.contains(&child.as_str()) && !self.is_section(&child) {
                            return Err(ConfigError {
                                origin: at(key.referenced.line()),
                                field: child,
                                reason: format!(
                                    "unknown field; known here: {}",
                                    self.known_in(&field).join(", ")
                                ),
                            });
                        }
                        pending.push((child, value));
                    }
                    continue;
                }
                _ if field.is_empty() => return Err(error("expected a mapping of fields".into())),
                _ if self.is_section(&field) => {
                    return Err(error(format!(
                        "expected a section with the fields {}",
                        self.known_in(&field).join(", ")
                    )));
                }
                Node::Map(_) => return Err(error("expected a value, not a section".into())),
                Node::Scalar(text) => Value::Scalar(text),
                Node::List(items) => Value::List(
                    items
                        .into_iter()
                        .map(|item| match item.value {
                            Node::Scalar(text) => Ok(text),
                            _ => Err(error("expected a list of plain values".into())),
                        })
                        .collect::<Result<_, _>>()?,
                ),
            };
            self.set.insert(field, (value, origin));
        }
        Ok(())
    }

    /// Takes in the variables that are settings. An empty one counts as not set.
    pub(super) fn read_environment(
        &mut self,
        environment: impl IntoIterator<Item = (String, String)>,
    ) {
        let by_name: BTreeMap<String, &str> =
            self.fields.iter().map(|field| (variable(field), *field)).collect();
        for (name, value) in environment {
            if let Some(field) = by_name.get(&name)
                && !value.is_empty()
            {
                self.set
                    .insert((*field).to_owned(), (Value::Scalar(value), Origin::Environment(name)));
            }
        }
    }

    pub(super) fn is_set(&self, field: &str) -> bool {
        self.set.contains_key(field)
    }

    /// An error about a field, with the origin of its value if it has one.
    pub(super) fn error(&self, field: &str, reason: String) -> ConfigError {
        let origin = self.set.get(field).map(|(_, origin)| origin.clone());
        ConfigError { origin, field: field.to_owned(), reason }
    }

    pub(super) fn text(&self, field: &str) -> Result<Option<&str>, ConfigError> {
        match self.set.get(field) {
            None => Ok(None),
            Some((Value::Scalar(text), _)) if text.trim().is_empty() => {
                Err(self.error(field, "must not be empty".into()))
            }
            Some((Value::Scalar(text), _)) => Ok(Some(text.trim())),
            Some((Value::List(_), _)) => {
                Err(self.error(field, "expected one value, not a list".into()))
            }
        }
    }

    /// A list; one scalar is a list separated by commas.
    pub(super) fn list(&self, field: &str) -> Result<Vec<String>, ConfigError> {
        let items: Vec<String> = match self.set.get(field) {
            None => Vec::new(),
            Some((Value::List(items), _)) => {
                items.iter().map(|item| item.trim().to_owned()).collect()
            }
            Some((Value::Scalar(text), _)) => {
                text.split(',').map(|item| item.trim().to_owned()).collect()
            }
        };
        if items.iter().any(String::is_empty) {
            return Err(self.error(field, "has an empty entry".into()));
        }
        Ok(items)
    }

    pub(super) fn choice(
        &self,
        field: &str,
        choices: &[&'static str],
    ) -> Result<Option<&'static str>, ConfigError> {
        let Some(text) = self.text(field)? else { return Ok(None) };
        match choices.iter().find(|choice| **choice == text) {
            Some(choice) => Ok(Some(choice)),
            None => {
                Err(self.error(field, format!("must be {}, not {text:?}", choices.join(" or "))))
            }
        }
    }

    pub(super) fn parse<T: FromStr>(
        &self,
        field: &str,
        expected: &str,
    ) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.text(field)? else { return Ok(None) };
        text.parse()
            .map(Some)
            .map_err(|_| self.error(field, format!("expected {expected}, not {text:?}")))
    }

    pub(super) fn number(
        &self,
        field: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, ConfigError> {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        let number = self.parse::<u64>(field, &expected)?;
        match number {
            Some(number) if !range.contains(&number) => {
                Err(self.error(field, format!("expected {expected}, not {number}")))
            }
            number => Ok(number),
        }
    }

    fn is_section(&self, field: &str) -> bool {
        self.fields
            .iter()
            .any(|known| known.strip_prefix(field).is_some_and(|rest| rest.starts_with('.')))
    }

    fn known_in(&self, section: &str) -> Vec<&'static str> {
        let mut names: Vec<&'static str> = self
            .fields
            .iter()
            .filter_map(|field| {
                let rest = if section.is_empty() {
                    field
                } else {
                    field.strip_prefix(section)?.strip_prefix('.')?
                };
                rest.split('.').next()
            })
            .collect();
        names.dedup();
        names
    }
}

/// A YAML value of any shape, each part with its place in the text.
enum Node {
    Null,
    Scalar(String),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NodeVisitor;
        impl<'de> Visitor<'de> for NodeVisitor {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value, a list or a mapping")
            }
            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }
            fn visit_none<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }
            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
                Node::deserialize(deserializer)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Scalar(value.to_string()))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Scalar(value.to_string()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
                Ok(Node::Scalar(value.to_string()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
                Ok(Node::Scalar(value.to_string()))
            }
            fn visit_str<E>(self, value: &str) -> Result<Node, E> {
                Ok(Node::Scalar(value.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Node::List(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Node::Map(entries))
            }
        }
        deserializer.deserialize_any(NodeVisitor)
    }
}
