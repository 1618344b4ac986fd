//! How octets travel: TCP, and in tests a network in memory with virtual time.
//!
//! The core knows neither. It names connections by number, says what it wants
//! ([`crate::speaker::Output`]), and is told what happened.

mod arrival;
pub(crate) mod discovery;
pub(crate) mod keys;
pub(crate) mod tcp;
mod tcp_ao;

#[cfg(test)]
pub(crate) mod memory;
