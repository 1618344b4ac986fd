//! The writer of policy, between those who ask it and the thread that serves it.
//!
//! The kernel executes a transaction within the system call that sends it, whoever makes it. To hand a
//! few elements to a thread and be woken when they are written takes longer than to write them, several
//! times as long where the processor has to wake first. So whoever asks writes them itself. The thread
//! does what takes long or waits: large changes, all that reads the kernel, repeats what was refused,
//! repairs what another program changed.
//!
//! What is asked takes effect in the order in which it is asked. The writer is held while a change is
//! taken in and written; who finds it held, or something asked before that the thread has not taken
//! yet, queues behind that. The thread takes what queued only once it holds the writer. A change that its
//! caller has taken in and could not write is queued without it: the writer knows it already.

use std::sync::{Arc, Mutex};

use netlink::{Protocol, Socket};
use tracing::{debug, info, warn};

use super::super::layout::{self, DenyAction, HostAction, LogRules, Params};
use super::super::worker::{self, Inbox, Mailbox};
use super::super::writers::{Committed, RETRY, Reply};
use super::super::{Counted, Error};
use super::channel::{Channel, others_changed, ownership};
use super::{BRIEF, NftStatus, Writer};
use crate::model::{Delta, Key, Value};

/// What is to be written.
#[derive(Debug)]
pub(in super::super) enum Write {
    Change(Delta),
    /// A change of these keys that the writer has taken in.
    Taken(Vec<Key>),
    /// The delta makes what is wanted complete.
    Sync(Delta),
    HostAction(HostAction),
    DenyAction(DenyAction),
    Sampling(bool),
    LogRules(LogRules),
}

#[derive(Debug)]
enum Command {
    Write(Write, Committed),
    Status(Reply<NftStatus>),
    Counts(Reply<Result<Counted, Error>>),
    Read(Vec<Key>, Reply<Result<Vec<Option<Value>>, Error>>),
}

/// The writer, and what hears other programs, where they are not locked out.
pub(in super::super) fn open(
    params: Params,
    lock: bool,
) -> Result<(Writer<Socket>, Option<Socket>), Error> {
    let failed = |error: netlink::Error| Error::Kernel(format!("nf_tables: {error}"));
    let socket = Socket::open(Protocol::Netfilter).map_err(failed)?;
    let owned = lock && ownership();
    let monitor = if owned {
        None
    } else {
        let monitor = Socket::open(Protocol::Netfilter).map_err(failed)?;
        monitor.ignore_port(socket.port()).map_err(failed)?;
        monitor.subscribe(netlink::nft::NOTIFICATIONS).map_err(failed)?;
        Some(monitor)
    };
    let writer = Writer::start(socket, params, owned)?;
    info!(owned, "table inet {} is ours", layout::TABLE);
    Ok((writer, monitor))
}

/// The writer's handle. Clones are the same writer; its thread ends when the last one is dropped.
#[derive(Debug)]
pub(in super::super) struct Shared<C> {
    mailbox: Mailbox<Command>,
    pub(super) writer: Arc<Mutex<Writer<C>>>,
}

impl<C> Clone for Shared<C> {
    fn clone(&self) -> Self {
        Self { mailbox: self.mailbox.clone(), writer: Arc::clone(&self.writer) }
    }
}

impl<C: Channel + Send + 'static> Shared<C> {
    pub(in super::super) fn start(
        writer: Writer<C>,
        monitor: Option<Socket>,
    ) -> Result<Self, Error> {
        let writer = Arc::new(Mutex::new(writer));
        let (mailbox, inbox) = worker::mailbox()?;
        let shared = Arc::clone(&writer);
        worker::spawn("nft", move || run(&shared, monitor, &inbox))?;
        Ok(Self { mailbox, writer })
    }

    /// Writes a change: at once if it is short and nothing is before it.
    pub(in super::super) async fn commit(&self, delta: Delta) -> Result<(), Error> {
        match self.try_commit(delta) {
            Ok(result) => result,
            Err(rest) => self.write(rest).await,
        }
    }

    /// What became of a change that could be written at once, or what is left to the thread.
    fn try_commit(&self, delta: Delta) -> Result<Result<(), Error>, Write> {
        if delta.elements.len() > BRIEF {
            return Err(Write::Change(delta));
        }
        // Held by somebody else; or by one who panicked, as the thread will find.
        let Ok(mut writer) = self.writer.try_lock() else { return Err(Write::Change(delta)) };
        if !self.mailbox.is_idle() {
            return Err(Write::Change(delta));
        }
        writer.change(&delta);
        let keys = keys(&delta);
        if writer.flush_briefly() { Ok(writer.accepted(&keys)) } else { Err(Write::Taken(keys)) }
    }

    /// Has the thread write.
    pub(in super::super) async fn write(&self, what: Write) -> Result<(), Error> {
        self.mailbox.ask(|reply| Command::Write(what, reply)).await?
    }

    pub(in super::super) async fn status(&self) -> Result<NftStatus, Error> {
        self.mailbox.ask(Command::Status).await
    }

    /// What was counted for everyone who decides.
    pub(in super::super) async fn counts(&self) -> Result<Counted, Error> {
        self.mailbox.ask(Command::Counts).await?
    }

    /// What the kernel has under these keys.
    pub(in super::super) async fn read(&self, keys: Vec<Key>) -> Result<Vec<Option<Value>>, Error> {
        self.mailbox.ask(|reply| Command::Read(keys, reply)).await?
    }
}

/// The thread.
fn run<C: Channel>(writer: &Mutex<Writer<C>>, mut monitor: Option<Socket>, inbox: &Inbox<Command>) {
    // A caller leaves nothing unwritten behind that it does not queue.
    let mut unwritten = false;
    loop {
        let notified = inbox.ready(monitor.as_ref(), unwritten.then_some(RETRY));
        // A caller that panicked has left the writer in no state to go on with.
        let Ok(mut writer) = writer.lock() else { return };
        let Some(commands) = inbox.take() else { return };
        let answers = turn(&mut writer, notified, monitor.as_mut(), commands);
        unwritten = writer.unwritten();
        drop(writer);
        for answer in answers {
            answer.send();
        }
    }
}

/// An answer, to be sent once the writer is free for who asked next.
enum Answer {
    Written(Committed, Result<(), Error>),
    Status(Reply<NftStatus>, NftStatus),
    Counts(Reply<Result<Counted, Error>>, Result<Counted, Error>),
    Read(Reply<Result<Vec<Option<Value>>, Error>>, Result<Vec<Option<Value>>, Error>),
}

impl Answer {
    /// Whoever has gone needs none.
    fn send(self) {
        match self {
            Self::Written(reply, result) => drop(reply.send(result)),
            Self::Status(reply, status) => drop(reply.send(status)),
            Self::Counts(reply, counts) => drop(reply.send(counts)),
            Self::Read(reply, values) => drop(reply.send(values)),
        }
    }
}

/// One transaction for all that queued, and then the questions.
fn turn<C: Channel>(
    writer: &mut Writer<C>,
    notified: bool,
    monitor: Option<&mut Socket>,
    commands: Vec<Command>,
) -> Vec<Answer> {
    let idle = commands.is_empty() && !notified;
    if notified && monitor.is_some_and(others_changed) {
        debug!("another program changed table inet {}", layout::TABLE);
        writer.doubt();
        if let Err(error) = writer.flush() {
            warn!(%error, "table inet {} is not repaired", layout::TABLE);
        }
    }
    let (mut waiting, mut questions) = (Vec::new(), Vec::new());
    for command in commands {
        match command {
            Command::Write(what, reply) => waiting.push((take_in(writer, what), reply)),
            question => questions.push(question),
        }
    }
    let mut answers = Vec::new();
    if !waiting.is_empty() || (idle && writer.unwritten()) {
        let result = writer.flush();
        if let Err(error) = &result {
            warn!(%error, "policy is not in the kernel");
        }
        answers.extend(waiting.into_iter().map(|(keys, reply)| {
            Answer::Written(reply, result.clone().and_then(|()| writer.accepted(&keys)))
        }));
    }
    answers.extend(questions.into_iter().filter_map(|question| match question {
        Command::Status(reply) => Some(Answer::Status(reply, writer.status())),
        Command::Counts(reply) => Some(Answer::Counts(reply, writer.counts())),
        Command::Read(keys, reply) => Some(Answer::Read(reply, writer.values(&keys))),
        // Written above.
        Command::Write(..) => None,
    }));
    answers
}

/// Has the writer know what is to be written. Returns whose acceptance is asked for.
fn take_in<C: Channel>(writer: &mut Writer<C>, what: Write) -> Vec<Key> {
    match what {
        Write::Change(delta) => {
            writer.change(&delta);
            return keys(&delta);
        }
        Write::Taken(keys) => return keys,
        Write::Sync(delta) => {
            writer.change(&delta);
            writer.set_in_sync();
            return keys(&delta);
        }
        Write::HostAction(action) => writer.set_host_action(action),
        Write::DenyAction(action) => writer.set_deny_action(action),
        Write::Sampling(sampling) => writer.set_sampling(sampling),
        Write::LogRules(log) => writer.set_log_rules(log),
    }
    Vec::new()
}

fn keys(delta: &Delta) -> Vec<Key> {
    delta.elements.iter().map(|change| change.key).collect()
}
