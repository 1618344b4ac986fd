//! A netlink socket: blocking, with large buffers, extended acknowledgements, and answers matched
//! by sequence number.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use crate::buffer::{self, Attrs, Batch, Message, Messages};
use crate::poll;
use crate::{Error, KernelError, Result};

/// Longest time the kernel may take to answer. It answers while it executes the request, so this
/// only ends a wait that would never end.
const ANSWER: Duration = Duration::from_secs(30);
/// How often a dump is begun again before [`Error::Interrupted`].
const DUMP_ATTEMPTS: usize = 20;
/// A whole nf_tables transaction has to fit: the kernel copies it in one piece.
const SEND_BUFFER: libc::c_int = 256 << 20;
/// Only accounting: memory is used while answers wait to be read.
const RECEIVE_BUFFER: libc::c_int = 32 << 20;
/// The kernel's largest datagram: it fills the reader's buffer up to 32 KiB per dump message, and
/// sends what must be in one piece (an nf_tables object) in larger ones.
const DATAGRAM: usize = 128 << 10;

#[allow(clippy::cast_possible_truncation, reason = "16 bytes")]
const LEN_FPROG: libc::socklen_t = size_of::<libc::sock_fprog>() as libc::socklen_t;
#[allow(clippy::cast_possible_truncation, reason = "4 bytes")]
const LEN_INT: libc::socklen_t = size_of::<libc::c_int>() as libc::socklen_t;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLMSGERR_ATTR_OFFS: u16 = 2;

/// Which part of the kernel a socket speaks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes, neighbours (`NETLINK_ROUTE`).
    Route,
    /// nf_tables and conntrack (`NETLINK_NETFILTER`).
    Netfilter,
}

/// A message of a batch that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which message, counted from 0.
    pub index: usize,
    /// Why.
    pub error: KernelError,
}

/// A netlink socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    port: u32,
    sequence: u32,
    received: Vec<u8>,
}

impl Socket {
    /// Opens a socket. Needs CAP_NET_ADMIN to be of use.
    #[allow(unsafe_code, reason = "std has no netlink sockets")]
    #[allow(clippy::cast_possible_truncation, reason = "AF_NETLINK is 16, sizes are tiny")]
    pub fn open(protocol: Protocol) -> Result<Self> {
        let number = match protocol {
            Protocol::Route => libc::NETLINK_ROUTE,
            Protocol::Netfilter => libc::NETLINK_NETFILTER,
        };
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: socket takes no pointers; the result is checked before use.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, number) };
        if fd < 0 {
            return Err(Error::io("open a netlink socket"));
        }
        // SAFETY: fd is a fresh descriptor that nothing else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };

        // SAFETY: sockaddr_nl is plain data for which all zeroes is valid.
        let mut address: libc::sockaddr_nl = unsafe { mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        let mut len = size_of_val(&address) as libc::socklen_t;
        // SAFETY: address is an initialised sockaddr_nl of len bytes.
        if unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) } < 0 {
            return Err(Error::io("bind a netlink socket"));
        }
        // SAFETY: address and len are writable and outlive the call; len is address's size.
        if unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut address).cast(), &raw mut len) } < 0
        {
            return Err(Error::io("read a netlink socket's address"));
        }
        let socket =
            Self { fd, port: address.nl_pid, sequence: 0, received: Vec::with_capacity(DATAGRAM) };
        socket.option(libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1)?;
        socket.option(libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, 1)?;
        if protocol == Protocol::Route {
            // Dumps obey their filters. Linux 4.20; without it filters are ignored, and parsers
            // check what they read anyway.
            let _ = socket.option(libc::SOL_NETLINK, libc::NETLINK_GET_STRICT_CHK, 1);
        }
        // Beyond the system's limit with CAP_NET_ADMIN, else up to it.
        for (force, plain, size) in [
            (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BUFFER),
            (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER),
        ] {
            if socket.option(libc::SOL_SOCKET, force, size).is_err() {
                socket.option(libc::SOL_SOCKET, plain, size)?;
            }
        }
        Ok(socket)
    }

    /// The socket's port: what the kernel says caused a change that it asked for, and who owns a
    /// table.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Joins a multicast group, by its number (`RTNLGRP_*`, `NFNLGRP_*`).
    pub fn subscribe(&self, group: u32) -> Result<()> {
        let group = libc::c_int::try_from(group).map_err(|_| Error::TooLong)?;
        self.option(libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group)
    }

    /// Never receives a notification of what the socket with this port did: a writer's own changes
    /// neither wake its monitor nor fill its buffer.
    #[allow(unsafe_code, reason = "attaches a socket filter")]
    pub fn ignore_port(&self, port: u32) -> Result<()> {
        // nlmsg_pid is at offset 12 of the first message; classic BPF loads it as big-endian.
        let expected = u32::from_be_bytes(port.to_ne_bytes());
        let code = |code: u32, jt, jf, k| libc::sock_filter {
            #[allow(clippy::cast_possible_truncation, reason = "opcodes are 16 bits wide")]
            code: code as u16,
            jt,
            jf,
            k,
        };
        let mut program = [
            code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 12),
            code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, expected),
            code(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
            code(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        ];
        #[allow(clippy::cast_possible_truncation, reason = "four instructions")]
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // SAFETY: filter points at a program of len initialised instructions, alive for the call;
        // the kernel copies it.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const filter).cast(),
                LEN_FPROG,
            )
        };
        if result == 0 { Ok(()) } else { Err(Error::io("attach a netlink filter")) }
    }

    /// Sends all messages at once and waits until the kernel has executed them. Returns those
    /// that it refused, in order; the others took effect (in an nf_tables batch: none did, if one
    /// was refused).
    pub fn execute(&mut self, batch: &mut Batch) -> Result<Vec<Failure>> {
        match batch.len().checked_sub(1) {
            Some(last) => self.run(batch, last, false, |_| {}),
            None => Ok(Vec::new()),
        }
    }

    /// As [`Socket::execute`], for a transaction: message 0 begins it, and if the kernel refuses
    /// that one, the others have no answer; `last` is the last message between begin and end.
    pub(crate) fn execute_transaction(
        &mut self,
        batch: &mut Batch,
        last: usize,
    ) -> Result<Vec<Failure>> {
        self.run(batch, last, true, |_| {})
    }

    fn run(
        &mut self,
        batch: &mut Batch,
        last: usize,
        transaction: bool,
        mut other: impl FnMut(&Message<'_>),
    ) -> Result<Vec<Failure>> {
        let first = self.take_sequence(batch.len());
        batch.number(first, last);
        let mut failures = Vec::new();
        self.send(batch.bytes()?)?;
        let deadline = Instant::now() + ANSWER;
        let mut done = false;
        while !done {
            self.receive_by(deadline)?;
            for message in Messages(&self.received) {
                let index = message.sequence.wrapping_sub(first) as usize;
                if message.kind != NLMSG_ERROR || index >= batch.len() {
                    other(&message);
                    continue;
                }
                if let Some(error) = parse_error(&message) {
                    failures.push(Failure { index, error });
                    done |= transaction && index == 0;
                }
                done |= index == last;
            }
        }
        failures.sort_by_key(|failure| failure.index);
        Ok(failures)
    }

    /// As [`Socket::execute`], for a batch of which the first refusal is the result.
    pub fn apply(&mut self, batch: &mut Batch) -> Result<()> {
        match self.execute(batch)?.into_iter().next() {
            Some(failure) => Err(failure.error.into()),
            None => Ok(()),
        }
    }

    /// As [`Socket::apply`], for a socket that something else may come to meanwhile, which `other` is
    /// given.
    pub(crate) fn apply_amid(
        &mut self,
        batch: &mut Batch,
        other: impl FnMut(&Message<'_>),
    ) -> Result<()> {
        let Some(last) = batch.len().checked_sub(1) else { return Ok(()) };
        match self.run(batch, last, false, other)?.into_iter().next() {
            Some(failure) => Err(failure.error.into()),
            None => Ok(()),
        }
    }

    /// Sends all messages at once and waits for no answer; what the kernel refuses of them comes as a
    /// message of its own.
    pub(crate) fn tell(&mut self, batch: &mut Batch) -> Result<()> {
        let first = self.take_sequence(batch.len());
        batch.number(first, usize::MAX);
        self.send(batch.bytes()?)
    }

    /// Sends a single request and parses its single answer.
    pub fn query<T>(
        &mut self,
        request: &mut Batch,
        mut parse: impl FnMut(&Message<'_>) -> Option<T>,
    ) -> Result<T> {
        let sequence = self.take_sequence(1);
        request.number(sequence, usize::MAX);
        self.send(request.bytes()?)?;
        let deadline = Instant::now() + ANSWER;
        loop {
            self.receive_by(deadline)?;
            for message in Messages(&self.received) {
                if message.sequence != sequence {
                    continue;
                }
                if message.kind == NLMSG_ERROR {
                    return Err(match parse_error(&message) {
                        Some(error) => error.into(),
                        None => Error::Unexpected("an acknowledgement without the answer"),
                    });
                }
                return parse(&message).ok_or(Error::Unexpected("a message of another kind"));
            }
        }
    }

    /// Sends a dump request and collects what `parse` makes of each message, leaving out those it
    /// makes nothing of. Begins again whenever the kernel says that its state changed meanwhile.
    pub fn dump<T>(
        &mut self,
        request: &mut Batch,
        mut parse: impl FnMut(&Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(found) = self.dump_once(request, &mut parse)? {
                return Ok(found);
            }
        }
        Err(Error::Interrupted)
    }

    /// None: interrupted.
    fn dump_once<T>(
        &mut self,
        request: &mut Batch,
        parse: &mut impl FnMut(&Message<'_>) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        let sequence = self.take_sequence(1);
        request.number(sequence, usize::MAX);
        self.send(request.bytes()?)?;
        let mut found = Vec::new();
        let mut interrupted = false;
        loop {
            // Each datagram is produced while the last one is read: the limit is for each.
            self.receive_by(Instant::now() + ANSWER)?;
            for message in Messages(&self.received) {
                if message.sequence != sequence {
                    continue;
                }
                interrupted |= message.flags & buffer::DUMP_INTERRUPTED != 0;
                match message.kind {
                    NLMSG_ERROR => {
                        return match parse_error(&message) {
                            Some(error) if error.is(libc::EINTR) => Ok(None),
                            Some(error) => Err(error.into()),
                            None => Err(Error::Unexpected("an acknowledgement of a dump")),
                        };
                    }
                    NLMSG_DONE => {
                        // The payload is the error with which the dump ended, if any.
                        let code = buffer::ne32(message.payload).unwrap_or(0).cast_signed();
                        return match -code {
                            libc::EINTR => Ok(None),
                            errno if errno > 0 => {
                                Err(KernelError { errno, message: None, offset: None }.into())
                            }
                            _ => Ok((!interrupted).then_some(found)),
                        };
                    }
                    _ => found.extend(parse(&message)),
                }
            }
        }
    }

    /// The next datagram of notifications, if one is waiting. [`Error::Overrun`] if some were lost.
    pub fn receive(&mut self) -> Result<Option<Messages<'_>>> {
        match self.receive_into(libc::MSG_DONTWAIT) {
            Ok(()) => Ok(Some(Messages(&self.received))),
            Err(error) if error.is(libc::EAGAIN) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn take_sequence(&mut self, count: usize) -> u32 {
        let first = self.sequence.wrapping_add(1);
        #[allow(clippy::cast_possible_truncation, reason = "fewer messages than bytes")]
        let count = count as u32;
        self.sequence = self.sequence.wrapping_add(count);
        first
    }

    #[allow(unsafe_code, reason = "send(2) on a raw descriptor")]
    fn send(&self, bytes: &[u8]) -> Result<()> {
        loop {
            // SAFETY: the pointer and length are those of a live slice.
            let sent =
                unsafe { libc::send(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
            if sent >= 0 {
                return Ok(());
            }
            let error = Error::io("send to the kernel");
            if !error.is(libc::EINTR) {
                return Err(error);
            }
        }
    }

    /// Waits for a datagram until `deadline`.
    fn receive_by(&mut self, deadline: Instant) -> Result<()> {
        loop {
            match self.receive_into(libc::MSG_DONTWAIT) {
                Err(error) if error.is(libc::EAGAIN) => {}
                result => return result,
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Timeout(ANSWER.as_secs()));
            }
            poll::wait([self.fd.as_fd()], Some(left))
                .map_err(|source| Error::Io { action: "wait for the kernel", source })?;
        }
    }

    #[allow(unsafe_code, reason = "recv(2) into a reused buffer")]
    fn receive_into(&mut self, flags: libc::c_int) -> Result<()> {
        loop {
            self.received.clear();
            let room = self.received.spare_capacity_mut();
            // SAFETY: the pointer and length are those of the vector's spare memory; the kernel
            // writes at most that many bytes.
            let len = unsafe {
                libc::recv(
                    self.fd.as_raw_fd(),
                    room.as_mut_ptr().cast(),
                    room.len(),
                    flags | libc::MSG_TRUNC,
                )
            };
            let Ok(len) = usize::try_from(len) else {
                let error = io::Error::last_os_error();
                match error.raw_os_error() {
                    Some(libc::EINTR) => continue,
                    Some(libc::ENOBUFS) => return Err(Error::Overrun),
                    _ => {
                        return Err(Error::Io { action: "receive from the kernel", source: error });
                    }
                }
            };
            if len > self.received.capacity() {
                // With MSG_TRUNC the kernel tells the full length of what it cut.
                return Err(Error::Unexpected("a datagram longer than any the kernel sends"));
            }
            // SAFETY: the kernel initialised the first len bytes, and len is within the capacity.
            unsafe { self.received.set_len(len) };
            if Messages(&self.received).any(|message| message.kind == NLMSG_OVERRUN) {
                return Err(Error::Overrun);
            }
            return Ok(());
        }
    }

    #[allow(unsafe_code, reason = "setsockopt(2) for netlink's own options")]
    fn option(&self, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> Result<()> {
        // SAFETY: the value is a c_int that outlives the call, and the length is its size.
        let result = unsafe {
            libc::setsockopt(self.fd.as_raw_fd(), level, name, (&raw const value).cast(), LEN_INT)
        };
        if result == 0 { Ok(()) } else { Err(Error::io("set a netlink socket's option")) }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// None for an acknowledgement, which is an error message with the number 0.
pub(crate) fn parse_error(message: &Message<'_>) -> Option<KernelError> {
    let errno = buffer::ne32(message.payload)?.cast_signed().saturating_neg();
    if errno == 0 {
        return None;
    }
    // After the number: the refused message, only its header where capped; then attributes.
    let refused = message.payload.get(4..).unwrap_or_default();
    let len = if message.flags & NLM_F_CAPPED != 0 {
        buffer::HEADER
    } else {
        buffer::ne32(refused).map_or(0, |len| (len as usize).next_multiple_of(4))
    };
    let attrs = if message.flags & NLM_F_ACK_TLVS != 0 {
        Attrs(refused.get(len..).unwrap_or_default())
    } else {
        Attrs(&[])
    };
    Some(KernelError {
        errno,
        message: attrs.find(NLMSGERR_ATTR_MSG).map(buffer::text),
        offset: attrs.find(NLMSGERR_ATTR_OFFS).and_then(buffer::ne32),
    })
}
