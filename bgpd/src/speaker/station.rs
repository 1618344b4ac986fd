//! The connection to a monitoring station: made, and made again when it breaks.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::config::BmpStation;

/// Batches on their way to the socket at most; the rest waits in the core, where it is merged.
const QUEUE: usize = 2;
/// The first pause after a connection that could not be made or broke; doubles up to the last one.
const PAUSE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// How long making a connection, or the station's taking in of one batch, may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What happens to a connection.
pub(super) enum StationEvent {
    /// It is there, and takes batches here.
    Up(mpsc::Sender<Vec<u8>>),
    /// There is room for another batch.
    Room,
    /// It is time for statistics.
    Statistics,
    /// It is gone.
    Down,
}

/// A station as the driver has it. The task ends with the value, or with the last word.
pub(super) struct Station {
    pub(super) config: BmpStation,
    pub(super) batches: Option<mpsc::Sender<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl Station {
    pub(super) fn start<E: Send + 'static>(
        config: BmpStation,
        events: mpsc::Sender<E>,
        event: fn(SocketAddr, StationEvent) -> E,
    ) -> Self {
        let task = tokio::spawn(run(config.clone(), events, event));
        Self { config, batches: None, task }
    }

    /// Says a last word, and returns when it is said.
    pub(super) async fn finish(mut self, last: Vec<u8>) {
        if let Some(batches) = self.batches.take() {
            let said = async {
                if batches.send(last).await.is_ok() {
                    drop(batches);
                    let _ended = (&mut self.task).await;
                }
            };
            // A station that does not take it in time goes without.
            let _late = tokio::time::timeout(PAUSE[0], said).await;
        }
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run<E: Send + 'static>(
    config: BmpStation,
    events: mpsc::Sender<E>,
    event: fn(SocketAddr, StationEvent) -> E,
) {
    let address = config.address();
    let mut pause = PAUSE[0];
    loop {
        match patiently(TcpStream::connect(address)).await {
            Ok(stream) => {
                tracing::info!(%address, "BMP station connected");
                let (batches, receiver) = mpsc::channel(QUEUE);
                if events.send(event(address, StationEvent::Up(batches))).await.is_err() {
                    return;
                }
                let served = serve(stream, &config, receiver, &events, event).await;
                match served {
                    Ok(true) => return,
                    Ok(false) => tracing::info!(%address, "BMP station closed the connection"),
                    Err(error) => tracing::warn!(%address, %error, "BMP station lost"),
                }
                pause = PAUSE[0];
                if events.send(event(address, StationEvent::Down)).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::debug!(%address, %error, "BMP station not reached"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE[1]);
    }
}

async fn patiently<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(PATIENCE, work).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// Sends batches. Returns whether the last word has been said; not if the station has closed.
async fn serve<E: Send + 'static>(
    stream: TcpStream,
    config: &BmpStation,
    mut batches: mpsc::Receiver<Vec<u8>>,
    events: &mpsc::Sender<E>,
    event: fn(SocketAddr, StationEvent) -> E,
) -> io::Result<bool> {
    let address = config.address();
    let (mut reader, mut writer) = stream.into_split();
    let period = Duration::from_secs(config.stats_interval.max(1).into());
    let mut statistics = tokio::time::interval(period);
    statistics.reset();
    let mut ignored = [0; 512];
    loop {
        tokio::select! {
            batch = batches.recv() => {
                let Some(batch) = batch else {
                    writer.shutdown().await?;
                    return Ok(true);
                };
                patiently(writer.write_all(&batch)).await?;
                if events.send(event(address, StationEvent::Room)).await.is_err() {
                    return Ok(true);
                }
            }
            // RFC 7854 section 3.2: a station never says anything. The end is what is waited for.
            read = reader.read(&mut ignored) => {
                if read? == 0 {
                    return Ok(false);
                }
            }
            _ = statistics.tick(), if config.stats_interval > 0 => {
                if events.send(event(address, StationEvent::Statistics)).await.is_err() {
                    return Ok(true);
                }
            }
        }
    }
}
