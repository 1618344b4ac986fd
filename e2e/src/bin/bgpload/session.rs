//! One session of ours: connects, says what it is given, counts what it hears.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::heard::Heard;
use crate::message::{self, HEADER, KEEPALIVE, NOTIFICATION, OPEN, UPDATE};
use crate::sys::{self, Poll, Ready};

/// Between an attempt that was refused and the next.
const RETRY: Duration = Duration::from_millis(50);
/// What we offer, in seconds: GoBGP gives a write no more time than that.
const HOLD_TIME: u16 = 90;
/// Between our KEEPALIVEs.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// The longest message there is (RFC 8654); what is left of an incomplete one is no longer.
pub(crate) const LONGEST: usize = 65535;

/// Who a session is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speaker {
    /// An address of this host; also the BGP identifier.
    pub(crate) address: Ipv4Addr,
    pub(crate) asn: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not wanted.
    Idle,
    /// Refused; to be tried again.
    Waiting(Instant),
    Connecting,
    OpenSent,
    Established,
}

#[derive(Debug)]
pub(crate) struct Session {
    speaker: Speaker,
    target: SocketAddrV4,
    token: usize,
    state: State,
    stream: Option<TcpStream>,
    /// What is to be written, the first from an offset on.
    out: VecDeque<Rc<[u8]>>,
    written: usize,
    /// Is the poll asked for writability?
    watched: bool,
    /// The beginning of a message whose end has not come yet.
    partial: Vec<u8>,
    /// Why the last attempt failed.
    refusal: Option<String>,
    pub(crate) heard: Heard,
}

impl Session {
    pub(crate) fn new(speaker: Speaker, target: SocketAddrV4, token: usize) -> Self {
        Self {
            speaker,
            target,
            token,
            state: State::Idle,
            stream: None,
            out: VecDeque::new(),
            written: 0,
            watched: false,
            partial: Vec::new(),
            refusal: None,
            heard: Heard::default(),
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.state == State::Idle
    }

    pub(crate) fn is_established(&self) -> bool {
        self.state == State::Established
    }

    /// Why there is no session, as far as it is known.
    pub(crate) fn refusal(&self) -> &str {
        self.refusal.as_deref().unwrap_or("no answer")
    }

    /// Has everything been written, and acknowledged by the other host?
    pub(crate) fn is_flushed(&self) -> Result<bool> {
        let pending = self.stream.as_ref().map(sys::unacknowledged).transpose()?.unwrap_or(0);
        Ok(self.out.is_empty() && pending == 0)
    }

    /// Begins to connect.
    pub(crate) fn start(&mut self, poll: &Poll) -> Result<()> {
        let stream = sys::connect(self.speaker.address, self.target);
        let stream =
            stream.with_context(|| format!("cannot connect from {}", self.speaker.address))?;
        poll.watch(&stream, self.token, true)?;
        self.watched = true;
        self.stream = Some(stream);
        self.state = State::Connecting;
        Ok(())
    }

    /// Tries again, if it was refused and the time has come.
    pub(crate) fn retry(&mut self, now: Instant, poll: &Poll) -> Result<()> {
        match self.state {
            State::Waiting(until) if now >= until => self.start(poll),
            _ => Ok(()),
        }
    }

    /// Writes bytes as soon as they fit.
    pub(crate) fn send(&mut self, bytes: Rc<[u8]>, poll: &Poll) -> Result<()> {
        ensure!(self.is_established(), "{} has no session to send on", self.speaker.address);
        self.out.push_back(bytes);
        self.flush(poll)
    }

    /// Lets the peer know that we are there.
    pub(crate) fn keep_alive(&mut self, poll: &Poll) -> Result<()> {
        if self.is_established() && self.out.is_empty() {
            self.out.push_back(message::message(KEEPALIVE, &[]).into());
            self.flush(poll)?;
        }
        Ok(())
    }

    /// Ends the session with a Cease, Administrative Shutdown (RFC 4486), as far as it fits.
    pub(crate) fn stop(&mut self) {
        if let Some(mut stream) = self.stream.take() {
            // Nothing depends on it: the end of the connection says as much.
            let _ = stream.write(&message::message(NOTIFICATION, &[6, 2]));
        }
        self.forget(State::Idle);
    }

    fn forget(&mut self, state: State) {
        self.stream = None;
        self.out.clear();
        self.written = 0;
        self.partial.clear();
        self.state = state;
    }

    /// Does what the stream is ready for. A session that is refused before it is established is
    /// tried again.
    ///
    /// # Errors
    /// An established session has ended, or said what cannot be counted.
    pub(crate) fn work(&mut self, ready: Ready, poll: &Poll, room: &mut [u8]) -> Result<()> {
        let was_established = self.is_established();
        match self.attempt(ready, poll, room) {
            Err(error) if was_established => {
                Err(error).with_context(|| format!("the session of {}", self.speaker.address))
            }
            Err(error) => {
                self.refusal = Some(format!("{error:#}"));
                self.forget(State::Waiting(Instant::now() + RETRY));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn attempt(&mut self, ready: Ready, poll: &Poll, room: &mut [u8]) -> Result<()> {
        if self.state == State::Connecting && ready.writable {
            if let Some(error) = self.stream.as_ref().and_then(|s| s.take_error().transpose()) {
                return Err(error?.into());
            }
            self.state = State::OpenSent;
            let Speaker { address, asn } = self.speaker;
            self.out.push_back(message::open(address, asn, HOLD_TIME).into());
        }
        if ready.writable {
            self.flush(poll)?;
        }
        if ready.readable {
            self.read(room)?;
            // Answers of the handshake.
            self.flush(poll)?;
        }
        Ok(())
    }

    fn flush(&mut self, poll: &Poll) -> Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        while let Some(first) = self.out.front() {
            match stream.write(&first[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
            if self.written == first.len() {
                self.out.pop_front();
                self.written = 0;
            }
        }
        let wanted = !self.out.is_empty() || self.state == State::Connecting;
        if wanted != self.watched {
            poll.change(stream, self.token, wanted)?;
            self.watched = wanted;
        }
        Ok(())
    }

    /// Reads once, as much as there is room for: others have their turn.
    fn read(&mut self, room: &mut [u8]) -> Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let before = self.partial.len();
        room[..before].copy_from_slice(&self.partial);
        let count = match stream.read(&mut room[before..]) {
            Ok(0) => bail!("the other side closed the connection"),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = &room[..before + count];
        while let Some((head, rest)) = bytes.split_first_chunk::<HEADER>() {
            let length = usize::from(u16::from_be_bytes([head[16], head[17]]));
            ensure!(length >= HEADER, "a message of {length} octets");
            let Some((body, after)) = rest.split_at_checked(length - HEADER) else { break };
            self.message(head[18], body)?;
            bytes = after;
        }
        self.partial.clear();
        self.partial.extend_from_slice(bytes);
        Ok(())
    }

    fn message(&mut self, kind: u8, body: &[u8]) -> Result<()> {
        match (kind, self.state) {
            (UPDATE, State::Established) => self.heard.update(body),
            (OPEN, State::OpenSent) => {
                self.out.push_back(message::message(KEEPALIVE, &[]).into());
                Ok(())
            }
            (KEEPALIVE, State::OpenSent) => {
                self.state = State::Established;
                Ok(())
            }
            (KEEPALIVE, State::Established) => Ok(()),
            (NOTIFICATION, _) => bail!("NOTIFICATION {:?}", body.get(..2).unwrap_or(body)),
            _ => bail!("a message of type {kind} in state {:?}", self.state),
        }
    }
}
