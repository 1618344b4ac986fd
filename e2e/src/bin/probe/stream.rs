//! A steady stream of numbered messages to an echo server, and what became of each.

use std::collections::BTreeSet;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use crate::target::{Target, unspecified};
use crate::tell;

/// After the last message, how long its answer may take.
const STRAGGLERS: Duration = Duration::from_secs(1);
const REPORT: Duration = Duration::from_millis(50);

/// What is known so far.
#[derive(Default)]
struct Tally {
    sent: u64,
    received: u64,
    duplicates: u64,
    send_errors: u64,
    missing: BTreeSet<u64>,
    last_reply: Option<Instant>,
    longest_gap: Duration,
    broken: Option<String>,
}

impl Tally {
    fn reply(&mut self, number: u64) {
        if !self.missing.remove(&number) {
            self.duplicates += 1;
            return;
        }
        self.received += 1;
        let now = Instant::now();
        if let Some(last) = self.last_reply.replace(now) {
            self.longest_gap = self.longest_gap.max(now - last);
        }
    }

    fn report(&self, last: bool) -> Value {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let missing: Vec<_> = self.missing.iter().take(100).collect();
        json!({
            "time": tell::now(),
            "final": last,
            "sent": self.sent,
            "received": self.received,
            "missing": if last { json!(missing) } else { Value::Null },
            "duplicates": self.duplicates,
            "sendErrors": self.send_errors,
            "longestGapMs": millis(self.longest_gap),
            "sinceReplyMs": self.last_reply.map(|last| millis(last.elapsed())),
            "broken": self.broken,
        })
    }
}

type Shared = Arc<Mutex<Tally>>;

fn lock(tally: &Shared) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Streams until `count` messages were sent; true if every one of them was answered.
pub(crate) fn run(target: Target, rate: u32, count: Option<u64>) -> Result<bool> {
    ensure!(rate > 0, "--rate 0: at least one message a second");
    let tally = Shared::default();
    let send = match target {
        Target::Udp(address) => udp(address, &tally)?,
        Target::Tcp(address) => tcp(address, &tally)?,
        Target::Icmp(_) => bail!("a stream is TCP or UDP"),
    };
    tell::ready()?;
    let pause = Duration::from_secs(1) / rate;
    let mut next = Instant::now();
    let mut report = next;
    for number in 0..count.unwrap_or(u64::MAX) {
        {
            let mut tally = lock(&tally);
            tally.sent += 1;
            tally.missing.insert(number);
        }
        if send(number).is_err() {
            lock(&tally).send_errors += 1;
        }
        if report.elapsed() >= REPORT {
            report = Instant::now();
            tell::line(&lock(&tally).report(false));
        }
        next += pause;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let deadline = Instant::now() + STRAGGLERS;
    while !lock(&tally).missing.is_empty() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    let tally = lock(&tally);
    tell::line(&tally.report(true));
    Ok(tally.missing.is_empty())
}

type Send = Box<dyn Fn(u64) -> io::Result<()>>;

fn udp(address: SocketAddr, tally: &Shared) -> Result<Send> {
    let socket = UdpSocket::bind(SocketAddr::new(unspecified(address.ip()), 0))?;
    socket.connect(address)?;
    let receiver = socket.try_clone()?;
    let tally = Arc::clone(tally);
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        loop {
            // Errors are ICMP about earlier messages: those stay unanswered.
            let Ok(length) = receiver.recv(&mut buffer) else { continue };
            let answer: Option<Value> =
                buffer.get(..length).and_then(|bytes| serde_json::from_slice(bytes).ok());
            if let Some(number) = answer.and_then(|a| a["payload"].as_str()?.parse().ok()) {
                lock(&tally).reply(number);
            }
        }
    });
    Ok(Box::new(move |number| socket.send(number.to_string().as_bytes()).map(drop)))
}

fn tcp(address: SocketAddr, tally: &Shared) -> Result<Send> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_nodelay(true)?;
    // Never block the clock of the sender: what does not fit in the buffer counts as an error.
    let receiver = BufReader::new(stream.try_clone()?);
    stream.set_write_timeout(Some(Duration::from_millis(1)))?;
    let tally = Arc::clone(tally);
    thread::spawn(move || {
        // The first line is the server's greeting.
        for line in receiver.lines().skip(1) {
            match line {
                Ok(line) => {
                    if let Ok(number) = line.parse() {
                        lock(&tally).reply(number);
                    }
                }
                Err(error) => {
                    lock(&tally).broken = Some(error.to_string());
                    return;
                }
            }
        }
        lock(&tally).broken = Some("closed by the server".into());
    });
    Ok(Box::new(move |number| (&stream).write_all(format!("{number}\n").as_bytes())))
}
