//! The control socket: one line of JSON asks, one answers.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bgpd::{RouteQuery, SpeakerHandle};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

/// The longest question, in octets.
const QUESTION_MAX: u64 = 64 * 1024;
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(10);

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Question {
    /// [`SpeakerHandle::neighbors`]
    Neighbors,
    /// [`SpeakerHandle::routes`]
    Routes(RouteQuery),
    /// [`SpeakerHandle::status`]
    Status,
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Value(serde_json::Value),
    Error(String),
}

/// The daemon's end. Removes the socket when it goes.
pub(crate) struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Listens, for this user only. A socket that nobody answers on is left from a daemon that
    /// was killed, and is replaced; one that somebody answers on is an error.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        if UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another daemon answers on this socket",
            ));
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Answers until it is dropped.
    pub(crate) async fn serve(self, speaker: SpeakerHandle) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let speaker = speaker.clone();
                    tokio::spawn(async move {
                        let answered =
                            tokio::time::timeout(PATIENCE, answer(stream, &speaker)).await;
                        if let Ok(Err(error)) = answered {
                            tracing::debug!(%error, "control connection");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a control connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "control socket");
        }
    }
}

async fn answer(stream: tokio::net::UnixStream, speaker: &SpeakerHandle) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    tokio::io::BufReader::new(reader.take(QUESTION_MAX)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(question) => reply(question, speaker).await,
        Err(error) => Answer::Error(format!("not a question: {error}")),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    writer.write_all(&text).await
}

async fn reply(question: Question, speaker: &SpeakerHandle) -> Answer {
    let value = match question {
        Question::Neighbors => to_value(speaker.neighbors().await),
        Question::Routes(query) => to_value(speaker.routes(query).await),
        Question::Status => to_value(speaker.status().await),
    };
    value.map_or_else(Answer::Error, Answer::Value)
}

fn to_value<T: Serialize>(result: Result<T, bgpd::Stopped>) -> Result<serde_json::Value, String> {
    let value = result.map_err(|e| e.to_string())?;
    serde_json::to_value(value).map_err(|e| e.to_string())
}

/// Asks the daemon.
pub(crate) fn ask(path: &Path, question: &Question) -> anyhow::Result<serde_json::Value> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut text = String::new();
    BufReader::new(&stream).by_ref().read_line(&mut text)?;
    match serde_json::from_str(&text)? {
        Answer::Value(value) => Ok(value),
        Answer::Error(error) => anyhow::bail!(error),
    }
}
