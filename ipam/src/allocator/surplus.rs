//! Which of its own blocks a node gives back, and when it wants one more. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;

use super::cache::Cache;
use super::plan::Settings;
use crate::block::Block;
use crate::error::Error;
use crate::net::Family;
use crate::pool::{self, AllowedUse, Asker, Pool};
use crate::timestamp::Timestamp;

/// A block that was claimed less than this ago is surely meant to be used.
const MIN_AGE: Duration = Duration::from_secs(60);

/// An empty block, in which nothing rests either, that the node has no use for: its pools no longer
/// select the node, or are gone, or the node has a whole block's worth of free addresses of the pool
/// beside it. The last block of a pool stays, and so does one without which the node would claim a
/// spare, so that no block goes to and fro.
pub(crate) fn unwanted(cache: &Cache, settings: &Settings, now: Timestamp) -> Option<IpNet> {
    // Also where it is not for this node: a request that named the pool or the address claimed it,
    // and may not have taken its address yet.
    let young = |block: &Block| block.claimed_at().is_some_and(|at| at.plus(MIN_AGE) > now);
    let empty = |block: &Block| block.is_empty_by(now, settings.config.cooldown());
    // The last first, so that the networks that stay are the same on every look.
    let own: Vec<&Block> = cache.owned().collect();
    let unwanted = own.iter().rev().find(|block| {
        !young(block)
            && empty(block)
            && (is_foreign(block, settings)
                || is_surplus(block, &own, settings, now) && !is_spare(block, cache, settings, now))
    });
    unwanted.map(|block| block.cidr())
}

/// The pools that the block is of: more than one where they overlap.
fn pools_of<'a>(block: &'a Block, settings: &'a Settings) -> impl Iterator<Item = &'a Pool> {
    settings.pools.iter().filter(|pool| pool.cidr.contains(&block.cidr()))
}

/// True if none of the block's pools wants it to be this node's. No pool at all proves nothing: the
/// list may not have come yet. Nor does one more that cannot be read: it may be the block's.
fn is_foreign(block: &Block, settings: &Settings) -> bool {
    if settings.unreadable_pools > 0 {
        return false;
    }
    let mut pools = pools_of(block, settings).peekable();
    match (pools.peek(), &settings.node_labels) {
        (Some(_), Some(labels)) => !pools.any(|pool| pool.selects_node(labels)),
        (Some(_), None) => false,
        (None, _) => !settings.pools.is_empty(),
    }
}

/// True if the node has a block's worth of free addresses beside the block in each of its pools.
fn is_surplus(block: &Block, own: &[&Block], settings: &Settings, now: Timestamp) -> bool {
    let cooldown = settings.config.cooldown();
    let mut pools = pools_of(block, settings).peekable();
    pools.peek().is_some()
        && pools.all(|pool| {
            let mut others = own.iter().filter(|other| {
                other.cidr() != block.cidr()
                    && pool.cidr.contains(&other.cidr())
                    && !other.deleted()
            });
            let mut free = 0;
            // No more is counted than is needed: this is asked often.
            others.any(|other| {
                free += other.free_by(now, cooldown, &settings.reservations);
                free >= block.capacity()
            })
        })
}

/// True if the node would look for a spare block as soon as it had given up this one: spares are
/// counted over all pools, and blocks differ in size.
fn is_spare(block: &Block, cache: &Cache, settings: &Settings, now: Timestamp) -> bool {
    let Ok(pools) = spare_pools(settings, Family::of_net(&block.cidr())) else { return false };
    pools.iter().any(|pool| pool.cidr.contains(&block.cidr()))
        && wants_spare(cache, settings, &pools, Some(block.cidr()), now)
}

/// The pools of which the node claims blocks before it needs them: those of pods that ask for none.
pub(crate) fn spare_pools(settings: &Settings, family: Family) -> Result<Vec<&Pool>, Error> {
    let unknown = BTreeMap::new();
    let asker = Asker {
        node_labels: settings.node_labels.as_ref().unwrap_or(&unknown),
        namespace_labels: None,
        requested: &[],
        intended_use: AllowedUse::Workload,
    };
    pool::choose(&settings.pools, family, asker)
}

/// True if the node should claim a further block of a family before it needs it: fewer than a
/// quarter of a block's addresses are free, or would be without one of its blocks.
pub(crate) fn wants_spare(
    cache: &Cache,
    settings: &Settings,
    pools: &[&Pool],
    without: Option<IpNet>,
    now: Timestamp,
) -> bool {
    let in_pools = |block: &&Block| {
        Some(block.cidr()) != without && pools.iter().any(|pool| pool.cidr.contains(&block.cidr()))
    };
    let blocks: Vec<_> = cache.owned().filter(in_pools).collect();
    let capacity = blocks.iter().map(|block| block.capacity()).max().unwrap_or(0);
    // No more is counted than is needed: this is asked often.
    let mut free = 0;
    capacity > 0
        && !blocks.iter().any(|block| {
            free += block.free_by(now, settings.config.cooldown(), &settings.reservations);
            free * 4 >= capacity
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
        let mut second = cache.blocks.get(&net("10.0.1.0/26")).unwrap().clone();
        second.value.release_handle("h-10.0.1.0/26", Release::Rest(at(1000)));
        cache.blocks.insert(net("10.0.1.0/26"), second);
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
        let young = unwanted(&cache(&[(cidr, 0)]), &elsewhere, at(59));
        assert_eq!(young, None, "claimed for a request that named the pool");
        elsewhere.node_labels = None;
        assert_eq!(of(&elsewhere, 0), None, "the labels are not known");
        assert_eq!(of(&settings(&[("other", "10.9.0.0/16")]), 0), Some(net(cidr)));
        assert_eq!(of(&settings(&[("other", "10.9.0.0/16")]), 1), None);
        assert_eq!(of(&settings(&[]), 0), None, "no list is no proof");
        for mut with_unreadable in [elsewhere, settings(&[("other", "10.9.0.0/16")])] {
            with_unreadable.node_labels = Some(BTreeMap::new());
            assert_eq!(of(&with_unreadable, 0), Some(net(cidr)));
            with_unreadable.unreadable_pools = 1;
            assert_eq!(of(&with_unreadable, 0), None, "it may be the block's");
        }
    }

    #[test]
    fn a_block_goes_only_if_no_pool_that_has_it_selects_the_node() {
        let (cidr, mut both) =
            ("10.0.0.0/26", settings(&[("a", "10.0.0.0/16"), ("b", "10.0.0.0/24")]));
        let of = |settings: &Settings| unwanted(&cache(&[(cidr, 0)]), settings, at(1000));
        let elsewhere = api::selector::Selector::parse("rack == 'r2'").unwrap();
        both.pools[0].node_selector = elsewhere.clone();
        assert_eq!(of(&both), None);
        both.pools[1].node_selector = elsewhere;
        assert_eq!(of(&both), Some(net(cidr)));
    }

    #[test]
    fn what_would_be_claimed_again_as_a_spare_stays() {
        let mut settings = settings(&[("a", "10.0.0.0/16"), ("b", "10.1.0.0/16")]);
        let (one, two, large) = ("10.0.0.0/26", "10.0.1.0/26", "10.1.0.0/23");
        let of = |settings: &Settings, used| {
            let cache = cache(&[(one, 0), (two, 0), (large, used)]);
            unwanted(&cache, settings, at(1000))
        };
        // A quarter of the large block is 128 addresses.
        assert_eq!(of(&settings, 512), None);
        assert_eq!(of(&settings, 449), None, "63 and 64");
        assert_eq!(of(&settings, 448), Some(net(two)), "64 and 64");
        // What pods get by name only is no spare.
        settings.pools[0].manual = true;
        assert_eq!(of(&settings, 512), Some(net(two)));
    }
}
