//! `/metrics` for Prometheus. The figures are read off the speaker when they are asked for, into a
//! registry that is new each time: a neighbor that is gone has none.

mod figures;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bgpd::{SpeakerHandle, accept};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

/// Connections answered at the same time; others wait to be accepted.
const CONNECTIONS: usize = 8;
/// The longest request, in octets.
const REQUEST_MAX: usize = 8 * 1024;
/// How long a request, and the taking in of its answer, may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves until it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    task: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(crate) async fn start(address: SocketAddr, speaker: SpeakerHandle) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let task = tokio::spawn(serve(listener, speaker)).abort_handle();
        Ok(Self { address, task })
    }
}

async fn serve(listener: TcpListener, speaker: SpeakerHandle) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, _) = accept("metrics", || listener.accept()).await;
        let speaker = speaker.clone();
        tokio::spawn(async move {
            match tokio::time::timeout(PATIENCE, answer(stream, &speaker)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "metrics connection"),
                Err(_) => tracing::debug!("metrics connection too slow"),
            }
            drop(place);
        });
    }
}

/// HTTP/1.0: one request, one answer, and the end of the connection is the end of the answer.
async fn answer(mut stream: TcpStream, speaker: &SpeakerHandle) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut part = [0; 1024];
        let n = stream.read(&mut part).await?;
        if n == 0 || request.len() + n > REQUEST_MAX {
            return Ok(());
        }
        request.extend_from_slice(&part[..n]);
    }
    let line = String::from_utf8_lossy(&request);
    let mut words = line.split_ascii_whitespace();
    let (status, body) = match (words.next(), words.next()) {
        (Some("GET"), Some("/metrics")) => match scrape(speaker).await {
            Ok(text) => ("200 OK", text),
            Err(error) => ("503 Service Unavailable", error),
        },
        (Some("GET"), Some(_)) => ("404 Not Found", "only /metrics is here\n".to_owned()),
        _ => ("405 Method Not Allowed", "only GET is answered\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.0 {status}\r\n\
         Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

async fn scrape(speaker: &SpeakerHandle) -> Result<String, String> {
    let status = speaker.status().await.map_err(|error| error.to_string())?;
    let neighbors = speaker.neighbors().await.map_err(|error| error.to_string())?;
    figures::text(&status, &neighbors).map_err(|error| error.to_string())
}
