//! Doing something inside another network namespace.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// The namespace that a path names (`/proc/PID/ns/net`, `/run/netns/NAME`).
#[derive(Debug)]
pub struct Netns(File);

impl Netns {
    /// Opens a namespace by path. A path that is not a network namespace is found out by
    /// [`Netns::run`] (`EINVAL`).
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        File::open(path).map(Self)
    }

    /// The namespace of the calling thread.
    pub fn current() -> io::Result<Self> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// What identifies the namespace: two handles name the same one if and only if this is equal.
    pub fn id(&self) -> io::Result<(u64, u64)> {
        use std::os::unix::fs::MetadataExt;
        let metadata = self.0.metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    }

    /// Runs `inside` with the namespace as the thread's own, on a thread made for it that ends
    /// with it: no failure can leave another thread in a foreign namespace. Sockets that `inside`
    /// opens and returns stay in the namespace; `/proc/sys/net` is that of the namespace.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name("netns".into())
                .spawn_scoped(scope, || self.enter().map(|()| inside()))?;
            thread.join().map_err(|_| io::Error::other("the namespace's thread panicked"))?
        })
    }

    /// Makes a new, empty namespace the calling thread's, for good. It ends with its last user.
    #[allow(unsafe_code, reason = "unshare(2) has no wrapper in std")]
    pub fn unshare() -> io::Result<Self> {
        // SAFETY: unshare takes no pointers; only the calling thread's namespace changes.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        if result == 0 { Self::current() } else { Err(io::Error::last_os_error()) }
    }

    /// A new, empty namespace. It lives as long as this handle, or anything in it, does.
    pub fn create() -> io::Result<Self> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, Self::unshare)?;
            thread.join().map_err(|_| io::Error::other("the namespace's thread panicked"))?
        })
    }

    /// Moves the calling thread into the namespace, for good. For threads that live there.
    #[allow(unsafe_code, reason = "setns(2) has no wrapper in std")]
    pub fn enter(&self) -> io::Result<()> {
        // SAFETY: setns takes no pointers; the descriptor is open for the call.
        let result = unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}
