//! The control socket: one line of JSON asks, one answers.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bgpd::{Clear, RouteQuery, SpeakerHandle, accept};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

/// The longest question, in octets.
const QUESTION_MAX: u64 = 64 * 1024;
/// How long either side waits for the other to take or to say the next line.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections answered at the same time; others wait.
const CONNECTIONS: usize = 16;

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Question {
    /// [`SpeakerHandle::neighbors`]
    Neighbors,
    /// [`SpeakerHandle::neighbor`]
    Neighbor(String),
    /// [`SpeakerHandle::route_stream`]
    Routes(Box<RouteQuery>),
    /// [`SpeakerHandle::explain`]
    Explain(IpNet),
    /// [`SpeakerHandle::explain_address`]
    ExplainAddress(IpAddr),
    /// [`SpeakerHandle::mrt_dump`]
    MrtDump,
    /// [`SpeakerHandle::status`]
    Status,
    /// [`SpeakerHandle::config`]
    Config,
    /// [`SpeakerHandle::groups`]
    Groups,
    /// [`SpeakerHandle::memory`]
    Memory,
    /// [`SpeakerHandle::clear`]
    Clear(Option<String>, Clear),
}

/// What comes back: one value or error, or any number of parts or octets and an end.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Value(Value),
    Part(Vec<Value>),
    /// So many octets follow the line.
    Octets(usize),
    End,
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
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let (stream, _) = accept("control", || self.listener.accept()).await;
            let speaker = speaker.clone();
            tokio::spawn(async move {
                if let Err(error) = answer(stream, &speaker).await {
                    tracing::debug!(%error, "control connection");
                }
                drop(place);
            });
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

/// What is not done in time has failed.
async fn patiently<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(PATIENCE, work).await.map_err(|_| io::ErrorKind::TimedOut)?
}

type Writer = tokio::net::unix::OwnedWriteHalf;

async fn answer(stream: tokio::net::UnixStream, speaker: &SpeakerHandle) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = tokio::io::BufReader::new(reader.take(QUESTION_MAX));
    patiently(reader.read_line(&mut line)).await?;
    let last = match serde_json::from_str(&line) {
        Ok(Question::Routes(query)) => stream_routes(*query, speaker, &mut writer).await?,
        Ok(Question::MrtDump) => stream_dump(speaker, &mut writer).await?,
        Ok(question) => reply(question, speaker).await.map_or_else(Answer::Error, Answer::Value),
        Err(error) => Answer::Error(format!("not a question: {error}")),
    };
    say(&last, &mut writer).await
}

async fn say(answer: &Answer, writer: &mut Writer) -> io::Result<()> {
    let mut text = serde_json::to_vec(answer)?;
    text.push(b'\n');
    patiently(writer.write_all(&text)).await
}

/// Says all parts but the last word, which it returns. A reader that is slow delays nobody but
/// itself: the next slice is asked for when it has taken this one.
async fn stream_routes(
    query: RouteQuery,
    speaker: &SpeakerHandle,
    writer: &mut Writer,
) -> io::Result<Answer> {
    for name in [&query.neighbor, &query.advertised_to].into_iter().flatten() {
        match speaker.neighbor(name).await {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(Answer::Error(unknown(name))),
            Err(error) => return Ok(Answer::Error(error.to_string())),
        }
    }
    let mut stream = speaker.route_stream(query);
    loop {
        match stream.next().await {
            Ok(Some(routes)) => {
                let parts: Result<_, _> = routes.iter().map(serde_json::to_value).collect();
                say(&Answer::Part(parts?), writer).await?;
            }
            Ok(None) => return Ok(Answer::End),
            Err(error) => return Ok(Answer::Error(error.to_string())),
        }
    }
}

async fn stream_dump(speaker: &SpeakerHandle, writer: &mut Writer) -> io::Result<Answer> {
    let mut stream = speaker.mrt_dump();
    loop {
        match stream.next().await {
            Ok(Some(records)) => {
                say(&Answer::Octets(records.len()), writer).await?;
                patiently(writer.write_all(&records)).await?;
            }
            Ok(None) => return Ok(Answer::End),
            Err(error) => return Ok(Answer::Error(error.to_string())),
        }
    }
}

fn unknown(name: &str) -> String {
    format!("there is no neighbor {name:?}")
}

async fn reply(question: Question, speaker: &SpeakerHandle) -> Result<Value, String> {
    let no_route = |target: &dyn std::fmt::Display| format!("there is no route to {target}");
    match question {
        Question::Neighbors => to_value(speaker.neighbors().await),
        Question::Neighbor(name) => match speaker.neighbor(&name).await {
            Ok(None) => Err(unknown(&name)),
            known => to_value(known),
        },
        Question::Routes(_) | Question::MrtDump => Err("this has no single answer".to_owned()),
        Question::Explain(prefix) => match speaker.explain(prefix).await {
            Ok(None) => Err(no_route(&prefix)),
            known => to_value(known),
        },
        Question::ExplainAddress(address) => match speaker.explain_address(address).await {
            Ok(None) => Err(no_route(&address)),
            known => to_value(known),
        },
        Question::Status => to_value(speaker.status().await),
        Question::Config => to_value(speaker.config().await),
        Question::Groups => to_value(speaker.groups().await),
        Question::Memory => to_value(speaker.memory().await),
        Question::Clear(name, how) => match (speaker.clear(name.as_deref(), how).await, name) {
            (Ok(cleared), Some(name)) if cleared.is_empty() => Err(unknown(&name)),
            (cleared, _) => to_value(cleared),
        },
    }
}

fn to_value<T: Serialize>(result: Result<T, bgpd::Stopped>) -> Result<Value, String> {
    let value = result.map_err(|e| e.to_string())?;
    serde_json::to_value(value).map_err(|e| e.to_string())
}

/// Who answers.
pub(crate) enum Asked {
    /// The daemon with this control socket.
    Daemon(PathBuf),
    /// A speaker in this process.
    Speaker(SpeakerHandle, tokio::runtime::Handle),
}

impl Asked {
    fn connect(&self) -> io::Result<UnixStream> {
        match self {
            Self::Daemon(socket) => UnixStream::connect(socket),
            Self::Speaker(speaker, runtime) => {
                let (ours, theirs) = UnixStream::pair()?;
                theirs.set_nonblocking(true)?;
                let speaker = speaker.clone();
                runtime.spawn(async move {
                    let answered = match tokio::net::UnixStream::from_std(theirs) {
                        Ok(stream) => answer(stream, &speaker).await,
                        Err(error) => Err(error),
                    };
                    if let Err(error) = answered {
                        tracing::debug!(%error, "question of our own");
                    }
                });
                Ok(ours)
            }
        }
    }
}

impl std::fmt::Display for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Daemon(socket) => write!(f, "the daemon at {}", socket.display()),
            Self::Speaker(..) => f.write_str("the replayed speaker"),
        }
    }
}

/// Asks. The answer goes to `take`, a part at a time if it has parts.
pub(crate) fn ask(
    asked: &Asked,
    question: &Question,
    mut take: impl FnMut(Value) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    converse(asked, question, |part| match part {
        Part::Value(value) => take(value),
        Part::Octets(_) => anyhow::bail!("octets where a value was asked for"),
    })
}

/// Writes the daemon's table to a file. What is not whole does not take the place of what is there.
pub(crate) fn dump(asked: &Asked, file: &Path) -> anyhow::Result<()> {
    let mut partial = file.as_os_str().to_owned();
    partial.push(".part");
    let partial = PathBuf::from(partial);
    let written = (|| {
        let create = std::fs::File::create(&partial);
        let mut out = io::BufWriter::new(create.with_context(|| format!("{}", partial.display()))?);
        converse(asked, &Question::MrtDump, |part| match part {
            Part::Octets(octets) => out.write_all(&octets).context("the file"),
            Part::Value(_) => anyhow::bail!("a value where octets were asked for"),
        })
        .with_context(|| format!("cannot ask {asked}"))?;
        out.flush()?;
        std::fs::rename(&partial, file).with_context(|| format!("{}", file.display()))
    })();
    if written.is_err() {
        // Left alone if there never was one.
        let _gone = std::fs::remove_file(&partial);
    }
    written
}

/// A part of an answer.
enum Part {
    Value(Value),
    Octets(Vec<u8>),
}

/// The most octets that one part of an answer has.
const PART_MAX: usize = 64 << 20;

fn converse(
    asked: &Asked,
    question: &Question,
    mut take: impl FnMut(Part) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut stream = asked.connect()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut reader = BufReader::new(&stream);
    let mut text = String::new();
    loop {
        text.clear();
        reader.read_line(&mut text)?;
        anyhow::ensure!(!text.is_empty(), "the daemon has ended before its answer did");
        match serde_json::from_str(&text)? {
            Answer::Value(value) => return take(Part::Value(value)),
            Answer::Part(values) => take(Part::Value(Value::Array(values)))?,
            Answer::Octets(len) => {
                anyhow::ensure!(len <= PART_MAX, "a part of {len} octets");
                let mut octets = vec![0; len];
                reader.read_exact(&mut octets)?;
                take(Part::Octets(octets))?;
            }
            Answer::End => return Ok(()),
            Answer::Error(error) => anyhow::bail!(error),
        }
    }
}
