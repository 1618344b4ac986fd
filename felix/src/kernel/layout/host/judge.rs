//! The chains that find the verdict on a packet at a hook: from the interface and both sides to a table, and from
//! that and the packet to what becomes of it.

use netlink::nft::{Chain, Field, Rule, Verdict};

use super::super::deny::{DenyAction, decide, decide_ranges, deny};
use super::super::plain;
use super::{Hosts, VERDICTS, maps, name, way};
use crate::model::Direction;
use crate::model::host::{HostHook, View};

/// The chain that asks for the verdict, of a hook's chain of this name.
pub(super) fn judged(name: &str) -> String {
    format!("{name}_judge")
}

/// From the interface and the other side to the table of verdicts. Forwarded traffic for which
/// there is none passes, as does that which is judged later.
pub(super) fn judge(hook: HostHook, hosts: Hosts, action: DenyAction) -> Vec<Chain> {
    let way = way(hook.direction());
    let name = judged(name(hook));
    let by_name = format!("{name}_named");
    let (named, all) = maps(hook);
    let classify = |v4: Field, v6: Field| {
        vec![
            Rule::new().set_mark(0),
            Rule::new().set_mark_from(v4, "cls4n"),
            Rule::new().set_mark_from(v4, "cls4"),
            Rule::new().set_mark_from(v6, "cls6n"),
            Rule::new().set_mark_from(v6, "cls6"),
        ]
    };
    let verdict = || Verdict::Goto("host_verdict");
    // A class that is not told apart is judged as 0 is.
    let tables = |fields: &[Field], map: &str, view: View| {
        let mut rules = classify(way.other4, way.other6);
        if view != View::PLAIN {
            rules.push(Rule::new().set_mark_bits(view.mark()));
        }
        rules.push(Rule::new().set_mark_from_all(fields, map).verdict(verdict()));
        rules.push(Rule::new().set_mark(view.mark()));
        rules.push(Rule::new().set_mark_from_all(fields, map).verdict(verdict()));
        if !hook.forwards() && !hook.is_early() {
            rules.push(deny());
        }
        rules
    };
    // The chains of views, and the rules that lead to them and go on where there are none.
    let with_views =
        |chain: &str, fields: &[Field], map: &str| {
            let name = |view: View| format!("{chain}_view{}", view.number());
            let views: Vec<View> = hosts.views.at(hook).collect();
            let chains: Vec<Chain> =
                views.iter().map(|view| plain(&name(*view), tables(fields, map, *view))).collect();
            let mut rules = Vec::new();
            if !views.is_empty() {
                rules.extend(classify(way.own4, way.own6));
                rules.push(Rule::new().set_mark_bits(View::MASK));
                rules.push(Rule::new().set_mark_from_all(fields, map));
                rules.extend(views.iter().map(|view| {
                    Rule::new().mark_is(view.mark()).verdict(Verdict::Goto(&name(*view)))
                }));
            }
            rules.extend(tables(fields, map, View::PLAIN));
            (chains, rules)
        };
    let mut chains = Vec::new();
    let mut rules: Vec<Rule> = action.clear_mark().into_iter().collect();
    if hook.forwards() || (hook.is_untracked() && hook.direction() == Direction::Ingress) {
        // Workloads have policy of their own.
        rules.push(Rule::new().is_in(&[way.index], "wl").verdict(Verdict::Return));
    }
    if hosts.named {
        let (views, last) = with_views(&by_name, &[way.name, Field::Mark], named);
        chains.extend(views);
        chains.push(plain(&by_name, last));
        let rule = Rule::new().is_in(&[way.name], "hep");
        rules.push(rule.verdict(Verdict::Goto(&by_name)));
    }
    if hosts.all {
        let (views, last) = with_views(&name, &[Field::Mark], all);
        chains.extend(views);
        rules.extend(last);
    }
    chains.push(plain(&name, rules));
    chains
}

/// From the table and the packet to the verdict.
pub(super) fn verdicts() -> [Chain; 3] {
    let [port_map, range_map, protocol_map, any_map] = VERDICTS;
    let key = [Field::Mark, Field::L4Proto];
    let rest = || [decide(&key, protocol_map), decide(&key[..1], any_map), deny()];
    let with_number = |name: &str, number: Field, other: Field| {
        let [table, protocol] = key;
        let mut rules = vec![
            decide(&[table, protocol, number], port_map),
            decide_ranges(&[table, protocol, number, other], range_map),
        ];
        rules.extend(rest());
        plain(name, rules)
    };
    let mut first = vec![
        Rule::new().is_in(&[Field::L4Proto], "ports").verdict(Verdict::Goto("host_ports")),
        Rule::new().is_in(&[Field::L4Proto], "types").verdict(Verdict::Goto("host_icmp")),
    ];
    first.extend(rest());
    [
        with_number("host_ports", Field::DestinationPort, Field::SourcePort),
        with_number("host_icmp", Field::SourcePort, Field::DestinationPort),
        plain("host_verdict", first),
    ]
}
