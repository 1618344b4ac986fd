//! Which of its own blocks a node gives back. Pure.

use std::time::Duration;

use ipnet::IpNet;

use super::cache::Cache;
use super::plan::Settings;
use crate::block::Block;
use crate::timestamp::Timestamp;

/// A block that was claimed less than this ago is surely meant to be used.
const MIN_AGE: Duration = Duration::from_secs(60);

/// An empty block, in which nothing rests either, that the node has no use for: its pool no longer
/// selects the node, or is gone, or the node has a whole block's worth of free addresses of the pool
/// beside it. The last block of a pool stays. More is asked of what stays than
/// [`super::plan::wants_spare`] asks before it claims, so that no block goes to and fro.
pub(crate) fn unwanted(cache: &Cache, settings: &Settings, now: Timestamp) -> Option<IpNet> {
    let empty = |block: &Block| {
        !block.has_allocations() && {
            let mut block = block.clone();
            block.expire(now, settings.config.cooldown());
            block.is_empty()
        }
    };
    // The last first, so that the networks that stay are the same on every look.
    let own: Vec<&Block> = cache.owned().collect();
    let unwanted = own.iter().rev().find(|block| {
        is_foreign(block, settings) && empty(block) || is_surplus(block, &own, settings, now, empty)
    });
    unwanted.map(|block| block.cidr())
}

/// True if the block's pool does not want it to be this node's. No pool at all proves nothing: the
/// list may not have come yet.
fn is_foreign(block: &Block, settings: &Settings) -> bool {
    let pool = settings.pools.iter().find(|pool| pool.cidr.contains(&block.cidr()));
    match (pool, &settings.node_labels) {
        (Some(pool), Some(labels)) => !pool.selects_node(labels),
        (Some(_), None) => false,
        (None, _) => !settings.pools.is_empty(),
    }
}

fn is_surplus(
    block: &Block,
    own: &[&Block],
    settings: &Settings,
    now: Timestamp,
    empty: impl Fn(&Block) -> bool,
) -> bool {
    let Some(pool) = settings.pools.iter().find(|pool| pool.cidr.contains(&block.cidr())) else {
        return false;
    };
    let young = block.claimed_at().is_some_and(|at| at.plus(MIN_AGE) > now);
    if young || !empty(block) {
        return false;
    }
    let mut others = own.iter().filter(|other| {
        other.cidr() != block.cidr() && pool.cidr.contains(&other.cidr()) && !other.deleted()
    });
    let (mut free, cooldown) = (0, settings.config.cooldown());
    // No more is counted than is needed: this is asked before every commit.
    others.any(|other| {
        free += other.free_by(now, cooldown, &settings.reservations);
        free >= block.capacity()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::cache::Seen;
    use crate::block::{Attribute, Release};
    use crate::model::AffinityState;
    use crate::pool::tests::pool;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    /// Own blocks claimed at 0, each with so many addresses in use.
    fn cache(blocks: &[(&str, usize)]) -> Cache {
        let mut cache = Cache::new("n");
        for (cidr, used) in blocks {
            let cidr = net(cidr);
            let mut value = Block::new(cidr, Some("host:n".to_owned()), at(0)).unwrap();
            let owner = Attribute { handle_id: Some(format!("h-{cidr}")), ..Attribute::default() };
            for _ in 0..*used {
                value.allocate(&owner, &[]).unwrap();
            }
            cache.blocks.insert(cidr, Seen { value, revision: 1 });
            let confirmed = Seen { value: AffinityState::Confirmed, revision: 1 };
            cache.affinities.insert(cidr, confirmed);
        }
        cache
    }

    fn settings(pools: &[(&str, &str)]) -> Settings {
        Settings {
            pools: pools.iter().map(|(name, cidr)| pool(name, cidr)).collect(),
            node_labels: Some([("rack".to_owned(), "r1".to_owned())].into()),
            ..Settings::default()
        }
    }

    #[test]
    fn keeps_a_blocks_worth_of_free_addresses() {
        let settings = settings(&[("p", "10.0.0.0/16"), ("six", "fd00::/64")]);
        let (a, b, c) = ("10.0.0.0/26", "10.0.1.0/26", "10.0.2.0/26");
        let of = |blocks: &[(&str, usize)], now| unwanted(&cache(blocks), &settings, at(now));
        assert_eq!(of(&[(a, 0)], 1000), None, "the last one stays");
        assert_eq!(of(&[(a, 1), (b, 0)], 1000), None, "63 are not a block");
        assert_eq!(of(&[(a, 32), (b, 0), (c, 0)], 1000), Some(net(c)));
        assert_eq!(of(&[(a, 0), (b, 0)], 1000), Some(net(b)));
        assert_eq!(of(&[(a, 0), (b, 0)], 59), None, "just claimed");
        assert_eq!(of(&[(a, 0), (b, 1)], 1000), None);
        assert_eq!(of(&[(a, 0), (b, 1), (c, 1)], 1000), Some(net(a)), "63 and 63");
        // Each pool by itself.
        assert_eq!(of(&[(a, 0), ("fd00::/122", 0)], 1000), None);
    }

    #[test]
    fn nothing_goes_while_an_address_rests() {
        let (settings, mut cache) =
            (settings(&[("p", "10.0.0.0/16")]), cache(&[("10.0.0.0/26", 0), ("10.0.1.0/26", 1)]));
        let second = cache.blocks.get_mut(&net("10.0.1.0/26")).unwrap();
        second.value.release_handle("h-10.0.1.0/26", Release::Rest(at(1000)));
        assert_eq!(unwanted(&cache, &settings, at(1119)), None, "63 are free beside the first");
        assert_eq!(unwanted(&cache, &settings, at(1120)), Some(net("10.0.1.0/26")));
    }

    #[test]
    fn a_block_whose_pool_is_gone_or_selects_others_goes() {
        let cidr = "10.0.0.0/26";
        let of = |settings: &Settings, used| unwanted(&cache(&[(cidr, used)]), settings, at(1000));
        let mut elsewhere = settings(&[("p", "10.0.0.0/16")]);
        elsewhere.pools[0].node_selector = api::selector::Selector::parse("rack == 'r2'").unwrap();
        assert_eq!(of(&elsewhere, 0), Some(net(cidr)));
        assert_eq!(of(&elsewhere, 1), None, "a pod lives there");
        elsewhere.node_labels = None;
        assert_eq!(of(&elsewhere, 0), None, "the labels are not known");
        assert_eq!(of(&settings(&[("other", "10.9.0.0/16")]), 0), Some(net(cidr)));
        assert_eq!(of(&settings(&[("other", "10.9.0.0/16")]), 1), None);
        assert_eq!(of(&settings(&[]), 0), None, "no list is no proof");
    }
}
