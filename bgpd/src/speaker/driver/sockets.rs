//! The tasks that wait for sockets: one for each listener and farewell.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Event;
use crate::accept;
use crate::config::ConfigError;
use crate::transport::tcp;

/// How long a last word may take.
const FAREWELL: Duration = Duration::from_secs(2);
/// Octets that a peer may have sent before it reads the last word: more than two socket buffers
/// usually hold. Who goes on regardless is cut off.
const FAREWELL_OCTETS: usize = 8 * 1024 * 1024;

/// Accepts connections until it is dropped.
pub(super) struct Listener {
    pub(super) socket: Arc<TcpListener>,
    task: JoinHandle<()>,
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
            let what = format!("BGP on {address}");
            loop {
                let (stream, remote) = accept(&what, || accepting.accept()).await;
                if events.send(Event::Accepted(stream, remote)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Self { socket, task })
    }

    /// Ends it; then nobody listens on its address any more.
    pub(super) async fn stop(mut self) {
        self.task.abort();
        let _cancelled = (&mut self.task).await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
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
        let mut taken = 0;
        loop {
            stream.readable().await?;
            match stream.try_read(&mut scratch) {
                Ok(0) => return Ok(()),
                Ok(n) if taken + n > FAREWELL_OCTETS => {
                    return Err(io::Error::other("the peer does not stop to send"));
                }
                Ok(n) => taken += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    };
    if let Ok(Err(error)) = tokio::time::timeout(FAREWELL, goodbye).await {
        tracing::debug!(%error, "the last message may not have arrived");
    }
}
