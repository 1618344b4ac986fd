//! The state machine of one connection (RFC 4271 section 8) as a pure function.
//!
//! ```text
//!          Start            TCP up             OPEN              KEEPALIVE
//!   Idle ────────▶ Connect ─────────▶ OpenSent ─────▶ OpenConfirm ─────────▶ Established
//!     │              │  ▲               │
//!     │ (accepting)  │  │ ConnectRetry  │ TCP lost
//!     └────────────▶ Active ◀───────────┘
//!   any state ──Stop, error, NOTIFICATION, timer expired──▶ Idle
//! ```
//!
//! Each neighbor runs two: one for the connection it opens and one, which never connects, for
//! the one it accepts. Optional parts of the RFC that this machine has no need of: DelayOpen and
//! the TCP state tracking; DampPeerOscillations is the growing pause before a restart, which
//! belongs to the neighbor.

use serde::Serialize;
use smallvec::{SmallVec, smallvec};

use crate::wire::{Notification, cease, code};

/// State of a session (RFC 4271 section 8.2.2), in the order in which it comes up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Refuses connections, or waits before it tries again.
    #[default]
    Idle,
    /// Waits for its own connection.
    Connect,
    /// Waits for the peer's connection, or for the next attempt of its own.
    Active,
    /// OPEN sent.
    OpenSent,
    /// OPEN received, waits for the KEEPALIVE that accepts ours.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Idle => "Idle",
            Self::Connect => "Connect",
            Self::Active => "Active",
            Self::OpenSent => "OpenSent",
            Self::OpenConfirm => "OpenConfirm",
            Self::Established => "Established",
        })
    }
}

/// A timer of one connection. Starting one that runs restarts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// Until the next attempt to connect.
    ConnectRetry,
    /// Until the peer is taken for dead. Before its OPEN: a large value (RFC 4271 suggests 4
    /// minutes); after: as negotiated.
    Hold,
    /// Until the next KEEPALIVE.
    Keepalive,
    /// Until a peer that reads nothing is taken for dead (RFC 9687).
    SendHold,
    /// Until an Idle machine starts again by itself (IdleHoldTimer).
    IdleHold,
}

impl Timer {
    pub(crate) const ALL: [Self; 5] =
        [Self::ConnectRetry, Self::Hold, Self::Keepalive, Self::SendHold, Self::IdleHold];
}

/// What can happen to a connection; the numbers are those of RFC 4271 section 8.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// 1, 3: ManualStart, AutomaticStart; 4, 5 where `passive`.
    Start { passive: bool },
    /// 2, 8: ManualStop, AutomaticStop, with what the peer is told if there is a session.
    /// None says nothing, so that a peer with graceful restart keeps the routes.
    Stop(Option<Notification>),
    /// 9 to 11, and RFC 9687.
    Expired(Timer),
    /// 16, 17: TcpCRAcked, TcpConnectionConfirmed.
    Connected,
    /// 18: TcpConnectionFails.
    ConnectionFailed,
    /// 19: BGPOpen that the negotiation accepted.
    Open,
    /// 21, 22, 28: a message that is wrong, with its answer.
    Error(Notification),
    /// 23: OpenCollisionDump.
    CollisionDump,
    /// 24, 25.
    Notification,
    /// 26.
    Keepalive,
    /// 27.
    Update,
    /// RFC 2918 section 4.
    RouteRefresh,
}

/// What a transition asks for, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    StartTimer(Timer),
    StopTimer(Timer),
    /// Open the TCP connection.
    Connect,
    SendOpen,
    SendKeepalive,
    SendNotification(Notification),
    /// Close the TCP connection, after what was sent.
    Close,
    /// Stop all timers and plan a restart, unless stopped for good.
    Reset,
    /// The session is up.
    Up,
    /// The session was up and is not any more.
    Down,
    /// Take in the UPDATE.
    Update,
    /// Send the routes again.
    Refresh,
}

pub(crate) type Actions = SmallVec<[Action; 4]>;

/// One transition. Total: what RFC 4271 does not foresee in a state is a Finite State Machine
/// Error where there is a session to tell, and nothing in Idle.
pub(crate) fn step(state: State, event: &Event) -> (State, Actions) {
    use Action::{Close, Connect, Refresh, Reset, SendKeepalive, SendOpen, StartTimer, StopTimer};
    use State::{Active, Established, Idle, OpenConfirm, OpenSent};
    use Timer::{ConnectRetry, Hold, IdleHold, Keepalive, SendHold};
    match (state, event) {
        (Idle, Event::Start { passive: true }) => (Active, smallvec![StopTimer(IdleHold)]),
        (Idle, Event::Start { passive: false }) => {
            (State::Connect, smallvec![StopTimer(IdleHold), StartTimer(ConnectRetry), Connect])
        }
        (Idle, _) => (Idle, smallvec![]),
        (_, Event::Start { .. }) => (state, smallvec![]),

        (State::Connect, Event::Expired(ConnectRetry)) => {
            (State::Connect, smallvec![Close, StartTimer(ConnectRetry), Connect])
        }
        (Active, Event::Expired(ConnectRetry)) => {
            (State::Connect, smallvec![StartTimer(ConnectRetry), Connect])
        }
        (State::Connect | Active, Event::Connected) => {
            (OpenSent, smallvec![StopTimer(ConnectRetry), SendOpen, StartTimer(Hold)])
        }
        // No session to tell: whatever else happens, start over.
        (State::Connect | Active, _) => (Idle, smallvec![Close, Reset]),

        (_, Event::Stop(Some(notification)) | Event::Error(notification)) => {
            down(state, Some(notification.clone()))
        }
        (_, Event::CollisionDump) => {
            down(state, Some(Notification::cease(cease::COLLISION, "another connection stays")))
        }
        (_, Event::Expired(Hold)) => {
            let reason = "nothing was heard for the hold time";
            down(state, Some(Notification::new(code::HOLD_TIMER, 0, &[], reason)))
        }
        (_, Event::Expired(SendHold)) => {
            let reason = "the peer takes nothing in";
            down(state, Some(Notification::new(code::SEND_HOLD_TIMER, 0, &[], reason)))
        }
        (OpenSent, Event::ConnectionFailed) => {
            (Active, smallvec![Close, StopTimer(Hold), StartTimer(ConnectRetry)])
        }
        (_, Event::Stop(None) | Event::Notification | Event::ConnectionFailed) => down(state, None),

        (OpenSent, Event::Open) => {
            (OpenConfirm, smallvec![SendKeepalive, StartTimer(Keepalive), StartTimer(Hold)])
        }
        (OpenConfirm | Established, Event::Expired(Keepalive)) => {
            (state, smallvec![SendKeepalive, StartTimer(Keepalive)])
        }
        (OpenConfirm, Event::Keepalive) => (Established, smallvec![StartTimer(Hold), Action::Up]),
        (Established, Event::Keepalive) => (Established, smallvec![StartTimer(Hold)]),
        (Established, Event::Update) => (Established, smallvec![StartTimer(Hold), Action::Update]),
        (Established, Event::RouteRefresh) => (Established, smallvec![StartTimer(Hold), Refresh]),

        (OpenSent, _) => unexpected(state, 1),
        (OpenConfirm, _) => unexpected(state, 2),
        (Established, _) => unexpected(state, 3),
    }
}

/// RFC 6608: a message or event that has no place in the state.
fn unexpected(state: State, subcode: u8) -> (State, Actions) {
    let reason = "a message that the state has no place for";
    down(state, Some(Notification::new(code::FSM, subcode, &[], reason)))
}

fn down(state: State, notification: Option<Notification>) -> (State, Actions) {
    let mut actions: Actions = notification.into_iter().map(Action::SendNotification).collect();
    actions.push(Action::Close);
    if state == State::Established {
        actions.push(Action::Down);
    }
    actions.push(Action::Reset);
    (State::Idle, actions)
}
