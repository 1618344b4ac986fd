//! What can go wrong between this process and the kernel.

use std::fmt;
use std::io;

/// The result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a netlink operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel refused a message.
    #[error("{0}")]
    Kernel(#[from] KernelError),
    /// An attribute or message does not fit its 16- or 32-bit length field. Nothing was sent.
    #[error("a netlink attribute would be longer than 65535 bytes")]
    TooLong,
    /// The kernel's state changed during every attempt at a dump.
    #[error("the kernel's state kept changing during the dump")]
    Interrupted,
    /// Messages were lost because the receive buffer was full: what is known must be read again.
    #[error("the kernel dropped messages: the receive buffer was full")]
    Overrun,
    /// The kernel did not answer in time.
    #[error("no answer from the kernel within {0} s")]
    Timeout(u64),
    /// The kernel answered something that is not the expected message.
    #[error("unexpected answer from the kernel: {0}")]
    Unexpected(&'static str),
}

impl Error {
    pub(crate) fn io(action: &'static str) -> Self {
        Self::Io { action, source: io::Error::last_os_error() }
    }

    /// The error number (`errno(3)`), where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } => source.raw_os_error(),
            Self::Kernel(error) => Some(error.errno),
            Self::Overrun => Some(libc::ENOBUFS),
            _ => None,
        }
    }

    /// Whether this is error number `errno`.
    pub fn is(&self, errno: i32) -> bool {
        self.errno() == Some(errno)
    }
}

/// An `NLMSG_ERROR` answer with its extended acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelError {
    /// The error number, positive.
    pub errno: i32,
    /// The kernel's own words (`NLMSGERR_ATTR_MSG`).
    pub message: Option<String>,
    /// Where in the refused message the offending attribute starts, in bytes
    /// (`NLMSGERR_ATTR_OFFS`).
    pub offset: Option<u32>,
}

impl KernelError {
    /// Whether this is error number `errno`.
    pub fn is(&self, errno: i32) -> bool {
        self.errno == errno
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let system = io::Error::from_raw_os_error(self.errno);
        match &self.message {
            Some(message) => write!(f, "{message} ({system})"),
            None => write!(f, "{system}"),
        }
    }
}

impl std::error::Error for KernelError {}
