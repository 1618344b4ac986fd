//! A slow and obvious evaluator of policies at host endpoints, written from the description of the API alone:
//! a node with three interfaces and two addresses.

use std::collections::BTreeMap;

use super::world::{TCP, ip};
use crate::model::host::HostHook;
use crate::model::{Direction, Verdict};

pub(super) const NODE: &str = "node1";
pub(super) const INTERFACES: [&str; 3] = ["eth0", "eth1", "eth2"];
pub(super) const OWN: [&str; 2] = ["10.0.0.1", "10.0.1.1"];
pub(super) const PODS: [&str; 2] = ["10.244.0.1", "10.244.0.2"];
pub(super) const OUTSIDE: [&str; 2] = ["192.0.2.7", "203.0.113.9"];
pub(super) const PEERS: [&str; 4] = [PODS[0], PODS[1], OUTSIDE[0], OUTSIDE[1]];
/// Of the host's own side: its own, and those of whom it forwards for. Not as many as there are peers or
/// ports, so that each meets each.
pub(super) const OWN_SIDE: [&str; 5] = [OWN[0], OWN[1], PODS[0], OUTSIDE[0], OUTSIDE[1]];
pub(super) const NETS: [&str; 3] = ["192.0.2.0/24", "10.244.0.0/31", "0.0.0.0/0"];
pub(super) const LABELS: [&str; 2] = ["a", "b"];
pub(super) const PORTS: [u16; 3] = [22, 80, 443];

#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) action: &'static str,
    pub(super) protocol: Option<u8>,
    pub(super) port: Option<u16>,
    pub(super) net: Option<&'static str>,
    pub(super) selector: Option<&'static str>,
    pub(super) own: Option<Own>,
}

/// What a rule asks of the host's own side.
#[derive(Clone, Copy, Debug)]
pub(super) enum Own {
    Net(&'static str),
    NotNet(&'static str),
    Selector(&'static str),
    NotSelector(&'static str),
}

#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) passing_tier: bool,
    pub(super) order: u8,
    pub(super) selects: Option<&'static str>,
    pub(super) ingress: Option<Vec<Rule>>,
    pub(super) egress: Option<Vec<Rule>>,
    pub(super) forward: bool,
    /// It is for what comes before connection tracking or destination NAT.
    pub(super) early: Option<&'static str>,
}

#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) node: &'static str,
    /// None: by its address; or all.
    pub(super) interface: Option<&'static str>,
    pub(super) address: &'static str,
    pub(super) label: &'static str,
    pub(super) allows: bool,
}

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// A policy by its number, and its rule.
    Rule(usize, usize),
    Tier,
    Profiles,
    Nobody,
}

/// What there is.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) policies: BTreeMap<usize, Policy>,
    pub(super) hosts: BTreeMap<usize, Host>,
    pub(super) pods: BTreeMap<usize, &'static str>,
    pub(super) links: [usize; 2],
    pub(super) counting: bool,
}

impl State {
    /// The host endpoint that an interface is.
    fn host_of(&self, interface: &str) -> Option<&Host> {
        let here = || self.hosts.values().filter(|host| host.node == NODE);
        let is_at = |host: &&Host| match host.interface {
            Some(name) => name == interface,
            None => OWN
                .iter()
                .zip(self.links)
                .any(|(address, at)| *address == host.address && INTERFACES[at] == interface),
        };
        here().find(is_at).or_else(|| here().find(|host| host.interface == Some("*")))
    }

    fn has_label(&self, peer: &str, label: &str) -> bool {
        self.pods.iter().any(|(number, of)| PODS[*number] == peer && *of == label)
            || self.hosts.values().any(|host| host.address == peer && host.label == label)
    }

    /// May this packet pass?
    pub(super) fn judges(
        &self,
        hook: HostHook,
        interface: &str,
        sides: (&str, &str),
        to: (u8, u16),
    ) -> Verdict {
        self.decides(hook, interface, sides, to).0
    }

    /// What becomes of a packet, and who decides: the policy and the number of its rule, a tier, or
    /// profiles. Nobody where it is not asked for, or where others follow who decide.
    pub(super) fn decides(
        &self,
        hook: HostHook,
        interface: &str,
        sides: (&str, &str),
        to: (u8, u16),
    ) -> (Verdict, Option<By>) {
        use HostHook::{Input, PreDnat, UntrackedIn, UntrackedInAgain};
        let Some(host) = self.host_of(interface) else { return (Verdict::Allow, None) };
        if matches!(hook, Input | PreDnat | UntrackedIn | UntrackedInAgain) && to == (TCP, 22) {
            return (Verdict::Allow, None);
        }
        let when = match hook {
            PreDnat => Some("preDNAT"),
            hook if hook.is_untracked() => Some("doNotTrack"),
            _ => None,
        };
        let rules = |policy: &Policy| match hook.direction() {
            Direction::Ingress => policy.ingress.clone(),
            Direction::Egress => policy.egress.clone(),
        };
        let mut asked: Vec<(usize, &Policy)> = self
            .policies
            .iter()
            .filter(|(_, policy)| policy.selects.is_none_or(|label| label == host.label))
            .filter(|(_, policy)| rules(policy).is_some())
            .filter(|(_, policy)| policy.early == when)
            .filter(|(_, policy)| !hook.forwards() || policy.forward)
            .map(|(number, policy)| (*number, policy))
            .collect();
        if hook.forwards() && asked.is_empty() {
            return (Verdict::Allow, None);
        }
        asked.sort_by_key(|(number, policy)| (!policy.passing_tier, policy.order, *number));
        for passing in [true, false] {
            let mut of_tier =
                asked.iter().filter(|(_, policy)| policy.passing_tier == passing).peekable();
            let any = of_tier.peek().is_some();
            let decided = of_tier.find_map(|(number, policy)| {
                let rules = rules(policy).into_iter().flatten().enumerate();
                let mut said = rules.filter_map(|(at, rule)| {
                    Some((self.says(&rule, sides, to)?, Some(By::Rule(*number, at))))
                });
                said.next()
            });
            match decided {
                Some(("Allow", by)) if when.is_some() => return (Verdict::Accept, by),
                Some(("Allow", by)) => return (Verdict::Allow, by),
                Some(("Deny", by)) => return (Verdict::Deny, by),
                Some(_) => {}
                // Early, no tier has an end.
                None if any && !passing && when.is_none() => {
                    return (Verdict::Deny, Some(By::Tier));
                }
                None => {}
            }
        }
        let passes = when.is_some() || hook.forwards() || host.allows;
        let by = match when {
            Some(_) => None,
            None if hook.forwards() => Some(By::Nobody),
            None => Some(By::Profiles),
        };
        (if passes { Verdict::Allow } else { Verdict::Deny }, by)
    }

    /// What a rule does with a packet, if it decides.
    fn says(
        &self,
        rule: &Rule,
        (own, peer): (&str, &str),
        (protocol, port): (u8, u16),
    ) -> Option<&'static str> {
        let is_in = |net: &str, of| net.parse::<ipnet::IpNet>().unwrap().contains(&ip(of));
        let matches = rule.protocol.is_none_or(|wanted| wanted == protocol)
            && rule.port.is_none_or(|wanted| wanted == port)
            && rule.net.is_none_or(|net| is_in(net, peer))
            && rule.selector.is_none_or(|label| self.has_label(peer, label))
            && rule.own.is_none_or(|asked| match asked {
                Own::Net(net) => is_in(net, own),
                Own::NotNet(net) => !is_in(net, own),
                Own::Selector(label) => self.has_label(own, label),
                Own::NotSelector(label) => !self.has_label(own, label),
            });
        (matches && rule.action != "Log").then_some(rule.action)
    }

    /// May the first packet of a flow pass all the places on its way: where it comes in, if it is not of the
    /// node itself, and where it goes out, if it is not for it?
    pub(super) fn passes(
        &self,
        input: Option<&str>,
        output: Option<&str>,
        (source, destination): (&str, &str),
        to: (u8, u16),
    ) -> bool {
        use HostHook::{ForwardIn, ForwardOut, Input, Output, PreDnat, UntrackedIn, UntrackedOut};
        let side = |early: &[HostHook], last, interface: &str, sides| {
            for hook in early {
                match self.judges(*hook, interface, sides, to) {
                    Verdict::Accept => return true,
                    Verdict::Deny => return false,
                    Verdict::Allow => {}
                }
            }
            self.judges(last, interface, sides, to) == Verdict::Allow
        };
        let (to_own, from_own) = ((destination, source), (source, destination));
        let into = |last, at: &str| side(&[UntrackedIn, PreDnat], last, at, to_own);
        match (input, output) {
            (Some(at), None) => into(Input, at),
            (None, Some(at)) => side(&[UntrackedOut], Output, at, from_own),
            (Some(at), Some(out)) => into(ForwardIn, at) && side(&[], ForwardOut, out, from_own),
            (None, None) => true,
        }
    }
}
