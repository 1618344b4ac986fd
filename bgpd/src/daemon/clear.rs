//! Has sessions begin anew, or routes sent again.

use std::io::{self, Write};

use anyhow::Context;
use clap::Args;
use serde_json::Value;

use super::control::{self, Asked, Question};

/// The longest text for a peer's operator, in octets (RFC 9003).
const MESSAGE_MAX: usize = 255;

/// Which neighbor to clear, and how.
#[derive(Debug, Args)]
pub(crate) struct Clear {
    /// The name of a neighbor.
    #[arg(required_unless_present = "all")]
    name: Option<String>,
    /// All neighbors.
    #[arg(long, conflicts_with = "name")]
    all: bool,
    /// Keep the session, and ask the neighbor for its routes again (RFC 2918).
    #[arg(long, conflicts_with = "soft_out")]
    soft_in: bool,
    /// Keep the session, and send the neighbor all routes again.
    #[arg(long)]
    soft_out: bool,
    /// What to tell the neighbor's operator (RFC 9003): up to 255 octets.
    #[arg(long, value_name = "TEXT", value_parser = message, conflicts_with_all = ["soft_in", "soft_out"])]
    message: Option<String>,
}

/// A text that RFC 9003 has room for.
pub(super) fn message(text: &str) -> Result<String, String> {
    if text.len() > MESSAGE_MAX {
        return Err(format!("it has {} octets, and there is room for {MESSAGE_MAX}", text.len()));
    }
    Ok(text.to_owned())
}

impl Clear {
    /// Says of each neighbor what became of it; fails if nothing was done to any.
    pub(crate) fn run(self, asked: &Asked) -> anyhow::Result<()> {
        let (how, done) = match (self.soft_in, self.soft_out) {
            (true, _) => (bgpd::Clear::SoftIn, "asked for its routes"),
            (_, true) => (bgpd::Clear::SoftOut, "is sent all routes again"),
            _ => {
                let message = self.message.unwrap_or_default();
                (bgpd::Clear::Hard { message }, "begins anew")
            }
        };
        let question = Question::Clear(self.name, how);
        let mut cleared = Vec::new();
        control::ask(asked, &question, |answer| {
            if let Value::Array(neighbors) = answer {
                cleared.extend(neighbors);
            }
            Ok(())
        })
        .with_context(|| format!("cannot ask {asked}"))?;
        let mut out = io::stdout().lock();
        let mut any = cleared.is_empty();
        for one in &cleared {
            let name = one["neighbor"].as_str().unwrap_or_default();
            match one["refused"].as_str() {
                Some(why) => writeln!(out, "{name}: nothing done: {why}")?,
                None => writeln!(out, "{name}: {done}")?,
            }
            any |= one["refused"].is_null();
        }
        anyhow::ensure!(any, "nothing was done");
        Ok(())
    }
}
