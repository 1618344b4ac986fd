//! The kernel's interfaces that the standard library lacks.
#![allow(unsafe_code, reason = "sockets bound before they connect, epoll, and processes' clocks")]

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

/// The CPU time of a whole process, its ended threads included, to the nanosecond.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuClock(libc::clockid_t);

impl CpuClock {
    /// This process's.
    pub(crate) const OWN: Self = Self(libc::CLOCK_PROCESS_CPUTIME_ID);

    /// Another process's.
    ///
    /// # Errors
    /// There is no such process.
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        let mut clock = 0;
        // SAFETY: the pointer is to a clockid_t that outlives the call.
        match unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) } {
            0 => Ok(Self(clock)),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// # Errors
    /// The process has ended.
    pub(crate) fn read(self) -> io::Result<Duration> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a timespec that outlives the call.
        check(unsafe { libc::clock_gettime(self.0, &raw mut time) })?;
        let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
        match (seconds, nanos) {
            (Ok(seconds), Ok(nanos)) => Ok(Duration::new(seconds, nanos)),
            _ => Err(io::Error::other("a negative CPU time")),
        }
    }
}

/// Begins to connect from one of this host's addresses; writable once that has ended.
pub(crate) fn connect(from: Ipv4Addr, to: SocketAddrV4) -> io::Result<TcpStream> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: takes three numbers.
    let fd = check(unsafe { libc::socket(libc::AF_INET, kind, 0) })?;
    // SAFETY: the descriptor was just made and nobody else has it.
    let stream = TcpStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    stream.set_nodelay(true)?;
    let (local, size) = address(SocketAddrV4::new(from, 0));
    // SAFETY: the pointer is to a sockaddr_in of the size given.
    check(unsafe { libc::bind(fd, (&raw const local).cast(), size) })?;
    let (remote, size) = address(to);
    // SAFETY: the pointer is to a sockaddr_in of the size given.
    match check(unsafe { libc::connect(fd, (&raw const remote).cast(), size) }) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(stream),
    }
}

fn address(address: SocketAddrV4) -> (libc::sockaddr_in, libc::socklen_t) {
    let family = libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default();
    let inside = libc::sockaddr_in {
        sin_family: family,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    };
    (inside, libc::socklen_t::try_from(size_of_val(&inside)).unwrap_or_default())
}

/// Octets that were written and that the other host has not acknowledged.
pub(crate) fn unacknowledged(stream: &TcpStream) -> io::Result<u64> {
    let mut octets: libc::c_int = 0;
    // SAFETY: TIOCOUTQ writes one int, to which the pointer is.
    check(unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut octets) })?;
    Ok(u64::try_from(octets).unwrap_or(0))
}

/// An epoll instance; level-triggered.
#[derive(Debug)]
pub(crate) struct Poll {
    epoll: OwnedFd,
    events: Vec<libc::epoll_event>,
}

/// What a stream is ready for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    pub(crate) token: usize,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

impl Poll {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: takes a number.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the descriptor was just made and nobody else has it.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { epoll, events: vec![libc::epoll_event { events: 0, u64: 0 }; 512] })
    }

    /// Watches a stream until it is closed: always for reading, for writing as long as wanted.
    pub(crate) fn watch(&self, stream: &TcpStream, token: usize, write: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, stream, token, write)
    }

    pub(crate) fn change(&self, stream: &TcpStream, token: usize, write: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, stream, token, write)
    }

    fn control(
        &self,
        operation: libc::c_int,
        stream: &TcpStream,
        token: usize,
        write: bool,
    ) -> io::Result<()> {
        let wanted = if write { libc::EPOLLIN | libc::EPOLLOUT } else { libc::EPOLLIN };
        let events = u32::try_from(wanted).unwrap_or_default();
        let mut event = libc::epoll_event { events, u64: token as u64 };
        let (epoll, fd) = (self.epoll.as_raw_fd(), stream.as_raw_fd());
        // SAFETY: the pointer is to an epoll_event that outlives the call.
        check(unsafe { libc::epoll_ctl(epoll, operation, fd, &raw mut event) }).map(drop)
    }

    /// What is ready, after at most `within` (whole milliseconds).
    pub(crate) fn wait(&mut self, within: Duration) -> io::Result<Vec<Ready>> {
        let milliseconds = libc::c_int::try_from(within.as_millis()).unwrap_or(libc::c_int::MAX);
        let room = libc::c_int::try_from(self.events.len()).unwrap_or(libc::c_int::MAX);
        let (epoll, buffer) = (self.epoll.as_raw_fd(), self.events.as_mut_ptr());
        // SAFETY: the buffer has room for as many events.
        let count = match check(unsafe { libc::epoll_wait(epoll, buffer, room, milliseconds) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            other => usize::try_from(other?).unwrap_or(0),
        };
        let ready = |event: &libc::epoll_event| {
            let (bits, token) = (event.events, event.u64);
            let has = |bit: libc::c_int| bits & u32::try_from(bit).unwrap_or_default() != 0;
            Ready {
                token: usize::try_from(token).unwrap_or(usize::MAX),
                readable: has(libc::EPOLLIN | libc::EPOLLERR | libc::EPOLLHUP),
                writable: has(libc::EPOLLOUT | libc::EPOLLERR | libc::EPOLLHUP),
            }
        };
        Ok(self.events.iter().take(count).map(ready).collect())
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
