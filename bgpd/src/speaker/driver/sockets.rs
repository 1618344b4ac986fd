//! The tasks that wait for sockets: one for each listener, connection and farewell.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use super::Event;
use crate::config::ConfigError;
use crate::speaker::ConnId;
use crate::transport::tcp;

/// Octets read from a connection at a time.
const READ: usize = 64 * 1024;
/// How long a last word may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// Accepts connections until it is dropped.
pub(super) struct Listener {
    pub(super) socket: Arc<TcpListener>,
    task: AbortHandle,
}

impl Listener {
    pub(super) fn start(
        address: SocketAddr,
        events: &mpsc::Sender<Event>,
    ) -> Result<Self, ConfigError> {
        let socket =
            tcp::listen(address).map_err(|source| ConfigError::Listen { address, source })?;
        let socket = Arc::new(socket);
        let (accepting, events) = (socket.clone(), events.clone());
        let task = tokio::spawn(async move {
            loop {
                match accepting.accept().await {
                    Ok((stream, remote)) => {
                        if events.send(Event::Accepted(stream, remote)).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        // Out of descriptors, say: it must not spin.
                        tracing::warn!(%address, %error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        });
        Ok(Self { socket, task: task.abort_handle() })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads until the connection ends, and says when a full socket buffer has room again.
pub(super) async fn read(
    conn: ConnId,
    stream: Arc<TcpStream>,
    blocked: Arc<Notify>,
    events: mpsc::Sender<Event>,
) {
    let mut buffer = BytesMut::new();
    let end = loop {
        tokio::select! {
            ready = stream.readable() => {
                if let Err(error) = ready {
                    break error.to_string();
                }
                buffer.reserve(READ);
                match stream.try_read_buf(&mut buffer) {
                    Ok(0) => break "closed by the peer".to_owned(),
                    Ok(_) => {
                        let octets = buffer.split().freeze();
                        if events.send(Event::Data(conn, octets)).await.is_err() {
                            return;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => break error.to_string(),
                }
            }
            ready = writable(&stream, &blocked) => {
                if let Err(error) = ready {
                    break error.to_string();
                }
                if events.send(Event::Writable(conn)).await.is_err() {
                    return;
                }
            }
        }
    };
    let _gone = events.send(Event::Closed(conn, end)).await;
}

async fn writable(stream: &TcpStream, blocked: &Notify) -> io::Result<()> {
    blocked.notified().await;
    stream.writable().await
}

/// Sends the last words, and waits for the peer to close so that they are not lost to a reset.
pub(super) async fn farewell(stream: Arc<TcpStream>, last: Vec<Bytes>) {
    let goodbye = async {
        for chunk in last {
            let mut rest = &chunk[..];
            while !rest.is_empty() {
                stream.writable().await?;
                match stream.try_write(rest) {
                    Ok(n) => rest = &rest[n..],
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        }
        socket2::SockRef::from(&*stream).shutdown(std::net::Shutdown::Write)?;
        let mut scratch = [0; 4096];
        loop {
            stream.readable().await?;
            match stream.try_read(&mut scratch) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    };
    if let Ok(Err(error)) = tokio::time::timeout(FAREWELL, goodbye).await {
        tracing::debug!(%error, "the last message may not have arrived");
    }
}
