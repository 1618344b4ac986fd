//! The ruleset of table `inet caracal`, as data: a small fixed set of chains and maps. All scale is
//! in map elements (`elements.rs`), so no chain ever changes when pods or policies do.
//!
//! ```text
//! prerouting -300  from our interfaces: known? source address its own? else dropped
//! forward       0  cut flows dropped; established accepted; to a workload: judge_to; from one: judge
//! input         0  from workloads: neighbour discovery, egress policy, then host_action
//! output        0  cut flows dropped; to an unknown interface of ours: dropped. The host reaches its pods.
//! postrouting 100  only while a pool is masqueraded
//! postrouting 300  only while policy asks of names: DNS answers to those who ask are handed to the agent
//! ```
//! What a name stands for is learned by each endpoint for itself: `names4` and `names6` give the class that
//! an address is in for what comes from one interface.
//! Host endpoints are judged by chains of their own, in `layout/host.rs`; what becomes of denied packets is in
//! `layout/deny.rs`.
//!
//! What comes from an interface of ours is told by its name, which costs less than to look for it: one that is
//! not known has no verdicts, and is denied.
//!
//! `judge_to` runs egress, then ingress policy, `judge` egress policy alone. Both classify the other side's address into the packet's
//! mark, then look for a verdict, most specific key first: allowed is `return`; denied is `continue`, so that the
//! rule goes on to its own `goto deny`; where a
//! policy logs the packet, a chain between does that, as often as its limit allows. Of what is denied the
//! agent is told a sample (`denied.rs`).
//! The packet's mark is scratch memory only here. One that was set before is kept in the flow's mark
//! meanwhile; as a rule there is none, and the flow's mark is not touched.

pub(super) mod deny;
pub(super) mod host;

use netlink::nft::{
    BaseChain, Chain, DataType, FULLY_RANDOM, Family, Field, Hook, Rule, Set, Value, Verdict,
    ct_state,
};

pub use self::deny::DenyAction;
use self::deny::{ALLOWED, DENY, decide, decide_ranges, deny, tell};
use self::host::Hosts;
use crate::model::host::{HostHook, LINK_TYPES};
use crate::model::{Direction, Verdict as Policy};

/// The table's name.
pub const TABLE: &str = "caracal";
/// The table's family.
pub const FAMILY: Family = Family::Inet;
/// The bit of `ct mark` that cuts a flow of a workload, in both directions, as long as it is set.
/// Packets keep finding their flow, so that loose TCP pickup does not make a new one of it; once
/// the bit is cleared, the flow goes on. No other bit of `ct mark` is ever changed but [`TAKEN`] and
/// [`AGAIN`].
pub const DENIED: u32 = 0x0010_0000;
/// The bit of `ct mark` of a new flow that a policy before destination NAT lets through, until its
/// packet has passed the host endpoint. Other programs must not set it.
pub const TAKEN: u32 = 0x0020_0000;
/// The bit of `ct mark` that has host endpoints judge an established flow again, by the next packet of whoever
/// began it: only the packet tells where it passes. A flow that is denied keeps it, and so is judged by
/// each packet, until one is let through. Other programs must not set it.
pub const AGAIN: u32 = 0x0040_0000;

/// Where packets go that a policy logs: `nfnetlink_log`'s group, as in `tcpdump -i nflog:3234`.
pub const LOG_GROUP: u16 = 3234;
/// The chain that elements go to whose packets are logged before their verdict.
pub(super) fn log_chain(direction: Direction, verdict: Policy) -> &'static str {
    match (direction, verdict) {
        (Direction::Egress, Policy::Allow) => "log_egress_allow",
        (Direction::Egress, Policy::Deny) => "log_egress_deny",
        (Direction::Egress, Policy::Accept) => "log_egress_accept",
        (Direction::Ingress, Policy::Allow) => "log_ingress_allow",
        (Direction::Ingress, Policy::Deny) => "log_ingress_deny",
        (Direction::Ingress, Policy::Accept) => "log_ingress_accept",
    }
}

/// Packets that a policy logs, and what then becomes of them: those that are allowed return.
fn log(direction: Direction, of: Policy, how: &LogRules) -> Chain {
    let way = match direction {
        Direction::Egress => "egress",
        Direction::Ingress => "ingress",
    };
    let (verdict, then) = match of {
        Policy::Allow => ("allow", None),
        Policy::Deny => ("deny", Some(DENY)),
        Policy::Accept => ("accept", Some(host::ACCEPTED)),
    };
    let rule = match how.limit {
        Some((rate, seconds)) => Rule::new().limit(rate, seconds, how.burst),
        None => Rule::new(),
    };
    let mut rules = vec![rule.log(&how.line(&format!("{way} {verdict} ")), LOG_GROUP).counter()];
    rules.extend(then.map(|chain| Rule::new().verdict(Verdict::Goto(chain))));
    plain(log_chain(direction, of), rules)
}

/// Where DNS answers wait until the agent has read them: a queue of `nfnetlink_queue`.
pub(super) const ANSWERS: u16 = 3236;
/// The chain that exists only while policy of an endpoint asks of names.
const DNS: &str = "dns_answers";
/// The port of the DNS.
const DNS_PORT: u16 = 53;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// After all translation of addresses and ports (`NF_IP_PRI_CONNTRACK_HELPER`).
const LAST: i32 = 300;

/// The chain that exists only while addresses are masqueraded.
pub(super) const MASQUERADE: &str = "nat_post";

/// ICMPv6 types (RFC 4861 section 4, RFC 2710 section 3, RFC 3810 section 5.2).
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const MLD2_REPORT: u8 = 143;
/// `NF_IP_PRI_RAW`: before conntrack, so that dropped packets leave no flow behind.
const RAW: i32 = -300;
/// `NF_IP_PRI_MANGLE`: after conntrack, before destination NAT.
const MANGLE: i32 = -150;
/// `NF_IP_PRI_NAT_SRC`.
const SOURCE_NAT: i32 = 100;

/// What becomes of a workload's packet to its own node that its egress policy allows
/// (`defaultEndpointToHostAction`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostAction {
    /// It is accepted.
    #[default]
    Accept,
    /// The rest of the input chain decides.
    Return,
    /// It is dropped.
    Drop,
}

/// How packets are logged by rules that log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRules {
    /// How a line begins; direction and verdict follow. What does not fit in the kernel's 127 bytes is
    /// cut off.
    pub prefix: String,
    /// Most lines of each direction and verdict in so many seconds; None: all.
    pub limit: Option<(u64, u64)>,
    /// Lines at once beyond that.
    pub burst: u32,
}

impl Default for LogRules {
    fn default() -> Self {
        Self { prefix: "caracal".into(), limit: Some((10, 1)), burst: 100 }
    }
}

impl LogRules {
    /// The longest prefix that `nfnetlink_log` takes, in bytes.
    const LONGEST: usize = 127;

    fn line(&self, end: &str) -> String {
        let room = Self::LONGEST - end.len() - 1;
        let mut at = self.prefix.len().min(room);
        while !self.prefix.is_char_boundary(at) {
            at -= 1;
        }
        match &self.prefix[..at] {
            "" => end.to_owned(),
            prefix => format!("{prefix} {end}"),
        }
    }
}

/// What the chains depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    /// How the names of workload interfaces begin: 1 to 15 bytes.
    pub prefix: String,
    /// For workloads that speak to their node.
    pub host_action: HostAction,
    /// The agent is told of a sample of the packets that begin flows and are let through.
    pub sampling: bool,
    /// For packets that policy denies.
    pub deny: DenyAction,
    /// For rules that log.
    pub log: LogRules,
    /// How a rule hands packets to the agent here.
    pub queue: Queue,
    /// Policy of an endpoint asks of names.
    pub names: bool,
}

/// How a rule hands a packet to user space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Queue {
    /// nf_tables' own expression.
    #[default]
    Expression,
    /// The target of xtables, where the kernel lacks that.
    Target,
    /// The kernel has neither: no DNS answer is read.
    Missing,
}

/// How the names of a direction's maps begin.
pub(super) fn map_prefix(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "egr",
        Direction::Ingress => "ing",
    }
}

/// A set whose elements never change, with its elements.
pub(super) fn fixed_sets() -> [(Set, &'static [u8]); 4] {
    const ND: [u8; 3] = [ROUTER_SOLICITATION, NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT];
    let mut ports = Set::new("ports", &[DataType::InetProto]);
    ports.comment = Some("protocols that have ports".into());
    let mut types = Set::new("types", &[DataType::InetProto]);
    types.comment = Some("protocols that have types and codes".into());
    let mut nd = Set::new("nd", &[DataType::Icmpv6Type]);
    nd.comment = Some("what a workload's link needs".into());
    let mut nd_host = Set::new("nd_host", &[DataType::Icmpv6Type]);
    nd_host.comment = Some("what the host's links need".into());
    // TCP, UDP, SCTP; ICMP, ICMPv6
    [(ports, &[6, 17, 132]), (types, &[1, 58]), (nd, &ND), (nd_host, &LINK_TYPES)]
}

/// The sets and maps that elements are written to.
pub(super) fn sets() -> Vec<Set> {
    use DataType::{IfaceIndex, InetProto, InetService, Ipv4Addr, Ipv6Addr, Mark};
    let class = Value::Data(Mark);
    let mut sets = vec![
        Set::new("wl", &[IfaceIndex]),
        Set::new("src4", &[Ipv4Addr, IfaceIndex]),
        Set::new("src6", &[Ipv6Addr, IfaceIndex]),
        Set::new("cls4", &[Ipv4Addr]).maps_to(class),
        Set::new("cls6", &[Ipv6Addr]).maps_to(class),
        Set::new("cls4n", &[Ipv4Addr]).maps_to(class).ranges(),
        Set::new("cls6n", &[Ipv6Addr]).maps_to(class).ranges(),
        Set::new("masq4", &[Ipv4Addr]).ranges(),
        Set::new("masq6", &[Ipv6Addr]).ranges(),
        Set::new("pools4", &[Ipv4Addr]).ranges(),
        Set::new("pools6", &[Ipv6Addr]).ranges(),
        Set::new("dns", &[IfaceIndex]),
        Set::new("names4", &[IfaceIndex, Ipv4Addr]).maps_to(class),
        Set::new("names6", &[IfaceIndex, Ipv6Addr]).maps_to(class),
    ];
    for direction in [Direction::Egress, Direction::Ingress] {
        let prefix = map_prefix(direction);
        let map = |suffix: &str, key: &[DataType]| {
            Set::new(&format!("{prefix}{suffix}"), key).maps_to(Value::Verdict)
        };
        let classed = [IfaceIndex, Mark, InetProto, InetService];
        let any = [IfaceIndex, InetProto, InetService];
        // Of ranges the source port is part of the key, all ports where it does not matter.
        let pairs = |key: &[DataType]| [key, &[InetService]].concat();
        sets.extend([
            map("", &classed),
            map("_range", &pairs(&classed)).ranges(),
            map("_proto", &classed[..3]),
            map("_any", &classed[..2]),
            map("_dport", &any),
            map("_drange", &pairs(&any)).ranges(),
            map("_dproto", &any[..2]),
            map("_dfl", &any[..1]),
        ]);
    }
    sets.extend(host::sets());
    sets
}

fn plain(name: &str, rules: impl Into<Vec<Rule>>) -> Chain {
    Chain { name: name.into(), base: None, rules: rules.into() }
}

fn base(name: &str, kind: &str, hook: Hook, priority: i32, rules: impl Into<Vec<Rule>>) -> Chain {
    let base = BaseChain { kind: kind.into(), hook, priority, accept: true };
    Chain { name: name.into(), base: Some(base), rules: rules.into() }
}

fn drop_counted(rule: Rule, comment: &str) -> Rule {
    rule.counter().verdict(Verdict::Drop).comment(comment)
}

/// All chains, in an order in which each is only reached from later ones. With `masquerade`,
/// [`MASQUERADE`] is among them, as the last.
pub(super) fn chains(params: &Params, hosts: Hosts, masquerade: bool) -> Vec<Chain> {
    let mut chains = params.deny.chains(hosts);
    chains.extend([
        host::accepted(),
        plain("unknown", [drop_counted(Rule::new(), "endpoint not known")]),
        deny::cut(),
        from_endpoint6(),
        plain(
            "from_endpoint",
            [
                // First, since every packet comes here: who has an address is known.
                Rule::new().is_in(&[Field::Ip4Source, Field::Iif], "src4").verdict(Verdict::Accept),
                Rule::new().nfproto(true).verdict(Verdict::Goto("from_endpoint6")),
                from_unknown(),
                drop_counted(Rule::new(), "source address not its own"),
            ],
        ),
    ]);
    for direction in [Direction::Egress, Direction::Ingress] {
        let verdicts = [Policy::Allow, Policy::Deny, Policy::Accept];
        chains.extend(verdicts.map(|of| log(direction, of, &params.log)));
        chains.extend(policy(direction, params.names));
    }
    chains.extend(judge(params));
    chains.push(to_host(params));
    chains.extend(host::chains(hosts, params));
    chains.extend(hooks(&params.prefix, hosts));
    chains.extend(host::bases(hosts));
    chains.extend(params.names.then(|| answers(params.queue)).flatten());
    if masquerade {
        chains.push(nat());
    }
    chains
}

fn from_unknown() -> Rule {
    Rule::new().is_not_in(&[Field::Iif], "wl").verdict(Verdict::Goto("unknown"))
}

fn from_endpoint6() -> Chain {
    let accept = Verdict::Accept;
    let link_local = ([0xfe, 0x80], [0xff, 0xc0]);
    let wide = |bytes: [u8; 2]| {
        let mut address = [0; 16];
        address[..2].copy_from_slice(&bytes);
        address
    };
    plain(
        "from_endpoint6",
        [
            drop_counted(
                Rule::new().equals(Field::Icmp6Type, &[ROUTER_ADVERTISEMENT]),
                "router advertisement",
            ),
            Rule::new().is_in(&[Field::Ip6Source, Field::Iif], "src6").verdict(accept),
            from_unknown(),
            Rule::new()
                .equals_masked(Field::Ip6Source, &wide(link_local.0), &wide(link_local.1))
                .is_in(&[Field::Icmp6Type], "nd")
                .verdict(accept),
            // Duplicate address detection (RFC 4862 section 5.4.2).
            Rule::new()
                .equals(Field::Ip6Source, &[0; 16])
                .is_in(&[Field::Icmp6Type], "nd")
                .verdict(accept),
            // Every IPv6 stack sends these; nobody listens on the link.
            Rule::new().equals(Field::Icmp6Type, &[MLD2_REPORT]).verdict(Verdict::Drop),
            drop_counted(Rule::new(), "source address not its own"),
        ],
    )
}

/// One direction's policy: a chain for protocols that have ports, one for ICMP, whose type and code
/// are looked up in the same maps as one number in the place of the port, the one before them, and the first,
/// which finds the class.
fn policy(direction: Direction, names: bool) -> [Chain; 4] {
    let prefix = map_prefix(direction);
    let (index, other4, other6) = match direction {
        Direction::Egress => (Field::Iif, Field::Ip4Destination, Field::Ip6Destination),
        Direction::Ingress => (Field::Oif, Field::Ip4Source, Field::Ip6Source),
    };
    let name = match direction {
        Direction::Egress => "egress",
        Direction::Ingress => "ingress",
    };
    let (ports, icmp) = (format!("{name}_ports"), format!("{name}_icmp"));
    let map = |suffix: &str| format!("{prefix}{suffix}");
    let (classed, any) = ([index, Field::Mark, Field::L4Proto], [index, Field::L4Proto]);
    // What is looked for among ports, and beside it among ranges of them.
    let with_number = |name: &str, number: Field, other: Field| {
        let (with_class, without) =
            ([&classed[..], &[number]].concat(), [&any[..], &[number]].concat());
        let pair = |key: &[Field]| [key, &[other]].concat();
        plain(
            name,
            [
                decide(&with_class, &map("")),
                decide_ranges(&pair(&with_class), &map("_range")),
                decide(&classed, &map("_proto")),
                decide(&classed[..2], &map("_any")),
                decide(&without, &map("_dport")),
                decide_ranges(&pair(&without), &map("_drange")),
                decide(&any, &map("_dproto")),
                decide(&any[..1], &map("_dfl")),
                deny(),
            ],
        )
    };
    let with_ports = with_number(&ports, Field::DestinationPort, Field::SourcePort);
    // Where other protocols have their source port, ICMP has its type and its code; in the other
    // port's place it has its checksum, of which no range asks anything.
    let with_types = with_number(&icmp, Field::SourcePort, Field::DestinationPort);
    let verdict = format!("{name}_verdict");
    let rest = [
        Rule::new().is_in(&[Field::L4Proto], "ports").verdict(Verdict::Goto(&ports)),
        Rule::new().is_in(&[Field::L4Proto], "types").verdict(Verdict::Goto(&icmp)),
        decide(&classed, &map("_proto")),
        decide(&classed[..2], &map("_any")),
        decide(&any, &map("_dproto")),
        decide(&any[..1], &map("_dfl")),
        deny(),
    ];
    // What the endpoint itself has learned wins over single addresses, and these over ranges.
    let mut classes = Vec::new();
    if names && direction == Direction::Egress {
        classes.push(Rule::new().set_mark_from_all(&[index, other4], "names4"));
        classes.push(Rule::new().set_mark_from_all(&[index, other6], "names6"));
    }
    classes.extend([
        Rule::new().set_mark_from(other4, "cls4"),
        Rule::new().set_mark_from(other4, "cls4n"),
        Rule::new().set_mark_from(other6, "cls6"),
        Rule::new().set_mark_from(other6, "cls6n"),
    ]);
    // A lookup that finds nothing leaves the mark as it is.
    let goto = || Verdict::Goto(&verdict);
    let mut first: Vec<Rule> = classes.into_iter().map(|rule| rule.verdict(goto())).collect();
    first.push(Rule::new().set_mark(0).verdict(goto()));
    [with_ports, with_types, plain(&verdict, rest), plain(name, first)]
}

/// A packet that is the first of its flow: `judge_to` to a workload, from another one of this node or from
/// elsewhere, `judge` from a workload to elsewhere.
fn judge(params: &Params) -> Vec<Chain> {
    let Params { sampling, deny, .. } = *params;
    let (mut chains, egress) = (Vec::new(), deny.ask("egress"));
    // From a workload too: where it takes more than a rule it is a chain.
    let first = match &egress[..] {
        [_] => "egress",
        _ => {
            chains.push(plain("egress_asked", egress.clone()));
            "egress_asked"
        }
    };
    let from = Rule::new().iifname_starts(&params.prefix).verdict(Verdict::Jump(first));
    let both = [vec![from], deny.ask("ingress")].concat();
    for (name, policy) in [("judge_to", both), ("judge", egress)] {
        let accept = Rule::new().verdict(Verdict::Accept);
        let sample = || sampling.then(|| tell(Rule::new(), ALLOWED));
        let marked_name = format!("{name}_marked");
        let mut marked = vec![Rule::new().save_mark()];
        marked.extend_from_slice(&policy);
        marked.extend(sample());
        // What is not tracked has no flow to keep it in: its mark is lost.
        marked.extend([
            Rule::new().set_mark(0),
            Rule::new().restore_mark(),
            Rule::new().set_ct_mark(0),
            accept.clone(),
        ]);
        let mut unmarked = vec![
            drop_counted(Rule::new().ct_state(ct_state::INVALID), "invalid"),
            Rule::new().mark_is_set().verdict(Verdict::Goto(&marked_name)),
        ];
        unmarked.extend(policy);
        unmarked.extend(sample());
        unmarked.extend([Rule::new().set_mark(0), accept]);
        chains.extend([plain(&marked_name, marked), plain(name, unmarked)]);
    }
    chains
}

/// From a workload to its own node.
fn to_host(params: &Params) -> Chain {
    let Params { host_action: action, sampling, .. } = *params;
    let verdict = match action {
        HostAction::Accept => Rule::new().verdict(Verdict::Accept),
        HostAction::Return => Rule::new().verdict(Verdict::Return),
        HostAction::Drop => drop_counted(Rule::new(), "to the node"),
    };
    let mut rules = vec![
        Rule::new().is_in(&[Field::Icmp6Type], "nd").verdict(Verdict::Accept),
        drop_counted(Rule::new().ct_state(ct_state::INVALID), "invalid"),
    ];
    // A mark that the packet had is lost only here: it decided the route already.
    rules.extend(params.deny.ask("egress"));
    rules.extend((sampling && action != HostAction::Drop).then(|| tell(Rule::new(), ALLOWED)));
    rules.extend([Rule::new().set_mark(0), verdict]);
    plain("to_host", rules)
}

/// To the node itself.
fn from_workload(prefix: &str) -> Rule {
    Rule::new().iifname_starts(prefix).verdict(Verdict::Goto("to_host"))
}

/// The base chains of policy. What is neither from nor to an interface of ours passes untouched.
fn hooks(prefix: &str, hosts: Hosts) -> [Chain; 4] {
    let cut = || Rule::new().ct_mark_has(DENIED).verdict(Verdict::Jump("cut"));
    let known =
        || Rule::new().ct_state(ct_state::ESTABLISHED | ct_state::RELATED).verdict(Verdict::Accept);
    let to_unknown = || {
        Rule::new()
            .oifname_starts(prefix)
            .is_not_in(&[Field::Oif], "wl")
            .verdict(Verdict::Goto("unknown"))
    };
    let mut input = vec![cut()];
    input.extend(host::to_again(hosts, HostHook::Input));
    input.push(known());
    input.extend(host::already_accepted(hosts, "host_in_accepted"));
    input.push(from_workload(prefix));
    if hosts.any() {
        input.push(Rule::new().verdict(Verdict::Goto("host_in")));
    }
    let mut forward = vec![cut()];
    forward.extend(host::to_again(hosts, HostHook::ForwardIn));
    forward.push(known());
    if hosts.forwards() || hosts.dnat() {
        forward.push(Rule::new().verdict(Verdict::Jump("host_forward")));
    }
    forward.extend([
        Rule::new().is_in(&[Field::Oif], "wl").verdict(Verdict::Goto("judge_to")),
        Rule::new().oifname_starts(prefix).verdict(Verdict::Goto("unknown")),
        Rule::new().iifname_starts(prefix).verdict(Verdict::Goto("judge")),
    ]);
    let mut raw = vec![Rule::new().iifname_starts(prefix).verdict(Verdict::Goto("from_endpoint"))];
    if hosts.tracks_not() {
        raw.push(Rule::new().verdict(Verdict::Goto("host_raw_in")));
    }
    [
        base("raw_pre", "filter", Hook::Prerouting, RAW, raw),
        base("forward", "filter", Hook::Forward, 0, forward),
        base("input", "filter", Hook::Input, 0, input),
        base("output", "filter", Hook::Output, 0, [cut(), to_unknown()]),
    ]
}

/// Answers to questions that an endpoint itself asked, of the DNS: what it did not ask is in no flow of its
/// own. While the agent is away they pass.
fn answers(queue: Queue) -> Option<Chain> {
    let rule = |protocol| {
        let rule = Rule::new().is_in(&[Field::Oif], "dns").ct_reply().l4proto(protocol);
        let rule = rule.ct_original_destination_port(DNS_PORT);
        match queue {
            Queue::Expression => Some(rule.queue(ANSWERS)),
            Queue::Target => Some(rule.queue_by_target(ANSWERS)),
            Queue::Missing => None,
        }
    };
    let rules: Vec<Rule> = [UDP, TCP].into_iter().filter_map(rule).collect();
    (!rules.is_empty()).then(|| base(DNS, "filter", Hook::Postrouting, LAST, rules))
}

fn nat() -> Chain {
    let masquerade = |source, from: &str, destination, not_to: &str| {
        Rule::new()
            .is_in(&[source], from)
            .is_not_in(&[destination], not_to)
            .masquerade(FULLY_RANDOM)
    };
    base(
        MASQUERADE,
        "nat",
        Hook::Postrouting,
        SOURCE_NAT,
        [
            masquerade(Field::Ip4Source, "masq4", Field::Ip4Destination, "pools4"),
            masquerade(Field::Ip6Source, "masq6", Field::Ip6Destination, "pools6"),
        ],
    )
}

#[cfg(test)]
mod tests;
