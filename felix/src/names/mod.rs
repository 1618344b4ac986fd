//! Names in the DNS, for policy that lets pods reach what a name stands for: what a pod's own DNS answers
//! say, and for how long that counts. Pure but for [`store`].
//!
//! ```text
//!   a pod's DNS answer ─▶ answer ─▶ learned ─▶ engine: addresses of names, for this pod alone
//!                                     └─▶ store: the same after the agent's restart
//! ```

pub mod answer;
pub mod learned;
mod pattern;
pub mod store;

pub use self::pattern::{DomainNames, Pattern, PatternError};
