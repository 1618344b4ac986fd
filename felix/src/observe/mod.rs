//! What one can see of the agent from outside: health, metrics and the log.

pub mod health;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod unsupported;

pub use health::{Condition, Health, Heartbeat};
pub use metrics::Metrics;
