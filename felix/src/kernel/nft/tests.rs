mod commented;
mod counted;
mod kit;
mod read_by_others;
mod shared;

use netlink::nft;
use netlink::{Protocol, Socket};

use super::super::layout::host::Hosts;
use super::super::layout::{self, DenyAction, HostAction};
use super::channel::{others_changed, ownership};
use super::*;
use crate::model::{Traffic, Verdict};
use kit::*;

#[test]
fn what_is_wanted_is_in_the_kernel() {
    inside(|| {
        let mut writer = start(true);
        assert!(ownership(), "the kernel under test can lock tables");
        writer.change(&delta(everything()));
        writer.flush().unwrap();
        assert_eq!(kernel_has(), wanted(&everything()));

        // A changed verdict, a changed range, one less, one more: one transaction.
        let before = generation();
        let changes = vec![
            policy(7, Some(1), Traffic::Port(6, 80), Verdict::Deny),
            policy(7, Some(1), Traffic::Ports(17, 1000, 2000), Verdict::Allow),
            gone(Key::ClassRange(ip("10.1.0.0"), ip("10.1.0.255"))),
            class(Key::ClassRange(ip("10.1.0.0"), ip("10.1.0.99")), 2),
            class(Key::ClassRange(ip("10.1.0.100"), ip("10.1.0.255")), 9),
            class(Key::Class(ip("10.0.0.8")), 5),
            gone(Key::Source(ip("fd00::7"), 7)),
            member(Key::Workload(8)),
        ];
        writer.change(&delta(changes.clone()));
        writer.flush().unwrap();
        assert_eq!(generation(), before + 1);
        let mut expected = wanted(&everything());
        for change in changes {
            match change.value {
                Some(value) => expected.insert(change.key, value),
                None => expected.remove(&change.key),
            };
        }
        assert_eq!(kernel_has(), expected);
        assert_eq!(writer.channel.reads, 2, "at start and for the first content, never again");

        // Masquerading ends: its chain goes.
        writer.change(&delta(vec![
            gone(Key::Masquerade(net("10.0.0.0/8"))),
            gone(Key::Masquerade(net("fd00::/48"))),
        ]));
        writer.flush().unwrap();
        kernel_has();

        // So do those of host endpoints, with the elements that need them, in one transaction.
        let hosts: Vec<Change> = everything()
            .into_iter()
            .filter(|change| HostParts::concerns(&change.key))
            .map(|change| gone(change.key))
            .collect();
        let (before, reads) = (generation(), writer.channel.reads);
        writer.change(&delta(hosts));
        writer.flush().unwrap();
        assert_eq!((generation(), writer.channel.reads), (before + 1, reads + 1));
        kernel_has();
        let back: Vec<Change> =
            everything().into_iter().filter(|change| HostParts::concerns(&change.key)).collect();
        writer.change(&delta(back));
        writer.flush().unwrap();
        assert_eq!(generation(), before + 2);
        kernel_has();

        // What is equal is not written.
        let before = generation();
        writer.change(&delta(vec![member(Key::Workload(8)), gone(Key::Workload(99))]));
        writer.flush().unwrap();
        assert_eq!(generation(), before);
    });
}

#[test]
fn each_element_can_be_read_by_itself() {
    inside(|| {
        let mut writer = start(false);
        let all = everything();
        writer.change(&delta(all.clone()));
        writer.flush().unwrap();
        let keys: Vec<Key> = all.iter().map(|change| change.key).collect();
        for (change, found) in all.iter().zip(writer.values(&keys).unwrap()) {
            assert_eq!(found, change.value, "{:?}", change.key);
        }
        let others = [
            Key::Workload(8),
            Key::Source(ip("10.0.0.7"), 8),
            Key::Class(ip("10.0.0.9")),
            Key::ClassRange(ip("10.2.0.0"), ip("10.2.0.255")),
            // It lies in a range, and does not begin one.
            Key::ClassRange(ip("10.1.0.5"), ip("10.1.0.255")),
            policy(7, Some(2), Traffic::Any, Verdict::Deny).key,
            policy(7, Some(1), Traffic::Port(6, 81), Verdict::Deny).key,
            policy(8, None, Traffic::Ports(6, 5000, 6000), Verdict::Deny).key,
        ];
        assert_eq!(writer.values(&others).unwrap(), [None; 8]);
        assert!(nft_program("flush map inet caracal ing"));
        let port = policy(7, Some(1), Traffic::Port(6, 80), Verdict::Allow).key;
        assert_eq!(writer.values(&[port]).unwrap(), [None], "what is there, not what should be");
    });
}

#[test]
fn pools_may_lie_in_one_another() {
    inside(|| {
        let mut writer = start(true);
        let pool = |text: &str| Key::Pool(net(text));
        let pools = |writer: &mut Writer<Faulty>, changes: Vec<Change>| {
            writer.change(&delta(changes));
            writer.flush().unwrap();
            let mut keys: Vec<Key> = kernel_has().into_keys().collect();
            keys.sort();
            keys
        };
        let (wide, inner, other) = (pool("10.0.0.0/8"), pool("10.1.0.0/16"), pool("11.0.0.0/8"));
        assert_eq!(pools(&mut writer, vec![member(inner), member(other)]), [inner, other]);
        // Host bits do not matter.
        assert_eq!(pools(&mut writer, vec![member(pool("10.9.9.9/8"))]), [wide, other]);
        assert_eq!(pools(&mut writer, vec![gone(wide)]), [inner, other]);
        assert_eq!(pools(&mut writer, vec![member(wide), gone(inner)]), [wide, other]);
    });
}

#[test]
fn a_restart_changes_nothing() {
    for owned in [true, false] {
        inside(|| {
            let mut writer = start(owned);
            writer.change(&delta(everything()));
            writer.set_in_sync();
            writer.flush().unwrap();
            drop(writer);
            let (before, handles) = (generation(), rule_handles());
            assert!(handles.len() > 50, "{handles:?}");

            let mut writer = start(owned);
            assert_eq!(writer.highest_index(), 7);
            writer.change(&delta(everything()));
            writer.flush().unwrap();
            writer.set_in_sync();
            writer.flush().unwrap();
            assert_eq!(generation() - before, u32::from(owned), "only the adoption");
            assert_eq!(rule_handles(), handles, "not written anew, in one transaction or more");
            assert_eq!(kernel_has(), wanted(&everything()));
            assert_eq!(writer.status().repairs, 0);
        });
    }
}

#[test]
fn what_was_there_stays_until_in_sync() {
    inside(|| {
        let mut writer = start(true);
        writer.change(&delta(everything()));
        writer.flush().unwrap();
        drop(writer);

        let mut writer = start(true);
        assert_eq!(kernel_has(), wanted(&everything()));
        // Half of it is wanted again; one with another value; one range cut in two.
        let changes = vec![
            member(Key::Workload(7)),
            policy(7, None, Traffic::Any, Verdict::Allow),
            class(Key::ClassRange(ip("10.1.0.0"), ip("10.1.0.9")), 2),
            class(Key::ClassRange(ip("10.1.0.10"), ip("10.1.0.255")), 6),
            gone(Key::Workload(50)),
        ];
        writer.change(&delta(changes.clone()));
        writer.flush().unwrap();
        let mut expected = wanted(&everything());
        expected.remove(&Key::ClassRange(ip("10.1.0.0"), ip("10.1.0.255")));
        expected.extend(wanted(&changes));
        assert_eq!(kernel_has(), expected);

        // Removing what nobody wanted yet needs proof; what was wanted goes at once.
        writer.change(&delta(vec![gone(Key::Class(ip("10.0.0.8"))), gone(Key::Workload(7))]));
        writer.flush().unwrap();
        expected.remove(&Key::Workload(7));
        assert_eq!(kernel_has(), expected);

        writer.set_in_sync();
        writer.flush().unwrap();
        let mut expected = wanted(&changes);
        expected.remove(&Key::Workload(7));
        assert_eq!(kernel_has(), expected);
    });
}

#[test]
fn a_second_agent_is_refused_and_told_why() {
    inside(|| {
        let first = start(true);
        let port = first.channel.port();
        let refused = Writer::start(Faulty::new(), params(), true).unwrap_err();
        assert_eq!(refused, Error::Held { port: Some(port) });
        assert!(refused.to_string().contains("another agent"), "{refused}");
        // Positive control: it is the lock that refuses.
        drop(first);
        start(true);
    });
}

#[test]
fn others_cannot_change_a_locked_table() {
    inside(|| {
        let mut writer = start(true);
        writer.change(&delta(everything()));
        writer.flush().unwrap();
        let before = kernel_has();
        assert!(!nft_program("delete element inet caracal wl { 7 }"));
        assert!(!nft_program("delete table inet caracal"));
        assert!(nft_program("flush ruleset"));
        assert_eq!(kernel_has(), before);
    });
}

/// What other programs may do to a table that cannot be locked. Each is undone, and only that.
#[test]
fn others_changes_to_a_plain_table_are_repaired() {
    for damage in [
        "flush ruleset",
        "delete table inet caracal",
        "delete element inet caracal wl { 7 }",
        "add element inet caracal wl { 9 }",
        "delete element inet caracal ing { 7 . 0x1 . tcp . 80 }; \
         add element inet caracal ing { 7 . 0x1 . tcp . 80 : accept }",
        "flush map inet caracal ing_any",
        "delete element inet caracal cls4n { 10.1.0.0/24 }; \
         add element inet caracal cls4n { 10.1.0.0-10.1.0.9 : 0x7 }",
        "flush set inet caracal ports",
        "add element inet caracal nd { nd-router-advert }",
        "flush chain inet caracal egress",
        "insert rule inet caracal forward accept",
        "add chain inet caracal evil; add rule inet caracal forward jump evil; \
         add set inet caracal bad { type ipv4_addr; timeout 1h; }; \
         add rule inet caracal evil ip saddr @bad accept",
        "flush chain inet caracal nat_post; delete chain inet caracal nat_post",
        "add chain inet caracal extra { type filter hook input priority 5; policy drop; }",
    ] {
        inside(|| {
            let mut writer = start(false);
            let mut monitor = Socket::open(Protocol::Netfilter).unwrap();
            monitor.ignore_port(writer.channel.port()).unwrap();
            monitor.subscribe(nft::NOTIFICATIONS).unwrap();
            writer.change(&delta(everything()));
            writer.set_in_sync();
            writer.flush().unwrap();
            assert!(!others_changed(&mut monitor), "that was us");

            assert!(nft_program("add table inet other"));
            assert!(!others_changed(&mut monitor), "not our table");
            assert!(nft_program(damage), "{damage}");
            assert!(others_changed(&mut monitor), "{damage}");
            // Positive control: without the repair the damage stays.
            let damaged = std::panic::catch_unwind(kernel_has);
            assert!(damaged.is_err() || damaged.unwrap() != wanted(&everything()), "{damage}");
            writer.doubt();
            writer.flush().unwrap();
            assert_eq!(kernel_has(), wanted(&everything()), "{damage}");
            assert_eq!(writer.status().repairs, 1, "{damage}");
            let before = generation();
            writer.doubt();
            writer.flush().unwrap();
            assert_eq!(generation(), before, "nothing left to repair: {damage}");
            assert!(!others_changed(&mut monitor));
        });
    }
}

#[test]
fn a_flush_before_in_sync_does_not_lose_what_was_there() {
    inside(|| {
        let mut writer = start(false);
        writer.change(&delta(everything()));
        writer.flush().unwrap();
        drop(writer);
        let mut writer = start(false);
        assert!(nft_program("flush ruleset"));
        writer.doubt();
        writer.flush().unwrap();
        assert_eq!(kernel_has(), wanted(&everything()));
    });
}

#[test]
fn a_plain_table_becomes_a_locked_one_with_all_that_is_in_it() {
    inside(|| {
        let mut writer = start(false);
        writer.change(&delta(everything()));
        writer.flush().unwrap();
        drop(writer);
        let before = generation();
        let mut writer = start(true);
        assert_eq!(generation(), before + 1, "in one transaction");
        assert_eq!(kernel_has(), wanted(&everything()));
        assert!(!nft_program("delete table inet caracal"));
        assert!(writer.status().owned);
        writer.change(&delta(vec![member(Key::Workload(8))]));
        writer.flush().unwrap();
        assert!(kernel_has().contains_key(&Key::Workload(8)));
    });
}

#[test]
fn another_layout_is_replaced_at_once() {
    inside(|| {
        // As an older release might have left it: a set of another type, other chains.
        assert!(nft_program(
            "table inet caracal {
                set wl { type ifname; elements = { \"cali1\" } }
                set src4 { type ipv4_addr . iface_index; elements = { 10.0.0.7 . 7 } }
                map old { type ipv4_addr : verdict; }
                chain forward { type filter hook forward priority 5; iifname @wl ip saddr vmap @old; }
            }"
        ));
        let before = generation();
        let mut writer = start(true);
        assert_eq!(generation(), before + 1, "in one transaction");
        let kept = wanted(&[member(Key::Source(ip("10.0.0.7"), 7))]);
        assert_eq!(kernel_has(), kept, "what can be told is kept");
        writer.change(&delta(everything()));
        writer.set_in_sync();
        writer.flush().unwrap();
        assert_eq!(kernel_has(), wanted(&everything()));
    });
}

/// The release before had fewer chains: the new ones come, and the others change, at once.
#[test]
fn a_layout_with_fewer_chains_is_brought_up_to_date() {
    inside(|| {
        let mut writer = start(false);
        // The release before had no host endpoints.
        let of_pods = || -> Vec<Change> {
            everything().into_iter().filter(|change| !elements::is_of_hosts(&change.key)).collect()
        };
        writer.change(&delta(of_pods()));
        writer.flush().unwrap();
        drop(writer);
        assert!(nft_program(
            "flush chain inet caracal egress; flush chain inet caracal ingress;
             add rule inet caracal egress iif vmap @egr_dfl;
             add rule inet caracal ingress goto deny;
             flush chain inet caracal egress_verdict; delete chain inet caracal egress_verdict;
             flush chain inet caracal ingress_verdict; delete chain inet caracal ingress_verdict;
             flush chain inet caracal egress_icmp; delete chain inet caracal egress_icmp;
             flush chain inet caracal ingress_icmp; delete chain inet caracal ingress_icmp;
             delete set inet caracal types"
        ));
        let (before, handles) = (generation(), rule_handles());
        let mut writer = start(false);
        assert_eq!(generation(), before + 1, "in one transaction");
        assert_eq!(kernel_has(), wanted(&of_pods()), "all elements are kept");
        let after = rule_handles();
        let kept = handles.iter().filter(|handle| after.contains(handle)).count();
        assert!(kept > 50, "chains that are as they were are not written: {kept}");
        assert_eq!(writer.status().repairs, 0);
    });
}

/// The release before asked the first maps again about what is not tracked. What it allows stays allowed
/// before the agent knows what to write.
#[test]
fn maps_that_are_asked_again_begin_with_what_the_first_say() {
    inside(|| {
        let mut writer = start(false);
        writer.change(&delta(everything()));
        writer.flush().unwrap();
        drop(writer);
        let chains = ["in_judge", "in_judge_named", "out_judge", "out_judge_named"];
        let views = ["out_judge_view14", "out_judge_named_view14"];
        let maps = ["in", "in_all", "out", "out_all"];
        let chains = chains.iter().chain(&views);
        let flush = chains.map(|of| format!("flush chain inet caracal host_untracked_{of};\n"));
        let delete = maps.iter().map(|of| format!("delete map inet caracal hagain{of};\n"));
        assert!(nft_program(&flush.chain(delete).collect::<String>()));
        let before = generation();
        let _writer = start(false);
        assert_eq!(generation(), before + 1, "in one transaction");
        assert_eq!(kernel_has(), wanted(&everything()));
    });
}

#[test]
fn an_element_that_the_kernel_refuses_is_named_and_left_out() {
    inside(|| {
        let mut writer = start(true);
        let good = class(Key::ClassRange(ip("10.0.0.0"), ip("10.0.0.9")), 1);
        writer.change(&delta(vec![good]));
        writer.flush().unwrap();
        let bad = class(Key::ClassRange(ip("10.0.0.5"), ip("10.0.0.20")), 2);
        let others = [member(Key::Workload(1)), policy(1, None, Traffic::Any, Verdict::Allow)];
        let mut changes = vec![bad];
        changes.extend(others);
        // And one that cannot even be sent.
        let wrong = member(Key::Class(ip("10.0.0.1")));
        changes.push(wrong);
        writer.change(&delta(changes));
        writer.flush().unwrap();
        match writer.accepted(&[bad.key]) {
            Err(Error::Rejected(rejected)) => {
                assert!(rejected.object.contains("10.0.0.5"), "{rejected}");
                assert!(rejected.object.contains("cls4n"), "{rejected}");
            }
            other => panic!("{other:?}"),
        }
        assert!(writer.accepted(&[wrong.key]).is_err());
        assert_eq!(writer.accepted(&others.map(|change| change.key)), Ok(()));
        let mut expected = wanted(&others);
        expected.extend(wanted(&[good]));
        assert_eq!(kernel_has(), expected);
        assert_eq!(writer.status().rejected.len(), 2);

        // The next changes are not held up, nor is the refused one tried again with them.
        let commits = writer.channel.commits;
        writer.change(&delta(vec![member(Key::Workload(2))]));
        writer.flush().unwrap();
        assert_eq!(writer.channel.commits, commits + 1);
        // Once what it clashed with is gone, and it is asked for again, it goes in.
        writer.change(&delta(vec![gone(good.key), bad]));
        writer.flush().unwrap();
        assert_eq!(writer.accepted(&[bad.key]), Ok(()));
        assert!(kernel_has().contains_key(&bad.key));
    });
}

#[test]
fn a_failed_send_is_repeated_and_no_longer_pending() {
    inside(|| {
        for errno in [libc::ENOMEM, libc::EMSGSIZE, libc::ENOBUFS] {
            let mut writer = start(true);
            writer.change(&delta(everything()));
            writer.flush().unwrap();
            let next = writer.channel.commits;
            // Once: it is read and sent again.
            writer.channel.fail.insert(next, errno);
            writer.change(&delta(vec![member(Key::Workload(100))]));
            writer.flush().unwrap();
            assert!(kernel_has().contains_key(&Key::Workload(100)));
            // Twice: reported, and written with the next.
            let next = writer.channel.commits;
            writer.channel.fail.extend([(next, errno), (next + 1, errno)]);
            writer.change(&delta(vec![member(Key::Workload(101))]));
            let error = writer.flush().unwrap_err();
            assert!(matches!(error, Error::Kernel(_)), "{error}");
            assert!(writer.unwritten());
            assert!(!kernel_has().contains_key(&Key::Workload(101)), "positive control");
            writer.change(&delta(vec![member(Key::Workload(102))]));
            writer.flush().unwrap();
            assert!(!writer.unwritten());
            let now = kernel_has();
            assert!(now.contains_key(&Key::Workload(101)) && now.contains_key(&Key::Workload(102)));
            writer.change(&delta([100, 101, 102].map(|index| gone(Key::Workload(index))).to_vec()));
            writer.set_in_sync();
            writer.flush().unwrap();
            assert_eq!(kernel_has(), wanted(&everything()));
        }
    });
}

#[test]
fn a_lost_answer_is_found_out() {
    inside(|| {
        let mut writer = start(true);
        writer.change(&delta(everything()));
        writer.flush().unwrap();
        let next = writer.channel.commits;
        writer.channel.lose.insert(next);
        writer.change(&delta(vec![
            member(Key::Workload(100)),
            gone(Key::Workload(7)),
            policy(7, None, Traffic::Any, Verdict::Allow),
        ]));
        writer.flush().unwrap();
        let now = kernel_has();
        assert!(now.contains_key(&Key::Workload(100)) && !now.contains_key(&Key::Workload(7)));
        // Memory is right again: deleting what it knows succeeds at once.
        let commits = writer.channel.commits;
        writer.change(&delta(vec![gone(Key::Workload(100))]));
        writer.flush().unwrap();
        assert_eq!(writer.channel.commits, commits + 1);
    });
}

#[test]
fn what_becomes_of_packets_can_change() {
    inside(|| {
        let mut writer = start(true);
        writer.change(&delta(everything()));
        writer.flush().unwrap();
        writer.set_host_action(HostAction::Drop);
        writer.flush().unwrap();
        let mut socket = Socket::open(Protocol::Netfilter).unwrap();
        let chains = Channel::ruleset(&mut socket).unwrap().chains;
        let to_host = chains.iter().find(|chain| chain.name == "to_host").unwrap();
        let changed = Params { host_action: HostAction::Drop, ..params() };
        let expected = layout::chains(&changed, Hosts::default(), true);
        assert!(expected.contains(to_host));
        assert_eq!(writer.status().repairs, 0);
        writer.set_host_action(HostAction::Accept);
        writer.set_deny_action(DenyAction::Reject);
        writer.flush().unwrap();
        let chains = Channel::ruleset(&mut socket).unwrap().chains;
        assert!(chains.iter().any(|chain| chain.name == "rejected"));
        writer.set_deny_action(DenyAction::Drop);
        writer.flush().unwrap();
        assert_eq!(kernel_has(), wanted(&everything()));
    });
}
