//! Runs a recording again, without sockets and as fast as it goes.

use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::events::{Event, Events, Tail};
use super::input::Input;
use super::outcome::Outcome;
use super::{Ending, Journal, Recorded, settings};
use crate::speaker::driver::answer;
use crate::speaker::watch::BfdLink;
use crate::speaker::{Request, SpeakerHandle, Time};

pub use super::events::Unreadable;

/// How far a recording is to be replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// To its end.
    End,
    /// So many events; the first one has number 1.
    Event(u64),
    /// All events up to this time since the speaker started.
    Time(Duration),
    /// All events up to this time since 1970.
    Wall(Duration),
}

/// Where a replay has stopped, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It has come as far as it was to.
    Reached,
    /// The recording ends, with the reason for it.
    Marked(Ending),
    /// The recording ends without a mark: the speaker was killed or still runs, or the file was cut.
    Cut {
        /// Octets behind the last whole record, which are of no use.
        left: u64,
    },
    /// The speaker did not do what it did when it was recorded.
    Differs(Difference),
}

/// The first event after which something else happened than what is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The number of the event.
    pub event: u64,
    /// Where it begins in the file, in octets.
    pub position: u64,
    /// Its time since the speaker started.
    pub time: Duration,
    /// The event.
    pub what: String,
    /// What is recorded to have followed.
    pub recorded: String,
    /// What followed now.
    pub replayed: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { event, position, time, what, recorded, replayed } = self;
        write!(
            f,
            "event {event}, at {time:?} and octet {position}: {what}\n  \
             recorded: {recorded}\n  replayed: {replayed}"
        )
    }
}

/// A run that is run again. After [`Self::run`] it can be asked what a live speaker can, as of that
/// moment.
pub struct Replay {
    events: Events<Box<dyn Read + Send>>,
    speaker: Recorded,
    version: String,
    wall: Duration,
    count: u64,
    now: Time,
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, wall, count, now, .. } = self;
        let mut replay = f.debug_struct("Replay");
        replay.field("version", version).field("wall", wall).field("count", count);
        replay.field("now", now).finish_non_exhaustive()
    }
}

impl Replay {
    /// Opens a recording, before its first event.
    ///
    /// # Errors
    /// A file that cannot be read, or is no recording.
    pub fn open(path: &Path) -> Result<Self, Unreadable> {
        let file = File::open(path);
        let file = file.map_err(|error| Unreadable { position: 0, reason: error.to_string() })?;
        Self::of(BufReader::with_capacity(1 << 18, file))
    }

    pub(crate) fn of(source: impl Read + Send + 'static) -> Result<Self, Unreadable> {
        let (begin, events) = Events::begin(Box::new(source) as Box<dyn Read + Send>)?;
        // It is recorded again, for the outcomes.
        let journal = Some(Journal::in_memory());
        let speaker = Recorded::new(begin.config, begin.now, begin.wall, begin.seed, journal);
        let (version, wall, now) = (begin.version, begin.wall, begin.now);
        Ok(Self { events, speaker, version, wall, count: 0, now })
    }

    /// The version of bgpd that was recorded.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// When the speaker started, since 1970.
    pub const fn started(&self) -> Duration {
        self.wall
    }

    /// Events replayed.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The time of the last event replayed, since the speaker started.
    pub const fn time(&self) -> Duration {
        self.now
    }

    #[cfg(test)]
    pub(crate) const fn core(&self) -> &crate::speaker::Core {
        &self.speaker.core
    }

    /// Goes on to the moment that is given, or to the end, or to the first difference. To be called
    /// once.
    ///
    /// # Errors
    /// Where the file is not what a recording is. What came before has been replayed.
    pub fn run(&mut self, until: Until) -> Result<Stop, Unreadable> {
        self.run_with(until, |_| {})
    }

    /// As [`Self::run`]; `record` is given what is recorded of the replay, which is the recording
    /// again.
    pub(crate) fn run_with(
        &mut self,
        until: Until,
        mut record: impl FnMut(&[u8]),
    ) -> Result<Stop, Unreadable> {
        let Self { events, speaker, wall, count, now, .. } = self;
        let last = match until {
            Until::End | Until::Event(_) => Duration::MAX,
            Until::Time(time) => time,
            Until::Wall(time) => time.saturating_sub(*wall),
        };
        loop {
            if let Some(journal) = &mut speaker.journal {
                record(&journal.take());
            }
            if until == Until::Event(*count) {
                return Ok(Stop::Reached);
            }
            let Some(event) = events.next()? else { break };
            if event.now > last {
                return Ok(Stop::Reached);
            }
            let Event { position, now: at, input, outcome: recorded } = event;
            *now = at;
            let asked = match &recorded {
                Some(Outcome::Unread(connections)) => &connections[..],
                _ => &[],
            };
            speaker
                .carry_out(at, &input, asked)
                .map_err(|reason| Unreadable { position, reason: format!("a record {reason}") })?;
            *count += 1;
            let replayed = speaker.journal.as_mut().and_then(|journal| journal.take_outcome());
            if replayed == recorded {
                continue;
            }
            let what = input.to_string();
            // The last one may have been cut off, or be what the speaker died of.
            if recorded.is_none() && events.is_over() {
                continue;
            }
            let told = |outcome: Option<Outcome>| {
                outcome.map_or_else(|| "nothing".to_owned(), |outcome| outcome.to_string())
            };
            return Ok(Stop::Differs(Difference {
                event: *count,
                position,
                time: at,
                what,
                recorded: told(recorded),
                replayed: told(replayed),
            }));
        }
        Ok(match events.tail() {
            Some(Tail::Marked(ending)) => Stop::Marked(ending),
            Some(Tail::Cut(left)) => Stop::Cut { left },
            None => Stop::Cut { left: 0 },
        })
    }

    /// Answers questions, on a thread of its own, as a live speaker would have at this moment. It
    /// ends with the last handle. What would change the speaker is not done.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn into_handle(self) -> std::io::Result<SpeakerHandle> {
        let Self { speaker, now, .. } = self;
        let (requests, mut receiver) = mpsc::channel(64);
        std::thread::Builder::new().name("replay".into()).spawn(move || {
            // Nothing is watched over: what BFD last told is all that is known.
            let bfd = BfdLink::new(0);
            while let Some(request) = receiver.blocking_recv() {
                // Who asks for a change has its answer in that there is none.
                if let Request::Ask(question) = request {
                    answer(&speaker, &bfd, now, question);
                }
            }
        })?;
        Ok(SpeakerHandle { requests })
    }
}

impl Recorded {
    /// Does what was done. `unread` are the connections that had octets not read yet.
    fn carry_out(
        &mut self,
        now: Time,
        input: &Input<'_>,
        unread: &[crate::speaker::ConnId],
    ) -> Result<(), String> {
        match *input {
            Input::Apply(octets) => {
                let config = settings::decode(octets)?;
                self.apply(now, config);
            }
            Input::Accepted { remote, local, interface } => {
                self.accepted(now, remote, local, interface);
            }
            Input::Connected { conn, local, remote } => {
                self.connected(now, conn, local, remote);
            }
            Input::ConnectFailed { conn, error } => self.connect_failed(now, conn, error),
            Input::Received { conn, octets } => self.received(now, conn, octets),
            Input::Closed { conn, error } => self.closed(now, conn, error),
            Input::Sent { conn, octets } => self.sent(now, conn, octets),
            Input::Tick => self.tick(now, |conn| unread.contains(&conn)),
            Input::Work => {
                self.work(now);
            }
            Input::TakeOutputs => {
                self.take_outputs();
            }
            Input::TakeBfdSessions => {
                self.take_bfd_sessions();
            }
            Input::Bfd(key, ref status) => self.bfd(now, &key, status),
            Input::Found(ref found) => self.found(now, found),
            Input::LacksKey { net, why } => self.lacks_key(now, net, why),
            Input::Resolve(ref known) => {
                self.resolve(known.clone().into_owned());
            }
            Input::Subscribe => {
                self.subscribe(Arc::default());
            }
            Input::Unsubscribe(id) => self.unsubscribe(id),
            Input::Take { id, max } => {
                self.take_deltas(id, max);
            }
            Input::Acknowledge { id, sequence } => self.acknowledge(id, sequence),
            Input::StationUp { address, wall } => self.station_up(address, wall),
            Input::StationDown(address) => self.station_down(address),
            Input::StationStatistics(address) => self.station_statistics(now, address),
            Input::StationBatch(address) => {
                // A station that is too far behind is part of the outcome.
                let _batch = self.station_batch(address);
            }
            Input::StopAll(ref notification) => self.stop_all(now, notification.as_deref()),
            Input::Clear { name, ref how } => {
                self.clear(now, name, how);
            }
        }
        Ok(())
    }
}
