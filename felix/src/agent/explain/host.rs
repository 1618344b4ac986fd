//! What a question has to do with the host endpoints of this node, and with the node itself.

use std::net::IpAddr;

use super::{Found, Ways};
use crate::engine::{Considered, Engine, Judgement, Outcome, Passage, Place, Side};
use crate::kernel::HostAction;
use crate::model::{Flow, Verdict};
use crate::peering::Peering;

/// How a packet passes the interfaces of this node; None: it does not, or not by an interface. Where it
/// must be known by which one an address is reached and is not, the addresses.
pub(super) fn passage(
    engine: &Engine,
    flow: &Flow,
    [from_own, to_own]: [bool; 2],
    ways: &Ways,
) -> Result<Option<Passage>, Vec<IpAddr>> {
    let local = |address: IpAddr| {
        let mut endpoints = engine.endpoints();
        let has = endpoints.find(|endpoint| endpoint.addresses.contains(&address));
        has.map(|endpoint| endpoint.host_index)
    };
    let ends = [(flow.source, from_own), (flow.destination, to_own)];
    let outside = |(address, own): &(IpAddr, bool)| {
        !own && local(*address).is_none() && engine.pod_at(*address).is_none()
    };
    let here = ends.iter().any(|(address, own)| *own || local(*address).is_some());
    // What is between two others passes here if it is asked about here, but not between pods: theirs
    // are other nodes.
    if (from_own && to_own) || !(here || ends.iter().all(outside)) {
        return Ok(None);
    }
    let mut unknown = Vec::new();
    let mut index = |(address, own): (IpAddr, bool)| {
        if own {
            return Some(None);
        }
        let by = local(address).or_else(|| match ways.get(&address) {
            Some(by) => *by,
            None => {
                unknown.push(address);
                None
            }
        });
        // By no interface that is known it does not come, nor go.
        by.map(Some)
    };
    let (input, output) = (index(ends[0]), index(ends[1]));
    if !unknown.is_empty() {
        return Err(unknown);
    }
    Ok(input.zip(output).map(|(input, output)| Passage { input, output }))
}

/// What becomes of a packet of a pod to its own node, whatever policy says.
pub(super) fn to_host(
    engine: &Engine,
    flow: &Flow,
    node: &Found,
    action: HostAction,
) -> Option<Judgement> {
    let from = engine.endpoints().find(|endpoint| endpoint.addresses.contains(&flow.source))?;
    let (name, verdict) = match action {
        HostAction::Accept => ("Accept", Verdict::Allow),
        HostAction::Return => ("Return", Verdict::Allow),
        HostAction::Drop => ("Drop", Verdict::Deny),
    };
    let outcome = if verdict == Verdict::Deny { Outcome::Denies } else { Outcome::Allows };
    let policy = Some(format!("defaultEndpointToHostAction: {name}"));
    node.own_node.then(|| Judgement {
        endpoint: node.name.clone(),
        interface: from.host_interface.clone(),
        hook: None,
        verdict,
        considered: vec![Considered { tier: String::new(), policy, outcome, rule: None }],
        policies: 0,
        class: 0,
        memberships: Vec::new(),
        elements: Vec::new(),
    })
}

/// Says of the address of a node who judges it.
pub(super) fn place(
    side: &mut Side,
    address: IpAddr,
    own: bool,
    (engine, peering): (&Engine, &Peering),
    host: &[Judgement],
) {
    if side.place != Place::Nobody {
        return;
    }
    if own {
        if host.iter().any(|one| one.hook.is_some()) {
            side.place = Place::HostEndpoint;
        }
    } else if let Some(node) = peering.node_at(address)
        && engine.has_host_endpoints_on(&node.name)
    {
        side.place = Place::Node(node.name.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::parts;
    use super::super::{Answer, Setting, answer};
    use super::*;
    use crate::cni::protocol::Question;
    use crate::control::FlowAnswer;
    use crate::engine::{Engine, HostLink, Staged};
    use crate::model::Update;
    use crate::model::host::{HostHook, InterfaceName};
    use crate::source;

    const OUTSIDE: &str = "192.0.2.1";
    /// Of eth0.
    const UPLINK: u32 = 7;

    fn objects(yaml: &str) -> Vec<Update> {
        source::objects(yaml).unwrap().into_iter().map(Update::Set).collect()
    }

    const ENDPOINT: &str = "apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: uplink}
spec: {node: node1, interfaceName: eth0}
";
    const POLICY: &str = "apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: through}
spec:
  selector: all()
  applyOnForward: true
  ingress:
  - {action: Deny, protocol: TCP, destination: {ports: [81]}}
  - {action: Allow, source: {nets: [192.0.2.0/24]}}
";

    fn engine(updates: impl IntoIterator<Item = Update>) -> (Engine, Peering) {
        let (mut engine, peering) = parts();
        engine.set_node("node1", "cali");
        let name = InterfaceName::new("eth0").unwrap();
        let addresses = vec!["172.16.0.1".parse().unwrap()];
        engine.set_host_links(vec![HostLink { name, index: UPLINK, addresses }]);
        updates.into_iter().for_each(|update| engine.apply(update));
        drop(engine.take_delta());
        (engine, peering)
    }

    /// The answer to one flow, where everything outside is reached by eth0, and the addresses whose way was
    /// asked for.
    fn ask(
        (engine, peering): &(Engine, Peering),
        (source, destination): (&str, &str),
        port: u16,
        host_action: HostAction,
        with: Option<&str>,
    ) -> (FlowAnswer, Vec<IpAddr>) {
        let question = Question {
            source: source.into(),
            destination: destination.into(),
            protocol: 6,
            port,
            with: with.map(str::to_owned),
            ..Question::default()
        };
        let mut ways = Ways::new();
        let asked = |ways: &Ways| {
            let setting = Setting { peering, host_action, ways };
            answer(&question, engine, &Staged::default(), &setting).unwrap()
        };
        if let Answer::Ways(addresses) = asked(&ways) {
            ways.extend(addresses.into_iter().map(|address| (address, Some(UPLINK))));
        }
        let Answer::Whole(whole) = asked(&ways) else { panic!("{ways:?} is not enough") };
        let [flow] = whole.flows.try_into().unwrap();
        (flow, ways.into_keys().collect())
    }

    fn hooks(flow: &FlowAnswer) -> Vec<HostHook> {
        flow.host.iter().filter_map(|one| one.hook).collect()
    }

    #[test]
    fn what_begins_or_ends_at_the_node_is_judged_at_the_interface_it_takes() {
        let parts = engine(objects(&format!("{ENDPOINT}---\n{POLICY}")));
        let outside: IpAddr = OUTSIDE.parse().unwrap();
        let ask = |ends, port| ask(&parts, ends, port, HostAction::Accept, None);
        for (node, port, verdict) in
            [("node1", 80, Verdict::Allow), ("172.16.0.1", 81, Verdict::Deny)]
        {
            let (flow, ways) = ask((OUTSIDE, node), port);
            assert_eq!((flow.verdict, hooks(&flow)), (verdict, vec![HostHook::Input]));
            assert_eq!((flow.ingress.place, ways), (Place::HostEndpoint, vec![outside]));
            assert_eq!(flow.host[0].endpoint, "HostEndpoint uplink");
        }
        // No policy is about egress, and no profile allows it.
        let (flow, _) = ask(("node1", OUTSIDE), 80);
        assert_eq!((flow.verdict, hooks(&flow)), (Verdict::Deny, vec![HostHook::Output]));
        assert_eq!(flow.egress.place, Place::HostEndpoint);
        // A pod of this node is behind it, from it the node is reached by its own link.
        let (flow, _) = ask((OUTSIDE, "here"), 81);
        assert_eq!((flow.verdict, hooks(&flow)), (Verdict::Deny, vec![HostHook::ForwardIn]));
        for ends in [("node1", "here"), ("node1", "172.16.0.1"), ("here", OUTSIDE)] {
            let (flow, _) = ask(ends, 81);
            assert_eq!((flow.verdict, hooks(&flow)), (Verdict::Allow, vec![]), "{ends:?}");
        }
        // Between outside addresses this node is asked about as a router; between pods of others not.
        let (flow, ways) = ask((OUTSIDE, "203.0.113.9"), 81);
        assert_eq!((hooks(&flow), ways.len()), (vec![HostHook::ForwardIn], 2));
        let (flow, ways) = ask((OUTSIDE, "shop/there"), 81);
        assert_eq!((hooks(&flow), ways), (vec![], vec![]));
    }

    #[test]
    fn a_pod_reaches_its_node_as_the_default_action_says() {
        let parts = engine([]);
        for (action, verdict) in [
            (HostAction::Accept, Verdict::Allow),
            (HostAction::Return, Verdict::Allow),
            (HostAction::Drop, Verdict::Deny),
        ] {
            let (flow, _) = ask(&parts, ("here", "node1"), 80, action, None);
            assert_eq!((flow.verdict, flow.host.len()), (verdict, 1), "{action:?}");
            let row = flow.host[0].considered[0].policy.as_deref();
            let named = format!("defaultEndpointToHostAction: {action:?}");
            assert_eq!(row, Some(named.as_str()));
            let (flow, _) = ask(&parts, ("here", "node2"), 80, action, None);
            assert_eq!((flow.verdict, flow.host), (Verdict::Allow, vec![]), "another node");
        }
    }

    #[test]
    fn host_endpoints_of_a_file_are_tried_out() {
        let parts = engine([]);
        let with = format!("{ENDPOINT}---\n{POLICY}");
        let (flow, _) = ask(&parts, (OUTSIDE, "node1"), 81, HostAction::Accept, Some(&with));
        let then = flow.then.unwrap();
        assert_eq!((flow.verdict, then.verdict), (Verdict::Allow, Verdict::Deny));
        assert_eq!((flow.host, then.host.len()), (vec![], 1));
        let row = then.host[0].considered.iter().find(|row| row.outcome.decides()).unwrap();
        assert_eq!(row.rule.as_ref().unwrap().field, "spec.ingress[0]");
    }

    #[test]
    fn the_agent_of_a_node_with_host_endpoints_is_named() {
        let elsewhere = ENDPOINT.replace("node1", "node2");
        let parts = engine(objects(&elsewhere));
        let (flow, _) = ask(&parts, ("here", "node2"), 80, HostAction::Accept, None);
        assert_eq!(flow.ingress.place, Place::Node("node2".into()));
    }
}
