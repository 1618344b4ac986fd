//! Objects as people write them: YAML or JSON, several documents to a file, of the kinds of this
//! API and of those of Kubernetes that a directory source takes.
//!
//! A bad document is reported with file, line and field and spoils nothing but itself.

mod closed;
mod kinds;
mod tree;

use std::fmt;

use serde_json::Value;

use crate::validate::FieldError;
pub use kinds::Object;
use tree::Tree;

/// Largest file read, in bytes. An object in Kubernetes is at most 1.5 MiB.
pub const MAX_FILE: usize = 16 << 20;

/// What a file holds.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// The objects that are right, in their order.
    pub documents: Vec<Document>,
    /// What is wrong with the others.
    pub errors: Vec<Error>,
    /// For each policy among the others one of the same name that allows nothing, to be put in
    /// force where no earlier version of the policy is.
    pub closed: Vec<Document>,
}

/// One object of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The object, valid and with defaults filled in.
    pub object: Object,
    /// The line it starts on, from 1.
    pub line: u64,
}

/// What is wrong, and where: `FILE:LINE:COLUMN: KIND NAME: FIELD: REASON`, as far as known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Error {
    /// The file, as it was named to [`read`].
    pub file: String,
    /// From 1.
    pub line: u64,
    /// In characters, from 1.
    pub column: u64,
    /// The object's kind and name (`NAMESPACE/NAME` where it has a namespace); empty if the
    /// document does not get as far as to say.
    pub object: String,
    /// The field, as in `spec.ingress[0].action`; empty for the document as such.
    pub field: String,
    /// What is wrong.
    pub reason: String,
}

impl Error {
    /// What is wrong, without the place: `KIND NAME: FIELD: REASON`.
    pub fn what(&self) -> String {
        let parts = [&self.object, &self.field, &self.reason];
        let parts: Vec<&str> =
            parts.into_iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        parts.join(": ")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.what())
    }
}

/// Reads the text of a file. `file` is what errors call it.
pub fn read(file: &str, text: &str) -> Contents {
    let mut contents = Contents::default();
    if text.len() > MAX_FILE {
        let reason = format!("{} bytes are more than the limit of {MAX_FILE}", text.len());
        contents.errors.push(Error {
            file: file.to_owned(),
            line: 1,
            column: 1,
            object: String::new(),
            field: String::new(),
            reason,
        });
        return contents;
    }
    for chunk in chunks(text) {
        match Tree::parse(&chunk.text, chunk.first_line) {
            Ok(Some(tree)) => document(file, &tree, &mut contents),
            Ok(None) => {}
            Err(error) => contents.errors.push(Error {
                file: file.to_owned(),
                line: error.line,
                column: error.column,
                object: String::new(),
                field: String::new(),
                reason: error.reason,
            }),
        }
    }
    contents
}

/// One document, or a `List` of several.
fn document(file: &str, tree: &Tree, contents: &mut Contents) {
    let value = tree.to_value();
    let is_list = value.get("apiVersion").is_some_and(|v| v == "v1")
        && value.get("kind").is_some_and(|kind| kind == "List");
    if is_list && let Some(items) = tree.field("items").and_then(Tree::entries) {
        for item in items {
            object(file, item, contents);
        }
    } else {
        object(file, tree, contents);
    }
}

fn object(file: &str, tree: &Tree, contents: &mut Contents) {
    let value = tree.to_value();
    let line = tree.line();
    match kinds::decode(value) {
        Ok(object) => contents.documents.push(Document { object, line }),
        Err(failed) => {
            contents.closed.extend(failed.closed.map(|object| Document { object, line }));
            for FieldError { path, message } in failed.errors {
                let (line, column) = tree.locate(&path);
                contents.errors.push(Error {
                    file: file.to_owned(),
                    line,
                    column,
                    object: failed.object.clone(),
                    field: path,
                    reason: message,
                });
            }
        }
    }
}

/// The kind and name of an object as errors give them.
fn describe(object: &Value) -> String {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
    let mut described = text("/kind").unwrap_or_default().to_owned();
    if let Some(name) = text("/metadata/name") {
        described.push(' ');
        if let Some(namespace) = text("/metadata/namespace") {
            described.push_str(namespace);
            described.push('/');
        }
        described.push_str(name);
    }
    described.trim_start().to_owned()
}

/// A document's text and where it starts.
struct Chunk {
    text: String,
    first_line: u64,
}

/// The documents of a stream. They are taken apart before they are parsed, so that one that cannot
/// be parsed does not hide those after it. A line that begins with `---` or `...` ends a document
/// wherever it stands (YAML 1.2, section 9.1.2), so this finds the same ones that a parser does.
fn chunks(text: &str) -> Vec<Chunk> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut chunks = vec![Chunk { text: String::new(), first_line: 1 }];
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let content = line.trim_end_matches(['\n', '\r']);
        let marks = |marker: &str| {
            content
                .strip_prefix(marker)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t']))
        };
        let (start, end) = (marks("---"), marks("..."));
        if start || end {
            chunks.push(Chunk { text: String::new(), first_line: number });
        }
        if let Some(chunk) = chunks.last_mut() {
            // What follows on the marker's line belongs to the document; columns stay right.
            let content = if start { line.replacen("---", "   ", 1) } else { line.to_owned() };
            chunk.text.push_str(if end { "\n" } else { &content });
        }
    }
    chunks
}

#[cfg(test)]
mod tests;
