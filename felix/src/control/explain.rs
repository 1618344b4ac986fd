//! The answer to `felix explain`, and how it is shown.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use api::v3::Protocol;
use serde::{Deserialize, Serialize};

use crate::engine::{Considered, Element, Judgement, Outcome, Place, Side, VerdictChange};
use crate::model::host::HostHook;
use crate::model::{Direction, Traffic, Verdict};

/// The answer to [`crate::cni::protocol::Request::Explain`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Whose agent it is.
    pub node: String,
    /// Why the kernel does not do as is said here; None if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_in_force: Option<String>,
    /// One for each address family that both sides have.
    pub flows: Vec<FlowAnswer>,
    /// Endpoints of this node for which the objects that were given would change verdicts; None if
    /// none were given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<Vec<VerdictChange>>,
    /// What would be is as with the staged policies in force.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub staged: bool,
}

/// Where a packet comes from or goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Party {
    /// The pod or node; the address itself if it is of none that is known.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
}

/// What becomes of one packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowAnswer {
    /// Where it comes from.
    pub source: Party,
    /// Where it goes.
    pub destination: Party,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port.
    pub port: u16,
    /// Source port, if it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// What becomes of it as far as this agent judges.
    pub verdict: Verdict,
    /// At its source.
    pub egress: Side,
    /// At its destination.
    pub ingress: Side,
    /// At host endpoints of this node, in the order in which they are asked, and what becomes of what
    /// pods send to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host: Vec<Judgement>,
    /// With the objects that were given; None if none were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub then: Option<Then>,
    /// The route that the node has to the destination, or why it has none.
    pub route: String,
}

/// What would become of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Then {
    /// As far as this agent judges.
    pub verdict: Verdict,
    /// At its source.
    pub egress: Side,
    /// At its destination.
    pub ingress: Side,
    /// At host endpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host: Vec<Judgement>,
}

impl Explanation {
    /// What the kernel decides by now.
    pub fn elements(&mut self) -> impl Iterator<Item = &mut Element> {
        let judgements = self.flows.iter_mut().flat_map(|flow| {
            let sides = [&mut flow.egress, &mut flow.ingress];
            sides.into_iter().flat_map(|side| &mut side.judgements).chain(&mut flow.host)
        });
        judgements.flat_map(|one| &mut one.elements)
    }
}

/// What `ping` sends (RFC 792, RFC 4443): type and code.
const ECHO_REQUEST: u16 = 8 << 8;
const ECHO_REQUEST6: u16 = 128 << 8;

/// `[PROTO] PORT` of the command line: a protocol by name or number, and a port, or for ICMP its type
/// or `TYPE/CODE`; TCP if only a port is given, and `ping` if only ICMP is. As the protocol's number and the port of
/// [`crate::model::Flow`].
///
/// # Errors
/// What is not understood.
pub fn parse_traffic(words: &[String]) -> Result<(u8, u16), String> {
    let number = |text: &str| text.parse().map_err(|_| wrong(text));
    let (protocol, port) = match words {
        [port] if port.parse::<u16>().is_ok() => (Protocol::TCP, Some(port.as_str())),
        [protocol] => (number(protocol)?, None),
        [protocol, port] => (number(protocol)?, Some(port.as_str())),
        _ => return Err("[PROTO] PORT is missing".to_owned()),
    };
    let port = match (protocol, port) {
        (protocol, None) if protocol.has_ports() => return Err(format!("{protocol} needs a port")),
        (Protocol::ICMP, None) => ECHO_REQUEST,
        (Protocol::ICMPV6, None) => ECHO_REQUEST6,
        (_, None) => 0,
        (Protocol::ICMP | Protocol::ICMPV6, Some(text)) => {
            let (kind, code) = text.split_once('/').unwrap_or((text, "0"));
            match (kind.parse::<u8>(), code.parse::<u8>()) {
                (Ok(kind), Ok(code)) => u16::from_be_bytes([kind, code]),
                _ => return Err(format!("{text:?} is neither an ICMP type nor TYPE/CODE")),
            }
        }
        (_, Some(text)) => {
            text.parse().map_err(|_| format!("{text:?} is not a port from 0 to 65535"))?
        }
    };
    Ok((protocol.0, port))
}

fn wrong(protocol: &str) -> String {
    format!(
        "{protocol:?} is neither a protocol (tcp, udp, sctp, icmp, icmpv6, 1 to 255) nor a port"
    )
}

/// What both sides and host endpoints come to: nothing is denied here.
pub(crate) fn verdict(egress: &Side, ingress: &Side, host: &[Judgement]) -> Verdict {
    let mut all = egress.judgements.iter().chain(&ingress.judgements).chain(host);
    if all.any(|one| one.verdict == Verdict::Deny) { Verdict::Deny } else { Verdict::Allow }
}

/// `felix explain`.
pub fn explanation_text(answer: &Explanation) -> String {
    let mut text = String::new();
    // Writing to a String does not fail, here and below.
    if let Some(reason) = &answer.not_in_force {
        let _ = writeln!(text, "NOT IN FORCE: {reason}\n");
    }
    for flow in &answer.flows {
        let (source, destination) = (party(&flow.source), party(&flow.destination));
        let traffic = packet(flow.protocol, flow.port, flow.source_port);
        let _ = writeln!(text, "{source} -> {destination}, {traffic}");
        let _ = writeln!(text, "Verdict:  {}", summary(flow.verdict, &flow.egress, &flow.ingress));
        let _ = writeln!(text, "Route:    {}", flow.route);
        write_side(&mut text, "Egress", &flow.egress);
        write_side(&mut text, "Ingress", &flow.ingress);
        write_hosts(&mut text, &flow.host);
        if let Some(then) = &flow.then {
            let would = summary(then.verdict, &then.egress, &then.ingress);
            let with = if answer.staged { "staged policies" } else { "objects given" };
            let _ = writeln!(text, "With the {with}: {would}");
            write_side(&mut text, "Egress", &then.egress);
            write_side(&mut text, "Ingress", &then.ingress);
            write_hosts(&mut text, &then.host);
        }
        text.push('\n');
    }
    if let Some(changes) = &answer.changes {
        write_changes(&mut text, &answer.node, changes);
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn party(party: &Party) -> String {
    let Party { name, address } = party;
    if *name == address.to_string() { name.clone() } else { format!("{name} ({address})") }
}

/// As people say it.
fn traffic(protocol: u8, port: u16) -> Traffic {
    match Protocol(protocol) {
        Protocol::ICMP | Protocol::ICMPV6 => Traffic::Port(protocol, port),
        named if named.has_ports() => Traffic::Port(protocol, port),
        _ => Traffic::Protocol(protocol),
    }
}

fn packet(protocol: u8, port: u16, source_port: Option<u16>) -> String {
    let mut text = traffic(protocol, port).to_string();
    if let Some(port) = source_port {
        let _ = write!(text, " from port {port}");
    }
    text
}

fn word(hook: Option<HostHook>, verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow if hook.is_some_and(HostHook::is_early) => "left to what follows",
        Verdict::Allow | Verdict::Accept => "allowed",
        Verdict::Deny => "denied",
    }
}

fn summary(verdict: Verdict, egress: &Side, ingress: &Side) -> String {
    let mut text = word(None, verdict).to_owned();
    let nodes =
        [("source", egress), ("destination", ingress)].into_iter().filter_map(|(what, side)| {
            let Place::Node(node) = &side.place else { return None };
            Some(format!("the {what}'s side is judged by the agent of node {node}"))
        });
    let nodes: Vec<String> = nodes.collect();
    if verdict == Verdict::Allow && !nodes.is_empty() {
        let _ = write!(text, " as far as this node judges; {}", nodes.join("; "));
    }
    text
}

fn write_side(text: &mut String, title: &str, side: &Side) {
    let elsewhere = match &side.place {
        Place::Here => None,
        Place::Node(node) => Some(format!("judged by the agent of node {node}: ask there")),
        Place::Nobody => {
            Some("not judged: neither a pod's address nor a host endpoint's".to_owned())
        }
        Place::HostEndpoint => Some("judged at the host endpoint, below".to_owned()),
        Place::OwnNode => Some("not judged: a node always reaches its own pods".to_owned()),
    };
    if let Some(elsewhere) = elsewhere {
        let _ = writeln!(text, "{title}:  {elsewhere}");
    }
    for judgement in &side.judgements {
        write_judgement(text, title, judgement);
    }
}

fn write_hosts(text: &mut String, host: &[Judgement]) {
    host.iter().for_each(|judgement| write_judgement(text, "Host", judgement));
}

/// Which traffic of a host endpoint is judged.
fn hook_text(hook: HostHook) -> &'static str {
    match hook {
        HostHook::Input => "to the host itself",
        HostHook::Output => "from the host itself",
        HostHook::ForwardIn => "forwarded, where it comes in",
        HostHook::ForwardOut => "forwarded, where it goes out",
        HostHook::PreDnat => "before destination NAT",
        HostHook::UntrackedIn
        | HostHook::UntrackedOut
        | HostHook::UntrackedInAgain
        | HostHook::UntrackedOutAgain => "before connection tracking",
    }
}

fn write_judgement(text: &mut String, title: &str, judgement: &Judgement) {
    let Judgement { endpoint, interface, verdict, considered, .. } = judgement;
    let word = word(judgement.hook, *verdict);
    let hook = judgement.hook.map(|hook| format!(", {}", hook_text(hook))).unwrap_or_default();
    let _ = writeln!(text, "{title}:  {word} at {endpoint} ({interface}){hook}");
    let selecting = |row: &&Considered| row.outcome != Outcome::NotSelecting;
    let mut table = super::table::table(["TIER", "POLICY", "OUTCOME", "RULE"]);
    for row in considered.iter().filter(selecting) {
        let policy = match (&row.policy, row.tier.as_str()) {
            (Some(policy), _) => policy.clone(),
            (None, "") => "(after all tiers)".to_owned(),
            (None, _) => "(default action)".to_owned(),
        };
        let rule = row.rule.as_ref().map(|rule| format!("{}: {}", rule.field, rule.text));
        let outcome = outcome(row.outcome).to_owned();
        table.add_row([row.tier.clone(), policy, outcome, rule.unwrap_or_default()]);
    }
    text.push_str(&indented(&super::table::text(&table)));
    let policies = considered.iter().filter(selecting).filter(|row| !row.tier.is_empty());
    let selected: BTreeSet<&String> = policies.filter_map(|row| row.policy.as_ref()).collect();
    // Where policy is not asked, none is listed.
    let asked = considered.iter().any(|row| !row.tier.is_empty());
    let others = judgement.policies.saturating_sub(selected.len());
    let others = if asked { others } else { 0 };
    if others > 0 {
        let _ = writeln!(text, "    {others} other policies do not select it");
    }
    if !judgement.elements.is_empty() {
        let _ = writeln!(text, "    The other side is in class {}", judgement.class);
    }
    for membership in &judgement.memberships {
        let _ = writeln!(text, "      {membership}");
    }
    for Element { text: element, agrees, .. } in &judgement.elements {
        let kernel = match agrees {
            Some(true) => "the kernel agrees",
            Some(false) => "THE KERNEL HAS SOMETHING ELSE",
            None => "the kernel was not asked",
        };
        let _ = writeln!(text, "    {element}: {kernel}");
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::NotSelecting => "does not select it",
        Outcome::OtherDirection => "not about this direction",
        Outcome::OtherTraffic => "about other traffic of the host",
        Outcome::NoRuleMatches => "no rule matches",
        Outcome::Logs => "logs",
        Outcome::Passes => "passes",
        Outcome::Allows => "ALLOWS",
        Outcome::Denies => "DENIES",
        Outcome::NotReached => "not reached",
    }
}

fn write_changes(text: &mut String, node: &str, changes: &[VerdictChange]) {
    if changes.is_empty() {
        let _ = writeln!(text, "The objects given change no verdict on node {node}.");
        return;
    }
    let _ = writeln!(text, "On node {node} the objects given change verdicts:");
    for VerdictChange { endpoint, at, direction, peers, examples } in changes {
        let way = match direction {
            Direction::Ingress => "to",
            Direction::Egress => "from",
        };
        let at = at.as_ref();
        let place = at.map(|(hook, interface)| format!(" ({interface}, {})", hook_text(*hook)));
        let place = place.unwrap_or_default();
        let hook = at.map(|(hook, _)| *hook);
        let _ = writeln!(text, "    {way} {endpoint}{place}, with {peers} addresses of pods");
        for example in examples {
            let peer = match (&example.pod, example.peer) {
                (Some(pod), Some(peer)) => format!("{pod} ({peer})"),
                (None, Some(peer)) => peer.to_string(),
                _ => "everybody else".to_owned(),
            };
            let own = example.own.map(|own| format!(" {way} {own}")).unwrap_or_default();
            let traffic = packet(example.protocol, example.port, example.source_port);
            let (now, then) = (word(hook, example.now), word(hook, example.then));
            let _ = writeln!(text, "      {peer}{own}, {traffic}: {now} now, {then} then");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Example, RuleText};

    #[test]
    fn a_change_names_the_sides_that_it_depends_on() {
        let example = Example {
            peer: Some("203.0.113.9".parse().unwrap()),
            own: Some("10.0.0.9".parse().unwrap()),
            pod: None,
            protocol: 6,
            port: 80,
            source_port: None,
            now: Verdict::Allow,
            then: Verdict::Deny,
        };
        let others = Example { peer: None, own: None, ..example.clone() };
        let change = VerdictChange {
            endpoint: "HostEndpoint eth0".into(),
            at: Some((HostHook::Input, "eth0".into())),
            direction: Direction::Ingress,
            peers: 0,
            examples: vec![example, others],
        };
        let mut text = String::new();
        write_changes(&mut text, "node1", &[change]);
        let lines: Vec<&str> = text.lines().skip(2).map(str::trim).collect();
        assert_eq!(
            lines,
            [
                "203.0.113.9 to 10.0.0.9, TCP port 80: allowed now, denied then",
                "everybody else, TCP port 80: allowed now, denied then"
            ]
        );
    }

    #[test]
    fn traffic_is_a_protocol_and_a_port() {
        let parse = |text: &str| {
            let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
            parse_traffic(&words)
        };
        for (text, expected) in [
            ("80", (6, 80)),
            ("UDP 53", (17, 53)),
            ("132 9", (132, 9)),
            ("icmp", (1, 0x0800)),
            ("ICMPv6", (58, 0x8000)),
            ("icmp 8", (1, 0x0800)),
            ("icmpv6 1/4", (58, 0x0104)),
            ("47 0", (47, 0)),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
        for wrong in ["http", "tcp", "tcp http", "tcp 65536", "icmp 256", "300 1", "1 2 3"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn traffic_is_named_as_people_know_it() {
        assert_eq!(traffic(6, 80).to_string(), "TCP port 80");
        assert_eq!(traffic(58, 0x8001).to_string(), "ICMPv6 type 128 code 1");
        assert_eq!(traffic(47, 0).to_string(), "protocol 47");
        for (traffic, text) in [
            (Traffic::Ports(17, 1, 99), "UDP ports 1 to 99"),
            (Traffic::Ports(1, 0x0300, 0x03ff), "ICMP types and codes 3/0 to 3/255"),
            (Traffic::Pairs(6, (80, 90), (53, 53)), "TCP ports 80 to 90 from ports 53"),
            (Traffic::Any, "all other traffic"),
        ] {
            assert_eq!(traffic.to_string(), text);
        }
    }

    #[test]
    fn the_answer_is_readable() {
        let row = |tier: &str, policy: Option<&str>, outcome, rule| Considered {
            tier: tier.into(),
            policy: policy.map(str::to_owned),
            outcome,
            rule,
        };
        let text = serde_json::json!({"action": "Deny"});
        let judgement = Judgement {
            endpoint: "shop/api".into(),
            interface: "cali1".into(),
            hook: None,
            verdict: Verdict::Deny,
            considered: vec![
                row("gate", Some("GlobalNetworkPolicy gate.a"), Outcome::NoRuleMatches, None),
                row("gate", None, Outcome::Passes, None),
                row("default", Some("NetworkPolicy shop/other"), Outcome::NotSelecting, None),
                row(
                    "default",
                    Some("NetworkPolicy shop/web"),
                    Outcome::Denies,
                    Some(RuleText { field: "spec.ingress[0]".into(), text }),
                ),
            ],
            policies: 9,
            class: 7,
            memberships: vec!["selector app == \"web\"".into()],
            elements: vec![Element {
                key: None,
                value: None,
                text: "address 10.0.1.1: class 7".into(),
                agrees: Some(true),
            }],
        };
        let egress = Side { place: Place::Node("node2".into()), judgements: Vec::new() };
        let ingress = Side { place: Place::Here, judgements: vec![judgement] };
        let party = |name: &str, address: &str| Party {
            name: name.into(),
            address: address.parse().unwrap(),
        };
        let answer = Explanation {
            staged: false,
            node: "node1".into(),
            not_in_force: None,
            flows: vec![FlowAnswer {
                source: party("shop/web", "10.0.1.1"),
                destination: party("shop/api", "10.0.0.1"),
                protocol: 6,
                port: 80,
                source_port: Some(5000),
                verdict: Verdict::Deny,
                egress,
                ingress,
                host: Vec::new(),
                then: None,
                route: "10.0.0.1/32 dev cali1".into(),
            }],
            changes: Some(Vec::new()),
        };
        let json = serde_json::to_value(&answer).unwrap();
        assert_eq!(json["flows"][0]["ingress"]["judgements"][0]["verdict"], "deny");
        assert_eq!(json["flows"][0]["egress"]["place"]["node"], "node2");
        assert_eq!(serde_json::from_value::<Explanation>(json).unwrap(), answer);
        let text = explanation_text(&answer);
        for line in [
            "shop/web (10.0.1.1) -> shop/api (10.0.0.1), TCP port 80 from port 5000",
            "Verdict:  denied",
            "Route:    10.0.0.1/32 dev cali1",
            "Egress:  judged by the agent of node node2: ask there",
            "Ingress:  denied at shop/api (cali1)",
            "7 other policies do not select it",
            "The other side is in class 7",
            "address 10.0.1.1: class 7: the kernel agrees",
            "The objects given change no verdict on node node1.",
        ] {
            assert!(text.lines().any(|one| one.trim() == line), "no {line:?} in\n{text}");
        }
        assert!(text.contains("spec.ingress[0]: {\"action\":\"Deny\"}"), "{text}");
        assert!(!text.contains("shop/other"), "{text}");
    }
}
