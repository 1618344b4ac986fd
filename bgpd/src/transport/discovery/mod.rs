//! Who is at the other end of an interface: its state from rtnetlink, its router from router
//! advertisements (RFC 4861), which are sent there as well. Runs only where a neighbor is named by
//! its interface.

mod advertise;
mod links;
mod router;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv6Addr;
use std::time::Duration;

use socket2::Socket;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};

use advertise::Schedule;
use router::Heard;

/// How long after a failure of the sockets they are opened anew.
const AGAIN: Duration = Duration::from_secs(5);

/// What was found out about an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It works, and has this number; None: it is not there, or down.
    Link(String, Option<u32>),
    /// A router is on it.
    Router(String, Ipv6Addr),
    /// Nothing can be found out.
    Trouble(String),
}

/// Watches interfaces until it is dropped.
#[derive(Debug)]
pub(crate) struct Discovery {
    interfaces: BTreeSet<String>,
    interval: Duration,
    task: AbortHandle,
}

impl Discovery {
    /// Watches `interfaces`, and advertises a router on them every `interval`.
    pub(crate) fn start<E: Send + 'static>(
        interfaces: BTreeSet<String>,
        interval: Duration,
        events: mpsc::Sender<E>,
        wrap: fn(Found) -> E,
    ) -> Self {
        let report = Report { events, wrap };
        let task = tokio::spawn(watch(interfaces.clone(), interval, report)).abort_handle();
        Self { interfaces, interval, task }
    }

    /// Whether it does just that.
    pub(crate) fn is(&self, interfaces: &BTreeSet<String>, interval: Duration) -> bool {
        self.interfaces == *interfaces && self.interval == interval
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Report<E> {
    events: mpsc::Sender<E>,
    wrap: fn(Found) -> E,
}

impl<E> Report<E> {
    async fn send(&self, found: Found) {
        // Nobody listens any more: the task is about to be ended.
        let _gone = self.events.send((self.wrap)(found)).await;
    }
}

async fn watch<E>(interfaces: BTreeSet<String>, interval: Duration, report: Report<E>) {
    loop {
        let mut watcher =
            Watcher { interfaces: &interfaces, interval, report: &report, links: BTreeMap::new() };
        let Err(error) = watcher.run().await;
        tracing::error!(%error, "cannot look for routers");
        report.send(Found::Trouble(format!("cannot look for routers: {error}"))).await;
        sleep(AGAIN).await;
    }
}

struct Watcher<'a, E> {
    interfaces: &'a BTreeSet<String>,
    interval: Duration,
    report: &'a Report<E>,
    /// Those that work, by number.
    links: BTreeMap<u32, (String, Schedule)>,
}

impl<E> Watcher<'_, E> {
    async fn run(&mut self) -> io::Result<std::convert::Infallible> {
        let netlink = links::register(links::open()?)?;
        let icmp = links::register(router::open()?)?;
        links::ask(netlink.get_ref())?;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let due = self.links.values().map(|(_, schedule)| schedule.due()).min();
            tokio::select! {
                ready = netlink.readable() => {
                    let read = ready?.try_io(|s| links::receive(s.get_ref(), &mut buffer));
                    match read {
                        Ok(Ok(len)) => {
                            let (changes, all) = links::parse(&buffer[..len]);
                            for change in changes {
                                self.link(change, icmp.get_ref()).await;
                            }
                            if all {
                                self.missing().await;
                            }
                        }
                        // Too many changes at once: asked for all there are.
                        Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                            links::ask(netlink.get_ref())?;
                        }
                        Ok(Err(error)) => return Err(error),
                        Err(_would_block) => {}
                    }
                }
                ready = icmp.readable() => {
                    match ready?.try_io(|s| router::receive(s.get_ref())) {
                        Ok(Ok(Some((index, heard)))) => self.heard(index, heard).await,
                        Ok(Ok(None)) | Err(_) => {}
                        Ok(Err(error)) => return Err(error),
                    }
                }
                () = until(due) => self.advertise(icmp.get_ref()),
            }
        }
    }

    /// All that there are have been told: the others are not there.
    async fn missing(&self) {
        for interface in self.interfaces {
            if self.links.values().all(|(name, _)| name != interface) {
                self.report.send(Found::Link(interface.clone(), None)).await;
            }
        }
    }

    async fn link(&mut self, change: links::Change, icmp: &Socket) {
        let links::Change { index, name, works } = change;
        let wanted = works && self.interfaces.contains(&name);
        let known = self.links.get(&index).is_some_and(|(its, _)| *its == name);
        if known && wanted {
            return;
        }
        if let Some((old, _)) = self.links.remove(&index) {
            self.report.send(Found::Link(old, None)).await;
        }
        if !wanted {
            return;
        }
        if let Err(error) = router::join(icmp, index) {
            tracing::warn!(interface = name, %error, "solicitations will not be heard");
        }
        self.links.insert(index, (name.clone(), Schedule::new(Instant::now(), self.interval)));
        self.report.send(Found::Link(name, Some(index))).await;
    }

    async fn heard(&mut self, index: u32, heard: Heard) {
        let Some((name, schedule)) = self.links.get_mut(&index) else { return };
        match heard {
            Heard::Router(address) => {
                let name = name.clone();
                self.report.send(Found::Router(name, address)).await;
            }
            Heard::Solicitation => schedule.solicited(Instant::now()),
        }
    }

    fn advertise(&mut self, icmp: &Socket) {
        let now = Instant::now();
        for (index, (name, schedule)) in &mut self.links {
            if schedule.due() > now {
                continue;
            }
            // An address that is new is not to be used for a second (RFC 4862 section 5.4).
            let result = router::advertise(icmp, *index);
            if let Err(error) = &result {
                tracing::debug!(interface = name, %error, "no router advertisement sent");
            }
            schedule.sent(now, result.is_ok());
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
