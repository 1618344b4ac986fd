use std::io::Write;
use std::process::{Command, Stdio};

use netlink::netns::Netns;
use netlink::nft::{self, Element, Transaction};
use netlink::{Protocol, Socket};

use super::host::Views;
use super::*;
use crate::model::host::{HostHook, View};

fn params() -> Params {
    Params {
        prefix: "cali".into(),
        host_action: HostAction::Accept,
        deny: DenyAction::Drop,
        sampling: false,
        log: LogRules::default(),
        queue: Queue::Target,
        names: false,
    }
}

fn nft_program(args: &[&str], input: &str) -> String {
    let mut child = Command::new("nft")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn write(socket: &mut Socket, params: &Params, hosts: Hosts, masquerade: bool) {
    let mut tx = Transaction::new(FAMILY, TABLE);
    tx.add_table(0, None);
    for set in sets() {
        tx.add_set(&set);
    }
    for (set, values) in fixed_sets() {
        tx.add_set(&set);
        for value in values {
            tx.add_element(&set.name, &Element::key(std::slice::from_ref(value)), 0);
        }
    }
    let chains = chains(params, hosts, masquerade);
    for chain in &chains {
        tx.add_chain(chain);
    }
    for chain in &chains {
        for rule in &chain.rules {
            tx.add_rule(&chain.name, rule);
        }
    }
    tx.commit(socket).unwrap();
}

fn inside<T: Send>(work: impl FnOnce(&mut Socket) -> T + Send) -> T {
    let netns = Netns::create().unwrap();
    netns.run(|| work(&mut Socket::open(Protocol::Netfilter).unwrap())).unwrap()
}

const NO_HOSTS: Hosts = Hosts {
    named: false,
    all: false,
    forward: false,
    pre_dnat: false,
    untracked: false,
    views: Views::NONE,
};
const LATE_HOSTS: Hosts = Hosts { named: true, all: true, forward: true, ..NO_HOSTS };
const ALL_HOSTS: Hosts = Hosts { pre_dnat: true, untracked: true, ..LATE_HOSTS };

/// Operators see it with `nft list ruleset`, and this is what they see.
#[test]
fn nft_lists_it_and_loads_it_again() {
    listed_and_loaded(NO_HOSTS, include_str!("listing.nft"));
}

#[test]
fn nft_lists_and_loads_the_chains_of_host_endpoints_too() {
    let mut views = Views::NONE;
    let mut told = View::told_apart();
    views.add(HostHook::Input, told.next().unwrap());
    views.add(HostHook::Input, told.next().unwrap());
    views.add(HostHook::UntrackedOut, View::CLOSED);
    listed_and_loaded(Hosts { views, ..ALL_HOSTS }, include_str!("listing-hosts.nft"));
}

/// Not more than what is in use: policy before destination NAT or connection tracking is rare.
#[test]
fn chains_of_early_policy_are_there_only_while_there_is_any() {
    let names = |hosts| -> Vec<String> {
        chains(&params(), hosts, false).into_iter().map(|chain| chain.name).collect()
    };
    let early = ["dnat", "raw_in", "raw_out", "untracked", "host_accepted", "notrack", "host_pre"];
    assert!(!names(LATE_HOSTS).iter().any(|name| early.iter().any(|part| name.contains(part))));
    let dnat = names(Hosts { pre_dnat: true, ..LATE_HOSTS });
    assert!(!dnat.iter().any(|name| name.contains("raw_in") || name.contains("notrack")));
    assert!(dnat.iter().any(|name| name == "host_pre"));
    let untracked = names(Hosts { untracked: true, ..LATE_HOSTS });
    assert!(!untracked.iter().any(|name| name.contains("dnat") || name == "host_pre"));
    assert!(untracked.iter().any(|name| name == "raw_out"));
    assert!(!untracked.iter().any(|name| name.contains("view")));
    let mut views = Views::NONE;
    views.add(HostHook::Input, View::CLOSED);
    let viewed = names(Hosts { views, ..LATE_HOSTS });
    let viewed: Vec<&String> = viewed.iter().filter(|name| name.contains("view")).collect();
    assert_eq!(viewed, ["host_in_judge_named_view14", "host_in_judge_view14"]);
}

/// Where packets are rejected, those who ask for a verdict look at what comes back. Elements lead to all chains
/// that log, and to none that rejects.
#[test]
fn nft_lists_and_loads_chains_that_reject() {
    let params = Params { deny: DenyAction::Reject, ..params() };
    let listing = loaded_again(&params, ALL_HOSTS);
    let rules = |name: &str| {
        let (_, chain) = listing.split_once(&format!("chain {name} {{\n")).unwrap();
        let (rules, _) = chain.split_once('}').unwrap();
        rules.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>()
    };
    assert_eq!(rules("rejected"), ["meta mark set 0x00000000", "reject"]);
    assert_eq!(rules("deny").last(), Some(&"meta mark set 0x00000003"));
    assert_eq!(rules("egress_asked"), ["jump egress", "meta mark 0x00000003 goto rejected"]);
    assert!(rules("judge_to").contains(&"iifname \"cali*\" jump egress_asked"));
    assert!(rules("host_in").contains(&"meta mark 0x00000003 goto rejected"));
    assert!(rules("host_out").contains(&"meta mark 0x00000003 drop"));
}

fn listed_and_loaded(hosts: Hosts, expected: &str) {
    assert_eq!(loaded_again(&params(), hosts), expected);
}

/// What nft lists is what it writes when it is given that.
fn loaded_again(params: &Params, hosts: Hosts) -> String {
    let (listing, ruleset) = inside(|socket| {
        write(socket, params, hosts, true);
        let listing = nft_program(&["list", "ruleset"], "");
        (listing, nft::ruleset(socket, FAMILY, TABLE).unwrap())
    });
    let wanted = chains(params, hosts, true);
    assert_eq!(ruleset.chains, wanted, "what is read is what was written");

    // nft, given its own listing, writes the very rules and sets that we did.
    let (again, by_nft) = inside(|socket| {
        nft_program(&["-f", "-"], &listing);
        let again = nft_program(&["list", "ruleset"], "");
        (again, nft::ruleset(socket, FAMILY, TABLE).unwrap())
    });
    assert_eq!(again, listing);
    let by_name = |mut chains: Vec<Chain>| {
        chains.sort_by(|a, b| a.name.cmp(&b.name));
        chains
    };
    for (theirs, ours) in by_name(by_nft.chains).iter().zip(&by_name(ruleset.chains)) {
        assert_eq!(theirs.name, ours.name);
        for (theirs, ours) in theirs.rules.iter().zip(&ours.rules) {
            assert_eq!(theirs, ours);
        }
        assert_eq!(theirs, ours);
    }
    assert_eq!(by_nft.sets, ruleset.sets);
    listing
}

#[test]
fn every_variant_is_accepted_by_the_kernel() {
    for host_action in [HostAction::Accept, HostAction::Return, HostAction::Drop] {
        for bits in 0..64 {
            let bit = |number: u32| bits & 1 << number != 0;
            let mut views = Views::NONE;
            let pairs = HostHook::ALL.into_iter().zip(View::told_apart().skip(bits % 14));
            pairs.filter(|_| bits % 5 == 0).for_each(|(hook, view)| views.add(hook, view));
            let hosts = Hosts {
                named: bit(0),
                all: bit(1),
                forward: bit(2),
                pre_dnat: bit(4),
                untracked: bit(5),
                views,
            };
            let sampling = bits % 3 == 0;
            let limit = sampling.then_some((9999, 86400));
            let log = LogRules { prefix: "\u{e9}%\"'".repeat(40), limit, burst: 9999 };
            let (queue, names) = (Queue::Target, bit(0));
            let prefix = "elevenbytes".into();
            let deny = if bits % 2 == 0 { DenyAction::Reject } else { DenyAction::Drop };
            let params = Params { prefix, host_action, deny, sampling, log, queue, names };
            let read = inside(|socket| {
                write(socket, &params, hosts, bit(3));
                nft::ruleset(socket, FAMILY, TABLE).unwrap()
            });
            assert_eq!(read.chains, chains(&params, hosts, bit(3)));
        }
    }
}

/// What every packet passes is the same, with host endpoints or without them; a first packet to or from
/// the host meets two rules more.
#[test]
fn a_host_without_host_endpoints_pays_nothing() {
    let rules = |hosts| -> Vec<(String, usize)> {
        let chains = chains(&params(), hosts, false);
        let of_hooks = chains.into_iter().filter(|chain| chain.base.is_some());
        of_hooks.map(|chain| (chain.name, chain.rules.len())).collect()
    };
    let without = [("raw_pre", 1), ("forward", 5), ("input", 3), ("output", 2)];
    let named = |list: &[(&str, usize)]| -> Vec<(String, usize)> {
        list.iter().map(|(name, rules)| ((*name).to_owned(), *rules)).collect()
    };
    assert_eq!(rules(NO_HOSTS), named(&without));
    let with = [("raw_pre", 1), ("forward", 7), ("input", 5), ("output", 2), ("host_post", 3)];
    assert_eq!(rules(LATE_HOSTS), named(&with));
    let host = |chain: &Chain| chain.name.starts_with("host");
    assert!(!chains(&params(), NO_HOSTS, true).iter().any(host));
}

#[test]
fn chains_and_sets_stay_few() {
    // Kernel costs grow with their number, not with that of elements.
    assert!(chains(&params(), NO_HOSTS, true).len() <= 31);
    assert!(chains(&params(), LATE_HOSTS, true).len() <= 55);
    assert!(chains(&params(), ALL_HOSTS, true).len() <= 84);
    assert!(sets().len() + fixed_sets().len() <= 62);
}
