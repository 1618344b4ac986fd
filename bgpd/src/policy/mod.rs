//! Import and export filters.
//!
//! A policy is a list of rules, first match wins, with a final action for what none matches. A rule
//! that says *continue* makes its changes and lets the next rules look on.
//!
//! ```text
//!   types/     what is written in a configuration: policies, rules, conditions
//!   changes/   what a rule does to a route
//!   sets/      lists with a name, and the policies compiled with them
//!   matching/  compiled rules: which of them hold for a route
//!   prefixes/, as_path/, communities/   compiled conditions, and their text forms
//! ```
//!
//! Conditions look at the route as it came, not at what earlier rules made of it. So a rule looks
//! at two things that do not depend on each other: at what all routes of one attribute set have in
//! common ([`Compiled::narrow`], done once for all of them), and at the prefix
//! ([`Compiled::decide`]). What is changed depends on the rules that were applied alone: an outcome
//! is the pair of the attribute set and those rules, computed once and shared by all prefixes with
//! that pair.

mod as_path;
mod changes;
mod communities;
mod matching;
mod prefixes;
mod sets;
mod types;
mod validate;

#[cfg(test)]
mod tests;

pub use as_path::AsPathPattern;
pub(crate) use changes::Own;
pub use changes::{Changes, MedChange, MedOperation, NextHopChange, PrivateAs};
pub use communities::CommunityPattern;
pub(crate) use matching::{Applied, Compiled, Narrowed, Outcome, Route};
pub(crate) use sets::Library;
pub use types::{
    Action, AsPathMatch, CommunityMatch, Origin, PeerType, Policy, PrefixMatch, PrefixOperator,
    Range, Rule, Source,
};
pub(crate) use validate::{Way, prefixes as validate_prefixes};
