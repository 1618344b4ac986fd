//! A slow and obvious evaluator of Calico's policies beside those of Kubernetes and of the cluster, written from the
//! description of the API (`projectcalico.org/v3`) alone. It shares nothing with the engine, not
//! even the reading of selectors: of these it knows the plain forms, without parentheses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::policy::{ClusterNetworkPolicy, Tier};
use api::v3::{
    self, Action, EntityRule, GlobalNetworkPolicy, NetworkPolicy, PolicyType, Port, Rule,
    TierDefaultAction,
};

use super::cluster_oracle::{OracleName, OracleNode, Said, Surroundings, says};
use super::oracle::{Cluster, OraclePod, Way, in_cidr};

pub(super) type LabelMap = BTreeMap<String, String>;

#[derive(Clone, Debug, Default)]
pub(super) struct CalicoCluster {
    /// Pods, namespaces and the policies of Kubernetes.
    pub(super) kubernetes: Cluster,
    /// (namespace, name) -> labels.
    pub(super) accounts: BTreeMap<(String, String), LabelMap>,
    /// The account of each pod, in their order.
    pub(super) pod_accounts: Vec<String>,
    pub(super) tiers: BTreeMap<String, v3::TierSpec>,
    pub(super) policies: Vec<NetworkPolicy>,
    pub(super) cluster_policies: Vec<ClusterNetworkPolicy>,
    pub(super) nodes: Vec<OracleNode>,
    pub(super) learned: Vec<OracleName>,
    pub(super) global_policies: Vec<GlobalNetworkPolicy>,
    pub(super) sets: Vec<OracleSet>,
    pub(super) slices: Vec<OracleSlice>,
}

/// A network set.
#[derive(Clone, Debug)]
pub(super) struct OracleSet {
    /// None for a global one.
    pub(super) namespace: Option<String>,
    pub(super) labels: LabelMap,
    pub(super) nets: Vec<String>,
}

/// Some endpoints of a service.
#[derive(Clone, Debug)]
pub(super) struct OracleSlice {
    pub(super) namespace: String,
    pub(super) service: String,
    pub(super) addresses: Vec<IpAddr>,
    /// (protocol, port)
    pub(super) ports: Vec<(u8, u16)>,
}

/// First packet of a flow, seen from one of its ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    pub(super) way: Way,
    pub(super) own: IpAddr,
    pub(super) peer: IpAddr,
    pub(super) protocol: (u8, &'a str),
    /// The source port, of protocols that have one.
    pub(super) source_port: u16,
    /// Of ICMP the type in the high byte and the code in the low one.
    pub(super) port: u16,
}

/// Someone with labels.
struct Labelled {
    labels: LabelMap,
    namespace: Option<String>,
    namespace_labels: LabelMap,
    account: Option<String>,
    account_labels: LabelMap,
}

/// One policy of any kind, as far as ordering goes.
struct Ordered<'a> {
    tier: String,
    order: f64,
    tie: (String, String, &'static str),
    /// Whether it logs the packet, and what then becomes of it.
    says: Box<dyn Fn() -> (bool, Option<Action>) + 'a>,
}

impl CalicoCluster {
    /// May this packet pass, as far as the policies of this pod say, and is it logged?
    pub(super) fn judges(&self, pod: usize, packet: Packet<'_>) -> (bool, bool) {
        let mut logged = false;
        let mut ordered = self.ordered(pod, packet);
        let tier_order = |tier: &str| match (tier, self.tiers.get(tier)) {
            ("default", _) => (false, 1e6),
            ("kube-admin", _) => (false, 1e3),
            ("kube-baseline", _) => (false, 1e7),
            (_, Some(spec)) => (false, spec.order.unwrap_or(f64::INFINITY)),
            (_, None) => (true, f64::INFINITY),
        };
        ordered.sort_by(|a, b| {
            let (a_tier, b_tier) = (tier_order(&a.tier), tier_order(&b.tier));
            (a_tier.partial_cmp(&b_tier).unwrap())
                .then_with(|| a.tier.cmp(&b.tier))
                .then_with(|| a.order.partial_cmp(&b.order).unwrap())
                .then_with(|| a.tie.cmp(&b.tie))
        });
        for tier in ordered.chunk_by(|a, b| a.tier == b.tier) {
            let decides = tier.iter().find_map(|policy| {
                let (log, action) = (policy.says)();
                logged |= log;
                action
            });
            match decides {
                Some(Action::Allow) => return (true, logged),
                Some(Action::Deny) => return (false, logged),
                Some(Action::Pass) => continue,
                Some(Action::Log) => panic!("a log decides nothing"),
                None => {}
            }
            let name = tier[0].tier.as_str();
            let passes = match self.tiers.get(name) {
                _ if name == "default" => false,
                _ if name.starts_with("kube-") => true,
                Some(spec) => spec.default_action == TierDefaultAction::Pass,
                None => false,
            };
            if !passes {
                return (false, logged);
            }
        }
        (true, logged)
    }

    /// The policies that have a say in the packet, with what their rules say.
    fn ordered<'a>(&'a self, pod: usize, packet: Packet<'a>) -> Vec<Ordered<'a>> {
        let this = &self.kubernetes.pods[pod];
        let who = self.pod(pod);
        let mut ordered = Vec::new();
        for policy in &self.kubernetes.policies {
            let (protocol, port) = (packet.protocol.1, packet.port);
            let said = self.kubernetes.judge(policy, packet.way, this, packet.peer, protocol, port);
            if let Some(allowed) = said {
                ordered.push(Ordered {
                    tier: "default".into(),
                    order: 1000.0,
                    tie: (
                        policy.metadata.name.clone().unwrap(),
                        policy.metadata.namespace.clone().unwrap(),
                        "KubernetesNetworkPolicy",
                    ),
                    says: Box::new(move || (false, allowed.then_some(Action::Allow))),
                });
            }
        }
        for policy in &self.cluster_policies {
            let (cluster, nodes, learned) = (&self.kubernetes, &self.nodes, &self.learned);
            let around = Surroundings { cluster, nodes, learned };
            let Some(said) = says(policy, around, this, packet) else { continue };
            let action = match said {
                Said::Nothing => None,
                Said::Accept => Some(Action::Allow),
                Said::Deny => Some(Action::Deny),
                Said::Pass => Some(Action::Pass),
            };
            ordered.push(Ordered {
                tier: match policy.spec.tier {
                    Tier::Baseline => "kube-baseline".into(),
                    Tier::Admin | Tier::Unknown => "kube-admin".into(),
                },
                order: f64::from(policy.spec.priority),
                tie: (policy.metadata.name.clone().unwrap(), String::new(), "ClusterNetworkPolicy"),
                says: Box::new(move || (false, action)),
            });
        }
        let direction = match packet.way {
            Way::To => PolicyType::Ingress,
            Way::From => PolicyType::Egress,
        };
        for policy in &self.policies {
            let (spec, namespace) = (&policy.spec, policy.metadata.namespace.clone().unwrap());
            if who.namespace.as_ref() != Some(&namespace)
                || !selects(&spec.selector, &who.labels)
                || !selects(&spec.service_account_selector, &who.account_labels)
            {
                continue;
            }
            let types = types(&spec.types, &spec.ingress, &spec.egress);
            if !types.contains(&direction) {
                continue;
            }
            let tie = (policy.metadata.name.clone().unwrap(), namespace.clone(), "NetworkPolicy");
            let rules = [spec.ingress.as_slice(), spec.egress.as_slice()];
            ordered.push(Ordered {
                tier: spec.tier.clone(),
                order: spec.order.unwrap_or(f64::INFINITY),
                tie,
                says: Box::new(move || self.says(rules, Some(&namespace), pod, packet)),
            });
        }
        for policy in &self.global_policies {
            let spec = &policy.spec;
            if !selects(&spec.selector, &who.labels)
                || !is_in_namespaces(&spec.namespace_selector, &who)
                || !selects(&spec.service_account_selector, &who.account_labels)
                || spec.do_not_track
                || spec.pre_dnat
            {
                continue;
            }
            let types = types(&spec.types, &spec.ingress, &spec.egress);
            if !types.contains(&direction) {
                continue;
            }
            let name = policy.metadata.name.clone().unwrap();
            let rules = [spec.ingress.as_slice(), spec.egress.as_slice()];
            ordered.push(Ordered {
                tier: spec.tier.clone(),
                order: spec.order.unwrap_or(f64::INFINITY),
                tie: (name, String::new(), "GlobalNetworkPolicy"),
                says: Box::new(move || self.says(rules, None, pod, packet)),
            });
        }
        ordered
    }

    /// Whether a rule that matches logs, and the action of the first that does anything else.
    fn says(
        &self,
        [ingress, egress]: [&[Rule]; 2],
        namespace: Option<&str>,
        pod: usize,
        packet: Packet<'_>,
    ) -> (bool, Option<Action>) {
        let misplaced = ingress.iter().any(|rule| rule.destination.services.is_some())
            || egress.iter().any(|rule| rule.source.services.is_some());
        let wrong = |rule: &Rule| cannot_be_done(rule) || is_wrong(rule, namespace);
        if misplaced || ingress.iter().chain(egress).any(wrong) {
            return (false, Some(Action::Deny));
        }
        let rules = if packet.way == Way::To { ingress } else { egress };
        let matching = rules.iter().filter(|rule| self.matches(rule, namespace, pod, packet));
        let actions: Vec<Action> = matching.map(|rule| rule.action).collect();
        let decides = actions.iter().position(|action| *action != Action::Log);
        let logs = actions[..decides.unwrap_or(actions.len())].contains(&Action::Log);
        (logs, decides.map(|at| actions[at]))
    }

    fn matches(
        &self,
        rule: &Rule,
        namespace: Option<&str>,
        pod: usize,
        packet: Packet<'_>,
    ) -> bool {
        let (source, destination) = match packet.way {
            Way::To => (packet.peer, packet.own),
            Way::From => (packet.own, packet.peer),
        };
        let version = if packet.own.is_ipv4() { v3::IpVersion::V4 } else { v3::IpVersion::V6 };
        let number = packet.protocol.0;
        let at = |address: IpAddr| {
            let mut pods = self.kubernetes.pods.iter();
            let other = pods.find(|pod| pod.addresses.contains(&address));
            if address == packet.own { Some(&self.kubernetes.pods[pod]) } else { other }
        };
        let is_port = |wanted: &Port, end: IpAddr, port: u16| match wanted {
            Port::Range(first, last) => (*first..=*last).contains(&port),
            Port::Named(name) => {
                // Without a protocol, a name is one of TCP.
                let wanted = rule.protocol.map_or(6, |protocol| protocol.0);
                let protocol = packet.protocol.1;
                wanted == number && at(end).is_some_and(|pod| has_port(pod, name, protocol, port))
            }
        };
        let are_ports = |side: &EntityRule, end: IpAddr, port: u16| {
            (side.ports.is_empty() || side.ports.iter().any(|wanted| is_port(wanted, end, port)))
                && !side.not_ports.iter().any(|unwanted| is_port(unwanted, end, port))
        };
        rule.ip_version.is_none_or(|wanted| wanted == version)
            && rule.protocol.is_none_or(|wanted| wanted.0 == number)
            && rule.not_protocol.is_none_or(|unwanted| unwanted.0 != number)
            && rule.icmp.is_none_or(|wanted| is_icmp(&wanted, packet))
            // A negation of nothing says nothing.
            && rule
                .not_icmp
                .is_none_or(|not| not.icmp_type.is_none() || !is_icmp(&not, packet))
            && rule.source.services.as_ref().is_none_or(|service| {
                self.endpoints(service, namespace).any(|slice| slice.addresses.contains(&source))
            })
            && rule.destination.services.as_ref().is_none_or(|service| {
                self.endpoints(service, namespace).any(|slice| {
                    slice.addresses.contains(&destination)
                        && slice.ports.contains(&(number, packet.port))
                })
            })
            && self.is_entity(&rule.source, source, namespace)
            && self.is_entity(&rule.destination, destination, namespace)
            && are_ports(&rule.source, source, packet.source_port)
            && are_ports(&rule.destination, destination, packet.port)
    }

    /// What is behind a service; where none says its namespace, that of the policy.
    fn endpoints(
        &self,
        service: &v3::ServiceMatch,
        namespace: Option<&str>,
    ) -> impl Iterator<Item = &OracleSlice> {
        let own = namespace.unwrap_or_default();
        let namespace = if service.namespace.is_empty() { own } else { &service.namespace };
        let (namespace, name) = (namespace.to_owned(), service.name.clone());
        self.slices.iter().filter(move |it| it.namespace == namespace && it.service == name)
    }

    fn is_entity(&self, entity: &EntityRule, address: IpAddr, namespace: Option<&str>) -> bool {
        let is_in = |nets: &[String]| nets.iter().any(|net| in_cidr(net, address));
        // A rule of networks is about their family.
        let other_family =
            |nets: &[String]| nets.iter().any(|net| net.contains(':') == address.is_ipv4());
        if !entity.nets.is_empty() && !is_in(&entity.nets)
            || is_in(&entity.not_nets)
            || other_family(&entity.not_nets)
        {
            return false;
        }
        let holders = self.holders(address);
        if !entity.not_selector.is_empty()
            && holders.iter().any(|holder| selects(&entity.not_selector, &holder.labels))
        {
            return false;
        }
        let accounts = entity.service_accounts.as_ref();
        // A negation limits a policy of a namespace to that namespace.
        let limited = !entity.not_selector.is_empty() && namespace.is_some();
        if entity.namespace_selector.is_empty()
            && entity.selector.is_empty()
            && accounts.is_none()
            && !limited
        {
            return true;
        }
        holders.iter().any(|holder| {
            let right_namespace = if entity.namespace_selector.is_empty() {
                namespace.is_none_or(|own| holder.namespace.as_deref() == Some(own))
            } else {
                is_in_namespaces(&entity.namespace_selector, holder)
            };
            right_namespace
                && selects(&entity.selector, &holder.labels)
                && accounts.is_none_or(|wanted| {
                    let is_named = |name: &String| wanted.names.contains(name);
                    (wanted.names.is_empty() || holder.account.as_ref().is_some_and(is_named))
                        && selects(&wanted.selector, &holder.account_labels)
                })
        })
    }

    /// All pods and network sets that have an address.
    fn holders(&self, address: IpAddr) -> Vec<Labelled> {
        let pods = (0..self.kubernetes.pods.len())
            .filter(|pod| self.kubernetes.pods[*pod].addresses.contains(&address))
            .map(|pod| self.pod(pod));
        let sets = self.sets.iter().filter(|set| set.nets.iter().any(|net| in_cidr(net, address)));
        let sets = sets.map(|set| {
            let mut labels = own_labels(&set.labels);
            if let Some(namespace) = &set.namespace {
                labels.insert("projectcalico.org/namespace".into(), namespace.clone());
            }
            Labelled {
                labels,
                namespace: set.namespace.clone(),
                namespace_labels: self.namespace_labels(set.namespace.as_deref()),
                account: None,
                account_labels: LabelMap::new(),
            }
        });
        pods.chain(sets).collect()
    }

    fn namespace_labels(&self, namespace: Option<&str>) -> LabelMap {
        let Some(namespace) = namespace else { return LabelMap::new() };
        let mut labels = self.kubernetes.namespaces[namespace].clone();
        labels.insert("projectcalico.org/name".into(), namespace.into());
        labels
    }

    fn pod(&self, number: usize) -> Labelled {
        let (pod, account) = (&self.kubernetes.pods[number], &self.pod_accounts[number]);
        let mut labels = own_labels(&pod.labels);
        for (key, value) in [
            ("projectcalico.org/namespace", pod.namespace.as_str()),
            ("projectcalico.org/orchestrator", "k8s"),
            ("projectcalico.org/serviceaccount", account.as_str()),
        ] {
            labels.insert(key.into(), value.into());
        }
        let key = (pod.namespace.clone(), account.clone());
        let mut account_labels = self.accounts.get(&key).cloned().unwrap_or_default();
        account_labels.insert("projectcalico.org/name".into(), account.clone());
        Labelled {
            labels,
            namespace: Some(pod.namespace.clone()),
            namespace_labels: self.namespace_labels(Some(&pod.namespace)),
            account: Some(account.clone()),
            account_labels,
        }
    }
}

/// Without those that are not for authors to give.
fn own_labels(labels: &LabelMap) -> LabelMap {
    let reserved = ["pcns.", "pcsa.", "projectcalico.org/"];
    let given = labels.iter().filter(|(key, _)| !reserved.iter().any(|r| key.starts_with(r)));
    given.map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn has_port(pod: &OraclePod, name: &str, protocol: &str, port: u16) -> bool {
    pod.ports.iter().any(|(n, p, number)| n == name && p == protocol && *number == port)
}

/// What this agent says that it cannot do.
fn cannot_be_done(rule: &Rule) -> bool {
    rule.http.is_some()
}

/// What the API would not take, in a policy of a namespace or in a global one.
fn is_wrong(rule: &Rule, namespace: Option<&str>) -> bool {
    for side in [&rule.source, &rule.destination] {
        let Some(service) = &side.services else { continue };
        let alone = EntityRule { services: side.services.clone(), ..EntityRule::default() };
        let ports = EntityRule {
            ports: side.ports.clone(),
            not_ports: side.not_ports.clone(),
            ..alone.clone()
        };
        let of_source = std::ptr::eq(side, &rule.source);
        if service.name.is_empty()
            || (service.namespace.is_empty() && namespace.is_none())
            || *side != if of_source { ports } else { alone }
        {
            return true;
        }
    }
    let number = rule.protocol.map_or(0, |protocol| protocol.0);
    let of_icmp = [&rule.icmp, &rule.not_icmp].into_iter().flatten();
    let mut fields = of_icmp.map(|fields| (fields.icmp_type.is_some(), fields.code.is_some()));
    fields.any(|given| ![1, 58].contains(&number) || given == (false, true))
        || (number == 1 && rule.ip_version == Some(v3::IpVersion::V6))
        || (number == 58 && rule.ip_version == Some(v3::IpVersion::V4))
}

/// Whether a packet of ICMP has this type and this code, as far as they are given.
fn is_icmp(fields: &v3::IcmpFields, packet: Packet<'_>) -> bool {
    let [kind, code] = packet.port.to_be_bytes();
    fields.icmp_type.is_none_or(|wanted| wanted == kind)
        && fields.code.is_none_or(|wanted| wanted == code)
}

fn types(written: &[PolicyType], ingress: &[Rule], egress: &[Rule]) -> Vec<PolicyType> {
    if !written.is_empty() {
        return written.to_vec();
    }
    match (ingress.is_empty(), egress.is_empty()) {
        (false, false) => vec![PolicyType::Ingress, PolicyType::Egress],
        (true, false) => vec![PolicyType::Egress],
        (_, true) => vec![PolicyType::Ingress],
    }
}

fn is_in_namespaces(selector: &str, who: &Labelled) -> bool {
    match selector {
        "" => true,
        "all()" => who.namespace.is_some(),
        "global()" => who.namespace.is_none(),
        text => selects(text, &who.namespace_labels),
    }
}

fn selects(selector: &str, labels: &LabelMap) -> bool {
    selector.is_empty()
        || selector.split("||").any(|all| all.split("&&").all(|term| holds(term.trim(), labels)))
}

fn holds(term: &str, labels: &LabelMap) -> bool {
    if term == "all()" {
        return true;
    }
    if let Some(term) = term.strip_prefix('!') {
        return !holds(term, labels);
    }
    if let Some(key) = term.strip_prefix("has(") {
        return labels.contains_key(key.strip_suffix(')').unwrap());
    }
    let values = |text: &str| -> Vec<String> {
        text.split('\'').skip(1).step_by(2).map(ToOwned::to_owned).collect()
    };
    type Test = fn(&str, &[String]) -> bool;
    let operators: [(&str, bool, Test); 7] = [
        (" not in ", true, |value, list| list.iter().all(|listed| listed != value)),
        (" in ", false, |value, list| list.iter().any(|listed| listed == value)),
        (" == ", false, |value, list| value == list[0]),
        (" != ", true, |value, list| value != list[0]),
        (" contains ", false, |value, list| value.contains(&list[0])),
        (" starts with ", false, |value, list| value.starts_with(&list[0])),
        (" ends with ", false, |value, list| value.ends_with(&list[0])),
    ];
    let found = operators.iter().find_map(|(text, absent, test)| {
        let (key, rest) = term.split_once(text)?;
        Some(labels.get(key).map_or(*absent, |value| test(value, &values(rest))))
    });
    found.unwrap_or_else(|| panic!("not a plain selector: {term}"))
}
