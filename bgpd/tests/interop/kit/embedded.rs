//! The library in this process: for what only who embeds a speaker can say to it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, ensure};
use bgpd::{
    Config, Explanation, FibBatch, FibSubscription, NeighborStatus, Resolution, Shutdown, Speaker,
    SpeakerHandle, SpeakerStatus,
};
use tokio::runtime::{Builder, Runtime};

use super::{LIMIT, Node, Result, eventually};

/// A speaker whose thread is in a namespace, and so are all its sockets.
pub(crate) struct Embedded {
    runtime: Runtime,
    handle: SpeakerHandle,
}

impl Embedded {
    /// Starts it with the daemon's YAML.
    pub(crate) fn start(node: &Node, yaml: &str) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        // A thread is in the namespace of the one that starts it.
        let handle = node.inside(|| runtime.block_on(Speaker::start(parsed(yaml)))).unwrap();
        Self { runtime, handle }
    }

    /// Makes this the desired state.
    pub(crate) fn apply(&self, yaml: &str) {
        self.runtime.block_on(self.handle.apply(parsed(yaml))).unwrap();
    }

    pub(crate) fn status(&self) -> SpeakerStatus {
        self.runtime.block_on(self.handle.status()).unwrap()
    }

    pub(crate) fn neighbor(&self, name: &str) -> Result<NeighborStatus> {
        let all = self.runtime.block_on(self.handle.neighbors())?;
        all.into_iter().find(|n| n.name == name).with_context(|| format!("no neighbor {name}"))
    }

    /// Waits until a session is up.
    pub(crate) fn established(&self, name: &str) {
        eventually(&format!("our session with {name}"), LIMIT, || {
            let neighbor = self.neighbor(name)?;
            ensure!(neighbor.session.is_some(), "{neighbor:?}");
            Ok(())
        });
    }

    /// Why the paths to a prefix are used or are not.
    pub(crate) fn explain(&self, prefix: &str) -> Result<Explanation> {
        let found = self.runtime.block_on(self.handle.explain(prefix.parse()?))?;
        found.with_context(|| format!("we have no {prefix}"))
    }

    /// Says what is known of the ways to next hops.
    pub(crate) fn set_next_hops<const N: usize>(&self, known: [(&str, Resolution); N]) {
        let known: BTreeMap<IpAddr, Resolution> =
            known.into_iter().map(|(hop, way)| (hop.parse().unwrap(), way)).collect();
        self.runtime.block_on(self.handle.set_next_hops(known)).unwrap();
    }

    /// Becomes a consumer of the forwarding table.
    pub(crate) fn fib(&self) -> Fib<'_> {
        Fib { speaker: self, subscription: self.runtime.block_on(self.handle.fib()).unwrap() }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        // Its thread holds the namespace.
        let end = Shutdown::Administrative("the test is over".into());
        self.runtime.block_on(self.handle.shutdown(end));
    }
}

/// A consumer of the forwarding table.
pub(crate) struct Fib<'a> {
    speaker: &'a Embedded,
    subscription: FibSubscription,
}

impl Fib<'_> {
    /// Takes changes until there is one of a prefix, and returns it with the number to acknowledge;
    /// what comes before it is acknowledged.
    pub(crate) fn until_change(&self, prefix: &str) -> (u64, Vec<IpAddr>) {
        let prefix = prefix.parse().unwrap();
        eventually(&format!("a change of {prefix}"), LIMIT, || {
            let FibBatch { sequence, deltas, .. } =
                self.speaker.runtime.block_on(self.subscription.take(1))?;
            if let Some(delta) = deltas.iter().find(|delta| delta.prefix == prefix) {
                return Ok((sequence, delta.next_hops.iter().map(|hop| hop.addr).collect()));
            }
            self.ack(sequence);
            anyhow::bail!("of others: {deltas:?}")
        })
    }

    /// Says that all up to this one is in the kernel.
    pub(crate) fn ack(&self, sequence: u64) {
        self.speaker.runtime.block_on(self.subscription.ack(sequence)).unwrap();
    }
}

fn parsed(yaml: &str) -> Config {
    serde_saphyr::from_str(yaml).unwrap()
}
