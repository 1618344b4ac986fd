//! Which pools may give an address: Calico's rules over IPPools.

use std::collections::BTreeMap;

use api::selector::{Labels, Selector};
use ipnet::IpNet;

use crate::error::Error;
use crate::net::{self, Family, Nets};
use crate::timestamp::Timestamp;

mod convert;
mod start;

pub use convert::{PoolError, reservations};

/// What addresses of a pool are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AllowedUse {
    /// Pods.
    #[default]
    Workload,
    /// Tunnel devices of nodes.
    Tunnel,
    /// Services of type LoadBalancer.
    LoadBalancer,
}

/// An IPPool, as far as allocation looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name; pools are tried in the order of their names.
    pub name: String,
    /// The range.
    pub cidr: IpNet,
    /// Prefix length of its blocks, in bits.
    pub block_size: u8,
    /// No new addresses are taken from it.
    pub disabled: bool,
    /// Which nodes may take blocks.
    pub node_selector: Selector,
    /// Pods of which namespaces may have addresses; None: all.
    pub namespace_selector: Option<Selector>,
    /// What the addresses are for.
    pub allowed_uses: Vec<AllowedUse>,
    /// Addresses are given only to who names the pool (assignmentMode Manual).
    pub manual: bool,
}

/// The pools there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pools {
    /// Those that can be read.
    pub known: Vec<Pool>,
    /// How many more there are, of which nobody knows what they have and whom they select. While
    /// there is one, no block is given up because no pool has it or wants it on the node.
    pub unreadable: usize,
}

impl From<Vec<Pool>> for Pools {
    /// These are all.
    fn from(known: Vec<Pool>) -> Self {
        Self { known, unreadable: 0 }
    }
}

/// A label set that selectors can be asked about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LabelMap<'a>(pub(crate) &'a BTreeMap<String, String>);

impl Labels for LabelMap<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

impl Pool {
    /// IPv4 or IPv6.
    pub fn family(&self) -> Family {
        Family::of_net(&self.cidr)
    }

    /// True if a node with these labels may take blocks from the pool.
    pub fn selects_node(&self, labels: &BTreeMap<String, String>) -> bool {
        self.node_selector.matches(&LabelMap(labels))
    }

    /// Number of blocks, at least 1.
    pub(crate) fn blocks(&self) -> u128 {
        1 << self.block_size.saturating_sub(self.cidr.prefix_len()).min(127)
    }

    /// The n-th block of the pool.
    pub(crate) fn block(&self, n: u128) -> IpNet {
        let base = net::number(self.cidr.network());
        let address = net::address(self.family(), base + n * self.block_length());
        net::network(address, self.block_size)
    }

    /// Addresses of a block.
    fn block_length(&self) -> u128 {
        1 << (self.family().bits().saturating_sub(self.block_size)).min(127)
    }

    /// True if each address is a block of its own.
    pub(crate) fn has_single_blocks(&self) -> bool {
        self.block_size == self.family().bits()
    }

    /// The block that a node's search starts at, which is Calico's. Where each address is a block of
    /// its own it is another one each time, and else the same for each search of a node: nodes
    /// that start together meet rarely, and one that comes back finds its old blocks.
    fn start(&self, node: &str, now: Timestamp) -> u128 {
        let single = self.has_single_blocks();
        let seed = if single { now.unix_nanos() } else { u64::from(hash(node)) };
        start::draw(seed, self.blocks().trailing_zeros())
    }

    /// The first block from there on, and around, that overlaps none of `occupied` and that `reserved`
    /// leaves an address of. However much is reserved, it is passed over in one step.
    pub(crate) fn free_block(
        &self,
        node: &str,
        now: Timestamp,
        occupied: &Nets,
        reserved: &Nets,
    ) -> Option<IpNet> {
        let blocks = self.blocks();
        let start = self.start(node, now);
        let mut passed = 0;
        while passed < blocks {
            let at = (start + passed) % blocks;
            let block = self.block(at);
            if let Some(last) = reserved.covers_until(&block) {
                let whole = (last - net::range(&block).0).saturating_add(1) / self.block_length();
                passed += whole.min(blocks - at);
            } else if occupied.overlaps(&block) {
                passed += 1;
            } else {
                return Some(block);
            }
        }
        None
    }
}

/// A number for a node's name, the same wherever it is computed.
pub(crate) fn hash(node: &str) -> u32 {
    fnv32(node.as_bytes())
}

/// Fowler-Noll-Vo, 32 bits, multiply first (FNV-1), as Go's `fnv.New32`.
fn fnv32(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0x811c_9dc5, |hash: u32, byte| hash.wrapping_mul(0x0100_0193) ^ u32::from(*byte))
}

/// Who asks for an address of a pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    pub(crate) node_labels: &'a BTreeMap<String, String>,
    pub(crate) namespace_labels: Option<&'a BTreeMap<String, String>>,
    /// Pools by name or CIDR.
    pub(crate) requested: &'a [String],
    pub(crate) intended_use: AllowedUse,
}

/// The pools of a family that may give `asker` an address, in the order to try them. Pools that
/// were asked for by name are taken whatever their selectors and mode say, unless disabled.
pub(crate) fn choose<'a>(
    pools: &'a [Pool],
    family: Family,
    asker: Asker<'_>,
) -> Result<Vec<&'a Pool>, Error> {
    let no_pool = |reason: String| Error::NoPool { family, reason };
    let mut named: Vec<&Pool> = Vec::new();
    for request in asker.requested {
        let same_net = |pool: &Pool| request.parse() == Ok(pool.cidr);
        match pools.iter().find(|pool| pool.name == *request || same_net(pool)) {
            None => return Err(no_pool(format!("there is no pool {request}"))),
            Some(pool) if pool.family() == family => named.push(pool),
            Some(_) => {}
        }
    }
    let automatic = named.is_empty();
    let candidates: Vec<&Pool> = if automatic {
        pools.iter().filter(|pool| pool.family() == family).collect()
    } else {
        named
    };
    let mut chosen = Vec::new();
    let mut refused = Vec::new();
    for pool in candidates {
        match refusal(pool, &asker, automatic) {
            None => chosen.push(pool),
            Some(reason) => refused.push(format!("{} {reason}", pool.name)),
        }
    }
    match (chosen.is_empty(), refused.is_empty()) {
        (false, _) => {
            if automatic {
                chosen.sort_by(|a, b| a.name.cmp(&b.name));
            }
            Ok(chosen)
        }
        (true, true) => Err(no_pool("none is configured".to_owned())),
        (true, false) => Err(no_pool(refused.join("; "))),
    }
}

fn refusal(pool: &Pool, asker: &Asker<'_>, automatic: bool) -> Option<&'static str> {
    if pool.disabled {
        return Some("is disabled");
    }
    if !pool.allowed_uses.contains(&asker.intended_use) {
        return Some("does not allow the use");
    }
    if !automatic {
        return None;
    }
    if pool.manual {
        return Some("is given only by name");
    }
    if !pool.selects_node(asker.node_labels) {
        return Some("does not select this node");
    }
    let empty = BTreeMap::new();
    let labels = LabelMap(asker.namespace_labels.unwrap_or(&empty));
    let selected = pool.namespace_selector.as_ref().is_none_or(|s| s.matches(&labels));
    (!selected).then_some("does not select the namespace")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn pool(name: &str, cidr: &str) -> Pool {
        let cidr: IpNet = cidr.parse().unwrap();
        Pool {
            name: name.to_owned(),
            cidr,
            block_size: if cidr.addr().is_ipv4() { 26 } else { 122 },
            disabled: false,
            node_selector: Selector::parse("all()").unwrap(),
            namespace_selector: None,
            allowed_uses: vec![AllowedUse::Workload, AllowedUse::Tunnel],
            manual: false,
        }
    }

    fn names(result: Result<Vec<&Pool>, Error>) -> Vec<String> {
        result.unwrap().iter().map(|pool| pool.name.clone()).collect()
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn pools_are_chosen_by_calicos_rules() {
        let selector = |text: &str| Selector::parse(text).unwrap();
        let pools = [
            pool("z", "10.0.0.0/16"),
            pool("b", "10.1.0.0/16"),
            Pool { disabled: true, ..pool("off", "10.2.0.0/16") },
            Pool { manual: true, ..pool("manual", "10.3.0.0/16") },
            Pool { node_selector: selector("rack == 'r1'"), ..pool("rack", "10.4.0.0/16") },
            Pool {
                namespace_selector: Some(selector("team == 'x'")),
                ..pool("team", "10.5.0.0/16")
            },
            Pool { allowed_uses: vec![AllowedUse::Tunnel], ..pool("tunnel", "10.6.0.0/16") },
            pool("six", "fd00::/64"),
        ];
        let (none, r1, x) = (labels(&[]), labels(&[("rack", "r1")]), labels(&[("team", "x")]));
        let asker = Asker {
            node_labels: &none,
            namespace_labels: None,
            requested: &[],
            intended_use: AllowedUse::Workload,
        };
        assert_eq!(names(choose(&pools, Family::V4, asker)), ["b", "z"]);
        assert_eq!(names(choose(&pools, Family::V6, asker)), ["six"]);
        let rack = Asker { node_labels: &r1, ..asker };
        assert_eq!(names(choose(&pools, Family::V4, rack)), ["b", "rack", "z"]);
        let team = Asker { namespace_labels: Some(&x), ..asker };
        assert_eq!(names(choose(&pools, Family::V4, team)), ["b", "team", "z"]);
        let tunnel = Asker { intended_use: AllowedUse::Tunnel, ..asker };
        assert_eq!(names(choose(&pools, Family::V4, tunnel)), ["b", "tunnel", "z"]);
        // By name: selectors and mode do not matter, the order is the asker's, the use does matter.
        let by_name = ["rack", "10.3.0.0/16"].map(str::to_owned);
        let named = Asker { requested: &by_name, ..asker };
        assert_eq!(names(choose(&pools, Family::V4, named)), ["rack", "manual"]);
        assert_eq!(names(choose(&pools, Family::V6, named)), ["six"], "only IPv4 pools were named");
        for (request, reason) in [
            ("off", "off is disabled"),
            ("tunnel", "tunnel does not allow the use"),
            ("no", "there is no pool no"),
        ] {
            let requested = [request.to_owned()];
            let asker = Asker { requested: &requested, ..asker };
            let error = choose(&pools, Family::V4, asker).unwrap_err();
            assert_eq!(error.to_string(), format!("no IPv4 pool: {reason}"));
        }
        let error = choose(&pools[2..4], Family::V4, asker).unwrap_err().to_string();
        assert_eq!(error, "no IPv4 pool: off is disabled; manual is given only by name");
        assert!(
            choose(&[], Family::V6, asker).unwrap_err().to_string().contains("none is configured")
        );
    }

    fn nets(list: &[IpNet]) -> Nets {
        list.iter().collect()
    }

    #[test]
    fn a_search_meets_every_block_once_and_starts_where_calico_does() {
        let now = Timestamp::from_seconds(1_000);
        let none = Nets::default();
        let small = Pool { block_size: 30, ..pool("p", "10.0.0.0/26") };
        let all: Vec<IpNet> = small.cidr.subnets(30).unwrap().collect();
        let mut found = Vec::new();
        while let Some(block) = small.free_block("node1", now, &nets(&found), &none) {
            found.push(block);
        }
        assert_eq!(found[..2], all[7..9], "what Go draws for this name");
        found.sort();
        assert_eq!(found, all);
        assert_eq!(small.free_block("node2", now, &none, &none), Some(all[0]));
        // The reference value of FNV-1 for "a".
        assert_eq!(fnv32(b"a"), 0x050c_5d7e);
        // A pool of one block, and one of far too many to list.
        let one = pool("one", "10.0.0.0/26");
        assert_eq!(one.free_block("n", now, &none, &none), Some(one.cidr));
        let huge = pool("huge", "fd00::/16");
        let block = huge.free_block("n", now, &none, &none).unwrap();
        assert!(huge.cidr.contains(&block));
    }

    #[test]
    fn what_is_reserved_whole_is_no_block_to_claim() {
        let now = Timestamp::from_seconds(1_000);
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let find = |pool: &Pool, occupied: &[&str], reserved: &[&str]| {
            let occupied: Vec<_> = occupied.iter().copied().map(net).collect();
            let reserved: Vec<_> = reserved.iter().copied().map(net).collect();
            pool.free_block("node1", now, &nets(&occupied), &nets(&reserved))
        };
        // It starts at the eighth of sixteen.
        let small = Pool { block_size: 30, ..pool("p", "10.0.0.0/26") };
        assert_eq!(find(&small, &[], &["10.0.0.28/30"]), Some(net("10.0.0.32/30")));
        // In parts, and more than the rest of the pool.
        let parts = ["10.0.0.28/31", "10.0.0.30/31", "10.0.0.32/27"];
        assert_eq!(find(&small, &[], &parts), Some(net("10.0.0.0/30")));
        // All but one address of it is left alone.
        assert_eq!(find(&small, &[], &["10.0.0.28/31", "10.0.0.30/32"]), Some(net("10.0.0.28/30")));
        assert_eq!(find(&small, &["10.0.0.0/28"], &["10.0.0.16/28", "10.0.0.32/27"]), None);
        assert_eq!(find(&small, &[], &["10.0.0.0/8"]), None);
        // Far too much to be looked at block by block.
        let huge = pool("huge", "fd00::/16");
        assert_eq!(find(&huge, &[], &["fd00::/17", "fd00:8000::/17"]), None);
        assert_eq!(find(&huge, &[], &["::/0"]), None);
        let found = find(&huge, &[], &["fd00::/17", "fd00:8000::/18", "fd00:c000::/19"]).unwrap();
        assert!(net("fd00:e000::/19").contains(&found), "{found}");
    }

    /// Else all nodes of such a pool would always meet.
    #[test]
    fn blocks_of_one_address_are_looked_for_elsewhere_each_time() {
        let (none, single) = (Nets::default(), Pool { block_size: 32, ..pool("p", "10.0.0.0/16") });
        let starts: std::collections::BTreeSet<_> = (0..100)
            .filter_map(|n| single.free_block("node1", Timestamp::from_seconds(n), &none, &none))
            .collect();
        assert!(starts.len() > 90, "{starts:?}");
    }
}
