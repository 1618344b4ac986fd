//! Host endpoints that nobody writes: one for all interfaces of each node, and those of templates, as
//! KubeControllersConfiguration asks for them (`calico.md` 1.16). Calico's controller writes them into
//! the datastore; here every agent works them out, of the same names and with the same contents.
//! One that is written goes before one that would be made under its name, as after Calico's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::selector::Selector;
use api::v3::{self, HostEndpointTemplate, Switch};
use ipnet::IpNet;
use kube::core::ObjectMeta;

use super::convert::FieldError;
use crate::model::{Labels, Node};

/// The only object of the kind that counts.
pub(super) const DEFAULT: &str = "default";
/// How names end.
const SUFFIX: &str = "auto-hep";
/// The label, and its value, of all of them.
const MADE_BY: (&str, &str) = ("projectcalico.org/created-by", "calico-kube-controllers");
/// Lets through what no policy decides.
const PROFILE: &str = "projectcalico-default-allow";

/// What follows for host endpoints.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    /// It is now this.
    Set(Arc<v3::HostEndpoint>),
    /// It is gone.
    Remove(Arc<str>),
}

/// What is made for each node.
#[derive(Clone, Debug, Default)]
struct Rules {
    /// One for all interfaces.
    whole: bool,
    templates: Vec<Template>,
}

/// One for the interfaces with certain addresses.
#[derive(Clone, Debug)]
struct Template {
    name: String,
    networks: Vec<IpNet>,
    labels: BTreeMap<String, String>,
    nodes: Selector,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Automatic {
    rules: Rules,
    /// By node, those that there would be if none were written.
    made: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<v3::HostEndpoint>>>,
    /// By name, the nodes that have one of it.
    nodes: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// The names of those that are written.
    written: BTreeSet<Arc<str>>,
}

impl Automatic {
    /// The configuration is now this, or gone. Also says what cannot be done of it: a template that is
    /// wrong makes nothing.
    pub(super) fn configure<'a>(
        &mut self,
        object: Option<&v3::KubeControllersConfiguration>,
        nodes: impl Iterator<Item = &'a Node>,
    ) -> (Vec<Change>, Vec<FieldError>) {
        let object = object.filter(|object| object.metadata.name.as_deref() == Some(DEFAULT));
        let node = object.and_then(|object| object.spec.controllers.node.as_ref());
        let wanted = node.and_then(|node| node.host_endpoint.as_ref());
        let (rules, errors) = wanted
            .filter(|wanted| wanted.auto_create == Some(Switch::Enabled))
            .map(read)
            .unwrap_or_default();
        self.rules = rules;
        (nodes.flat_map(|node| self.set_node(node)).collect(), errors)
    }

    /// The node is now this.
    pub(super) fn set_node(&mut self, node: &Node) -> Vec<Change> {
        let made = self.rules.make(node);
        self.replace(&node.name, made)
    }

    /// The node is gone.
    pub(super) fn remove_node(&mut self, name: &str) -> Vec<Change> {
        self.replace(name, BTreeMap::new())
    }

    /// One of this name is written, and goes before one that is made.
    pub(super) fn write(&mut self, name: &str) {
        self.written.insert(name.into());
    }

    /// One of this name is not written any more. Returns the one in its place.
    pub(super) fn erase(&mut self, name: &str) -> Option<Arc<v3::HostEndpoint>> {
        self.written.remove(name);
        self.now(name)
    }

    /// Names that those of several nodes would have, and the nodes, of which only the first one's is
    /// made: node `a` with template `b` and node `a-b` have one name.
    pub(super) fn clashes(&self) -> impl Iterator<Item = (&Arc<str>, &BTreeSet<Arc<str>>)> {
        self.nodes.iter().filter(|(_, nodes)| nodes.len() > 1)
    }

    /// The one that is made under this name.
    fn now(&self, name: &str) -> Option<Arc<v3::HostEndpoint>> {
        let node = self.nodes.get(name)?.first()?;
        self.made.get(node)?.get(name).cloned()
    }

    fn replace(
        &mut self,
        node: &str,
        made: BTreeMap<Arc<str>, Arc<v3::HostEndpoint>>,
    ) -> Vec<Change> {
        let before = self.made.get(node).into_iter().flat_map(BTreeMap::keys);
        let names: BTreeSet<Arc<str>> = before.chain(made.keys()).cloned().collect();
        let before: Vec<_> = names.iter().map(|name| self.now(name)).collect();
        for name in &names {
            let nodes = self.nodes.entry(name.clone()).or_default();
            if made.contains_key(name) {
                nodes.insert(node.into());
            } else {
                nodes.remove(node);
            }
            if nodes.is_empty() {
                self.nodes.remove(name);
            }
        }
        if made.is_empty() {
            self.made.remove(node);
        } else {
            self.made.insert(node.into(), made);
        }
        let changed = names.into_iter().zip(before).filter_map(|(name, before)| {
            let after = self.now(&name);
            (after != before && !self.written.contains(&name)).then_some((name, after))
        });
        changed.map(|(name, after)| after.map_or(Change::Remove(name), Change::Set)).collect()
    }
}

/// What the configuration asks for, and what of it cannot be done.
fn read(wanted: &v3::AutoHostEndpointConfig) -> (Rules, Vec<FieldError>) {
    let whole = wanted.create_default_host_endpoint != Some(Switch::Disabled);
    let (mut templates, mut errors) = (Vec::<Template>::new(), Vec::new());
    for (number, template) in wanted.templates.iter().enumerate() {
        let path = format!("spec.controllers.node.hostEndpoint.templates[{number}]");
        let wrong = |(field, reason)| FieldError { field: format!("{path}.{field}"), reason };
        match read_template(template) {
            Ok(read) if templates.iter().any(|other| other.name == read.name) => {
                let reason = format!("{:?} is the name of one before", read.name);
                errors.push(wrong(("generateName".into(), reason)));
            }
            Ok(read) => templates.push(read),
            Err(error) => errors.push(wrong(error)),
        }
    }
    (Rules { whole, templates }, errors)
}

/// Err: the field, and what is wrong with it.
fn read_template(template: &HostEndpointTemplate) -> Result<Template, (String, String)> {
    if template.generate_name.is_empty() {
        let reason = "empty: the name would be that of the endpoint of all interfaces";
        return Err(("generateName".into(), reason.into()));
    }
    if !template.interface_pattern.is_empty() {
        let reason = "nothing tells the names of other nodes' interfaces; interfaceCIDRs does";
        return Err(("interfacePattern".into(), reason.into()));
    }
    let networks = template.interface_cidrs.iter().enumerate().map(|(at, text)| {
        let wrong = |_| (format!("interfaceCIDRs[{at}]"), format!("{text:?} is not a network"));
        text.parse::<IpNet>().map_err(wrong)
    });
    let nodes = Selector::parse(&template.node_selector)
        .map_err(|error| ("nodeSelector".to_owned(), error.to_string()))?;
    Ok(Template {
        name: template.generate_name.clone(),
        networks: networks.collect::<Result<_, _>>()?,
        labels: template.labels.clone(),
        nodes,
    })
}

impl Rules {
    fn make(&self, node: &Node) -> BTreeMap<Arc<str>, Arc<v3::HostEndpoint>> {
        let addresses = || node.internal.iter().copied();
        let mut made = BTreeMap::new();
        if self.whole {
            let spec = spec(node, "*", addresses().map(|address| address.to_string()));
            let name: Arc<str> = format!("{}-{SUFFIX}", node.name).into();
            made.insert(name.clone(), object(&name, &node.labels, None, spec));
        }
        for template in self.templates.iter().filter(|it| it.nodes.matches(&node.labels)) {
            let within = |address: &std::net::IpAddr| {
                template.networks.iter().any(|network| network.contains(address))
            };
            let spec = spec(node, "", addresses().filter(within).map(|ip| ip.to_string()));
            // Without an address nothing would say which interface is meant.
            if !spec.expected_ips.is_empty() {
                let name: Arc<str> = format!("{}-{}-{SUFFIX}", node.name, template.name).into();
                let labels = Some(&template.labels);
                made.insert(name.clone(), object(&name, &node.labels, labels, spec));
            }
        }
        made
    }
}

fn spec(
    node: &Node,
    interface: &str,
    addresses: impl Iterator<Item = String>,
) -> v3::HostEndpointSpec {
    v3::HostEndpointSpec {
        node: node.name.to_string(),
        interface_name: interface.to_owned(),
        expected_ips: addresses.collect(),
        profiles: vec![PROFILE.to_owned()],
        ports: Vec::new(),
    }
}

fn object(
    name: &str,
    of_node: &Labels,
    of_template: Option<&BTreeMap<String, String>>,
    spec: v3::HostEndpointSpec,
) -> Arc<v3::HostEndpoint> {
    let mut labels: BTreeMap<String, String> =
        of_node.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let of_template = of_template.into_iter().flatten();
    labels.extend(of_template.map(|(key, value)| (key.clone(), value.clone())));
    labels.insert(MADE_BY.0.to_owned(), MADE_BY.1.to_owned());
    let metadata =
        ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..ObjectMeta::default() };
    Arc::new(v3::HostEndpoint { metadata, spec })
}

#[cfg(test)]
mod tests;
