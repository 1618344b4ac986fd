use std::io::Write;
use std::process::{Command, Stdio};

use netlink::netns::Netns;
use netlink::nft::{self, Element, Transaction};
use netlink::{Protocol, Socket};

use super::*;

fn params() -> Params {
    Params { prefix: "cali".into(), host_action: HostAction::Accept }
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

fn write(socket: &mut Socket, params: &Params, masquerade: bool) {
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
    let chains = chains(params, masquerade);
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

/// Operators see it with `nft list ruleset`, and this is what they see.
#[test]
fn nft_lists_it_and_loads_it_again() {
    let (listing, ruleset) = inside(|socket| {
        write(socket, &params(), true);
        let listing = nft_program(&["list", "ruleset"], "");
        (listing, nft::ruleset(socket, FAMILY, TABLE).unwrap())
    });
    assert_eq!(ruleset.chains, chains(&params(), true), "what is read is what was written");
    assert_eq!(listing, include_str!("listing.nft"));

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
    assert_eq!(by_name(by_nft.chains), by_name(ruleset.chains));
    assert_eq!(by_nft.sets, ruleset.sets);
}

#[test]
fn every_variant_is_accepted_by_the_kernel() {
    for host_action in [HostAction::Accept, HostAction::Return, HostAction::Drop] {
        for masquerade in [false, true] {
            let params = Params { prefix: "elevenbytes".into(), host_action };
            let read = inside(|socket| {
                write(socket, &params, masquerade);
                nft::ruleset(socket, FAMILY, TABLE).unwrap()
            });
            assert_eq!(read.chains, chains(&params, masquerade));
        }
    }
}

#[test]
fn chains_and_sets_stay_few() {
    // Kernel costs grow with their number, not with that of elements.
    assert!(chains(&params(), true).len() <= 24);
    assert!(sets().len() + fixed_sets().len() <= 32);
}
