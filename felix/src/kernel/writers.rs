//! What the writers of routes, links and flows are asked, and the loops of their threads.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::oneshot;
use tracing::warn;

use super::flows::{Flows, TrackedFlow};
use super::links::{LinkId, Plumber, PreparedLink};
use super::routes::{self, RouteStatus, WantedRoute};
use super::worker::{Inbox, Wake};
use super::{Error, Rejected};
use crate::model::{IfIndex, LocalEndpoint, Parties, RouteChange};

/// When something failed as a whole (no memory, say), it is tried again after this, or with the
/// next change.
pub(super) const RETRY: Duration = Duration::from_secs(1);

pub(super) type Reply<T> = oneshot::Sender<T>;

/// Told what became of a change.
pub(super) type Committed = Reply<Result<(), Error>>;

/// Whose routes change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The node's: to its pods, and to what of its blocks nobody has.
    Own,
    /// Its peers'.
    Learned,
}

#[derive(Debug)]
pub(super) enum RouteCommand {
    Set(Source, Vec<RouteChange>, Reply<Result<Vec<Rejected>, Error>>),
    LinkCame(IfIndex, Committed),
    InSync(Committed),
    Status(Reply<RouteStatus>),
    List(Reply<Vec<WantedRoute>>),
}

#[derive(Debug)]
pub(super) enum LinkCommand {
    Prepare(Box<LocalEndpoint>, Reply<Result<PreparedLink, Error>>),
    Open(PreparedLink, Box<LocalEndpoint>, Committed),
    Check(Box<LocalEndpoint>, Reply<Result<Vec<String>, Error>>),
    List(Reply<Result<Vec<netlink::link::Link>, Error>>),
    Route(IpAddr, Reply<Result<String, Error>>),
    InterfaceTo(IpAddr, Reply<Result<Option<IfIndex>, Error>>),
}

#[derive(Debug)]
pub(super) enum DeleteCommand {
    Delete(LinkId, Committed),
}

#[derive(Debug)]
pub(super) enum FlowCommand {
    /// Those that queue are done together: the kernel's whole table may have to be looked through.
    Forget(Vec<IpAddr>, Committed),
    /// These are done one by one: those who ask of other addresses are not concerned.
    Each(FlowTask),
}

#[derive(Debug)]
pub(super) enum FlowTask {
    Of(Parties, Reply<Result<Vec<TrackedFlow>, Error>>),
    JudgeAtHosts(Parties, bool, Committed),
    Mark(Vec<TrackedFlow>, bool, Committed),
    ForgetWithin(Vec<IpNet>, Committed),
}

pub(super) fn run_routes(mut writer: routes::Writer, inbox: &Inbox<RouteCommand>) {
    enum Answer {
        Done(Reply<Result<(), Error>>),
        Set(Vec<IpNet>, Reply<Result<Vec<Rejected>, Error>>),
        Link(IfIndex, Reply<Result<(), Error>>),
        Status(Reply<RouteStatus>),
        List(Reply<Vec<WantedRoute>>),
    }
    loop {
        let retry = writer.unwritten().then_some(RETRY);
        let Wake::Work { commands, notified } = inbox.wait(Some(writer.monitor()), retry) else {
            return;
        };
        if notified {
            writer.listen();
        }
        let mut answers = Vec::new();
        for command in commands {
            answers.push(match command {
                RouteCommand::Set(source, changes, reply) => {
                    let nets = changes.iter().map(|change| change.destination).collect();
                    for change in changes {
                        match source {
                            Source::Own => writer.change_own(change),
                            Source::Learned => writer.change_learned(change),
                        }
                    }
                    Answer::Set(nets, reply)
                }
                RouteCommand::LinkCame(index, reply) => {
                    writer.link_came(index);
                    Answer::Link(index, reply)
                }
                RouteCommand::InSync(reply) => {
                    writer.set_in_sync();
                    Answer::Done(reply)
                }
                RouteCommand::Status(reply) => Answer::Status(reply),
                RouteCommand::List(reply) => Answer::List(reply),
            });
        }
        let result = writer.flush();
        if let Err(error) = &result {
            warn!(%error, "routes are not in the kernel");
        }
        for answer in answers {
            match answer {
                Answer::Done(reply) => drop(reply.send(result.clone())),
                Answer::Set(nets, reply) => {
                    let rejected = |net: &IpNet| {
                        let reason = writer.waiting(net)?.to_owned();
                        Some(Rejected { object: format!("route {net}"), reason })
                    };
                    let waiting = nets.iter().filter_map(rejected).collect();
                    let _ = reply.send(result.clone().map(|()| waiting));
                }
                Answer::Link(index, reply) => {
                    let routed = match writer.waiting_for(index) {
                        None => Ok(()),
                        Some((net, reason)) => Err(Error::Rejected(Rejected {
                            object: format!("route {net}"),
                            reason: reason.to_owned(),
                        })),
                    };
                    let _ = reply.send(result.clone().and(routed));
                }
                Answer::Status(reply) => drop(reply.send(writer.status())),
                Answer::List(reply) => drop(reply.send(writer.list())),
            }
        }
    }
}

/// One command, by one of several workers.
pub(super) fn serve_link(plumber: &mut Plumber, command: LinkCommand) {
    match command {
        LinkCommand::Prepare(endpoint, reply) => {
            if let Err(Ok(_)) = reply.send(plumber.prepare(&endpoint)) {
                // Whoever asked has gone and will not delete it.
                let _ = plumber.delete(&[LinkId::of(&endpoint)]);
            }
        }
        LinkCommand::Open(link, endpoint, reply) => {
            if let Err(Ok(())) = reply.send(plumber.open(link, &endpoint)) {
                let _ = plumber.delete(&[LinkId::of(&endpoint)]);
            }
        }
        LinkCommand::Check(endpoint, reply) => {
            let _ = reply.send(plumber.check(&endpoint));
        }
        LinkCommand::List(reply) => {
            let _ = reply.send(plumber.list());
        }
        LinkCommand::Route(address, reply) => {
            let _ = reply.send(plumber.route(address));
        }
        LinkCommand::InterfaceTo(address, reply) => {
            let _ = reply.send(plumber.interface_to(address));
        }
    }
}

pub(super) fn run_deletions(plumber: &mut Plumber, inbox: &Inbox<DeleteCommand>) {
    loop {
        let Wake::Work { commands, .. } = inbox.wait(None, None) else { return };
        let (links, replies): (Vec<_>, Vec<_>) =
            commands.into_iter().map(|DeleteCommand::Delete(link, reply)| (link, reply)).unzip();
        if links.is_empty() {
            continue;
        }
        let result = plumber.delete(&links);
        for reply in replies {
            let _ = reply.send(result.clone());
        }
    }
}

pub(super) fn run_flows(flows: &mut Flows, inbox: &Inbox<FlowCommand>) {
    loop {
        let Wake::Work { commands, .. } = inbox.wait(None, None) else { return };
        let (mut addresses, mut replies, mut tasks) = (Vec::new(), Vec::new(), Vec::new());
        for command in commands {
            match command {
                FlowCommand::Forget(some, reply) => {
                    addresses.extend(some);
                    replies.push(reply);
                }
                FlowCommand::Each(task) => tasks.push(task),
            }
        }
        if !replies.is_empty() {
            let result = flows.forget(&addresses);
            for reply in replies {
                let _ = reply.send(result.clone());
            }
        }
        for task in tasks {
            match task {
                FlowTask::Of(parties, reply) => drop(reply.send(flows.of(&parties))),
                FlowTask::JudgeAtHosts(parties, again, reply) => {
                    let _ = reply.send(flows.judge_at_hosts(&parties, again));
                }
                FlowTask::Mark(list, denied, reply) => {
                    let _ = reply.send(flows.mark(&list, denied));
                }
                FlowTask::ForgetWithin(nets, reply) => {
                    let _ = reply.send(flows.forget_within(&nets));
                }
            }
        }
    }
}
