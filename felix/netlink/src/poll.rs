//! Waiting for sockets and for other threads at once.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Wakes a thread that is in [`wait`]. Clones wake the same thread.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// A new one. Fails when the process has no file descriptor left.
    #[allow(unsafe_code, reason = "eventfd(2) has no wrapper in std")]
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes no pointers; the result is checked before use.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: fd is a fresh descriptor that nothing else owns.
        Ok(Self(Arc::new(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Makes the waiting thread (or its next wait) return.
    #[allow(unsafe_code, reason = "write(2) on an eventfd")]
    pub fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        // A full counter (EAGAIN) means that the thread is to wake already.
        // SAFETY: the buffer is 8 bytes long and outlives the call.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Forgets the wakes so far; call before looking for work, never after.
    #[allow(unsafe_code, reason = "read(2) on an eventfd")]
    pub fn drain(&self) {
        let mut counter = [0u8; 8];
        // SAFETY: the buffer is 8 bytes long, writable, and outlives the call.
        unsafe { libc::read(self.0.as_raw_fd(), counter.as_mut_ptr().cast(), counter.len()) };
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until one of `fds` can be read (or has an error to be read), or `timeout` is over.
/// Tells which.
#[allow(unsafe_code, reason = "poll(2) has no wrapper in std")]
pub fn wait<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut polled =
        fds.map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    let millis = timeout.map_or(-1, |t| {
        i32::try_from(t.as_millis().saturating_add(u128::from(t.subsec_nanos() % 1_000_000 != 0)))
            .unwrap_or(i32::MAX)
    });
    loop {
        // SAFETY: the array holds N initialised pollfd and outlives the call.
        let ready = unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, millis) };
        if ready >= 0 {
            return Ok(polled.map(|fd| fd.revents != 0));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
