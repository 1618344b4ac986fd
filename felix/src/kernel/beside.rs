//! What keeps pods' packets from passing beside policy: chains of iptables that drop what they do not know.
//!
//! Docker, where it was what made the machine a router, and many a firewall set the policy of `FORWARD` to
//! DROP. No verdict of another table saves a packet from that, so what is for pods and from pods is accepted
//! by two rules at the end of that chain: behind all that others have to say, and before its policy.
//! As long as nothing drops, nothing is written; what is here stays when the agent ends, as its table does.

use std::time::Duration;

use netlink::nft::{self, Family, Hook, Rule, Transaction, Verdict};
use netlink::{Protocol, Socket};

use super::Error;
use super::worker::{Inbox, Wake};

/// Of both families, as `iptables-nft` names them.
const TABLE: &str = "filter";
const CHAIN: &str = "FORWARD";
const FAMILIES: [Family; 2] = [Family::Ip, Family::Ip6];
/// How often it is looked: two questions of some microseconds. To be told instead, the kernel would have to
/// write a message for each element of every change of policy.
const PERIOD: Duration = Duration::from_secs(1);

/// Keeps the rules where they are needed.
#[derive(Debug)]
pub(super) struct Beside {
    socket: Socket,
    rules: [Rule; 2],
    /// Why it last failed, so as to say it once.
    failed: [Option<String>; FAMILIES.len()],
}

/// Nothing is asked of it: it ends when nobody could any more.
#[derive(Debug)]
pub(super) enum Command {}

impl Beside {
    /// For interfaces whose names begin so.
    pub(super) fn new(prefix: &str) -> Result<Self, Error> {
        let socket = Socket::open(Protocol::Netfilter)
            .map_err(|error| Error::Kernel(format!("nf_tables: {error}")))?;
        let accept = |rule: Rule| rule.counter().verdict(Verdict::Accept).comment("caracal: pods");
        let (from, to) = (Rule::new().iifname_starts(prefix), Rule::new().oifname_starts(prefix));
        Ok(Self { socket, rules: [accept(from), accept(to)], failed: Default::default() })
    }

    /// Looks once.
    fn look(&mut self) {
        for (at, family) in FAMILIES.into_iter().enumerate() {
            let error = self.tend(family).err().map(|error| error.to_string());
            if let Some(error) = &error
                && self.failed[at] != Some(error.clone())
            {
                tracing::warn!(
                    ?family,
                    error,
                    "chain FORWARD drops pods' packets, and they cannot be accepted there"
                );
            }
            self.failed[at] = error;
        }
    }

    fn tend(&mut self, family: Family) -> Result<(), Error> {
        let failed = |error: netlink::Error| Error::Kernel(error.to_string());
        let base = nft::base_chain(&mut self.socket, family, TABLE, CHAIN).map_err(failed)?;
        if base.is_none_or(|base| base.accept || base.hook != Hook::Forward) {
            return Ok(());
        }
        let there = nft::rules(&mut self.socket, family, TABLE, CHAIN).map_err(failed)?;
        let mut tx = Transaction::new(family, TABLE);
        for rule in self.rules.iter().filter(|rule| !there.iter().any(|it| it.exprs == rule.exprs))
        {
            tx.add_rule(CHAIN, rule);
        }
        if tx.is_empty() {
            return Ok(());
        }
        tx.commit(&mut self.socket).map_err(|error| Error::Kernel(error.to_string()))?;
        tracing::info!(
            ?family,
            "chain FORWARD drops what it does not know: it knows pods' packets now"
        );
        Ok(())
    }
}

/// The thread.
pub(super) fn run(mut beside: Beside, inbox: &Inbox<Command>) {
    loop {
        beside.look();
        match inbox.wait(None, Some(PERIOD)) {
            Wake::Work { .. } => {}
            Wake::Closed => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use netlink::netns::Netns;

    use super::*;

    fn run(args: &str) -> String {
        let mut words = args.split(' ');
        let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
        assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn pods_are_accepted_where_all_else_is_dropped() {
        let inside = || {
            let mut beside = Beside::new("cali").unwrap();
            beside.look();
            assert_eq!(run("nft list ruleset"), "", "there is nothing to be beside of");
            for iptables in ["iptables-nft", "ip6tables-nft"] {
                let forward = || -> Vec<String> {
                    let rules = run(&format!("{iptables} -S FORWARD"));
                    rules.lines().map(str::to_owned).collect()
                };
                run(&format!("{iptables} -A FORWARD -i docker0 -j ACCEPT"));
                let before = forward();
                beside.look();
                assert_eq!(forward(), before, "nothing is dropped");
                run(&format!("{iptables} -P FORWARD DROP"));
                beside.look();
                let now = forward();
                assert_eq!(now.len(), before.len() + 2, "{now:?}");
                assert_eq!((&*now[0], &now[1]), ("-P FORWARD DROP", &before[1]));
                for (rule, option) in now[2..].iter().zip(["-i", "-o"]) {
                    let (first, last) = (format!("-A FORWARD {option} cali+"), "-j ACCEPT");
                    assert!(rule.starts_with(&first) && rule.ends_with(last), "{rule}");
                }
                beside.look();
                assert_eq!(forward(), now, "once");
                // They stay behind what others add, and one that is deleted comes back.
                run(&format!("{iptables} -I FORWARD 1 -j RETURN"));
                run(&format!("{iptables} -D FORWARD 3"));
                beside.look();
                assert_eq!(forward().len(), now.len() + 1);
                run(&format!("{iptables} -F FORWARD"));
                beside.look();
                assert_eq!(forward(), [&now[..1], &now[2..]].concat());
                assert_eq!(beside.failed, [None, None]);
            }
        };
        Netns::create().unwrap().run(inside).unwrap();
    }
}
