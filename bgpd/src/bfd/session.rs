//! The machine of one session (RFC 5880 section 6) without clock and socket, in the active role and
//! asynchronous mode, without echo.
//!
//! ```text
//!             heard Down                 heard Init, Up
//!   ┌──────┐ ────────────▶ ┌──────┐ ────────────────────▶ ┌────┐
//!   │ Down │ ◀──────────── │ Init │      heard Init       │ Up │
//!   │      │    silence    └──────┘  ┌───────────────────▶ │    │
//!   │      │ ────────────────────────┘                     │    │
//!   │      │ ◀──────────────────────────────────────────── │    │
//!   └──────┘        heard Down or AdminDown, silence       └────┘
//! ```

use std::num::NonZeroU32;
use std::time::Duration;

use super::Time;
use super::packet::{Diagnostic, Packet, State};

/// The least interval of transmission, in microseconds, while a session is not Up (RFC 5880
/// section 6.8.3).
const SLOW: u32 = 1_000_000;

/// What is configured for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Params {
    /// bfd.DesiredMinTxInterval while Up, in microseconds; not 0.
    pub(crate) min_tx: u32,
    /// bfd.RequiredMinRxInterval, in microseconds; not 0.
    pub(crate) min_rx: u32,
    /// bfd.DetectMult; not 0.
    pub(crate) multiplier: u8,
}

/// A Poll Sequence (RFC 5880 section 6.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Poll {
    Idle,
    Running,
    /// What it is about has changed meanwhile: another one follows.
    Again,
}

/// Why a session is no longer Up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// The path has failed, as far as either side can see.
    Failure,
    /// The peer was told by its operator to end the session, which says nothing about the path
    /// (RFC 5882 section 3.2).
    AdminDown,
    /// The peer has forgotten the session and begins another, under another number. Its forwarding
    /// need not have failed: a restarted control plane that shares its fate with BFD looks like this.
    Restarted,
}

/// What happened since the session was configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// Received with an authentication section.
    pub(crate) authenticated: u64,
    /// Times the session was lost, for any reason.
    pub(crate) flaps: u64,
    /// Times it was lost for [`Loss::Failure`].
    pub(crate) failures: u64,
}

/// One session. After each call that changes it, [`Self::transmit`] is asked for packets until it
/// has none, and [`Self::next_deadline`] for when to call again.
#[derive(Debug)]
pub(crate) struct Session {
    params: Params,
    state: State,
    /// When the state last changed.
    since: Time,
    diagnostic: Diagnostic,
    local: NonZeroU32,
    remote: Option<NonZeroU32>,
    remote_state: State,
    remote_diagnostic: Diagnostic,
    remote_min_rx: u32,
    remote_desired_min_tx: u32,
    remote_multiplier: u8,
    remote_demand: bool,
    remote_independent: bool,
    /// What we announce.
    desired_min_tx: u32,
    required_min_rx: u32,
    /// What we go by: where the peer has to know first, what was announced before.
    tx_in_use: u32,
    rx_in_use: u32,
    poll: Poll,
    /// A Final packet is owed.
    answer: bool,
    /// What we have to say has changed since it was last said.
    news: bool,
    /// When the last packet came that counts; None: too long ago.
    heard: Option<Time>,
    /// When the last periodic packet went, and when the next is to go.
    sent_at: Time,
    next_tx: Time,
    random: u64,
    tally: Tally,
}

impl Session {
    /// A session in state Down. `local` is unique on this system; `seed` decides about jitter.
    pub(crate) fn new(params: Params, local: NonZeroU32, seed: u64, now: Time) -> Self {
        let mut session = Self {
            params,
            state: State::Down,
            since: now,
            diagnostic: Diagnostic::NONE,
            local,
            remote: None,
            remote_state: State::Down,
            remote_diagnostic: Diagnostic::NONE,
            remote_min_rx: 1,
            remote_desired_min_tx: 0,
            remote_multiplier: 0,
            remote_demand: false,
            remote_independent: false,
            desired_min_tx: 0,
            required_min_rx: 0,
            tx_in_use: 0,
            rx_in_use: 0,
            poll: Poll::Idle,
            answer: false,
            news: true,
            heard: None,
            sent_at: now,
            next_tx: now,
            random: seed | 1,
            tally: Tally::default(),
        };
        session.announce();
        session
    }

    /// Takes over other parameters. A session that is Up stays so: it polls (RFC 5880 section 6.8.3).
    pub(crate) fn configure(&mut self, now: Time, params: Params) {
        let differs = self.params != params;
        self.params = params;
        if differs {
            self.announce();
            self.news = true;
            self.hurry(now);
        }
    }

    /// Ends the session as by an operator (RFC 5880 section 6.8.16). It goes on to say so.
    pub(crate) fn disable(&mut self, now: Time) {
        if self.state != State::AdminDown {
            self.become_state(now, State::AdminDown, Diagnostic::ADMINISTRATIVELY_DOWN);
        }
    }

    /// How long to say that the session is disabled: by then the peer has heard it, or has missed
    /// enough packets.
    pub(crate) fn farewell(&self) -> Duration {
        self.tx_interval() * u32::from(self.params.multiplier)
    }

    /// Takes in a packet that was found to be for this session (RFC 5880 section 6.8.6).
    pub(crate) fn receive(&mut self, now: Time, packet: &Packet) {
        if packet.authenticated {
            self.tally.authenticated += 1;
            return;
        }
        self.tally.received += 1;
        let before = self.remote.replace(packet.my_discriminator);
        self.remote_state = packet.state;
        self.remote_diagnostic = packet.diagnostic;
        self.remote_min_rx = packet.required_min_rx;
        self.remote_desired_min_tx = packet.desired_min_tx;
        self.remote_multiplier = packet.multiplier;
        self.remote_demand = packet.demand;
        self.remote_independent = packet.control_plane_independent;
        if self.state == State::AdminDown {
            return;
        }
        self.heard = Some(now);
        if packet.is_final {
            self.poll_answered();
        }
        match (self.state, packet.state) {
            (State::Down, State::Down) => self.become_state(now, State::Init, self.diagnostic),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.become_state(now, State::Up, Diagnostic::NONE);
            }
            (State::Up, State::Down) => {
                let restarted = before.is_some_and(|before| before != packet.my_discriminator);
                let loss = if restarted { Loss::Restarted } else { Loss::Failure };
                self.lose(now, loss, Diagnostic::NEIGHBOR_SIGNALED_DOWN);
            }
            (State::Init | State::Up, State::AdminDown) => {
                self.lose(now, Loss::AdminDown, Diagnostic::NEIGHBOR_SIGNALED_DOWN);
            }
            _ => {}
        }
        self.answer |= packet.poll;
        self.hurry(now);
    }

    /// Notes that time has passed.
    pub(crate) fn expire(&mut self, now: Time) {
        if self.detect_at().is_none_or(|at| at > now) {
            return;
        }
        self.heard = None;
        self.remote = None;
        self.poll_forgotten();
        if matches!(self.state, State::Init | State::Up) {
            self.lose(now, Loss::Failure, Diagnostic::DETECTION_TIME_EXPIRED);
        }
    }

    /// A packet that is to be sent now.
    pub(crate) fn transmit(&mut self, now: Time) -> Option<Packet> {
        let periodic = self.is_periodic() && self.next_tx <= now;
        let answer = std::mem::take(&mut self.answer);
        if !answer && !self.news && !periodic {
            return None;
        }
        // An answer tells the news as well, but is no poll.
        self.news = false;
        if !answer || periodic {
            self.sent_at = now;
            self.next_tx = now + self.jitter(self.tx_interval());
        }
        self.tally.sent += 1;
        Some(Packet {
            state: self.state,
            diagnostic: self.diagnostic,
            poll: self.poll != Poll::Idle && !answer,
            is_final: answer,
            // This is a part of the control plane.
            control_plane_independent: false,
            authenticated: false,
            demand: false,
            multiplier: self.params.multiplier,
            my_discriminator: self.local,
            your_discriminator: self.remote,
            desired_min_tx: self.desired_min_tx,
            required_min_rx: self.required_min_rx,
            required_min_echo_rx: 0,
        })
    }

    /// When something is to be done next: packets to be sent, or silence to be noticed.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        if self.answer || self.news {
            return Some(Time::ZERO);
        }
        let send = self.is_periodic().then_some(self.next_tx);
        [send, self.detect_at()].into_iter().flatten().min()
    }

    pub(crate) const fn state(&self) -> State {
        self.state
    }

    pub(crate) const fn remote_state(&self) -> State {
        self.remote_state
    }

    pub(crate) const fn diagnostic(&self) -> Diagnostic {
        self.diagnostic
    }

    pub(crate) const fn remote_diagnostic(&self) -> Diagnostic {
        self.remote_diagnostic
    }

    pub(crate) const fn discriminators(&self) -> (NonZeroU32, Option<NonZeroU32>) {
        (self.local, self.remote)
    }

    /// The peer's BFD outlives its control plane (the C bit).
    pub(crate) const fn remote_independent(&self) -> bool {
        self.remote_independent
    }

    pub(crate) const fn since(&self) -> Time {
        self.since
    }

    pub(crate) const fn tally(&self) -> Tally {
        self.tally
    }

    /// The interval between our packets, before jitter (RFC 5880 section 6.8.7).
    pub(crate) fn tx_interval(&self) -> Duration {
        micros(self.tx_in_use.max(self.remote_min_rx))
    }

    /// The longest interval between the peer's packets.
    pub(crate) fn rx_interval(&self) -> Duration {
        micros(self.rx_in_use.max(self.remote_desired_min_tx))
    }

    /// The silence after which the session is down (RFC 5880 section 6.8.4); zero before the peer
    /// was heard.
    pub(crate) fn detection_time(&self) -> Duration {
        self.rx_interval() * u32::from(self.remote_multiplier)
    }

    fn detect_at(&self) -> Option<Time> {
        let heard = self.heard.filter(|_| self.state != State::AdminDown)?;
        Some(heard + self.detection_time())
    }

    /// Whether packets go at intervals: unless the peer wants none at all (RFC 5880 section 6.8.7),
    /// or none while nothing changes (6.6).
    fn is_periodic(&self) -> bool {
        let demand =
            self.remote_demand && self.state == State::Up && self.remote_state == State::Up;
        self.remote_min_rx > 0 && (!demand || self.poll != Poll::Idle)
    }

    fn lose(&mut self, now: Time, loss: Loss, diagnostic: Diagnostic) {
        if self.state == State::Up {
            self.tally.flaps += 1;
            self.tally.failures += u64::from(loss == Loss::Failure);
        }
        self.become_state(now, State::Down, diagnostic);
    }

    fn become_state(&mut self, now: Time, state: State, diagnostic: Diagnostic) {
        self.state = state;
        self.since = now;
        self.diagnostic = diagnostic;
        self.announce();
        self.news = true;
        self.hurry(now);
    }

    /// Says the intervals of the parameters and the state, with a Poll Sequence if they are others.
    fn announce(&mut self) {
        let up = self.state == State::Up;
        let tx = if up { self.params.min_tx } else { self.params.min_tx.max(SLOW) };
        let rx = self.params.min_rx;
        if (tx, rx) == (self.desired_min_tx, self.required_min_rx) {
            return;
        }
        (self.desired_min_tx, self.required_min_rx) = (tx, rx);
        // RFC 5880 section 6.8.3: while Up, the peer has to expect packets at a longer interval
        // before they come so, and to send them at a shorter one before they are expected so.
        if !up || tx < self.tx_in_use {
            self.tx_in_use = tx;
        }
        if !up || rx > self.rx_in_use {
            self.rx_in_use = rx;
        }
        if self.remote.is_some() {
            self.poll = if self.poll == Poll::Idle { Poll::Running } else { Poll::Again };
        } else {
            self.poll_forgotten();
        }
    }

    fn poll_answered(&mut self) {
        match self.poll {
            Poll::Idle => {}
            Poll::Running => self.poll_forgotten(),
            Poll::Again => self.poll = Poll::Running,
        }
    }

    fn poll_forgotten(&mut self) {
        self.poll = Poll::Idle;
        self.tx_in_use = self.desired_min_tx;
        self.rx_in_use = self.required_min_rx;
    }

    /// Brings the next packet forward where the interval has become shorter.
    fn hurry(&mut self, now: Time) {
        let interval = self.tx_interval();
        if self.next_tx > self.sent_at + interval {
            self.next_tx = (self.sent_at + self.jitter(interval)).max(now);
        }
    }

    /// 75 to 100 per cent of an interval; to 90 where the first loss counts (RFC 5880 section 6.8.7).
    fn jitter(&mut self, interval: Duration) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let span = if self.params.multiplier == 1 { 150 } else { 250 };
        let per_mille = 750 + u32::try_from((self.random >> 32) % (span + 1)).unwrap_or(0);
        interval * per_mille / 1000
    }
}

fn micros(interval: u32) -> Duration {
    Duration::from_micros(interval.into())
}
