//! What becomes of packets that policy denies.
//!
//! ```text
//! deny      the agent is told of a sample, all are counted, and dropped; or marked, where they are to be
//!           rejected: the chains that asked send those on
//! rejected  an ICMP error goes to the sender
//! ```
//! The kernel rejects nothing after routing, where the host's own packets are judged, and looks for that in
//! every chain that can be reached from there, by way of maps too. So no chain that elements lead to rejects:
//! whoever jumped to one looks at the mark when it comes back. What the host itself sends is dropped, of which
//! its programs are told by an error of their system call; and so is what is not tracked, since an ICMP error
//! would belong to no flow, and not leave a host that drops what is invalid.

use netlink::nft::{Chain, Field, Rule, Verdict, ct_state};

use super::host::Hosts;
use super::{AGAIN, drop_counted, plain};
use crate::model::host::TableId;

/// The chain that denied packets go to.
pub(in crate::kernel) const DENY: &str = "deny";
/// The chain that rejects.
const REJECT: &str = "rejected";
/// Where a sample of the packets goes that policy denies: the agent itself listens, so that the other
/// group is free for others.
pub(in crate::kernel) const DENIED_GROUP: u16 = 3235;
/// Of these: how many a second at most, and at once. It bounds what the agent does with them.
const DENIED_RATE: (u64, u32) = (100, 200);
/// What is said of a packet that begins a flow, and of one of a flow that was allowed once.
pub(in crate::kernel) const DENIED_NEW: &str = "caracal denied ";
/// As above.
pub(in crate::kernel) const DENIED_CUT: &str = "caracal cut ";
/// Of one that begins a flow and is let through; told of only where it is asked for.
pub(in crate::kernel) const ALLOWED: &str = "caracal allowed ";
const COMMENT: &str = "denied by policy";

/// What becomes of packets that policy denies (`nftablesFilterDenyAction`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DenyAction {
    /// They are dropped.
    #[default]
    Drop,
    /// And the sender is told, by ICMP port unreachable.
    Reject,
}

/// Tells the agent of as many of these packets as the limit allows.
pub(super) fn tell(rule: Rule, prefix: &str) -> Rule {
    let (rate, burst) = DENIED_RATE;
    rule.limit_per_second(rate, burst).log(prefix, DENIED_GROUP)
}

pub(super) fn deny() -> Rule {
    Rule::new().verdict(Verdict::Goto(DENY))
}

/// Looks for a verdict. What says `continue` is denied by the rule itself: did an element lead to the
/// chain, the kernel would look through every map of verdicts for a loop, before each transaction that
/// adds one.
pub(super) fn decide(key: &[Field], map: &str) -> Rule {
    Rule::new().vmap(key, map).verdict(Verdict::Goto(DENY))
}

/// As [`decide`], where the map's keys are ranges.
pub(super) fn decide_ranges(key: &[Field], map: &str) -> Rule {
    Rule::new().vmap_ranges(key, map).verdict(Verdict::Goto(DENY))
}

/// The chain of flows that are cut.
pub(super) fn cut() -> Chain {
    let rules = [Field::Iif, Field::Oif].into_iter().flat_map(|side| {
        let ours = || Rule::new().is_in(&[side], "wl");
        [tell(ours(), DENIED_CUT), drop_counted(ours(), "established, now denied")]
    });
    plain("cut", rules.collect::<Vec<_>>())
}

impl DenyAction {
    /// The chains of denied packets.
    pub(super) fn chains(self, hosts: Hosts) -> Vec<Chain> {
        // What judge_marked kept of the packet's mark.
        let mut rules = vec![Rule::new().set_ct_mark(0)];
        if hosts.any() {
            let others =
                ct_state::INVALID | ct_state::RELATED | ct_state::NEW | ct_state::UNTRACKED;
            rules = vec![
                Rule::new().ct_state(others).set_ct_mark(0),
                Rule::new().ct_state(ct_state::ESTABLISHED).set_ct_mark_bits(AGAIN),
            ];
        }
        rules.push(tell(Rule::new(), DENIED_NEW));
        let mut chains = Vec::new();
        match self {
            Self::Drop => rules.push(drop_counted(Rule::new(), COMMENT)),
            Self::Reject => {
                rules.push(Rule::new().counter().comment(COMMENT));
                rules.push(Rule::new().set_mark(TableId::DENIED));
                // The error has no mark of ours.
                chains.push(plain(REJECT, [Rule::new().set_mark(0), Rule::new().reject()]));
            }
        }
        chains.push(plain(DENY, rules));
        chains
    }

    /// Has a chain decide that may deny. The mark is its scratch memory.
    pub(super) fn ask(self, chain: &str) -> Vec<Rule> {
        self.ask_and(chain, Verdict::Goto(REJECT))
    }

    /// As [`Self::ask`], where nothing can be rejected.
    pub(super) fn ask_or_drop(self, chain: &str) -> Vec<Rule> {
        self.ask_and(chain, Verdict::Drop)
    }

    fn ask_and(self, chain: &str, denied: Verdict<'_>) -> Vec<Rule> {
        let jump = Rule::new().verdict(Verdict::Jump(chain));
        match self {
            Self::Drop => vec![jump],
            Self::Reject => vec![jump, Rule::new().mark_is(TableId::DENIED).verdict(denied)],
        }
    }

    /// First in a chain that is asked, so that nobody else's mark is taken for ours.
    pub(super) fn clear_mark(self) -> Option<Rule> {
        (self == Self::Reject).then(|| Rule::new().set_mark(0))
    }
}
