//! Random host endpoints and policies in random histories: what the kernel finds is what a slow and
//! obvious evaluator says, written from the description of the API alone, and the same elements
//! come about whatever happened before.

use std::collections::BTreeSet;

use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::explain::EXPLAINED;
use super::hosts::host_elements;
use super::hosts_explained::{explained, foretold, verdict_of};
use super::hosts_oracle::*;
use super::random::cases;
use super::world::*;
use crate::engine::{Failsafe, HostLink};
use crate::model::host::{HostHook, InterfaceName};
use crate::model::{Decision, Direction, Key, Kind, ObjectKey};

#[derive(Clone, Debug)]
pub(super) enum Event {
    Policy(usize, Option<Policy>),
    Host(usize, Option<Host>),
    Pod(usize, Option<&'static str>),
    /// Which interface has which of the node's own addresses.
    Links([usize; 2]),
    Counting(bool),
    Settle,
}

fn rule() -> impl Strategy<Value = Rule> {
    let action = select(vec!["Allow", "Allow", "Deny", "Pass", "Log"]);
    let traffic = (option::of(select(vec![TCP, UDP])), option::of(select(PORTS.to_vec())));
    let (net, label) =
        (option::of(select(NETS.to_vec())), option::weighted(0.3, select(LABELS.to_vec())));
    let own = prop_oneof![
        select(vec!["10.0.0.1/32", "10.0.0.0/15"]).prop_map(Own::Net),
        select(vec!["10.0.1.1/32", "203.0.113.0/24"]).prop_map(Own::NotNet),
        select(LABELS.to_vec()).prop_map(Own::Selector),
        select(LABELS.to_vec()).prop_map(Own::NotSelector),
    ];
    (action, traffic, net, label, option::weighted(0.3, own)).prop_map(
        |(action, (protocol, port), net, selector, own)| {
            let port = port.filter(|_| protocol.is_some());
            Rule { action, protocol, port, net, selector, own }
        },
    )
}

fn policy() -> impl Strategy<Value = Policy> {
    let rules = || option::weighted(0.7, prop::collection::vec(rule(), 0..4));
    let selects = option::of(select(LABELS.to_vec()));
    let kind =
        (any::<bool>(), option::weighted(0.3, select(vec!["preDNAT", "doNotTrack", "doNotTrack"])));
    (any::<bool>(), 0u8..3, selects, rules(), rules(), kind).prop_map(
        |(passing_tier, order, selects, ingress, egress, (forward, early))| {
            let egress = egress.filter(|_| early != Some("preDNAT"));
            // One without a direction would have that of ingress.
            let ingress = ingress.or_else(|| egress.is_none().then(Vec::new));
            let forward = forward || early.is_some();
            Policy { passing_tier, order, selects, ingress, egress, forward, early }
        },
    )
}

fn host() -> impl Strategy<Value = Host> {
    let interface = option::of(select(vec!["eth0", "eth1", "*", "*"]));
    let node = select(vec![NODE, NODE, NODE, "node2"]);
    (node, interface, select(OWN.to_vec()), select(LABELS.to_vec()), any::<bool>()).prop_map(
        |(node, interface, address, label, allows)| Host {
            node,
            interface,
            address,
            label,
            allows,
        },
    )
}

pub(super) fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0usize..3, option::weighted(0.8, policy())).prop_map(|(n, p)| Event::Policy(n, p)),
        4 => (0usize..3, option::weighted(0.8, host())).prop_map(|(n, h)| Event::Host(n, h)),
        1 => (0usize..2, option::of(select(LABELS.to_vec()))).prop_map(|(n, l)| Event::Pod(n, l)),
        1 => (0usize..3, 0usize..3).prop_map(|(a, b)| Event::Links([a, b])),
        1 => any::<bool>().prop_map(Event::Counting),
        2 => Just(Event::Settle),
    ]
}

fn yaml_of(number: usize, policy: &Policy) -> String {
    let side = |rules: &Option<Vec<Rule>>, peer: &str, own: &str| {
        let rules: Vec<String> = rules
            .iter()
            .flatten()
            .map(|rule| {
                let mut text = format!("  - action: {}\n", rule.action);
                if let Some(protocol) = rule.protocol {
                    text +=
                        &format!("    protocol: {}\n", if protocol == TCP { "TCP" } else { "UDP" });
                }
                let ports = rule.port.map(|port| format!("ports: [{port}]"));
                let nets = rule.net.map(|net| format!("nets: ['{net}']"));
                let selector = rule.selector.map(|label| format!("selector: app == '{label}'"));
                let asked = rule.own.map(|own| match own {
                    Own::Net(net) => format!("nets: ['{net}']"),
                    Own::NotNet(net) => format!("notNets: ['{net}']"),
                    Own::Selector(label) => format!("selector: app == '{label}'"),
                    Own::NotSelector(label) => format!("notSelector: app == '{label}'"),
                });
                let (mut of_peer, mut of_own): (Vec<String>, Vec<String>) =
                    (nets.into_iter().chain(selector).collect(), asked.into_iter().collect());
                // The destination has the port.
                if peer == "source" { &mut of_own } else { &mut of_peer }.extend(ports);
                for (name, parts) in [(peer, of_peer), (own, of_own)] {
                    if !parts.is_empty() {
                        text += &format!("    {name}: {{{}}}\n", parts.join(", "));
                    }
                }
                text
            })
            .collect();
        if rules.is_empty() { " []\n".to_owned() } else { format!("\n{}", rules.concat()) }
    };
    let (prefix, tier) = if policy.passing_tier { ("first.", "first") } else { ("", "default") };
    let mut types = Vec::new();
    types.extend(policy.ingress.as_ref().map(|_| "Ingress"));
    types.extend(policy.egress.as_ref().map(|_| "Egress"));
    let selector = policy.selects.map_or("all()".into(), |label| format!("app == '{label}'"));
    format!(
        "kind: GlobalNetworkPolicy\nmetadata: {{name: {prefix}p{number}}}\nspec:\n  tier: {tier}\n  \
         order: {}\n  selector: {selector}\n  types: [{}]\n  applyOnForward: {}\n{}  \
         ingress:{}  egress:{}",
        policy.order,
        types.join(", "),
        policy.forward,
        policy.early.map(|early| format!("  {early}: true\n")).unwrap_or_default(),
        side(&policy.ingress, "source", "destination"),
        side(&policy.egress, "destination", "source"),
    )
}

fn yaml_of_host(number: usize, host: &Host) -> String {
    let interface =
        host.interface.map(|name| format!("interfaceName: '{name}', ")).unwrap_or_default();
    let profiles = if host.allows { "[projectcalico-default-allow]" } else { "[]" };
    format!(
        "kind: HostEndpoint\nmetadata: {{name: h{number}, labels: {{app: {}}}}}\nspec: {{node: {}, \
         {interface}expectedIPs: [{}], profiles: {profiles}}}\n",
        host.label, host.node, host.address,
    )
}

fn name_of(number: usize, policy: &Policy) -> ObjectKey {
    let prefix = if policy.passing_tier { "first." } else { "" };
    ObjectKey::cluster(&format!("{prefix}p{number}"))
}

pub(super) fn world() -> World {
    let mut world = World::new(&["shop"]);
    world.engine.set_node(NODE, "cali");
    let failsafe = Failsafe { direction: Direction::Ingress, protocol: TCP, port: 22, net: None };
    world.engine.set_failsafe(vec![failsafe]);
    world.calico("kind: Tier\nmetadata: {name: first}\nspec: {order: 10, defaultAction: Pass}\n");
    world
}

pub(super) fn links([first, second]: [usize; 2]) -> Vec<HostLink> {
    let link = |number: usize| HostLink {
        name: InterfaceName::new(INTERFACES[number]).unwrap(),
        index: u32::try_from(number).unwrap() + 1,
        addresses: OWN
            .iter()
            .zip([first, second])
            .filter(|(_, at)| *at == number)
            .map(|(address, _)| ip(address))
            .collect(),
    };
    (0..INTERFACES.len()).map(link).collect()
}

impl State {
    /// Tells the world, which settles only when it is told to.
    pub(super) fn happen(&mut self, event: &Event, world: &mut World) {
        use crate::model::{Object, Update};
        match event.clone() {
            Event::Policy(number, policy) => {
                if let Some(old) = self.policies.remove(&number) {
                    let key = name_of(number, &old);
                    world.engine.apply(Update::Remove(Kind::GlobalNetworkPolicy, key));
                }
                if let Some(policy) = policy {
                    let object = parse_calico(&yaml_of(number, &policy));
                    world.engine.apply(Update::Set(object));
                    self.policies.insert(number, policy);
                }
            }
            Event::Host(number, Some(host)) => {
                world.engine.apply(Update::Set(parse_calico(&yaml_of_host(number, &host))));
                self.hosts.insert(number, host);
            }
            Event::Host(number, None) => {
                let key = ObjectKey::cluster(&format!("h{number}"));
                world.engine.apply(Update::Remove(Kind::HostEndpoint, key));
                self.hosts.remove(&number);
            }
            Event::Pod(number, Some(label)) => {
                let name = format!("pod{number}");
                let pod = pod("shop", &name, &[("app", label)], &[PODS[number]], &[]);
                world.engine.apply(Update::Set(Object::Pod(pod)));
                self.pods.insert(number, label);
            }
            Event::Pod(number, None) => {
                let key = ObjectKey::namespaced("shop", &format!("pod{number}"));
                world.engine.apply(Update::Remove(Kind::Pod, key));
                self.pods.remove(&number);
            }
            Event::Links(at) => {
                world.engine.set_host_links(links(at));
                self.links = at;
            }
            Event::Counting(on) => {
                world.engine.set_counting(on);
                self.counting = on;
            }
            Event::Settle => {}
        }
    }

    fn agrees(&self, world: &World) -> Result<(), TestCaseError> {
        let mut number = 0;
        let peers = OWN.iter().chain(&PODS).chain(&OUTSIDE);
        let mut own = OWN_SIDE.iter().copied().cycle();
        for peer in peers {
            for (hook, interface) in
                HostHook::ALL.into_iter().flat_map(|hook| INTERFACES.map(|name| (hook, name)))
            {
                for to in [TCP, UDP, SCTP].into_iter().flat_map(|p| PORTS.map(|port| (p, port))) {
                    let ports = (SOURCE_PORT, to.1);
                    let sides = (own.next().unwrap(), *peer);
                    let of = (ip(sides.0), ip(sides.1));
                    let found = world.kernel.host_ruling(hook, interface, of, to.0, ports).0;
                    let wanted = self.judges(hook, interface, sides, to);
                    prop_assert_eq!(
                        found,
                        wanted,
                        "{:?} {} {:?} {:?}: {:#?}",
                        hook,
                        interface,
                        sides,
                        to,
                        self
                    );
                    let by = world.kernel.host_decision(hook, interface, of, to.0, ports);
                    self.counts(by, (hook, interface), sides, to)?;
                    number += 1;
                    if number % EXPLAINED == 0 {
                        explained(world, (hook, interface), sides, to)?;
                    }
                }
            }
        }
        for to in [TCP, UDP].into_iter().flat_map(|p| PORTS.map(|port| (p, port))) {
            for (input, output) in [
                (Some("eth0"), None),
                (None, Some("eth1")),
                (Some("eth1"), Some("eth0")),
                (Some("eth2"), Some("eth2")),
            ] {
                let found = verdict_of(world, (input, output), (OUTSIDE[0], OUTSIDE[1]), to);
                let wanted = self.passes(input, output, (OUTSIDE[0], OUTSIDE[1]), to);
                prop_assert_eq!(found, wanted, "{:?} {:?} {:?}: {:#?}", input, output, to, self);
            }
        }
        Ok(())
    }

    /// Packets are counted as those of who decides about them.
    fn counts(
        &self,
        found: Option<&Decision>,
        (hook, interface): (HostHook, &str),
        sides: (&str, &str),
        to: (u8, u16),
    ) -> Result<(), TestCaseError> {
        let counted = self.counting && !hook.is_again();
        let by = self.decides(hook, interface, sides, to).1.filter(|_| counted);
        let rule = |at: usize| match hook.direction() {
            Direction::Ingress => format!("spec.ingress[{at}]"),
            Direction::Egress => format!("spec.egress[{at}]"),
        };
        let wanted = by.map(|by| match by {
            By::Rule(number, at) => {
                let name = &name_of(number, &self.policies[&number]).name;
                (Some(format!("GlobalNetworkPolicy {name}")), Some(rule(at)))
            }
            By::Profiles => (None, Some(Decision::PROFILES.to_owned())),
            By::Tier | By::Nobody => (None, None),
        });
        let has_tier = matches!(by, Some(By::Rule(..) | By::Tier));
        if let Some(found) = found {
            prop_assert_eq!((found.direction, found.tier.is_some()), (hook.direction(), has_tier));
        }
        let found = found.map(|found| (found.policy.clone(), found.rule.clone()));
        prop_assert_eq!(found, wanted, "{:?} {} {:?} {:?}", hook, interface, sides, to);
        Ok(())
    }
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn any_history_of_host_endpoints_comes_to_what_the_api_says(
        events in prop::collection::vec(event(), 1..30),
    ) {
        let (mut world, mut state) = (world(), State::default());
        world.engine.set_host_links(links(state.links));
        for event in &events {
            state.happen(event, &mut world);
            if matches!(event, Event::Settle) {
                let before = (world.engine.clone(), world.kernel.clone());
                world.settle();
                state.agrees(&world)?;
                foretold((&before.0, &before.1), &world, (&OWN_SIDE, &PEERS), &PORTS)?;
            }
        }
        world.settle();
        state.agrees(&world)?;

        // Another agent that learns only what there is now.
        let (mut fresh, mut again) = (self::world(), State::default());
        let now = state.clone();
        let objects = [Event::Links(now.links), Event::Counting(now.counting)]
            .into_iter()
            .chain(now.pods.into_iter().map(|(n, label)| Event::Pod(n, Some(label))))
            .chain(now.policies.into_iter().map(|(n, policy)| Event::Policy(n, Some(policy))))
            .chain(now.hosts.into_iter().map(|(n, host)| Event::Host(n, Some(host))));
        for event in objects {
            again.happen(&event, &mut fresh);
        }
        fresh.settle();
        prop_assert_eq!(fresh.kernel.canonical(), world.kernel.canonical());
        // It finds the tables in the kernel under the names that it would give them.
        let tables = |world: &World| -> BTreeSet<Key> {
            let keys = host_elements(world).into_iter();
            keys.filter(|key| matches!(key, Key::HostPolicy { .. })).collect()
        };
        prop_assert_eq!(tables(&fresh), tables(&world));

        // Nothing is left of what is gone.
        for number in 0..3 {
            state.happen(&Event::Host(number, None), &mut world);
        }
        world.settle();
        state.agrees(&world)?;
    }
}
