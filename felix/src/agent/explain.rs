//! Answers `felix explain` from what the engine and the nodes are. Pure; what the kernel has is put
//! beside it by [`super::report`].

mod host;

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::v3::Protocol;

use self::host::{passage, place, to_host};
use crate::cni::backend::Failure;
use crate::cni::protocol::Question;
use crate::control::{Explanation, FlowAnswer, Party, Then, verdict};
use crate::engine::{Engine, Passage, Place, Side, Staged};
use crate::kernel::HostAction;
use crate::model::{Direction, Flow, IfIndex, ObjectKey, Update};

use crate::peering::Peering;
use crate::source;

/// What a name or an address in a question stands for.
struct Found {
    name: String,
    addresses: Vec<IpAddr>,
    /// It is this node itself, or a pod on its network.
    own_node: bool,
}

/// By which interfaces the kernel reaches addresses; None: by none.
pub(super) type Ways = BTreeMap<IpAddr, Option<IfIndex>>;

/// What can be said by now.
#[derive(Debug)]
pub(super) enum Answer {
    /// All, but for what only the kernel knows.
    Whole(Explanation),
    /// First it has to be known by which interfaces these are reached.
    Ways(Vec<IpAddr>),
}

/// What the node does with traffic, beside its policies.
pub(super) struct Setting<'a> {
    pub(super) peering: &'a Peering,
    pub(super) host_action: HostAction,
    pub(super) ways: &'a Ways,
}

/// The answer. Before it goes to people, the kernel's side is put to it by [`super::report`].
///
/// # Errors
/// [`Failure::Invalid`] names what is not known or not understood.
pub(super) fn answer(
    question: &Question,
    engine: &Engine,
    staged: &Staged,
    setting: &Setting<'_>,
) -> Result<Answer, Failure> {
    let peering = setting.peering;
    if !engine.in_sync() {
        let reason = "policy is not known yet: the source has not been read completely";
        return Err(Failure::TryAgainLater(reason.into()));
    }
    let source = find(&question.source, engine, peering)?;
    let destination = find(&question.destination, engine, peering)?;
    // Without any that would change something, what is staged is what is.
    let base = if question.staged { staged.engine().unwrap_or(engine) } else { engine };
    let with_objects = match &question.with {
        None => None,
        Some(text) => {
            let objects =
                source::objects(text).map_err(|wrong| Failure::Invalid(wrong.join("; ")))?;
            Some(base.with(objects.into_iter().map(Update::Set)))
        }
    };
    let then = with_objects.as_ref().or(question.staged.then_some(base));
    let mut flows = Vec::new();
    let mut unknown = Vec::new();
    let own = [source.own_node, destination.own_node];
    for (from, to) in source.addresses.iter().flat_map(|from| {
        let same_family = destination.addresses.iter().filter(|to| to.is_ipv4() == from.is_ipv4());
        let carried = same_family.filter(|to| goes_over(question.protocol, to));
        carried.map(move |to| (*from, *to))
    }) {
        let flow = Flow {
            protocol: question.protocol,
            source: from,
            destination: to,
            source_port: question.source_port.unwrap_or_default(),
            destination_port: question.port,
        };
        let engines = || [Some(engine), then].into_iter().flatten();
        let judged = engines().any(Engine::has_host_endpoints);
        let passage = if judged { passage(engine, &flow, own, setting.ways) } else { Ok(None) };
        let passage = match passage {
            Ok(passage) => passage,
            Err(addresses) => {
                unknown.extend(addresses);
                continue;
            }
        };
        let asks = || asks_source_port(engines(), &flow, own[0], passage);
        if question.source_port.is_none() && asks() {
            let reason = "rules ask about the source port of this packet: give it by --source-port";
            return Err(Failure::Invalid(reason.into()));
        }
        let by_action = to_host(engine, &flow, &destination, setting.host_action);
        let sides = |engine: &Engine| {
            let (mut egress, mut ingress) = sides(engine, &flow, own[0]);
            let mut host = passage.map_or(Vec::new(), |way| engine.explain_at_hosts(&flow, way));
            host.extend(by_action.clone());
            place(&mut egress, from, own[0], (engine, peering), &host);
            place(&mut ingress, to, own[1], (engine, peering), &host);
            (egress, ingress, host)
        };
        let (egress, ingress, host) = sides(engine);
        let then = then.map(|then| {
            let (mut egress, mut ingress, mut host) = sides(then);
            if question.staged {
                let both = [&mut egress, &mut ingress].into_iter();
                let judgements = both.flat_map(|side| &mut side.judgements).chain(&mut host);
                let rows = judgements.flat_map(|judgement| &mut judgement.considered);
                rows.flat_map(|row| &mut row.policy).for_each(|name| staged.rename(name));
            }
            Then { verdict: verdict(&egress, &ingress, &host), egress, ingress, host }
        });
        flows.push(FlowAnswer {
            source: Party { name: source.name.clone(), address: from },
            destination: Party { name: destination.name.clone(), address: to },
            protocol: question.protocol,
            port: question.port,
            source_port: question.source_port,
            verdict: verdict(&egress, &ingress, &host),
            egress,
            ingress,
            host,
            then,
            route: String::new(),
        });
    }
    if !unknown.is_empty() {
        return Ok(Answer::Ways(unknown));
    }
    if flows.is_empty() {
        return Err(Failure::Invalid(format!(
            "{} and {} have no addresses of one family that protocol {} goes over",
            source.name,
            destination.name,
            Protocol(question.protocol)
        )));
    }
    let changes = then.map(|then| engine.changes(then));
    let staged = question.staged;
    Ok(Answer::Whole(Explanation { flows, changes, staged, ..Explanation::default() }))
}

/// Whether the answer of any of the engines may depend on the source port.
fn asks_source_port<'a>(
    mut engines: impl Iterator<Item = &'a Engine>,
    flow: &Flow,
    from_own_node: bool,
    passage: Option<Passage>,
) -> bool {
    engines.any(|engine| {
        passage.is_some_and(|passage| engine.asks_source_port_at_hosts(flow, passage))
            || engine.asks_source_port(flow, Direction::Egress)
            || (!from_own_node && engine.asks_source_port(flow, Direction::Ingress))
    })
}

/// Each ICMP is of one family.
fn goes_over(protocol: u8, address: &IpAddr) -> bool {
    match Protocol(protocol) {
        Protocol::ICMP => address.is_ipv4(),
        Protocol::ICMPV6 => address.is_ipv6(),
        _ => true,
    }
}

fn sides(engine: &Engine, flow: &Flow, from_own_node: bool) -> (Side, Side) {
    let egress = engine.explain(flow, Direction::Egress);
    let mut ingress = engine.explain(flow, Direction::Ingress);
    if from_own_node && ingress.place == Place::Here {
        ingress = Side { place: Place::OwnNode, judgements: Vec::new() };
    }
    (egress, ingress)
}

fn find(text: &str, engine: &Engine, peering: &Peering) -> Result<Found, Failure> {
    let own = peering.node().map(|node| &node.name);
    if let Ok(address) = text.parse::<IpAddr>() {
        let node = peering.node_at(address);
        let pod = engine.pod_at(address).map(ToString::to_string);
        let name = pod.or_else(|| node.map(|node| format!("node/{}", node.name)));
        return Ok(Found {
            name: name.unwrap_or_else(|| text.to_owned()),
            addresses: vec![address],
            own_node: node.is_some_and(|node| Some(&node.name) == own)
                || engine.is_own_address(address),
        });
    }
    let key = match text.split_once('/') {
        Some(("node", name)) => {
            return find_node(name, peering)
                .ok_or_else(|| Failure::Invalid(format!("no node {name} is known")));
        }
        Some((namespace, name)) => ObjectKey::namespaced(namespace, name),
        None => ObjectKey::namespaced("default", text),
    };
    if let Some(found) = find_pod(&key, engine, peering) {
        return Ok(found);
    }
    let node = if text.contains('/') { None } else { find_node(text, peering) };
    node.ok_or_else(|| Failure::Invalid(format!("no pod {key} and no node {text} is known")))
}

fn find_node(name: &str, peering: &Peering) -> Option<Found> {
    let node = peering.node_named(name)?;
    let addresses = node.ipv4.map(IpAddr::from).into_iter().chain(node.ipv6.map(IpAddr::from));
    Some(Found {
        name: format!("node/{name}"),
        addresses: addresses.collect(),
        own_node: peering.node().is_some_and(|own| *own.name == *name),
    })
}

/// A pod that the source knows, or an endpoint of this node that it does not know yet or any more.
fn find_pod(key: &ObjectKey, engine: &Engine, peering: &Peering) -> Option<Found> {
    let pod = engine.pod(key);
    let endpoint = engine.endpoints().find(|endpoint| {
        Some(&*endpoint.namespace) == key.namespace.as_deref() && *endpoint.pod == *key.name
    });
    let addresses = match (endpoint, pod) {
        (Some(endpoint), _) => endpoint.addresses.to_vec(),
        (None, Some(pod)) => pod.addresses.to_vec(),
        (None, None) => return None,
    };
    let own = peering.node().map(|node| &node.name);
    let own_node = pod.is_some_and(|pod| pod.host_network && pod.node.as_ref() == own);
    Some(Found { name: key.to_string(), addresses, own_node })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use smallvec::SmallVec;

    use super::*;
    use crate::model::{EndpointId, Labels, LocalEndpoint, Node, Object, Pod, Verdict};

    fn node(name: &str, address: &str) -> Update {
        Update::Set(Object::Node(Node {
            name: name.into(),
            labels: Labels::default(),
            ipv4: address.parse().ok(),
            ipv6: None,
            addresses: Arc::default(),
            internal: Arc::default(),
            as_number: None,
            route_reflector_cluster_id: None,
            unschedulable: false,
            pod_cidrs: Arc::default(),
        }))
    }

    fn pod(namespace: &str, name: &str, node: &str, address: &str) -> Pod {
        Pod {
            key: ObjectKey::namespaced(namespace, name),
            uid: Arc::default(),
            mirror_uid: None,
            node: Some(node.into()),
            labels: Labels::default(),
            service_account: "default".into(),
            addresses: SmallVec::from_iter([address.parse().unwrap()]),
            ports: Arc::default(),
            host_network: false,
            annotations: Labels::default(),
        }
    }

    fn whole(
        question: &Question,
        engine: &Engine,
        peering: &Peering,
    ) -> Result<Explanation, Failure> {
        let ways = &Ways::new();
        let setting = Setting { peering, host_action: HostAction::Accept, ways };
        match answer(question, engine, &Staged::default(), &setting)? {
            Answer::Whole(answer) => Ok(answer),
            Answer::Ways(addresses) => panic!("the way to {addresses:?} is of no account"),
        }
    }

    /// node1 is this one, with pod default/here; node2 has pod shop/there.
    pub(super) fn parts() -> (Engine, Peering) {
        let (mut engine, mut peering) = (Engine::new(), Peering::new("node1", "caracal-system"));
        let proxy =
            Pod { host_network: true, ..pod("kube-system", "proxy", "node1", "172.16.0.1") };
        let updates = [
            node("node1", "172.16.0.1"),
            node("node2", "172.16.0.2"),
            Update::Set(Object::Pod(pod("default", "here", "node1", "10.0.0.1"))),
            Update::Set(Object::Pod(pod("shop", "there", "node2", "10.0.1.1"))),
            Update::Set(Object::Pod(proxy)),
            Update::InSync,
        ];
        engine.endpoint_set(LocalEndpoint {
            id: EndpointId { container_id: "c1".into(), ifname: "eth0".into() },
            namespace: "default".into(),
            pod: "here".into(),
            pod_uid: String::new(),
            netns: String::new(),
            host_interface: "cali1".into(),
            host_index: 1,
            mac: [2, 0, 0, 0, 0, 1],
            addresses: SmallVec::from_iter(["10.0.0.1".parse().unwrap()]),
            handle: String::new(),
            mtu: 1500,
            labels: [].into(),
            service_account: String::new(),
        });
        for update in updates {
            peering.apply(&update);
            engine.apply(update);
        }
        drop(engine.take_delta());
        (engine, peering)
    }

    fn ask(source: &str, destination: &str, with: Option<&str>) -> Result<Explanation, Failure> {
        let (engine, peering) = parts();
        let question = Question {
            source: source.into(),
            destination: destination.into(),
            protocol: 6,
            port: 80,
            source_port: None,
            with: with.map(str::to_owned),
            staged: false,
        };
        whole(&question, &engine, &peering)
    }

    /// Names and places of both sides.
    fn sides_of(source: &str, destination: &str) -> (String, Place, String, Place) {
        let [flow] = ask(source, destination, None).unwrap().flows.try_into().unwrap();
        (flow.source.name, flow.egress.place, flow.destination.name, flow.ingress.place)
    }

    #[test]
    fn pods_nodes_and_addresses_have_names_and_those_who_judge_them() {
        let there = || ("shop/there".to_owned(), Place::Node("node2".into()));
        for (source, destination) in [("here", "shop/there"), ("default/here", "10.0.1.1")] {
            let (name, place, other, elsewhere) = sides_of(source, destination);
            assert_eq!((name.as_str(), place), ("default/here", Place::Here));
            assert_eq!((other, elsewhere), there());
        }
        let (name, place, other, elsewhere) = sides_of("shop/there", "here");
        assert_eq!((name, place), there());
        assert_eq!((other.as_str(), elsewhere), ("default/here", Place::Here));
        let (name, place, ..) = sides_of("192.0.2.1", "here");
        assert_eq!((name.as_str(), place), ("192.0.2.1", Place::Nobody));
    }

    #[test]
    fn a_node_reaches_its_own_pods_and_only_those() {
        for own in ["node1", "node/node1", "172.16.0.1", "kube-system/proxy"] {
            let (_, place, _, judged) = sides_of(own, "here");
            assert_eq!((place, judged), (Place::Nobody, Place::OwnNode), "{own}");
        }
        assert_eq!(sides_of("node2", "here").3, Place::Here);
        assert_eq!(sides_of("node1", "shop/there").3, Place::Node("node2".into()));
    }

    #[test]
    fn what_is_not_known_is_named() {
        for (source, destination, reason) in [
            ("nobody", "here", "no pod default/nobody and no node nobody is known"),
            ("here", "shop/nobody", "no pod shop/nobody and no node shop/nobody is known"),
            ("node/node9", "here", "no node node9 is known"),
            (
                "here",
                "fd00::1",
                "default/here and fd00::1 have no addresses of one family that protocol TCP goes over",
            ),
        ] {
            let error = ask(source, destination, None).unwrap_err();
            assert_eq!(error, Failure::Invalid(reason.into()));
        }
        let question = Question::default();
        let peering = Peering::new("node1", "caracal-system");
        let unknown = whole(&question, &Engine::new(), &peering).unwrap_err();
        assert!(matches!(unknown, Failure::TryAgainLater(_)), "{unknown}");
    }

    #[test]
    fn each_icmp_is_of_one_family() {
        for (protocol, address, flows) in
            [(1, "10.0.1.1", 1), (1, "fd00::1", 0), (58, "10.0.1.1", 0), (58, "fd00::1", 1)]
        {
            let (engine, peering) = parts();
            let (source, destination) = ("fd00::2".into(), address.into());
            let source = if address.contains(':') { source } else { "here".to_owned() };
            let question = Question { source, destination, protocol, ..Question::default() };
            let told = whole(&question, &engine, &peering);
            assert_eq!(
                told.map_or(0, |told| told.flows.len()),
                flows,
                "protocol {protocol} to {address}"
            );
        }
    }

    #[test]
    fn a_source_port_has_to_be_given_where_a_rule_asks() {
        let policy = "apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: from-dns, namespace: default}
spec: {types: [Ingress], ingress: [{action: Allow, protocol: TCP, source: {ports: [53]}, destination: {ports: ['80:90']}}]}
";
        let ask = |port, source_port, with: Option<&str>| {
            let (engine, peering) = parts();
            let question = Question {
                source: "shop/there".into(),
                destination: "here".into(),
                protocol: 6,
                port,
                source_port,
                with: with.map(str::to_owned),
                staged: false,
            };
            whole(&question, &engine, &peering).map(|told| told.flows[0].clone())
        };
        let error = ask(80, None, Some(policy)).unwrap_err();
        assert!(
            matches!(&error, Failure::Invalid(why) if why.contains("--source-port")),
            "{error}"
        );
        for (source_port, verdict) in [(53, Verdict::Allow), (54, Verdict::Deny)] {
            let told = ask(80, Some(source_port), Some(policy)).unwrap();
            assert_eq!(told.source_port, Some(source_port));
            assert_eq!(told.then.unwrap().verdict, verdict, "{source_port}");
        }
        // Nobody asks: without the policy, and of another port.
        assert_eq!(ask(80, None, None).unwrap().verdict, Verdict::Allow);
        assert_eq!(ask(91, None, Some(policy)).unwrap().then.unwrap().verdict, Verdict::Deny);
    }

    #[test]
    fn policies_of_a_file_are_tried_out_and_a_file_with_errors_is_not() {
        let policy = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: default}
spec: {podSelector: {}, policyTypes: [Ingress]}
";
        let told = ask("shop/there", "here", Some(policy)).unwrap();
        let [flow] = &*told.flows else { panic!("{told:?}") };
        let then = flow.then.as_ref().unwrap();
        assert_eq!((flow.verdict, then.verdict), (Verdict::Allow, Verdict::Deny));
        assert_eq!(told.changes.unwrap()[0].endpoint, "default/here");

        let wrong = format!("{policy}---\n{}", policy.replace("podSelector", "podSelektor"));
        let error = ask("shop/there", "here", Some(&wrong)).unwrap_err();
        let Failure::Invalid(reason) = error else { panic!("{error}") };
        assert!(reason.starts_with("line ") && reason.contains("podSelektor"), "{reason}");
    }
}
