//! Netlink, as the agent speaks it: one encoder and decoder for nf_tables, links, addresses,
//! routes, neighbours, conntrack, logged and queued packets, and the sockets they travel on.
//!
//! ```text
//!   nft  link  addr  route  neigh  conntrack  nflog  nfqueue ── headers   typed messages <-> bytes, pure
//!          └─────┴──────┬──────┴───────┴────────┘
//!                    buffer                       messages, attributes, nesting, limits
//!                    socket ── poll ── netns      the only modules that make system calls
//! ```
//!
//! Builders append to a [`Batch`]; [`Socket::execute`] sends it with one system call and matches
//! what the kernel answers by sequence number; [`Socket::dump`] reads a listing whole or not at all.
//! Whatever the kernel (or a test) answers, decoding never panics: what is not understood is left out.
//!
//! Formats: `include/uapi/linux/{netlink,rtnetlink,if_link,neighbour}.h`,
//! `include/uapi/linux/netfilter/{nf_tables,nfnetlink,nfnetlink_conntrack,nfnetlink_log,nfnetlink_queue}.h`.

pub mod addr;
pub mod buffer;
pub mod conntrack;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod headers;
pub mod link;
pub mod neigh;
pub mod netns;
pub mod nflog;
pub mod nfqueue;
pub mod nft;
pub mod poll;
pub mod route;
mod socket;

pub use buffer::{Attrs, Batch, Message, Messages};
pub use error::{Error, KernelError, Result};
pub use socket::{Failure, Protocol, Socket};
