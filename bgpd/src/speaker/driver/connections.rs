//! The driver's connections: made, read, written and ended.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, Bytes};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::sockets::farewell;
use super::{Driver, Event, FAREWELLS};
use crate::config::PeerConfig;
use crate::policy::PeerType;
use crate::speaker::ConnId;
use crate::transport::tcp;

pub(super) enum Connection {
    /// It is being made.
    Attempt(AbortHandle),
    Made {
        stream: Arc<TcpStream>,
        /// What the socket wakes.
        waker: Waker,
        /// The socket's buffer is full, and it wakes us when it is not.
        blocked: bool,
    },
}

impl Connection {
    pub(super) const fn stream(&self) -> Option<&Arc<TcpStream>> {
        match self {
            Self::Attempt(_) => None,
            Self::Made { stream, .. } => Some(stream),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Self::Attempt(task) = self {
            task.abort();
        }
    }
}

/// A connection that ends as soon as its last word has arrived.
#[derive(Clone)]
pub(super) struct Farewell {
    task: AbortHandle,
    /// Its sender goes with the task.
    over: watch::Receiver<()>,
}

impl Farewell {
    pub(super) fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    async fn over(mut self) {
        // Nothing is ever sent: this is the sender's end.
        let _gone = self.over.changed().await;
    }
}

impl Driver {
    pub(super) fn accepted(&mut self, stream: TcpStream, remote: SocketAddr) {
        let Ok(local) = stream.local_addr() else { return };
        // A peer that has a key may not come in where the kernel would not check it.
        let ip = remote.ip().to_canonical();
        let accepted = if self.keys.admit(&stream, ip) {
            let asked = self.core.binds_to_interfaces();
            let interface = asked.then(|| tcp::interface(&stream)).flatten();
            self.core.accepted(self.now(), remote, local, interface.as_deref())
        } else {
            None
        };
        let Some((conn, peer)) = accepted else {
            tracing::debug!(%remote, "connection refused");
            return;
        };
        let external =
            self.core.peer_type(&peer.name).is_some_and(|sort| sort != PeerType::Internal);
        if let Err(error) = tcp::prepare(&stream, &peer, external) {
            self.core.closed(self.now(), conn, &error.to_string());
            return;
        }
        self.attach(conn, stream);
    }

    /// Connects when the peer has taken our last word, or let its time pass. A connection that
    /// overtakes it says that we restart (RFC 4724 section 5): the peer would keep what the word
    /// tells it to forget.
    pub(super) fn connect(&mut self, conn: ConnId, peer: Arc<PeerConfig>, external: bool) {
        let events = self.events.clone();
        let farewells = self.waiting.get(&peer.address).cloned().unwrap_or_default();
        let task = tokio::spawn(async move {
            for farewell in farewells {
                farewell.over().await;
            }
            let result = tcp::connect(&peer, external).await;
            let _gone = events.send(Event::Connected(conn, result)).await;
        });
        self.connections.insert(conn, Connection::Attempt(task.abort_handle()));
    }

    /// Starts to read from a connection.
    pub(super) fn attach(&mut self, conn: ConnId, stream: TcpStream) {
        let waker = self.ready.waker(conn);
        // It is looked at first, which is how it comes to wait for the socket.
        waker.wake_by_ref();
        let stream = Arc::new(stream);
        self.connections.insert(conn, Connection::Made { stream, waker, blocked: false });
    }

    /// Reads from a connection, once, and sends what waits; returns how many octets were read.
    pub(super) fn serve(&mut self, conn: ConnId) -> usize {
        let Some(Connection::Made { stream, waker, blocked }) = self.connections.get_mut(&conn)
        else {
            return 0;
        };
        let mut cx = Context::from_waker(waker);
        let writable = *blocked && stream.poll_write_ready(&mut cx).is_ready();
        *blocked &= !writable;
        let read = match stream.poll_read_ready(&mut cx) {
            Poll::Pending => None,
            Poll::Ready(Ok(())) => Some(tcp::read(stream, &mut self.buffer)),
            Poll::Ready(Err(error)) => Some(Err(error)),
        };
        let tried = read.is_some();
        let (taken, end) = match read {
            Some(Ok(0)) => (0, Some("closed by the peer".to_owned())),
            Some(Ok(octets)) => (octets, None),
            Some(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => {
                (0, Some(error.to_string()))
            }
            Some(Err(_)) | None => (0, None),
        };
        if tried && end.is_none() && stream.poll_read_ready(&mut cx).is_ready() {
            // There may be more, which is for after those that were ready before.
            waker.wake_by_ref();
        }
        if let Some(end) = end {
            self.core.closed(self.epoch.elapsed(), conn, &end);
        } else if taken > 0 {
            self.core.received(self.epoch.elapsed(), conn, &self.buffer[..taken]);
        }
        if writable {
            self.write(conn);
        }
        taken
    }

    /// Reads from a connection whose hold timer has expired with octets unread: its socket may have been
    /// taken for empty when it was not, as it may be at urgent data.
    pub(super) fn read(&mut self, conn: ConnId) {
        let Some(stream) = self.connections.get(&conn).and_then(Connection::stream) else { return };
        if let Ok(octets @ 1..) = tcp::read_now(stream, &mut self.buffer) {
            self.core.received(self.epoch.elapsed(), conn, &self.buffer[..octets]);
        }
    }

    /// Sends as much as the socket takes.
    pub(super) fn write(&mut self, conn: ConnId) {
        let Some(Connection::Made { stream, waker, blocked }) = self.connections.get_mut(&conn)
        else {
            return;
        };
        loop {
            let Some(outgoing) = self.core.outgoing(conn) else { return };
            if outgoing.len() == 0 {
                return;
            }
            let slices: Vec<IoSlice<'_>> = outgoing.chunks().take(64).map(IoSlice::new).collect();
            match stream.try_write_vectored(&slices) {
                Ok(n) => self.core.sent(self.epoch.elapsed(), conn, n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    *blocked = true;
                    waker.wake_by_ref();
                    return;
                }
                Err(error) => {
                    self.core.closed(self.epoch.elapsed(), conn, &error.to_string());
                    return;
                }
            }
        }
    }

    pub(super) fn close(&mut self, conn: ConnId, last: Vec<Bytes>) {
        let Some(connection) = self.connections.remove(&conn) else { return };
        if let Some(stream) = connection.stream().filter(|_| !last.is_empty()) {
            self.say_farewell(stream.clone(), last);
        }
    }

    /// Sends the last words at once, where the socket takes them, and sees to it that they arrive.
    fn say_farewell(&mut self, stream: Arc<TcpStream>, mut last: Vec<Bytes>) {
        // Without an address it is not connected any more.
        let Ok(remote) = stream.peer_addr() else { return };
        for chunk in &mut last {
            match stream.try_write(chunk) {
                Ok(n) => chunk.advance(n),
                Err(_) => break,
            }
            if !chunk.is_empty() {
                break;
            }
        }
        let (saying, over) = watch::channel(());
        let task = self.farewells.spawn(async move {
            farewell(stream, last).await;
            drop(saying);
        });
        let waiting = self.waiting.entry(remote.ip().to_canonical()).or_default();
        waiting.push(Farewell { task, over });
        waiting.retain(|it| !it.is_over());
        let many = waiting.len().saturating_sub(FAREWELLS);
        waiting.drain(..many).for_each(|oldest| oldest.task.abort());
    }
}
