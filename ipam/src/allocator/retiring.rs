//! The allocator's part in giving back what nodes held that are gone: see [`crate::retire`].

use std::sync::PoisonError;
use std::time::Duration;

use super::Ipam;
use crate::error::Error;
use crate::model::{self, IpamConfig};
use crate::retire::{self, Challenge, Machine, Registry, Retired};
use crate::timestamp::Timestamp;

impl Ipam {
    /// Records which node of Kubernetes this one is: only then may others give back what it holds,
    /// once Kubernetes has deleted it. `machine` says whose that node is. False if that must be tried
    /// again: this instance does not own the node's name yet, or the node is not provably this
    /// machine's where it must be.
    ///
    /// # Errors
    /// The store's.
    pub async fn identify(&self, uid: &str, machine: Machine) -> Result<bool, Error> {
        let shared = &self.shared;
        retire::identify(&*shared.store, &shared.node, &shared.instance, uid, machine).await
    }

    /// Takes this node's name over from another instance, if Kubernetes has deleted the node that
    /// had it and made this one, with `uid`, which is `machine`'s. True if it did; the blocks come
    /// with the name.
    ///
    /// # Errors
    /// The store's.
    pub async fn succeed(
        &self,
        uid: &str,
        machine: Machine,
        registry: &dyn Registry,
    ) -> Result<bool, Error> {
        let shared = &self.shared;
        let of = (uid, machine);
        retire::succeed(&*shared.store, &shared.node, &shared.instance, of, registry).await
    }

    /// The names of the nodes of Kubernetes that the store knows, gone ones among them.
    ///
    /// # Errors
    /// The store's.
    pub async fn known_nodes(&self) -> Result<Vec<String>, Error> {
        retire::known_nodes(&*self.shared.store).await
    }

    /// Asks whether a node that Kubernetes has deleted has an agent that lives: it takes its name
    /// again within the time of one transaction. [`Ipam::retire`] tells.
    ///
    /// # Errors
    /// The store's.
    pub async fn challenge(&self, node: &str, registry: &dyn Registry) -> Result<Challenge, Error> {
        retire::challenge(&*self.shared.store, &self.shared.node, node, registry).await
    }

    /// Gives back what a node holds that Kubernetes has deleted, some time after its challenge. To
    /// be repeated while something is kept.
    ///
    /// # Errors
    /// The store's.
    pub async fn retire(&self, node: &str, registry: &dyn Registry) -> Result<Retired, Error> {
        let shared = &self.shared;
        let (now, cooldown) = (Timestamp::from((shared.clock)()), self.cooldown().await?);
        retire::retire(&*shared.store, &shared.node, node, registry, now, cooldown).await
    }

    async fn cooldown(&self) -> Result<Duration, Error> {
        let given = self.shared.config.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(given) = given {
            return Ok(given.cooldown());
        }
        let stored = self.shared.store.read(&[model::CONFIG.to_owned()]).await?;
        Ok(IpamConfig::stored(stored.entries.first())?.cooldown())
    }
}
