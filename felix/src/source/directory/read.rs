//! One file to objects.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use api::yaml::{self, Document, MAX_FILE, Object as Kubernetes};

use super::folder::{Content, Documents};
use crate::model::Object;
use crate::source::convert::{Convert, Converted, Problem};

/// [`MAX_FILE`] as the file system counts.
const LIMIT: u64 = MAX_FILE as u64;

/// Reads a file; blocks.
pub(super) fn read(path: &Path) -> Content {
    let text = match text(path) {
        Ok(Some(text)) => text,
        Ok(None) => return Content::Gone,
        Err(error) => return Content::Unreadable(error.to_string()),
    };
    Content::Read(parse(&text))
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

/// All objects of a text, or what is wrong with it, line by line.
pub(in crate::source) fn objects(text: &str) -> Result<Vec<Object>, Vec<String>> {
    let read = parse(text);
    let wrong = read.errors.iter().chain(&read.warnings);
    let wrong: Vec<String> = wrong.map(|(line, what)| format!("line {line}: {what}")).collect();
    if !wrong.is_empty() {
        return Err(wrong);
    }
    Ok(read.objects.into_iter().map(|(_, object)| object).collect())
}

/// What an API server would refuse is refused, and so are unknown fields in policies.
fn parse(text: &str) -> Documents {
    // Problems are listed under the file's path, which need not be in each again.
    let contents = yaml::read("", text);
    let mut read = Documents::default();
    read.errors.extend(contents.errors.iter().map(|error| (error.line, error.what())));
    for Document { object, line } in contents.documents {
        let name = name(&object);
        match convert(object) {
            Ok(Converted { object, problems }) => {
                let named = |problem: Problem| (line, format!("{name}: {problem}"));
                read.warnings.extend(problems.into_iter().map(named));
                read.objects.push((line, object));
            }
            Err(problem) => read.errors.push((line, format!("{name}: {problem}"))),
        }
    }
    for Document { object, line } in contents.closed {
        // It has a name, which is all that can be missing.
        if let Ok(Converted { object, .. }) = convert(object) {
            read.closed.push((line, object));
        }
    }
    read
}

fn name(object: &Kubernetes) -> String {
    format!("{} {}", object.kind().0, object.metadata().name.as_deref().unwrap_or_default())
}

fn convert(object: Kubernetes) -> Result<Converted, Problem> {
    match object {
        Kubernetes::Pod(o) => o.convert(),
        Kubernetes::Namespace(o) => o.convert(),
        Kubernetes::ServiceAccount(o) => o.convert(),
        Kubernetes::Node(o) => o.convert(),
        Kubernetes::Secret(o) => o.convert(),
        Kubernetes::EndpointSlice(o) => o.convert(),
        Kubernetes::KubernetesNetworkPolicy(o) => o.convert(),
        Kubernetes::ClusterNetworkPolicy(o) => o.convert(),
        Kubernetes::IPPool(o) => o.convert(),
        Kubernetes::IPReservation(o) => o.convert(),
        Kubernetes::IPAMConfiguration(o) => o.convert(),
        Kubernetes::BGPConfiguration(o) => o.convert(),
        Kubernetes::BGPPeer(o) => o.convert(),
        Kubernetes::BGPFilter(o) => o.convert(),
        Kubernetes::FelixConfiguration(o) => o.convert(),
        Kubernetes::NetworkPolicy(o) => o.convert(),
        Kubernetes::GlobalNetworkPolicy(o) => o.convert(),
        Kubernetes::NetworkSet(o) => o.convert(),
        Kubernetes::GlobalNetworkSet(o) => o.convert(),
        Kubernetes::HostEndpoint(o) => o.convert(),
        Kubernetes::KubeControllersConfiguration(o) => o.convert(),
        Kubernetes::Tier(o) => o.convert(),
        Kubernetes::StagedNetworkPolicy(o) => o.convert(),
        Kubernetes::StagedGlobalNetworkPolicy(o) => o.convert(),
        Kubernetes::StagedKubernetesNetworkPolicy(o) => o.convert(),
    }
}
