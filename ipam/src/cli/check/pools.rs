//! What is wrong with pools: they overlap, or are full.

use ipam::block::Block;
use ipam::pool::Pool;
use ipnet::IpNet;

use super::{Data, Kind};

pub(super) fn check(data: &Data, wrong: &mut dyn FnMut(Kind, &dyn ToString, String)) {
    let pools = &data.pools.pools;
    for (n, pool) in pools.iter().enumerate() {
        // In address order everything inside a network follows it.
        for inner in pools[n + 1..].iter().take_while(|other| pool.cidr.contains(&other.cidr)) {
            let reason = format!("{} overlaps {} ({})", inner.cidr, pool.name, pool.cidr);
            wrong(Kind::Configuration, &format!("IPPool {}", inner.name), reason);
        }
        if !pool.disabled && is_full(pool, data) {
            let reason = format!("{} has no free address", pool.cidr);
            wrong(Kind::PoolFull, &format!("IPPool {}", pool.name), reason);
        }
    }
}

/// True if every address is in a block, and none of them is free.
fn is_full(pool: &Pool, data: &Data) -> bool {
    let inside = |cidr: &IpNet| pool.cidr.contains(cidr);
    let blocks: Vec<&Block> =
        data.blocks.iter().filter(|(cidr, _)| inside(cidr)).map(|(_, block)| block).collect();
    let covered: Vec<IpNet> = blocks.iter().map(|block| block.cidr()).collect();
    let free = |block: &&Block| block.free(&data.pools.reservations).next().is_some();
    IpNet::aggregate(&covered) == [pool.cidr] && !blocks.iter().any(free)
}
