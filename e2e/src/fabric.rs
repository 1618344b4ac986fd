//! The fabric: namespaces, the links between them, and the routers' daemons.

mod bird;
mod frr;
mod links;
mod router;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::future::try_join_all;

pub(crate) use self::frr::{daemon as frr_daemon, own as frr_own};
pub(crate) use self::router::{Route, RouterHandle, Session};
use crate::netns::Netns;
use crate::process::Daemon;
use crate::record::Record;
use crate::topology::{Software, Topology};
use crate::wait;

/// Where a lab's namespaces and files are. Everything else is found from this.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The lab's name, which begins the names of its namespaces.
    pub(crate) lab: String,
    /// The lab's own directory; gone after `down`.
    pub(crate) directory: PathBuf,
}

impl Place {
    /// The namespace of a node, router or host of the lab.
    pub(crate) fn netns(&self, name: &str) -> Netns {
        Netns::named(format!("{}-{name}", self.lab))
    }

    /// Where `name` keeps its files.
    pub(crate) fn directory_of(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Programs that know where `name`'s daemons listen: first in `PATH` for `exec`.
    pub(crate) fn bin_of(&self, name: &str) -> PathBuf {
        self.directory_of(name).join("bin")
    }
}

/// A running fabric.
#[derive(Debug)]
pub(crate) struct Fabric {
    place: Place,
    routers: Vec<RouterHandle>,
    daemons: Vec<Daemon>,
}

impl Fabric {
    /// Makes namespaces and links, starts the routers and waits until they have each other.
    pub(crate) async fn build(place: &Place, topology: &Topology, record: &Record) -> Result<Self> {
        links::build(place, topology, record).await?;
        let mut fabric =
            Self { place: place.clone(), routers: handles(place, topology), daemons: Vec::new() };
        for handle in &fabric.routers {
            let name = &handle.router().name;
            let directory = place.directory_of(name);
            std::fs::create_dir_all(&directory)?;
            let daemons = match handle.router().software {
                Software::Frr => frr::start(place, handle.router(), record).await,
                Software::Bird => bird::start(place, handle.router(), record).await,
            };
            fabric.daemons.extend(daemons.with_context(|| format!("router {name}"))?);
        }
        Ok(fabric)
    }

    /// Waits until the routers' sessions with each other are up.
    pub(crate) async fn settle(&mut self) -> Result<()> {
        let routers = &self.routers;
        let names: Vec<&str> = routers.iter().map(|r| r.router().name.as_str()).collect();
        let daemons = &mut self.daemons;
        wait::until("sessions between routers", Duration::from_secs(30), || {
            let dead = daemons.iter_mut().try_for_each(Daemon::check);
            let names = &names;
            async move {
                dead?;
                for sessions in try_join_all(routers.iter().map(RouterHandle::sessions)).await? {
                    for session in sessions {
                        if names.contains(&session.neighbor.as_str()) && !session.established {
                            bail!("with {}: {}", session.neighbor, session.state);
                        }
                    }
                }
                Ok(())
            }
        })
        .await
        .map_err(|error| error.context(self.logs()))
    }

    /// The ends of the routers' logs.
    fn logs(&self) -> String {
        let tails = self.daemons.iter().map(|d| crate::process::log_tail(d.log(), 8));
        format!("the routers of {}\n{}", self.place.lab, tails.collect::<String>())
    }
}

/// The routers of a plan, running or not.
pub(crate) fn handles(place: &Place, topology: &Topology) -> Vec<RouterHandle> {
    topology.routers.iter().map(|router| RouterHandle::new(place, router.clone())).collect()
}

/// Writes a program that runs another with fixed first arguments.
pub(crate) fn write_wrapper(place: &Place, name: &str, program: &str, line: &str) -> Result<()> {
    let bin = place.bin_of(name);
    std::fs::create_dir_all(&bin)?;
    write_executable(&bin.join(program), &format!("#!/bin/sh\nexec {line} \"$@\"\n"))
}

fn write_executable(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}
