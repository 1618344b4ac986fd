//! Addresses for pods and nodes: Calico's blocks, handles and affinities, byte for byte, on etcd
//! or in a file.
//!
//! ```text
//!   assign, release ──▶ committer ──plan──▶ one transaction ──▶ store
//!                          ▲  cached blocks, no read            │
//!                          └────────── claimed blocks ◀─────────┘
//! ```
//!
//! [`block`] and [`model`] are the data, [`store`] is where they live, [`Ipam`] is the face;
//! [`services`] gives addresses to Services, for no node.

pub mod allocator;
pub mod block;
pub mod error;
pub mod model;
pub mod net;
pub mod pool;
pub mod retire;
pub mod services;
pub mod store;
pub mod timestamp;

pub use allocator::{
    AssignRequest, Assignment, BlockStatus, Epoch, Families, Held, Ipam, Live, Options, Status,
    StoreConfig, Tunnel,
};
pub use error::Error;
pub use model::IpamConfig;
pub use net::Family;
pub use pool::{AllowedUse, Pool, Pools};
pub use store::etcd::EtcdConfig;
