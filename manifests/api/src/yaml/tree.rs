//! A parsed document that remembers where each of its parts stands.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{Location, Spanned};

/// A part of a document and its place.
pub(super) struct Tree {
    node: Node,
    place: Place,
}

#[derive(Clone, Copy)]
struct Place {
    line: u64,
    column: u64,
}

impl Place {
    /// `first_line` is that of the text the location is in.
    fn new(location: Location, first_line: u64) -> Self {
        Self { line: location.line().max(1) + first_line - 1, column: location.column().max(1) }
    }
}

enum Node {
    Scalar(Value),
    List(Vec<Tree>),
    /// Keys stand where errors about an entry point to.
    Map(Vec<(String, Place, Tree)>),
}

/// Text that is not YAML.
pub(super) struct SyntaxError {
    pub(super) line: u64,
    pub(super) column: u64,
    pub(super) reason: String,
}

impl Tree {
    /// None for a document without content.
    pub(super) fn parse(text: &str, first_line: u64) -> Result<Option<Self>, SyntaxError> {
        if text.lines().all(|line| matches!(line.trim_start().chars().next(), None | Some('#'))) {
            return Ok(None);
        }
        let options = serde_saphyr::options! { with_snippet: false };
        match serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, options) {
            Ok(raw) if matches!(raw.value, Raw::Scalar(Value::Null)) => Ok(None),
            Ok(raw) => {
                Ok(Some(raw.value.placed(Place::new(raw.referenced, first_line), first_line)))
            }
            Err(error) => {
                let place = Place::new(error.location().unwrap_or(Location::UNKNOWN), first_line);
                // The place is told apart; the text is not quoted, for it may hold a secret.
                let reason = error.without_snippet().to_string();
                let reason = reason.split(" at line ").next().unwrap_or_default();
                Err(SyntaxError {
                    line: place.line,
                    column: place.column,
                    reason: reason.lines().next().unwrap_or_default().trim().to_owned(),
                })
            }
        }
    }

    pub(super) fn line(&self) -> u64 {
        match &self.node {
            Node::Map(fields) => fields.first().map_or(self.place.line, |(_, place, _)| place.line),
            _ => self.place.line,
        }
    }

    pub(super) fn field(&self, name: &str) -> Option<&Self> {
        match &self.node {
            Node::Map(fields) => fields.iter().find(|(key, ..)| key == name).map(|(.., tree)| tree),
            _ => None,
        }
    }

    pub(super) fn entries(&self) -> Option<&[Self]> {
        match &self.node {
            Node::List(entries) => Some(entries),
            _ => None,
        }
    }

    pub(super) fn to_value(&self) -> Value {
        match &self.node {
            Node::Scalar(value) => value.clone(),
            Node::List(entries) => Value::Array(entries.iter().map(Self::to_value).collect()),
            Node::Map(fields) => {
                let fields = fields.iter().map(|(key, _, tree)| (key.clone(), tree.to_value()));
                Value::Object(fields.collect::<Map<_, _>>())
            }
        }
    }

    /// Line and column of the field at `path`, or of what is nearest above it.
    pub(super) fn locate(&self, path: &str) -> (u64, u64) {
        let place = self.find(path, Place { line: self.line(), column: self.place.column });
        (place.line, place.column)
    }

    /// Keys may hold dots and brackets themselves, so they are matched against the path and not the
    /// other way round.
    fn find(&self, path: &str, nearest: Place) -> Place {
        let path = path.strip_prefix('.').unwrap_or(path);
        match &self.node {
            Node::Map(fields) => {
                let matching = fields.iter().filter_map(|(key, place, tree)| {
                    let rest = path.strip_prefix(key.as_str())?;
                    let whole = rest.is_empty() || rest.starts_with(['.', '[']);
                    whole.then_some((key.len(), rest, *place, tree))
                });
                match matching.max_by_key(|(length, ..)| *length) {
                    Some((_, rest, place, tree)) => tree.find(rest, place),
                    None => nearest,
                }
            }
            Node::List(entries) => {
                let index = path.strip_prefix('[').and_then(|rest| rest.split_once(']'));
                let entry = index.and_then(|(index, rest)| {
                    Some((entries.get(index.parse::<usize>().ok()?)?, rest))
                });
                match entry {
                    Some((tree, rest)) => tree.find(rest, tree.place),
                    None => nearest,
                }
            }
            Node::Scalar(_) => nearest,
        }
    }
}

/// As the parser yields it.
enum Raw {
    Scalar(Value),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl Raw {
    fn placed(self, place: Place, first_line: u64) -> Tree {
        let tree = |spanned: Spanned<Raw>| {
            let place = Place::new(spanned.referenced, first_line);
            spanned.value.placed(place, first_line)
        };
        let node = match self {
            Self::Scalar(value) => Node::Scalar(value),
            Self::List(entries) => Node::List(entries.into_iter().map(tree).collect()),
            Self::Map(fields) => Node::Map(
                fields
                    .into_iter()
                    .map(|(key, value)| {
                        let place = Place::new(key.referenced, first_line);
                        (key.value, place, tree(value))
                    })
                    .collect(),
            ),
        };
        Tree { node, place }
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML that JSON could hold")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Raw, E> {
        let number = Number::from_f64(value);
        number.map(|number| Raw::Scalar(number.into())).ok_or_else(|| E::custom("not a number"))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_none<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(entry) = entries.next_element()? {
            list.push(entry);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Raw::Map(map))
    }
}
