//! Reads a recording, an event at a time. Whatever the file holds, what is kept of it is at most one
//! record, and never more than the file has.

use std::io::{self, Read};
use std::time::Duration;

use super::codec::Fields;
use super::input::Input;
use super::outcome::Outcome;
use super::{BEGIN, END, Ending, FORMAT, MAGIC, MAX_RECORD, settings};
use crate::config::Config;
use crate::speaker::Time;
use crate::wire::Reader;

/// Why a recording cannot be read, or not from here on.
#[derive(Debug, thiserror::Error)]
#[error("at octet {position}: {reason}")]
pub struct Unreadable {
    /// Where in the file what is wrong begins.
    pub position: u64,
    /// What is wrong.
    pub reason: String,
}

/// How the file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// With the mark.
    Marked(Ending),
    /// Without; so many octets behind the last whole record are of no use.
    Cut(u64),
}

/// The first record.
#[derive(Debug)]
pub(super) struct Begin {
    pub(super) version: String,
    pub(super) wall: Duration,
    pub(super) now: Time,
    pub(super) seed: u64,
    pub(super) config: Config,
}

/// An input with what followed.
pub(super) struct Event<'a> {
    pub(super) position: u64,
    pub(super) now: Time,
    pub(super) input: Input<'a>,
    pub(super) outcome: Option<Outcome>,
}

/// A record as it is in the file.
#[derive(Default)]
struct Record {
    position: u64,
    kind: u8,
    fields: Vec<u8>,
}

pub(super) struct Events<R> {
    source: R,
    /// Octets read.
    position: u64,
    /// The time of the last event.
    now: Time,
    /// The record of the last event, for its octets.
    current: Record,
    /// What was read too far: a record, or that there is none.
    next: Option<Result<Record, Unreadable>>,
    tail: Option<Tail>,
}

impl Unreadable {
    fn at(position: u64, reason: impl Into<String>) -> Self {
        Self { position, reason: reason.into() }
    }

    fn record(record: &Record, reason: &str) -> Self {
        Self::at(record.position, format!("a record of kind {} {reason}", record.kind))
    }
}

impl<R: Read> Events<R> {
    /// Reads the beginning.
    pub(super) fn begin(source: R) -> Result<(Begin, Self), Unreadable> {
        let now = Time::ZERO;
        let mut events =
            Self { source, position: 0, now, current: Record::default(), next: None, tail: None };
        let mut head = [0; MAGIC.len() + 1];
        let got = events.read(&mut head)?;
        let [magic @ .., format] = head;
        if got < head.len() || magic != *MAGIC {
            return Err(Unreadable::at(0, "this is no recording of bgpd"));
        }
        if format != FORMAT {
            let reason = format!("format {format}; this program reads format {FORMAT}");
            return Err(Unreadable::at(MAGIC.len() as u64, reason));
        }
        let record = events.record(Vec::new())?;
        let record = record.filter(|record| record.kind == BEGIN).ok_or_else(|| {
            Unreadable::at(
                head.len() as u64,
                "the first record, with the configuration, is missing",
            )
        })?;
        let wrong = |reason: &str| Unreadable::record(&record, reason);
        let mut fields = Fields(Reader(&record.fields));
        let version = fields.text().map_err(wrong)?.to_owned();
        let wall = fields.duration().map_err(wrong)?;
        let now = fields.duration().map_err(wrong)?;
        let seed = fields.number().map_err(wrong)?;
        let config = settings::decode(fields.0.0).map_err(|reason| wrong(&reason))?;
        events.now = now;
        Ok((Begin { version, wall, now, seed, config }, events))
    }

    /// Fills `buffer` as far as the file goes; returns how far.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Unreadable> {
        let mut got = 0;
        while got < buffer.len() {
            match self.source.read(&mut buffer[got..]) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(Unreadable::at(self.position + got as u64, error.to_string()));
                }
            }
        }
        self.position += got as u64;
        Ok(got)
    }

    /// The next record, with a buffer for its fields; None at the end, where it is noted what is
    /// there.
    fn record(&mut self, mut fields: Vec<u8>) -> Result<Option<Record>, Unreadable> {
        let position = self.position;
        let mut octet = [0];
        if self.read(&mut octet)? == 0 {
            self.tail = Some(Tail::Cut(0));
            return Ok(None);
        }
        let [kind] = octet;
        if kind == 0 {
            return self.zeros(position).map(|()| None);
        }
        let mut number = Vec::with_capacity(10);
        loop {
            if self.read(&mut octet)? == 0 {
                self.tail = Some(Tail::Cut(self.position - position));
                return Ok(None);
            }
            number.extend(octet);
            if octet[0] & 0x80 == 0 || number.len() == 10 {
                break;
            }
        }
        let len = Fields(Reader(&number)).small::<usize>();
        let len = len.ok().filter(|len| *len <= MAX_RECORD).ok_or_else(|| {
            let reason = format!("a record of kind {kind} has a length that none has");
            Unreadable::at(position, reason)
        })?;
        fields.clear();
        let wanted = len as u64;
        let got = (&mut self.source).take(wanted).read_to_end(&mut fields);
        let got = got.map_err(|error| Unreadable::at(self.position, error.to_string()))?;
        self.position += got as u64;
        if got < len {
            self.tail = Some(Tail::Cut(self.position - position));
            return Ok(None);
        }
        Ok(Some(Record { position, kind, fields }))
    }

    /// What a power cut leaves where a file was longer than what had come to the disk.
    fn zeros(&mut self, position: u64) -> Result<(), Unreadable> {
        let mut some = [0; 4096];
        loop {
            let got = self.read(&mut some)?;
            if some[..got].iter().any(|octet| *octet != 0) {
                return Err(Unreadable::at(position, "zeros where a record was to be"));
            }
            if got < some.len() {
                self.tail = Some(Tail::Cut(self.position - position));
                return Ok(());
            }
        }
    }

    /// The next event; None at the end.
    pub(super) fn next(&mut self) -> Result<Option<Event<'_>>, Unreadable> {
        if self.tail.is_some() && self.next.is_none() {
            return Ok(None);
        }
        let buffer = std::mem::take(&mut self.current.fields);
        let record = match self.next.take() {
            Some(record) => Some(record?),
            None => self.record(buffer)?,
        };
        let Some(record) = record else { return Ok(None) };
        if record.kind == END {
            let ending = match record.fields[..] {
                [number] => Ending::ALL.into_iter().find(|ending| *ending as u8 == number),
                _ => None,
            };
            let ending = ending.ok_or_else(|| Unreadable::record(&record, "holds no reason"))?;
            self.tail = Some(Tail::Marked(ending));
            return Ok(None);
        }
        // What follows may be what became of it. Where that cannot be read, this one still can.
        let mut outcome = None;
        match self.record(Vec::new()) {
            Ok(None) => {}
            Ok(Some(following)) => {
                let fields = Fields(Reader(&following.fields));
                match Outcome::decode(following.kind, fields) {
                    Ok(None) => self.next = Some(Ok(following)),
                    Ok(decoded) => outcome = decoded,
                    Err(reason) => {
                        self.next = Some(Err(Unreadable::record(&following, reason)));
                    }
                }
            }
            Err(error) => self.next = Some(Err(error)),
        }
        self.current = record;
        let record = &self.current;
        let wrong = |reason| Unreadable::record(record, reason);
        let mut fields = Fields(Reader(&record.fields));
        let is_input = (BEGIN + 1..64).contains(&record.kind);
        let unknown = || Unreadable::record(record, "is none that this program knows, or not here");
        if !is_input {
            return Err(unknown());
        }
        let since = fields.duration().map_err(wrong)?;
        let now = self.now.checked_add(since).filter(|now| now.as_nanos() <= u64::MAX.into());
        self.now = now.ok_or_else(|| wrong("comes at a time that is none"))?;
        let input = Input::decode(record.kind, fields).map_err(wrong)?.ok_or_else(unknown)?;
        Ok(Some(Event { position: record.position, now: self.now, input, outcome }))
    }

    /// Whether the last event was that, or what follows cannot be read.
    pub(super) fn is_over(&self) -> bool {
        match &self.next {
            Some(Ok(record)) => record.kind == END,
            Some(Err(_)) => true,
            None => self.tail.is_some(),
        }
    }

    /// How the file ends, once there is no next event.
    pub(super) const fn tail(&self) -> Option<Tail> {
        self.tail
    }
}
