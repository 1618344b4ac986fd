//! The chains of host endpoints: there only while this node has any.
//!
//! ```text
//! raw_pre     -300 doNotTrack: of all packets, also those of flows that go on
//! raw_out     -300 the same, of what the host itself sends
//! host_pre    -150 preDNAT: of new flows, from workloads too where all interfaces are meant
//! input          0 new flows to the host: failsafe ports pass, then policy
//! forward        0 before the policy of workloads, while any policy applies on forward
//! host_post      0 new flows of the host itself, after destination NAT
//! ```
//! What the first three accept, which end with [`ACCEPTED`], is not judged by the endpoint again. What is
//! tracked not has no flow to say so: it is asked about again, in maps of its own that say the same and
//! lead to tables that count nothing, so that a packet counts once. Before connection tracking there is
//! nowhere to keep a packet's mark, and one that is judged there loses it.
//!
//! An interface that has an endpoint of its own is judged by that, others by the endpoint of all.
//! The other side's class and the interface give a table of verdicts, in one lookup, or in a second
//! one if the class is not told apart; the table and the packet give the verdict. So the number of
//! chains is fixed, and endpoints with the same policy share its elements.
//!
//! Where rules ask about the host's own side, its class is looked up first, in the same map with all of
//! [`View::MASK`] set: that gives the view, if anything that is asked is true. Each view has a chain that does the
//! rest with its number beside the other side's class.

mod again;
mod judge;

use netlink::nft::{Chain, DataType, Field, Hook, Rule, Set, Value, Verdict, ct_state};

pub(super) use self::again::to_again;
use self::judge::{judge, judged, verdicts};
use super::{DenyAction, MANGLE, Params, RAW, TAKEN, base, drop_counted, from_workload, plain};
use crate::model::Direction;
use crate::model::host::{HostHook, TableId, View};

/// The maps from classes to tables of a hook: of interfaces by name, and of all others.
pub(in crate::kernel) fn maps(hook: HostHook) -> (&'static str, &'static str) {
    match hook {
        HostHook::Input => ("hin", "hin_all"),
        HostHook::Output => ("hout", "hout_all"),
        HostHook::ForwardIn => ("hfin", "hfin_all"),
        HostHook::ForwardOut => ("hfout", "hfout_all"),
        HostHook::PreDnat => ("hdnat", "hdnat_all"),
        HostHook::UntrackedIn => ("hrawin", "hrawin_all"),
        HostHook::UntrackedOut => ("hrawout", "hrawout_all"),
        HostHook::UntrackedInAgain => ("hagainin", "hagainin_all"),
        HostHook::UntrackedOutAgain => ("hagainout", "hagainout_all"),
    }
}

/// The maps from tables to verdicts, in the order of lookup.
pub(in crate::kernel) const VERDICTS: [&str; 4] = ["hv", "hv_range", "hv_proto", "hv_any"];
/// The failsafe ports of ingress and egress, by family.
pub(in crate::kernel) const FAILSAFE: [[&str; 2]; 2] =
    [["failsafe_in4", "failsafe_in6"], ["failsafe_out4", "failsafe_out6"]];

/// The chain that elements with verdict accept go to.
pub(in crate::kernel) const ACCEPTED: &str = "accepted";

/// Index of the loopback interface in every network namespace.
const LOOPBACK: u32 = 1;

/// Which chains are needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::kernel) struct Hosts {
    /// Interfaces are host endpoints by name.
    pub(in crate::kernel) named: bool,
    /// All others are one.
    pub(in crate::kernel) all: bool,
    /// Forwarded traffic is judged.
    pub(in crate::kernel) forward: bool,
    /// There is policy before destination NAT.
    pub(in crate::kernel) pre_dnat: bool,
    /// There is policy before connection tracking.
    pub(in crate::kernel) untracked: bool,
    /// What is told apart of the own side.
    pub(in crate::kernel) views: Views,
}

/// The views that are told apart, by hook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::kernel) struct Views([u16; HostHook::ALL.len()]);

impl Views {
    /// None.
    #[cfg(test)]
    pub(in crate::kernel) const NONE: Self = Self([0; HostHook::ALL.len()]);

    /// One is told apart at a hook.
    pub(in crate::kernel) fn add(&mut self, hook: HostHook, view: View) {
        for (bits, _) in self.0.iter_mut().zip(HostHook::ALL).filter(|(_, other)| *other == hook) {
            *bits |= 1 << view.number();
        }
    }

    /// Those at a hook.
    fn at(self, hook: HostHook) -> impl Iterator<Item = View> {
        let found = HostHook::ALL.into_iter().zip(self.0).find(|(other, _)| *other == hook);
        let bits = found.map_or(0, |(_, bits)| bits);
        View::told_apart().filter(move |view| bits & (1 << view.number()) != 0)
    }
}

impl Hosts {
    /// There are host endpoints.
    pub(super) fn any(self) -> bool {
        self.named || self.all
    }

    /// And what is forwarded is judged.
    pub(super) fn forwards(self) -> bool {
        self.forward && self.any()
    }

    /// And something is judged before destination NAT.
    pub(super) fn dnat(self) -> bool {
        self.pre_dnat && self.any()
    }

    /// And something is judged before connection tracking.
    pub(super) fn tracks_not(self) -> bool {
        self.untracked && self.any()
    }
}

pub(super) fn sets() -> Vec<Set> {
    use DataType::{IfName, InetProto, InetService, Ipv4Addr, Ipv6Addr, Mark};
    let mut names = Set::new("hep", &[IfName]);
    names.comment = Some("interfaces with a host endpoint of their own".into());
    let mut sets = vec![names];
    for hook in HostHook::ALL {
        let (named, all) = maps(hook);
        let table = Value::Data(Mark);
        sets.push(Set::new(named, &[IfName, Mark]).maps_to(table));
        sets.push(Set::new(all, &[Mark]).maps_to(table));
    }
    let key = [Mark, InetProto, InetService, InetService];
    let [ports, ranges, protocols, any] = VERDICTS;
    let verdicts =
        [(ports, &key[..3]), (ranges, &key[..]), (protocols, &key[..2]), (any, &key[..1])];
    for (name, key) in verdicts {
        let set = Set::new(name, key).maps_to(Value::Verdict);
        sets.push(if name == ranges { set.ranges() } else { set });
    }
    for [v4, v6] in FAILSAFE {
        sets.push(Set::new(v4, &[InetProto, InetService, Ipv4Addr]).ranges());
        sets.push(Set::new(v6, &[InetProto, InetService, Ipv6Addr]).ranges());
    }
    sets
}

/// What is said in one direction.
struct Way {
    name: Field,
    index: Field,
    other4: Field,
    other6: Field,
    own4: Field,
    own6: Field,
    failsafe: [&'static str; 2],
    /// The failsafe ports of the other direction.
    answers: [&'static str; 2],
}

fn way(direction: Direction) -> Way {
    match direction {
        Direction::Ingress => Way {
            name: Field::IifName,
            index: Field::Iif,
            other4: Field::Ip4Source,
            other6: Field::Ip6Source,
            own4: Field::Ip4Destination,
            own6: Field::Ip6Destination,
            failsafe: FAILSAFE[0],
            answers: FAILSAFE[1],
        },
        Direction::Egress => Way {
            name: Field::OifName,
            index: Field::Oif,
            other4: Field::Ip4Destination,
            other6: Field::Ip6Destination,
            own4: Field::Ip4Source,
            own6: Field::Ip6Source,
            failsafe: FAILSAFE[1],
            answers: FAILSAFE[0],
        },
    }
}

/// The chains that others only go to, in an order in which each is only reached from later ones.
pub(super) fn chains(hosts: Hosts, params: &Params) -> Vec<Chain> {
    let deny = params.deny;
    if !hosts.any() {
        return Vec::new();
    }
    let mut chains: Vec<Chain> = verdicts().into();
    if hosts.tracks_not() {
        chains.extend(untracked(hosts, deny));
    }
    if hosts.dnat() {
        chains.extend(pre_dnat(hosts, deny));
    }
    for hook in [HostHook::Input, HostHook::Output] {
        chains.extend(judge(hook, hosts, deny));
        chains.extend(keeping_mark(name(hook), before(hook, hosts), &ask(hook, deny)));
    }
    let [into, out] = [HostHook::ForwardIn, HostHook::ForwardOut].map(|hook| ask(hook, deny));
    let invalid = || drop_counted(Rule::new().ct_state(ct_state::INVALID), "invalid");
    let mut first: Vec<Rule> = already_accepted(hosts, "host_forward_accepted").collect();
    if hosts.forwards() {
        let hooks = [HostHook::ForwardIn, HostHook::ForwardOut];
        chains.extend(hooks.into_iter().flat_map(|hook| judge(hook, hosts, deny)));
    }
    if hosts.dnat() {
        chains.push(plain("host_in_accepted", [forget_accepted(), from_workload(&params.prefix)]));
        let rules = vec![forget_accepted()];
        if hosts.forwards() {
            chains.extend(keeping_mark("host_forward_accepted", rules, &out));
        } else {
            chains.push(plain("host_forward_accepted", rules));
        }
    }
    if hosts.forwards() {
        if hosts.tracks_not() {
            chains.push(plain("host_forward_untracked", untracked_forwards(deny)));
            let rule = Rule::new().ct_state(ct_state::UNTRACKED);
            first.push(rule.verdict(Verdict::Goto("host_forward_untracked")));
        }
        first.push(invalid());
        chains.extend(keeping_mark("host_forward", first, &[into, out].concat()));
    } else if hosts.dnat() {
        chains.push(plain("host_forward", first));
    }
    chains.extend(again::chains(hosts));
    chains
}

/// The base chains of host endpoints alone.
pub(super) fn bases(hosts: Hosts) -> Vec<Chain> {
    let mut chains = Vec::new();
    if hosts.tracks_not() {
        let rule = Rule::new().verdict(Verdict::Goto(name(HostHook::UntrackedOut)));
        chains.push(base("raw_out", "filter", Hook::Output, RAW, [rule]));
    }
    if hosts.dnat() {
        let seen = ct_state::ESTABLISHED | ct_state::RELATED | ct_state::UNTRACKED;
        let mut rules: Vec<Rule> = to_again(hosts, HostHook::PreDnat).into_iter().collect();
        rules.extend([
            Rule::new().ct_state(seen).verdict(Verdict::Accept),
            Rule::new().verdict(Verdict::Goto("host_dnat")),
        ]);
        chains.push(base("host_pre", "filter", Hook::Prerouting, MANGLE, rules));
    }
    if hosts.any() {
        chains.push(post(hosts));
    }
    chains
}

/// Where packets go that are accepted for good. It is always there, so that elements can lead to it.
pub(super) fn accepted() -> Chain {
    plain(ACCEPTED, [Rule::new().set_mark(TableId::ACCEPTED)])
}

/// What policy before destination NAT accepted goes to this chain.
pub(super) fn already_accepted(hosts: Hosts, chain: &str) -> impl Iterator<Item = Rule> {
    let rule = Rule::new().ct_mark_has(TAKEN).verdict(Verdict::Goto(chain));
    hosts.dnat().then_some(rule).into_iter()
}

fn forget_accepted() -> Rule {
    Rule::new().clear_ct_mark_bits(TAKEN)
}

/// Before connection tracking: what is accepted is not tracked.
fn untracked(hosts: Hosts, deny: DenyAction) -> Vec<Chain> {
    let mut chains = vec![plain("host_notrack", [Rule::new().set_mark(0).notrack()])];
    for hook in [HostHook::UntrackedInAgain, HostHook::UntrackedOutAgain] {
        chains.extend(judge(hook, hosts, deny));
        // Whoever else has it not tracked has not decided for us.
        let mut rules = ask(hook, deny);
        rules.extend([accepted_is().set_mark(0).verdict(Verdict::Accept), Rule::new().set_mark(0)]);
        chains.push(plain(name(hook), rules));
    }
    for hook in [HostHook::UntrackedIn, HostHook::UntrackedOut] {
        chains.extend(judge(hook, hosts, deny));
        let mut rules = before(hook, hosts);
        rules.extend(ask(hook, deny));
        rules.extend([
            accepted_is().verdict(Verdict::Goto("host_notrack")),
            Rule::new().set_mark(0),
        ]);
        chains.push(plain(name(hook), rules));
    }
    chains
}

/// What passes the host untracked: policy on forward is asked of the way in only where what comes
/// before connection tracking does not accept it.
fn untracked_forwards(deny: DenyAction) -> Vec<Rule> {
    let ask = |hook| ask(hook, deny);
    let mut rules = [ask(HostHook::ForwardOut), ask(HostHook::UntrackedInAgain)].concat();
    rules.push(accepted_is().set_mark(0).verdict(Verdict::Return));
    rules.extend(ask(HostHook::ForwardIn));
    rules.push(Rule::new().set_mark(0));
    rules
}

fn accepted_is() -> Rule {
    Rule::new().mark_is(TableId::ACCEPTED)
}

/// Before destination NAT. A new flow that is accepted keeps that in its mark, beside what was there.
fn pre_dnat(hosts: Hosts, deny: DenyAction) -> Vec<Chain> {
    let hook = HostHook::PreDnat;
    let mut chains = judge(hook, hosts, deny);
    let ask = || ask(hook, deny);
    let goto = |chain| accepted_is().verdict(Verdict::Goto(chain));
    let restore = || [Rule::new().set_mark(0), Rule::new().restore_mark()];
    let keep = || Rule::new().set_ct_mark_bits(TAKEN);
    let mut rules = before(hook, hosts);
    rules.extend([
        // Of a packet that was sent before, or somebody else's.
        Rule::new().ct_mark_has(TAKEN).clear_ct_mark_bits(TAKEN),
        Rule::new().mark_is_set().verdict(Verdict::Goto("host_dnat_marked")),
    ]);
    rules.extend(ask());
    rules.extend([goto("host_dnat_taken"), Rule::new().set_mark(0)]);
    let [zero, kept] = restore();
    chains.extend([
        plain("host_dnat_taken", [Rule::new().set_mark(0), keep()]),
        plain("host_dnat_kept_taken", [zero, kept, keep()]),
    ]);
    let [zero, kept] = restore();
    let only = Rule::new().set_ct_mark(TAKEN);
    chains.push(plain("host_dnat_marked_taken", [zero, kept, only]));
    let [zero, kept] = restore();
    let and_then = [goto("host_dnat_kept_taken"), zero, kept];
    chains.push(plain("host_dnat_kept", [&ask()[..], &and_then].concat()));
    let [zero, kept] = restore();
    let mut marked = vec![
        Rule::new().ct_mark_is_set().verdict(Verdict::Goto("host_dnat_kept")),
        Rule::new().save_mark(),
    ];
    marked.extend(ask());
    marked.extend([goto("host_dnat_marked_taken"), zero, kept, Rule::new().set_ct_mark(0)]);
    chains.extend([plain("host_dnat_marked", marked), plain("host_dnat", rules)]);
    chains
}

/// The base chain of what the host itself sends, after destination NAT has chosen its interface.
fn post(hosts: Hosts) -> Chain {
    let mut rules: Vec<Rule> = to_again(hosts, HostHook::Output).into_iter().collect();
    rules.extend([
        Rule::new().ct_state(ct_state::ESTABLISHED | ct_state::RELATED).verdict(Verdict::Accept),
        // What the host forwards came in somewhere.
        Rule::new().equals(Field::Iif, &0u32.to_ne_bytes()).verdict(Verdict::Goto("host_out")),
    ]);
    base("host_post", "filter", Hook::Postrouting, 0, rules)
}

fn name(hook: HostHook) -> &'static str {
    match hook {
        HostHook::Input => "host_in",
        HostHook::Output => "host_out",
        HostHook::ForwardIn => "host_forward_in",
        HostHook::ForwardOut => "host_forward_out",
        HostHook::PreDnat => "host_dnat",
        HostHook::UntrackedIn => "host_raw_in",
        HostHook::UntrackedOut => "host_raw_out",
        HostHook::UntrackedInAgain => "host_untracked_in",
        HostHook::UntrackedOutAgain => "host_untracked_out",
    }
}

/// What passes, or not, whatever policy says.
fn before(hook: HostHook, hosts: Hosts) -> Vec<Rule> {
    let way = way(hook.direction());
    let done = || Verdict::Return;
    let open = |port: Field, sets: [&str; 2], rule: &dyn Fn() -> Rule| {
        [(way.other4, sets[0]), (way.other6, sets[1])].map(|(other, set)| {
            rule().is_in_ranges(&[Field::L4Proto, port, other], set).verdict(done())
        })
    };
    let mut rules = vec![Rule::new().equals(way.index, &LOOPBACK.to_ne_bytes()).verdict(done())];
    if hook.direction() == Direction::Egress {
        // The host reaches its pods. Of input they have been sorted out before.
        rules.push(Rule::new().is_in(&[way.index], "wl").verdict(done()));
    }
    if !hosts.all {
        rules.push(Rule::new().is_not_in(&[way.name], "hep").verdict(done()));
    }
    rules.extend(open(Field::DestinationPort, way.failsafe, &Rule::new));
    // Of a connection from before anything was tracked, the first packet that is seen may be an
    // answer. The rest of it is let go on; what opens a connection is not.
    // Where nothing is tracked yet, all that come from there are answers, or are judged later.
    let answer = || if hook.is_untracked() { Rule::new() } else { Rule::new().tcp_without_syn() };
    rules.extend(open(Field::SourcePort, way.answers, &answer));
    // Without it no failsafe port is reached over IPv6.
    rules.push(Rule::new().is_in(&[Field::Icmp6Type], "nd_host").verdict(done()));
    if hook.is_untracked() {
        return rules;
    }
    let again = match hook {
        HostHook::Input => Some(HostHook::UntrackedInAgain),
        HostHook::Output => Some(HostHook::UntrackedOutAgain),
        _ => None,
    };
    rules.extend(again.filter(|_| hosts.tracks_not()).map(|again| {
        Rule::new().ct_state(ct_state::UNTRACKED).verdict(Verdict::Jump(name(again)))
    }));
    rules.push(drop_counted(Rule::new().ct_state(ct_state::INVALID), "invalid"));
    rules
}

/// A chain that asks with the packet's mark as scratch memory. A mark that was set is kept
/// in the flow's, unless that has one: then, as is usual where both are used, it is the same one.
fn keeping_mark(name: &str, mut first: Vec<Rule>, ask: &[Rule]) -> [Chain; 3] {
    let (marked, kept) = (format!("{name}_marked"), format!("{name}_kept"));
    let mut with_kept = ask.to_vec();
    with_kept.extend([Rule::new().set_mark(0), Rule::new().restore_mark()]);
    let mut with_mark =
        vec![Rule::new().ct_mark_is_set().verdict(Verdict::Goto(&kept)), Rule::new().save_mark()];
    with_mark.extend_from_slice(ask);
    // What is not tracked has no flow to keep it in: its mark is lost.
    with_mark.extend([
        Rule::new().set_mark(0),
        Rule::new().restore_mark(),
        Rule::new().set_ct_mark(0),
    ]);
    first.push(Rule::new().mark_is_set().verdict(Verdict::Goto(&marked)));
    first.extend_from_slice(ask);
    first.push(Rule::new().set_mark(0));
    [plain(&kept, with_kept), plain(&marked, with_mark), plain(name, first)]
}

/// Asks for the verdict at a hook.
fn ask(hook: HostHook, deny: DenyAction) -> Vec<Rule> {
    let chain = judged(name(hook));
    match hook {
        HostHook::Output
        | HostHook::UntrackedIn
        | HostHook::UntrackedOut
        | HostHook::UntrackedInAgain
        | HostHook::UntrackedOutAgain => deny.ask_or_drop(&chain),
        HostHook::Input | HostHook::ForwardIn | HostHook::ForwardOut | HostHook::PreDnat => {
            deny.ask(&chain)
        }
    }
}
