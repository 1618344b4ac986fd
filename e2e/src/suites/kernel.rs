//! A node's kernel, as the stock tools see it: what is in it, and what changes in it.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use ipnet::IpNet;
use tokio::process::{Child, Command};

use crate::netns::Netns;
use crate::{process, wait};

/// A node's kernel state that a restart must not touch: its nftables table and its routes, as
/// sorted lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KernelState(Vec<String>);

impl KernelState {
    /// Reads it.
    pub(super) async fn of(netns: &Netns) -> Result<Self> {
        let table = inside(netns, &["nft", "-s", "list", "table", "inet", "caracal"]).await?;
        let mut lines = table_lines(&table);
        for family in ["-4", "-6"] {
            let routes = inside(netns, &["ip", family, "route", "show"]).await?;
            lines.extend(routes.lines().map(|line| format!("{family} {line}")));
        }
        lines.sort();
        Ok(Self(lines))
    }

    /// Without the routes to address blocks, this node's and others': blocks are claimed ahead of
    /// need, and stay a while when they are empty.
    pub(super) fn without_blocks(mut self) -> Self {
        let block = |line: &String| {
            line.contains("proto 90") && (line.contains("blackhole") || line.contains(" via "))
        };
        self.0.retain(|line| !block(line));
        self
    }

    /// Without the routes of a link that is another's.
    pub(super) fn without_link(mut self, name: &str) -> Self {
        let of_link = format!(" dev {name} ");
        self.0.retain(|line| !line.contains(&of_link));
        self
    }

    /// Without the routes to these blocks.
    pub(super) fn without(mut self, blocks: &BTreeSet<IpNet>) -> Self {
        self.0.retain(|line| !leads_to(line, blocks));
        self
    }

    /// # Errors
    /// The lines that differ, `-` before and `+` now.
    pub(super) fn expect_same(&self, now: &Self, when: &str) -> Result<()> {
        let without = |of: &Self, other: &Self, sign: &str| -> String {
            let missing = of.0.iter().filter(|line| !other.0.contains(line));
            missing.map(|line| format!("\n{sign} {line}")).collect()
        };
        let difference = without(self, now, "-") + &without(now, self, "+");
        ensure!(self == now, "the kernel's state changed {when}:{difference}");
        Ok(())
    }
}

/// Whether a line of `ip route` or `ip monitor route` is about one of the networks.
fn leads_to(line: &str, networks: &BTreeSet<IpNet>) -> bool {
    line.split_whitespace().any(|word| word.parse().is_ok_and(|net| networks.contains(&net)))
}

/// What a program says that is run in a namespace as `ip netns exec` does.
pub(super) async fn inside(netns: &Netns, args: &[&str]) -> Result<String> {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", netns.name()]).args(args);
    let output = process::capture(command, None, b"", Duration::from_secs(20)).await?;
    ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The lines of a listed table, each element of a set on one of its own: nft lists hash sets in
/// the order of their buckets, several elements to a line. Left out is who holds the table, which
/// is to change when the holder does.
fn table_lines(table: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut set = "";
    let mut in_elements = false;
    for line in table.lines() {
        let text = line.trim();
        let text = text.split_once(" # progname").map_or(text, |(text, _)| text);
        if line.starts_with("\tflags") {
            continue;
        }
        if line.starts_with('\t') && !line.starts_with("\t\t") && text.ends_with('{') {
            set = text;
        }
        let (start, rest) = text.strip_prefix("elements = {").map_or((false, text), |r| (true, r));
        in_elements |= start;
        if !in_elements {
            lines.push(format!("{set} {text}"));
            continue;
        }
        let (body, end) = rest.strip_suffix('}').map_or((rest, false), |body| (body, true));
        let elements = body.split(',').map(str::trim).filter(|element| !element.is_empty());
        lines.extend(elements.map(|element| format!("{set} {element}")));
        in_elements = !end;
    }
    lines
}

/// Every change to nftables and routes in a namespace, from [`Self::watch`] on.
pub(super) struct Changes {
    folder: tempfile::TempDir,
    /// `nft monitor` and `ip monitor route`; killed when dropped.
    _monitors: [Child; 2],
}

/// What the monitors are asked to see first, so that they are known to see.
const CANARY_TABLE: &str = "lab-canary";
const CANARY_ROUTE: &str = "192.0.2.123";

impl Changes {
    /// Starts to watch; it does when this returns.
    pub(super) async fn watch(netns: &Netns) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let monitor = async |file: &str, args: &[&str]| {
            let output = std::fs::File::create(folder.path().join(file))?;
            let mut command = Command::new(args[0]);
            command.args(&args[1..]).stdout(output).kill_on_drop(true);
            process::spawn(command, Some(netns)).await
        };
        let monitors = [
            monitor("nft", &["nft", "monitor"]).await?,
            monitor("ip", &["ip", "monitor", "route"]).await?,
        ];
        let this = Self { folder, _monitors: monitors };
        let what = "nft monitor and ip monitor to watch";
        wait::until(what, Duration::from_secs(10), || async {
            // Again each time: what happened before a monitor listened, it never tells.
            inside(netns, &["nft", "add", "table", "inet", CANARY_TABLE]).await?;
            inside(netns, &["nft", "delete", "table", "inet", CANARY_TABLE]).await?;
            netns
                .ip_batch(&format!(
                    "route add blackhole {CANARY_ROUTE}\nroute del blackhole {CANARY_ROUTE}\n"
                ))
                .await?;
            let [nft, ip] = this.text()?;
            ensure!(nft.contains(CANARY_TABLE) && ip.contains(CANARY_ROUTE), "they do not yet");
            Ok(())
        })
        .await?;
        Ok(this)
    }

    fn text(&self) -> Result<[String; 2]> {
        let read = |file: &str| std::fs::read_to_string(self.folder.path().join(file));
        Ok([read("nft")?, read("ip")?])
    }

    /// Nothing has changed, but for the routes to blocks that nodes gave back or claimed meanwhile,
    /// and for one thing: an agent that comes back takes hold of its table again, which is a
    /// transaction that says `add table` of what is there.
    pub(super) fn expect_none(&self, moved: &BTreeSet<IpNet>, when: &str) -> Result<()> {
        let [nft, ip] = self.text()?;
        let expected = |line: &&str| {
            line.is_empty()
                || line.starts_with("# new generation")
                || line.starts_with("add table inet caracal")
                || line.contains(CANARY_TABLE)
                || line.contains(CANARY_ROUTE)
                || leads_to(line, moved)
        };
        let seen: Vec<&str> = nft.lines().chain(ip.lines()).filter(|l| !expected(l)).collect();
        ensure!(seen.is_empty(), "written to the kernel {when}:\n{}", seen.join("\n"));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_to_blocks_that_moved_are_left_out() {
        let moved = ["10.65.1.0/26".parse().unwrap()].into();
        let state = |lines: &[&str]| KernelState(lines.iter().map(ToString::to_string).collect());
        let kept = "-4 10.65.1.64/26 via 172.16.0.1 dev up0 proto 90";
        let all = state(&["-4 blackhole 10.65.1.0/26 proto 90", kept]);
        assert_eq!(all.without(&moved), state(&[kept]));
        assert!(leads_to("Deleted 10.65.1.0/26 via 172.16.0.1 dev up0 proto 90 ", &moved));
    }

    #[test]
    fn only_what_is_in_the_table_counts() {
        let table = |head: &str, elements: &str| {
            let text = format!(
                "table inet caracal {{{head}\n\tset wl {{\n\t\ttype iface_index\n\t\telements = {{ \
                 {elements} }}\n\t}}\n}}\n"
            );
            let mut lines = table_lines(&text);
            lines.sort();
            KernelState(lines)
        };
        let held = table(" # progname felix\n\tflags owner,persist", "1, 2,\n\t\t\t     3");
        let free = table("\n\tflags persist", "3, 1, 2");
        held.expect_same(&free, "never").unwrap();
        let error = held.expect_same(&table("", "3, 1, 4"), "here").unwrap_err().to_string();
        assert!(error.contains("changed here"), "{error}");
        assert!(error.contains("- set wl { 2") && error.contains("+ set wl { 4"), "{error}");
    }
}
