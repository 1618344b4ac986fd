//! Before the first address of a block is used on this node, nothing is tracked that leads to it.
//!
//! While a block was somebody else's or nobody's, packets to it left the node and were tracked, for
//! policy had nothing to say about where they went. A pod that got such an address and sent the
//! other way would answer a flow, and what is answered is established: neither its own policy nor
//! the other side's would be asked. So the block is made a dead end first, where nothing new is
//! tracked, and then what is tracked already is forgotten.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::{Mutex, watch};

use crate::kernel::{Error, Kernel};
use crate::model::{RouteChange, RouteTarget};

pub(super) struct Guard {
    kernel: Kernel,
    /// This node's.
    blocks: watch::Receiver<Arc<[IpNet]>>,
    /// Those of them that are safe since this process started.
    safe: Mutex<BTreeSet<IpNet>>,
}

impl Guard {
    pub(super) fn new(kernel: Kernel, blocks: watch::Receiver<Arc<[IpNet]>>) -> Self {
        Self { kernel, blocks, safe: Mutex::default() }
    }

    /// Makes addresses safe to use. An address of another node's block is, by itself, each time.
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub(super) async fn secure(&self, addresses: &[IpAddr]) -> Result<(), Error> {
        // Held all along: the second address of a block waits for the first one's block.
        let mut safe = self.safe.lock().await;
        let blocks = Arc::clone(&self.blocks.borrow());
        let due = due(&mut safe, &blocks, addresses);
        if due.is_empty() {
            return Ok(());
        }
        let dead_end =
            |net: &IpNet| RouteChange { destination: *net, target: Some(RouteTarget::Blackhole) };
        self.kernel.set_routes(due.iter().map(dead_end).collect()).await?;
        self.kernel.forget_within(due.clone()).await?;
        safe.extend(due);
        Ok(())
    }
}

/// What has to be made safe for these addresses. Blocks that were given up are no longer safe.
fn due(safe: &mut BTreeSet<IpNet>, blocks: &[IpNet], addresses: &[IpAddr]) -> Vec<IpNet> {
    safe.retain(|net| blocks.contains(net));
    let net_of = |address: &IpAddr| {
        let block = blocks.iter().find(|block| block.contains(address));
        block.copied().unwrap_or_else(|| IpNet::from(*address))
    };
    addresses.iter().map(net_of).filter(|net| !safe.contains(net)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_made_safe_once_and_again_after_it_was_given_up() {
        let net = |text: &str| -> IpNet { text.parse().unwrap() };
        let (block, other) = (net("10.1.0.0/26"), net("fd00::/122"));
        let addresses = ["10.1.0.9", "fd00::9"].map(|ip| ip.parse().unwrap());
        let mut safe = BTreeSet::new();
        assert_eq!(due(&mut safe, &[block, other], &addresses), [block, other]);
        safe.extend([block, other]);
        assert_eq!(due(&mut safe, &[block, other], &addresses), []);
        // Somebody else's by now: the address alone, and not for long.
        assert_eq!(due(&mut safe, &[block], &addresses), [net("fd00::9/128")]);
        assert_eq!(due(&mut safe, &[block, other], &addresses), [other]);
    }
}
