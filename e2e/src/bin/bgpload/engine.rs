//! All sessions, in one thread.

use std::net::SocketAddrV4;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::session::{KEEP_ALIVE, LONGEST, Session, Speaker};
use crate::sys::Poll;

/// Read at once, beside what was left.
const READ: usize = 256 * 1024;
/// The longest pause between two looks at what is awaited.
const LOOK: Duration = Duration::from_millis(1);

/// How to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Asleep until something comes.
    Asleep,
    /// Awake: nothing is added to what is measured in microseconds.
    Awake,
}

#[derive(Debug)]
pub(crate) struct Engine {
    poll: Poll,
    pub(crate) sessions: Vec<Session>,
    room: Vec<u8>,
    kept_alive: Instant,
}

impl Engine {
    /// Sessions to `target`, none of them started.
    pub(crate) fn new(target: SocketAddrV4, speakers: &[Speaker]) -> Result<Self> {
        let session = |(token, speaker): (usize, &Speaker)| Session::new(*speaker, target, token);
        Ok(Self {
            poll: Poll::new()?,
            sessions: speakers.iter().enumerate().map(session).collect(),
            room: vec![0; LONGEST + READ],
            kept_alive: Instant::now(),
        })
    }

    /// Brings sessions up, a few at once: more than a listener's backlog would wait for the
    /// kernel's retransmissions. One that is refused is tried again.
    ///
    /// # Errors
    /// Not all are up `within` the time; says why, for the first.
    pub(crate) fn establish(&mut self, which: Range<usize>, within: Duration) -> Result<()> {
        const AT_ONCE: usize = 4;
        let end = Instant::now() + within;
        loop {
            let sessions = &mut self.sessions[which.clone()];
            let trying = sessions.iter().filter(|s| !s.is_idle() && !s.is_established()).count();
            let next = sessions.iter_mut().filter(|session| session.is_idle());
            for session in next.take(AT_ONCE.saturating_sub(trying)) {
                session.start(&self.poll)?;
            }
            let missing = self.sessions[which.clone()].iter().find(|s| !s.is_established());
            let Some(missing) = missing else { return Ok(()) };
            if Instant::now() >= end {
                bail!("no session within {} s: {}", within.as_secs(), missing.refusal());
            }
            self.turn(LOOK)?;
        }
    }

    /// Starts sessions, all at once.
    pub(crate) fn start(&mut self, which: Range<usize>) -> Result<()> {
        self.sessions[which].iter_mut().try_for_each(|session| session.start(&self.poll))
    }

    /// Writes bytes to a session's peer as soon as they fit.
    pub(crate) fn send(&mut self, session: usize, bytes: &Rc<[u8]>) -> Result<()> {
        self.sessions[session].send(Rc::clone(bytes), &self.poll)
    }

    /// Goes on until `done`; false if that is not so `within` the time.
    ///
    /// # Errors
    /// A session has ended.
    pub(crate) fn until(
        &mut self,
        within: Duration,
        patience: Patience,
        done: impl Fn(&[Session]) -> bool,
    ) -> Result<bool> {
        let end = Instant::now() + within;
        let pause = if patience == Patience::Awake { Duration::ZERO } else { LOOK };
        while !done(&self.sessions) {
            if Instant::now() >= end {
                return Ok(false);
            }
            self.turn(pause)?;
        }
        Ok(true)
    }

    /// Serves what is ready, after at most `pause`.
    pub(crate) fn turn(&mut self, pause: Duration) -> Result<()> {
        for ready in self.poll.wait(pause)? {
            if let Some(session) = self.sessions.get_mut(ready.token) {
                session.work(ready, &self.poll, &mut self.room)?;
            }
        }
        let now = Instant::now();
        let keep_alive = now - self.kept_alive >= KEEP_ALIVE;
        if keep_alive {
            self.kept_alive = now;
        }
        for session in &mut self.sessions {
            session.retry(now, &self.poll)?;
            if keep_alive {
                session.keep_alive(&self.poll)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

    use super::*;
    use crate::message::{self, HEADER, KEEPALIVE, NOTIFICATION, OPEN};
    use crate::table::Table;

    const WITHIN: Duration = Duration::from_secs(20);
    const SPEAKER: Speaker = Speaker { address: Ipv4Addr::LOCALHOST, asn: 64601 };

    fn read_message(stream: &mut TcpStream) -> (u8, Vec<u8>) {
        let mut bytes = vec![0; HEADER];
        stream.read_exact(&mut bytes).unwrap();
        let length = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
        bytes.resize(length, 0);
        stream.read_exact(&mut bytes[HEADER..]).unwrap();
        (bytes[18], bytes)
    }

    /// Says back so many octets of UPDATEs, and ends the session.
    fn parrot(listener: &TcpListener, octets: usize) {
        // Not ready yet, as a speaker that has just started.
        drop(listener.accept().unwrap());
        let (mut stream, _) = listener.accept().unwrap();
        assert_eq!(read_message(&mut stream).0, OPEN);
        stream.write_all(&message::open(Ipv4Addr::new(10, 0, 0, 1), 64512, 90)).unwrap();
        stream.write_all(&message::message(KEEPALIVE, &[])).unwrap();
        assert_eq!(read_message(&mut stream).0, KEEPALIVE);
        let mut said = 0;
        while said < octets {
            let (_, bytes) = read_message(&mut stream);
            said += bytes.len();
            // Cut in the middle of a message now and then.
            let (first, second) = bytes.split_at(bytes.len() / 3);
            stream.write_all(first).unwrap();
            stream.write_all(second).unwrap();
        }
        assert_eq!(read_message(&mut stream).0, KEEPALIVE);
        stream.write_all(&message::message(NOTIFICATION, &[6, 2])).unwrap();
    }

    #[test]
    fn a_session_is_tried_again_carries_a_table_and_tells_its_end() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let SocketAddr::V4(target) = listener.local_addr().unwrap() else { panic!("not IPv4") };
        let table = Table::packed(SPEAKER, 100_000);
        let octets = table.announcement.len();
        let peer = std::thread::spawn(move || parrot(&listener, octets));

        let mut engine = Engine::new(target, &[SPEAKER]).unwrap();
        engine.establish(0..1, WITHIN).unwrap();
        engine.send(0, &table.announcement).unwrap();
        let all = |sessions: &[Session]| sessions[0].heard.prefixes == table.routes;
        assert!(engine.until(WITHIN, Patience::Asleep, all).unwrap());
        assert_eq!(engine.sessions[0].heard.updates, 334);

        // The next is due later than this test waits, so it is asked for.
        engine.kept_alive = Instant::now().checked_sub(KEEP_ALIVE).unwrap();
        let error = engine.until(WITHIN, Patience::Awake, |_| false).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("127.0.0.1") && error.contains("NOTIFICATION [6, 2]"), "{error}");
        peer.join().unwrap();
    }

    #[test]
    fn who_is_refused_says_why() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let SocketAddr::V4(target) = listener.local_addr().unwrap() else { panic!("not IPv4") };
        drop(listener);
        let mut engine = Engine::new(target, &[SPEAKER]).unwrap();
        let error = engine.establish(0..1, Duration::from_secs(1)).unwrap_err().to_string();
        assert!(error.contains("no session within 1 s: Connection refused"), "{error}");
        engine.sessions[0].stop();
        assert!(engine.sessions[0].is_idle());
    }
}
