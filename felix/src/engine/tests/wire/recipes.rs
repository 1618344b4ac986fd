//! The recipes of `felix/tests/recipes`: what their authors describe, packet by packet through a real
//! kernel. Each file is a small cluster with a truth table, and the objects as a user would apply them.

mod read;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use self::read::{End, Recipe, Row};
use super::bed::{At, Bed, Link};
use super::frames::Header;
use super::{Flow, begin};
use crate::engine::tests::world::{endpoint_of, ip, set_namespace};
use crate::engine::{Engine, HostLink, default_failsafe};
use crate::kernel::{Kernel, Options};
use crate::model::host::InterfaceName;
use crate::model::{Direction, EndpointId, Object, ObjectKey, ServiceAccount, Update};
use crate::source;

/// The node that all pods are on.
const NODE: &str = "node1";
/// Its addresses, on the first interface.
const OWN: [&str; 2] = ["10.10.0.1", "fd00:10::1"];
/// Indexes of the node's interfaces begin here, and of pods' there.
const UPLINKS: u32 = 50;
const PODS: u32 = 100;
/// Source ports that are not said.
const PORTS: std::ops::Range<u16> = 20_000..60_000;

/// A node with what a recipe says is there, but without its objects.
struct Lab<'a> {
    recipe: &'a Recipe,
    links: Vec<Link>,
    engine: Engine,
    kernel: Kernel,
    runtime: tokio::runtime::Runtime,
    ports: std::iter::Cycle<std::ops::Range<u16>>,
}

/// The node's links: its own, then one for each pod.
fn links(recipe: &Recipe) -> Vec<Link> {
    let mut uplinks: Vec<Link> = Vec::new();
    let mut uplink = |name: &str| {
        let at = uplinks.iter().position(|link| link.name == name);
        at.unwrap_or_else(|| {
            let index = UPLINKS + u32::try_from(uplinks.len()).unwrap();
            let (own, behind) = (Vec::new(), Vec::new());
            uplinks.push(Link { name: name.into(), index, own, behind });
            uplinks.len() - 1
        })
    };
    uplink(read::UPLINK);
    let rows = recipe.rows.iter().flat_map(|row| [&row.from, &row.to]);
    let outside: Vec<(usize, IpAddr)> = rows
        .filter_map(|end| match end {
            End::Outside(interface, address) => Some((uplink(interface), *address)),
            _ => None,
        })
        .collect();
    for (at, address) in outside {
        if !uplinks[at].behind.contains(&address) {
            uplinks[at].behind.push(address);
        }
    }
    uplinks[0].own = OWN.map(ip).into();
    uplinks[0].own.extend(&recipe.addresses);
    let pods = (PODS..).zip(&recipe.pods).map(|(index, pod)| Link {
        name: format!("cali{index}"),
        index,
        own: Vec::new(),
        behind: pod.addresses.to_vec(),
    });
    uplinks.into_iter().chain(pods).collect()
}

impl<'a> Lab<'a> {
    fn new(recipe: &'a Recipe, links: Vec<Link>) -> Self {
        let mut engine = Engine::new();
        engine.set_node(NODE, "cali");
        engine.set_failsafe([Direction::Ingress, Direction::Egress].map(default_failsafe).concat());
        engine.set_host_addresses(OWN.map(ip).into_iter().chain(recipe.addresses.iter().copied()));
        let host = links.iter().filter(|link| link.index < PODS).map(|link| HostLink {
            name: InterfaceName::new(&link.name).unwrap(),
            index: link.index,
            addresses: link.own.clone(),
        });
        engine.set_host_links(host.collect());
        for (name, labels) in &recipe.namespaces {
            let labels: Vec<_> = labels.iter().map(|(k, v)| (&**k, &**v)).collect();
            engine.apply(set_namespace(name, &labels));
        }
        for (key, labels) in &recipe.accounts {
            let account = ServiceAccount { key: key.clone(), labels: labels.iter().collect() };
            engine.apply(Update::Set(Object::ServiceAccount(account)));
        }
        for (index, pod) in (PODS..).zip(&recipe.pods) {
            let id = EndpointId { container_id: pod.key.to_string(), ifname: "eth0".into() };
            engine.endpoint_set(crate::model::LocalEndpoint { id, ..endpoint_of(pod, index) });
            engine.apply(Update::Set(Object::Pod(pod.clone())));
        }
        engine.apply(Update::InSync);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let kernel = Kernel::start(Options::default()).unwrap();
        let mut lab = Self { recipe, links, engine, kernel, runtime, ports: PORTS.cycle() };
        lab.settle();
        lab.runtime.block_on(lab.kernel.in_sync()).unwrap();
        lab
    }

    fn settle(&mut self) {
        if let Some(delta) = self.engine.take_delta() {
            self.runtime.block_on(self.kernel.commit(delta)).unwrap();
        }
    }

    fn set(&mut self, object: &Object) {
        self.engine.apply(Update::Set(object.clone()));
        self.settle();
    }

    fn remove(&mut self, object: &Object) {
        self.engine.apply(Update::Remove(object.kind(), object.key()));
        self.settle();
    }

    fn place(&self, end: &End, v6: bool) -> Option<(At, IpAddr)> {
        let has = |address: IpAddr| {
            let behind = |link: &Link| link.behind.contains(&address);
            At::Link(self.links.iter().position(behind).unwrap())
        };
        match end {
            End::Node(address) => {
                let own = address.unwrap_or_else(|| ip(OWN[usize::from(v6)]));
                (own.is_ipv6() == v6).then_some((At::Host, own))
            }
            End::Outside(_, address) => {
                (address.is_ipv6() == v6).then(|| (has(*address), *address))
            }
            End::Pod(at) => {
                let addresses = &self.recipe.pods[*at].addresses;
                let address = *addresses.iter().find(|address| address.is_ipv6() == v6)?;
                Some((has(address), address))
            }
        }
    }

    /// The flows that rows mean, in each family, each from a port that it has for itself.
    fn flows(&mut self) -> Vec<(&'a Row, Flow)> {
        let mut flows = Vec::new();
        for row in &self.recipe.rows {
            for v6 in [false, true] {
                if row.traffic.v6.is_some_and(|of| of != v6) {
                    continue;
                }
                let (Some((from, source)), Some((to, destination))) =
                    (self.place(&row.from, v6), self.place(&row.to, v6))
                else {
                    continue;
                };
                let port = self.ports.next().unwrap();
                let protocol = row.traffic.protocol(v6);
                let ports = (row.traffic.source.unwrap_or(port), row.traffic.port);
                let header = Header { protocol, source, destination, ports };
                flows.push((row, Flow { header, from, to, back: from }));
            }
        }
        flows
    }

    /// The rows that say something else than what happens.
    fn wrong(&mut self, bed: &mut Bed) -> Result<String, String> {
        let flows = self.flows();
        assert!(flows.len() >= self.recipe.rows.len(), "rows of no family");
        let of: Vec<Flow> = flows.iter().map(|(_, flow)| *flow).collect();
        let came = begin(bed, &of, self.recipe.tracked).map_err(|error| error.to_string())?;
        let wrong = flows.iter().zip(came).filter(|((row, _), came)| row.allowed != *came);
        let mut wrong: Vec<&str> = wrong.map(|((row, _), _)| &*row.line).collect();
        wrong.dedup();
        Ok(wrong.join("\n"))
    }
}

/// Each row comes to what it says; without any one object some do not.
fn prove(recipe: &Recipe) -> Result<(), String> {
    let objects = source::objects(&recipe.manifests).map_err(|errors| errors.join("\n"))?;
    let links = links(recipe);
    Bed::with(&links, |mut bed| {
        let mut lab = Lab::new(recipe, links.clone());
        objects.iter().for_each(|object| lab.set(object));
        let problems: Vec<String> = lab.engine.problems().iter().map(ToString::to_string).collect();
        if !problems.is_empty() {
            return Err(problems.join("\n"));
        }
        let so = |when: &str, wrong: String| {
            if wrong.is_empty() { Ok(()) } else { Err(format!("not so {when}:\n{wrong}")) }
        };
        so("at first", lab.wrong(&mut bed)?)?;
        for object in &objects {
            lab.remove(object);
            let others = lab.wrong(&mut bed)?;
            let idle = recipe.idle.iter().any(|name| *name == *object.key().name);
            if others.is_empty() != idle {
                let (kind, key) = (object.kind(), object.key());
                return Err(format!(
                    "rows that say something else without {kind:?} {key}:\n{others}"
                ));
            }
            lab.set(object);
        }
        so("at last", lab.wrong(&mut bed)?)
    })
}

fn files(folder: &str) -> Vec<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recipes").join(folder);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "no recipes");
    files
}

fn prove_all(folder: &str) {
    let mut failed = Vec::new();
    for file in files(folder) {
        let text = std::fs::read_to_string(&file).unwrap();
        let result = Recipe::read(&text).and_then(|recipe| prove(&recipe));
        if let Err(why) = result {
            failed.push(format!("{}: {why}", file.display()));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

#[test]
fn of_kubernetes() {
    prove_all("kubernetes");
}

#[test]
fn of_calico() {
    prove_all("calico");
}

/// The key of what a file names as `namespace/name`.
fn key(text: &str) -> Result<ObjectKey, String> {
    let (namespace, name) = text.split_once('/').ok_or_else(|| format!("{text}: no namespace"))?;
    Ok(ObjectKey::namespaced(namespace, name))
}
