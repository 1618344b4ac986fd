//! FRR as a router: zebra and bgpd with private sockets, asked through `vtysh`.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tokio::process::Command;

use super::router::{Route, RouterHandle, Session};
use super::{Place, write_wrapper};
use crate::process::Daemon;
use crate::record::Record;
use crate::topology::Router;
use crate::wait;

const LIBEXEC: &str = "/usr/lib/frr";
const USER: &str = "frr";

/// Gives a path to the user that the daemons become.
pub(crate) fn own(path: &Path) -> Result<()> {
    let user = nix::unistd::User::from_name(USER)?;
    let user = user.with_context(|| format!("there is no user {USER}: is FRR installed?"))?;
    nix::unistd::chown(path, Some(user.uid), Some(user.gid))
        .with_context(|| format!("cannot give {} to {USER}", path.display()))
}

/// The configuration of bgpd.
///
/// Graceful restart is FRR's default, that of a helper. Short timers, so that a peer that
/// vanishes without a word is gone within nine seconds.
fn config(router: &Router) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "frr defaults datacenter\nhostname {}\nlog stdout", router.name)?;
    writeln!(text, "router bgp {}", router.asn)?;
    writeln!(text, " bgp router-id {}", router.router_id)?;
    // RFC 8212 would have a policy for every eBGP session; the lab's routers take everything.
    writeln!(text, " no bgp ebgp-requires-policy\n no bgp default ipv4-unicast")?;
    writeln!(text, " bgp bestpath as-path multipath-relax\n timers bgp 3 9")?;
    for neighbor in &router.neighbors {
        let address = neighbor.address;
        writeln!(text, " neighbor {address} remote-as {}", neighbor.asn)?;
        writeln!(text, " neighbor {address} description {}", neighbor.name)?;
        writeln!(text, " neighbor {address} timers connect 1")?;
        writeln!(text, " neighbor {address} advertisement-interval 0")?;
    }
    for family in ["ipv4", "ipv6"] {
        writeln!(text, " address-family {family} unicast\n  redistribute connected")?;
        writeln!(text, "  maximum-paths 16")?;
        for neighbor in &router.neighbors {
            writeln!(text, "  neighbor {} activate", neighbor.address)?;
        }
        writeln!(text, " exit-address-family")?;
    }
    Ok(text)
}

/// Starts zebra, then bgpd.
pub(super) async fn start(place: &Place, router: &Router, record: &Record) -> Result<Vec<Daemon>> {
    let directory = place.directory_of(&router.name);
    let vty = directory.join("vty");
    std::fs::create_dir_all(&vty)?;
    own(&directory)?;
    own(&vty)?;
    let zserv = directory.join("zserv.api");
    // With a history it writes a file anew for every command, and waits for the disk.
    let vtysh = "env VTYSH_HISTFILE=/nonexistent/history /usr/bin/vtysh";
    let wrapper = format!("{vtysh} --vty_socket '{}'", vty.display());
    write_wrapper(place, &router.name, "vtysh", &wrapper)?;

    let hostname = format!("hostname {}\nlog stdout\n", router.name);
    let mut zebra = daemon(&directory, "zebra", &hostname)?;
    // Large requests so that a full dump never overruns the socket.
    zebra.arg("-z").arg(&zserv).args(["-s", "4194304"]).arg("--vty_socket").arg(&vty);
    // Else it takes an IPv6 route away to write it anew, whatever of it has changed, and packets are
    // lost in between.
    zebra.arg("--v6-rr-semantics");
    let netns = place.netns(&router.name);
    let name = format!("{}-zebra", router.name);
    let mut zebra =
        Daemon::start(record, &name, &netns, zebra, &directory.join("zebra.log")).await?;
    wait::until("zebra's socket", Duration::from_secs(20), || {
        let state = zebra.check();
        let there = zserv.exists() && vty.join("zebra.vty").exists();
        async move {
            state?;
            if there { Ok(()) } else { bail!("not there") }
        }
    })
    .await?;

    let mut bgpd = daemon(&directory, "bgpd", &config(router)?)?;
    bgpd.arg("-z").arg(&zserv).arg("--vty_socket").arg(&vty);
    let bgpd =
        Daemon::start(record, &router.name, &netns, bgpd, &directory.join("bgpd.log")).await?;
    Ok(vec![zebra, bgpd])
}

/// A daemon's command line, with its configuration written beside it.
pub(crate) fn daemon(directory: &Path, name: &str, config: &str) -> Result<Command> {
    let file = directory.join(format!("{name}.conf"));
    std::fs::write(&file, config).with_context(|| format!("cannot write {}", file.display()))?;
    let mut command = Command::new(Path::new(LIBEXEC).join(name));
    own(&file)?;
    // A user outside FRR's own groups is refused, root too.
    command.args(["-u", USER, "-g", USER, "-P", "0", "-f"]).arg(file);
    command.arg("-i").arg(directory.join(format!("{name}.pid")));
    Ok(command)
}

async fn json(handle: &RouterHandle, question: &str) -> Result<Value> {
    let answer = handle.tool("vtysh", &["-d", "bgpd", "-c", question]).await?;
    serde_json::from_str(&answer).with_context(|| {
        format!("{}: {question}: {}", handle.router().name, answer.lines().next().unwrap_or(""))
    })
}

/// Takes the capability (RFC 4724) back, which needs new sessions.
pub(super) async fn refuse_graceful_restart(handle: &RouterHandle) -> Result<()> {
    let bgp = format!("router bgp {}", handle.router().asn);
    let lines = ["configure terminal", &bgp, "bgp graceful-restart-disable", "end", "clear bgp *"];
    let args: Vec<&str> = lines.into_iter().flat_map(|line| ["-c", line]).collect();
    handle.tool("vtysh", &args).await.map(drop)
}

pub(super) async fn reset_sessions(handle: &RouterHandle) -> Result<()> {
    handle.tool("vtysh", &["-c", "clear bgp *"]).await.map(drop)
}

pub(super) async fn sessions(handle: &RouterHandle) -> Result<Vec<Session>> {
    let summary = json(handle, "show bgp summary json").await?;
    let row = |neighbor: &crate::topology::Neighbor| {
        let mut received = 0;
        let mut states = Vec::new();
        for family in ["ipv4Unicast", "ipv6Unicast"] {
            let peer = &summary[family]["peers"][neighbor.address.to_string()];
            received += peer["pfxRcd"].as_u64().unwrap_or(0);
            states.push(peer["state"].as_str().unwrap_or("unknown").to_owned());
        }
        let state = states.iter().find(|s| *s != "Established").unwrap_or(&states[0]).clone();
        Session {
            neighbor: neighbor.name.clone(),
            asn: neighbor.asn,
            established: state == "Established",
            state,
            received: usize::try_from(received).unwrap_or(usize::MAX),
        }
    };
    Ok(handle.router().neighbors.iter().map(row).collect())
}

pub(super) async fn routes(handle: &RouterHandle) -> Result<Vec<Route>> {
    let mut routes = Vec::new();
    for family in ["ipv4", "ipv6"] {
        let table = json(handle, &format!("show bgp {family} unicast json")).await?;
        parse_table(&table, &mut routes)?;
    }
    Ok(routes)
}

fn parse_table(table: &Value, into: &mut Vec<Route>) -> Result<()> {
    let Some(prefixes) = table["routes"].as_object() else { return Ok(()) };
    for (prefix, paths) in prefixes {
        let prefix = prefix.parse().with_context(|| format!("FRR's prefix {prefix}"))?;
        for path in paths.as_array().into_iter().flatten() {
            let set = |key: &str| path[key].as_bool() == Some(true);
            let hops = path["nexthops"].as_array().map_or(&[][..], Vec::as_slice);
            // A path over one link has a global and a link-local next hop: the same router.
            let global = hops.iter().find(|hop| hop["scope"].as_str() != Some("link-local"));
            into.push(Route {
                prefix,
                next_hop: global.or(hops.first()).and_then(|hop| hop["ip"].as_str()?.parse().ok()),
                as_path: path["path"]
                    .as_str()
                    .unwrap_or_default()
                    .split_ascii_whitespace()
                    .filter_map(|asn| asn.parse().ok())
                    .collect(),
                used: set("valid") && (set("bestpath") || set("multipath")),
                stale: set("stale"),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_with_its_equal_paths() {
        let table: Value = serde_json::from_str(
            r#"{"routes":{"fd00:10:244::40/122":[
                {"valid":true,"multipath":true,"path":"65102 4200000002","nexthops":[
                    {"ip":"fd00:ca:255:2::2","afi":"ipv6","scope":"global"},
                    {"ip":"fe80::1","afi":"ipv6","scope":"link-local","used":true}]},
                {"valid":true,"bestpath":true,"stale":true,"path":"65101 4200000002","nexthops":[
                    {"ip":"fd00:ca:255:1::2","afi":"ipv6","scope":"global","used":true}]},
                {"path":"","nexthops":[{"ip":"::"}]}]}}"#,
        )
        .unwrap();
        let mut routes = Vec::new();
        parse_table(&table, &mut routes).unwrap();
        assert_eq!(routes.iter().filter(|r| r.used).count(), 2);
        assert_eq!(routes[0].next_hop, Some("fd00:ca:255:2::2".parse().unwrap()));
        assert_eq!(routes[1].as_path, [65101, 4_200_000_002]);
        assert!(routes[1].stale && !routes[0].stale);
    }
}
