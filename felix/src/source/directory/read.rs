//! One file to objects.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use api::v3;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use serde_json::Value;

use super::folder::Content;
use crate::source::convert::{Converted, Problem, decode};

/// Larger files are refused: 16 MiB.
const LIMIT: u64 = 16 << 20;

/// Reads a file; blocks.
pub(super) fn read(path: &Path) -> Content {
    let text = match text(path) {
        Ok(Some(text)) => text,
        Ok(None) => return Content::Gone,
        Err(error) => return Content::Unreadable(error.to_string()),
    };
    parse(&text)
}

/// None: there is no such file.
fn text(path: &Path) -> io::Result<Option<String>> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // A pipe or a device would hold the reader up.
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if metadata.len() > LIMIT {
        return Err(io::Error::other(format!("larger than {} MiB", LIMIT >> 20)));
    }
    let mut text = String::new();
    match File::open(path).and_then(|file| file.take(LIMIT).read_to_string(&mut text)) {
        Ok(_) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse(text: &str) -> Content {
    let (mut objects, mut errors, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
    for (first, document) in documents(text) {
        let json: Value = match serde_saphyr::from_str(document) {
            Ok(Value::Null) => continue,
            Ok(json) => json,
            Err(error) => {
                errors.push(place(first, &error));
                continue;
            }
        };
        let text = |path| json.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let name = format!("{} {}: ", text("/kind"), text("/metadata/name"));
        let line = first + leading_lines(document);
        match object(json) {
            Ok(Converted { object, problems }) => {
                warnings
                    .extend(problems.into_iter().map(|problem| (line, format!("{name}{problem}"))));
                objects.push((line, object));
            }
            Err(problem) => errors.push((line, format!("{name}{problem}"))),
        }
    }
    Content::Read { objects, errors, warnings }
}

/// The documents of a YAML stream, each with the line that it begins on. `---` at the beginning of
/// a line is a marker wherever it stands (YAML 1.2 section 9.1.2).
fn documents(text: &str) -> Vec<(u64, &str)> {
    let is_marker = |line: &str| {
        line.strip_prefix("---")
            .is_some_and(|rest| rest.trim().is_empty() || rest.starts_with([' ', '\t']))
    };
    let (mut documents, mut start, mut first, mut at) = (Vec::new(), 0, 1, 0);
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        if is_marker(line) && at > start {
            documents.push((first, &text[start..at]));
            (start, first) = (at, number);
        }
        at += line.len();
    }
    documents.push((first, &text[start..]));
    documents
}

fn leading_lines(document: &str) -> u64 {
    let blank = |line: &&str| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line == "---"
    };
    document.lines().take_while(blank).count() as u64
}

fn place(first: u64, error: &serde_saphyr::Error) -> (u64, String) {
    let line = error.location().map_or(first, |location| first + location.line().max(1) - 1);
    (line, error.without_snippet().to_string().replace('\n', " "))
}

fn object(json: Value) -> Result<Converted, Problem> {
    let text = |path| json.pointer(path).and_then(Value::as_str).unwrap_or_default();
    match (text("/apiVersion"), text("/kind")) {
        ("v1", "Pod") => decode::<core::Pod>(json),
        ("v1", "Namespace") => decode::<core::Namespace>(json),
        ("v1", "ServiceAccount") => decode::<core::ServiceAccount>(json),
        ("v1", "Node") => decode::<core::Node>(json),
        ("v1", "Secret") => decode::<core::Secret>(json),
        ("networking.k8s.io/v1", "NetworkPolicy") => decode::<networking::NetworkPolicy>(json),
        (v3::API_VERSION, "IPPool") => decode::<v3::IPPool>(json),
        (v3::API_VERSION, "IPReservation") => decode::<v3::IPReservation>(json),
        (v3::API_VERSION, "IPAMConfiguration") => decode::<v3::IPAMConfiguration>(json),
        (v3::API_VERSION, "BGPConfiguration") => decode::<v3::BGPConfiguration>(json),
        (v3::API_VERSION, "BGPPeer") => decode::<v3::BGPPeer>(json),
        (v3::API_VERSION, "BGPFilter") => decode::<v3::BGPFilter>(json),
        (v3::API_VERSION, "FelixConfiguration") => decode::<v3::FelixConfiguration>(json),
        (v3::API_VERSION, "NetworkPolicy") => decode::<v3::NetworkPolicy>(json),
        (v3::API_VERSION, "GlobalNetworkPolicy") => decode::<v3::GlobalNetworkPolicy>(json),
        (v3::API_VERSION, "NetworkSet") => decode::<v3::NetworkSet>(json),
        (v3::API_VERSION, "GlobalNetworkSet") => decode::<v3::GlobalNetworkSet>(json),
        (v3::API_VERSION, "HostEndpoint") => decode::<v3::HostEndpoint>(json),
        (v3::API_VERSION, "Tier") => decode::<v3::Tier>(json),
        (version, kind) => Err(Problem {
            field: "kind".into(),
            reason: format!("{kind:?} of apiVersion {version:?} is not one that is read"),
        }),
    }
}
