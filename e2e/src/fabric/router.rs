//! What the lab asks a router, whatever software it runs.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use ipnet::IpNet;
use serde::Serialize;
use tokio::process::Command;

use super::{Place, bird, frr};
use crate::process;
use crate::topology::{Router, Software};

/// A BGP session as the router sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Session {
    /// The lab's name of the other side.
    pub(crate) neighbor: String,
    pub(crate) asn: u32,
    pub(crate) established: bool,
    /// The state's name, and the reason where the router gives one.
    pub(crate) state: String,
    /// Prefixes taken from the neighbour.
    pub(crate) received: usize,
}

/// A path in the router's BGP table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Route {
    pub(crate) prefix: IpNet,
    pub(crate) next_hop: Option<IpAddr>,
    pub(crate) as_path: Vec<u32>,
    /// Best, or one of several equal bests: traffic takes it.
    pub(crate) used: bool,
    /// Kept over the neighbour's restart (RFC 4724).
    pub(crate) stale: bool,
}

/// A router of a lab.
#[derive(Clone, Debug)]
pub(crate) struct RouterHandle {
    place: Place,
    router: Router,
}

impl RouterHandle {
    pub(super) fn new(place: &Place, router: Router) -> Self {
        Self { place: place.clone(), router }
    }

    pub(crate) fn router(&self) -> &Router {
        &self.router
    }

    /// Its configured sessions, in the plan's order.
    pub(crate) async fn sessions(&self) -> Result<Vec<Session>> {
        match self.router.software {
            Software::Frr => frr::sessions(self).await,
            Software::Bird => bird::sessions(self).await,
        }
    }

    /// Its BGP table, both families.
    pub(crate) async fn routes(&self) -> Result<Vec<Route>> {
        match self.router.software {
            Software::Frr => frr::routes(self).await,
            Software::Bird => bird::routes(self).await,
        }
    }

    /// Has it drop the routes of a peer that restarts, at once.
    ///
    /// # Errors
    /// Only FRR can be told.
    pub(crate) async fn refuse_graceful_restart(&self) -> Result<()> {
        match self.router.software {
            Software::Frr => frr::refuse_graceful_restart(self).await,
            Software::Bird => bail!("{} runs BIRD", self.router.name),
        }
    }

    /// Ends its sessions; they come up again.
    ///
    /// # Errors
    /// Only FRR can be told.
    pub(crate) async fn reset_sessions(&self) -> Result<()> {
        match self.router.software {
            Software::Frr => frr::reset_sessions(self).await,
            Software::Bird => bail!("{} runs BIRD", self.router.name),
        }
    }

    /// Runs the router's own command line tool (`vtysh`, `birdc`).
    pub(super) async fn tool(&self, program: &str, args: &[&str]) -> Result<String> {
        let mut command = Command::new(self.place.bin_of(&self.router.name).join(program));
        command.args(args);
        let output = process::capture(command, None, b"", Duration::from_secs(10)).await?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            bail!("{}: {program} {}: {}", self.router.name, args.join(" "), text.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
