//! Established flows that host endpoints judge again, since their policy is another ([`AGAIN`]).
//!
//! They are judged as new ones are, in the same chains, by the next packet from whoever began the flow: that
//! meets the hooks that its first packet met. Answers pass meanwhile, and so do errors about the flow: of one
//! that is denied there will be no more, once nobody acknowledges or asks. A denied flow without a mark has that
//! of its packets afterwards.

use netlink::nft::{Chain, Field, Rule, Verdict, ct_state};

use super::super::{AGAIN, TAKEN, plain};
use super::{Hosts, name};
use crate::model::host::HostHook;

/// Where a hook's flows go that are judged again.
fn again(hook: HostHook) -> String {
    match hook {
        HostHook::ForwardIn | HostHook::ForwardOut => "host_forward_again".into(),
        other => format!("{}_again", name(other)),
    }
}

/// The rule that leads there, before established flows are accepted.
pub(in crate::kernel::layout) fn to_again(hosts: Hosts, hook: HostHook) -> Option<Rule> {
    let needed = match hook {
        HostHook::ForwardIn | HostHook::ForwardOut => hosts.forwards() || hosts.dnat(),
        HostHook::PreDnat => hosts.dnat(),
        _ => hosts.any(),
    };
    let mut rule = Rule::new().ct_mark_has(AGAIN);
    if hook == HostHook::Output {
        // What the host forwards has been judged.
        rule = rule.equals(Field::Iif, &0u32.to_ne_bytes());
    }
    needed.then(|| rule.verdict(Verdict::Jump(&again(hook))))
}

/// The chains, which go on where new flows do.
pub(super) fn chains(hosts: Hosts) -> Vec<Chain> {
    let chain = |hook: HostHook, rules: Vec<Rule>| {
        let pass = [Rule::new().ct_state(ct_state::RELATED), Rule::new().ct_reply()];
        let pass = pass.map(|rule| rule.verdict(Verdict::Return));
        plain(&again(hook), [&pass[..], &rules].concat())
    };
    // Without the bit, so that the flow's mark is what it was to those who ask.
    let clear = || Rule::new().clear_ct_mark_bits(AGAIN);
    let mut chains = Vec::new();
    if hosts.dnat() {
        let ask = Rule::new().verdict(Verdict::Jump(name(HostHook::PreDnat)));
        // What comes later has to be asked, too.
        let rules = vec![clear(), ask, Rule::new().set_ct_mark_bits(AGAIN)];
        chains.push(chain(HostHook::PreDnat, rules));
    }
    if hosts.forwards() || hosts.dnat() {
        let rules = vec![clear(), Rule::new().verdict(Verdict::Goto("host_forward"))];
        chains.push(chain(HostHook::ForwardIn, rules));
    }
    let mut input = vec![Rule::new().is_in(&[Field::Iif], "wl")];
    input.extend(hosts.dnat().then(|| Rule::new().ct_mark_has(TAKEN)));
    let judged = |rule: Rule| rule.clear_ct_mark_bits(AGAIN | TAKEN).verdict(Verdict::Return);
    let mut input: Vec<Rule> = input.into_iter().map(judged).collect();
    input.extend([clear(), Rule::new().verdict(Verdict::Goto(name(HostHook::Input)))]);
    chains.push(chain(HostHook::Input, input));
    let output = vec![clear(), Rule::new().verdict(Verdict::Goto(name(HostHook::Output)))];
    chains.push(chain(HostHook::Output, output));
    chains
}
