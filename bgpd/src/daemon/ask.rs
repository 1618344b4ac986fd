//! The questions of the command line.

use std::io::{self, Write};
use std::net::IpAddr;

use anyhow::Context;
use bgpd::wire::{Community, LargeCommunity};
use bgpd::{Family, PrefixMatch, Reason, RouteQuery};
use clap::{Args, Subcommand, ValueEnum};
use ipnet::IpNet;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};
use serde_json::Value;

use super::control::{self, Asked, Question};
use super::show;

/// Routes that are sorted before they are shown. What is more comes in blocks of so many: neither
/// the daemon nor this program ever holds a whole large table as text.
const SORTED: usize = 1 << 16;

/// What can be shown.
#[derive(Debug, Subcommand)]
pub(crate) enum Ask {
    /// Show the neighbors, or one with its capabilities and last messages.
    Neighbors {
        /// The name of one.
        name: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Show routes: all, those of a prefix, or the most specific one that holds an address.
    Routes(Box<Routes>),
    /// Show all paths of a route and at which step each of them won or lost, and what each neighbor
    /// was told of it, or why it was not.
    Explain {
        /// A prefix (10.0.0.0/8) or an address (10.1.2.3), which stands for the most specific
        /// prefix that holds it.
        target: String,
        #[command(flatten)]
        output: Output,
    },
    /// Show the speaker as a whole.
    Status {
        #[command(flatten)]
        output: Output,
    },
    /// Show the configuration as it is applied.
    Config {
        #[command(flatten)]
        output: Output,
    },
    /// Show the update groups: neighbors that are told the same.
    Groups {
        #[command(flatten)]
        output: Output,
    },
    /// Show what memory is used for.
    Memory {
        #[command(flatten)]
        output: Output,
    },
}

/// How to show an answer.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Output {
    /// How to show it.
    #[arg(id = "output", short, long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Which routes to show; what is said about paths must all hold for the same path.
#[derive(Debug, Args)]
pub(crate) struct Routes {
    /// A prefix (10.0.0.0/8) or an address (10.1.2.3).
    target: Option<String>,
    /// The prefix and those inside of it.
    #[arg(long, requires = "target", conflicts_with = "covering")]
    longer: bool,
    /// The prefix or address, and those that it is inside of.
    #[arg(long, requires = "target")]
    covering: bool,
    /// Only prefixes with a path from this neighbor.
    #[arg(long)]
    neighbor: Option<String>,
    /// Only prefixes announced to this neighbor, as they were announced to it (Adj-RIB-Out): with
    /// the next hop, AS path, communities and so on that it was told. Conditions on AS numbers and
    /// communities are then about these.
    #[arg(long)]
    advertised_to: Option<String>,
    /// Only prefixes with a path that is used, or is not, for this reason, such as as-path-loop,
    /// import-policy or local-pref.
    #[arg(long, value_parser = reason)]
    reason: Option<Reason>,
    /// Only prefixes with a path that carries this community (64512:100, no-export) or large
    /// community (64512:1:100).
    #[arg(long, value_parser = community)]
    community: Option<AnyCommunity>,
    /// Only prefixes with a path through this AS.
    #[arg(long)]
    through_as: Option<u32>,
    /// Only prefixes with a path that this AS originated.
    #[arg(long)]
    origin_as: Option<u32>,
    /// Only this family.
    #[arg(long)]
    family: Option<FamilyArg>,
    /// At most so many; 0: all.
    #[arg(long, default_value_t = 0)]
    limit: usize,
    #[command(flatten)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FamilyArg {
    /// IPv4 unicast.
    Ipv4,
    /// IPv6 unicast.
    Ipv6,
}

#[derive(Clone, Copy, Debug)]
enum AnyCommunity {
    Standard(Community),
    Large(LargeCommunity),
}

fn reason(text: &str) -> Result<Reason, String> {
    let text: StrDeserializer<'_, ValueError> = text.into_deserializer();
    Reason::deserialize(text).map_err(|error| error.to_string())
}

fn community(text: &str) -> Result<AnyCommunity, String> {
    let large = text.matches(':').count() == 2;
    if large {
        return text.parse().map(AnyCommunity::Large);
    }
    text.parse().map(AnyCommunity::Standard)
}

/// A prefix or an address.
enum Target {
    Prefix(IpNet),
    Address(IpAddr),
}

fn target(text: &str) -> anyhow::Result<Target> {
    if let Ok(address) = text.parse() {
        return Ok(Target::Address(address));
    }
    let prefix: IpNet =
        text.parse().with_context(|| format!("{text:?} is neither a prefix nor an address"))?;
    Ok(Target::Prefix(prefix.trunc()))
}

impl Ask {
    /// Asks and shows the answer.
    pub(crate) fn run(self, asked: &Asked) -> anyhow::Result<()> {
        let (question, Output { format }) = match self {
            Self::Neighbors { name: None, output } => (Question::Neighbors, output),
            Self::Neighbors { name: Some(name), output } => (Question::Neighbor(name), output),
            Self::Explain { target: text, output } => (
                match target(&text)? {
                    Target::Prefix(prefix) => Question::Explain(prefix),
                    Target::Address(address) => Question::ExplainAddress(address),
                },
                output,
            ),
            Self::Status { output } => (Question::Status, output),
            Self::Config { output } => (Question::Config, output),
            Self::Groups { output } => (Question::Groups, output),
            Self::Memory { output } => (Question::Memory, output),
            Self::Routes(routes) => {
                let format = routes.output.format;
                return ask_routes(asked, routes.query()?, format);
            }
        };
        ask(asked, &question, |answer| {
            let text = match format {
                Format::Json => serde_json::to_string_pretty(&answer)?,
                Format::Table => show::table(&question, &answer),
            };
            writeln!(io::stdout().lock(), "{}", text.trim_end()).context("standard output")
        })
    }
}

impl Routes {
    fn query(self) -> anyhow::Result<RouteQuery> {
        let mut query = RouteQuery {
            neighbor: self.neighbor,
            advertised_to: self.advertised_to,
            reason: self.reason,
            as_number: self.through_as,
            origin_as: self.origin_as,
            limit: self.limit,
            family: self.family.map(|family| match family {
                FamilyArg::Ipv4 => Family::Ipv4Unicast,
                FamilyArg::Ipv6 => Family::Ipv6Unicast,
            }),
            ..RouteQuery::default()
        };
        match self.community {
            Some(AnyCommunity::Standard(community)) => query.community = Some(community),
            Some(AnyCommunity::Large(community)) => query.large_community = Some(community),
            None => {}
        }
        query.matching = match (self.longer, self.covering) {
            (true, _) => PrefixMatch::Longer,
            (_, true) => PrefixMatch::Covering,
            _ => PrefixMatch::Exact,
        };
        match self.target.as_deref().map(target).transpose()? {
            Some(Target::Address(address)) if query.matching == PrefixMatch::Exact => {
                query.address = Some(address);
            }
            Some(Target::Address(address)) => query.prefix = Some(address.into()),
            Some(Target::Prefix(prefix)) => query.prefix = Some(prefix),
            None => {}
        }
        Ok(query)
    }
}

fn ask(
    asked: &Asked,
    question: &Question,
    take: impl FnMut(Value) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    control::ask(asked, question, take).with_context(|| format!("cannot ask {asked}"))
}

fn ask_routes(asked: &Asked, query: RouteQuery, format: Format) -> anyhow::Result<()> {
    let told = query.advertised_to.is_some();
    let out = io::stdout().lock();
    let mut printer = Printer { out, format, told, block: Vec::new(), printed: 0 };
    ask(asked, &Question::Routes(Box::new(query)), |part| {
        if let Value::Array(routes) = part {
            printer.block.extend(routes);
        }
        if printer.block.len() >= SORTED { printer.flush() } else { Ok(()) }
    })?;
    printer.flush()?;
    printer.end()
}

/// Prints routes, block by block.
struct Printer<W> {
    out: W,
    format: Format,
    /// Not the paths that there are, but those that a neighbor was told of.
    told: bool,
    block: Vec<Value>,
    printed: usize,
}

impl<W: Write> Printer<W> {
    fn flush(&mut self) -> anyhow::Result<()> {
        let mut block = std::mem::take(&mut self.block);
        block.sort_by_cached_key(|route| {
            route["prefix"].as_str().and_then(|p| p.parse::<IpNet>().ok())
        });
        let first = self.printed == 0;
        match self.format {
            Format::Table if !block.is_empty() || first => {
                let table = if self.told { show::advertised(&block) } else { show::routes(&block) };
                writeln!(self.out, "{table}")?;
            }
            Format::Table => {}
            Format::Json => {
                for (at, route) in block.iter().enumerate() {
                    let before = if first && at == 0 { "[" } else { "," };
                    writeln!(self.out, "{before}{}", serde_json::to_string(route)?)?;
                }
            }
        }
        self.printed += block.len();
        Ok(())
    }

    fn end(mut self) -> anyhow::Result<()> {
        match (self.format, self.printed) {
            (Format::Table, count) => {
                let marks = if self.told { "" } else { "; * best, + used beside it, S stale" };
                writeln!(self.out, "\n{count} prefixes{marks}")?;
            }
            (Format::Json, 0) => writeln!(self.out, "[]")?,
            (Format::Json, _) => writeln!(self.out, "]")?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reasons_and_communities_are_read_from_words() {
        assert_eq!(reason("as-path-loop"), Ok(Reason::AsPathLoop));
        assert!(reason("as-path").unwrap_err().contains("as-path-length"), "says what there is");
        assert!(matches!(community("65001:7"), Ok(AnyCommunity::Standard(c)) if c.0 & 0xffff == 7));
        assert!(matches!(community("1:2:3"), Ok(AnyCommunity::Large(c)) if c.0 == [1, 2, 3]));
        assert!(community("1:2:3:4").is_err() && community("x").is_err());
    }

    #[test]
    fn routes_are_one_json_array_however_many_blocks_they_come_in() {
        let mut out = Vec::new();
        let mut printer = Printer {
            out: &mut out,
            format: Format::Json,
            told: false,
            block: Vec::new(),
            printed: 0,
        };
        for block in [["10.0.0.0/24", "9.0.0.0/8"], ["2.0.0.0/8", "1.0.0.0/8"]] {
            printer.block.extend(block.map(|p| json!({"prefix": p, "paths": []})));
            printer.flush().unwrap();
        }
        printer.flush().unwrap();
        printer.end().unwrap();
        let all: Vec<Value> = serde_json::from_slice(&out).unwrap();
        let all: Vec<&str> = all.iter().filter_map(|r| r["prefix"].as_str()).collect();
        assert_eq!(all, ["9.0.0.0/8", "10.0.0.0/24", "1.0.0.0/8", "2.0.0.0/8"]);
        let mut out = Vec::new();
        Printer { out: &mut out, format: Format::Json, told: false, block: Vec::new(), printed: 0 }
            .end()
            .unwrap();
        assert_eq!(serde_json::from_slice::<Vec<Value>>(&out).unwrap(), Vec::<Value>::new());
    }
}
