//! BIRD as a router, asked through `birdc`.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

use super::router::{Route, RouterHandle, Session};
use super::{Place, write_wrapper};
use crate::process::Daemon;
use crate::record::Record;
use crate::topology::Router;
use crate::wait;

/// The configuration. Graceful restart is BIRD's default, that of a helper.
fn config(router: &Router) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "log stderr all;\nrouter id {};", router.router_id)?;
    writeln!(text, "protocol device {{ }}\nprotocol direct {{ ipv4; ipv6; }}")?;
    for family in ["ipv4", "ipv6"] {
        writeln!(
            text,
            "protocol kernel kernel_{family} {{\n  merge paths limit 16;\n  {family} {{ import none; \
             export where source != RTS_DEVICE; }};\n}}"
        )?;
    }
    for neighbor in &router.neighbors {
        writeln!(text, "protocol bgp {} {{", neighbor.name)?;
        writeln!(text, "  local {} as {};", neighbor.local, router.asn)?;
        writeln!(text, "  neighbor {} as {};", neighbor.address, neighbor.asn)?;
        writeln!(text, "  hold time 9; keepalive time 3;")?;
        writeln!(text, "  connect delay time 1; connect retry time 1; error wait time 1, 2;")?;
        writeln!(text, "  ipv4 {{ import all; export all; }};")?;
        writeln!(text, "  ipv6 {{ import all; export all; }};\n}}")?;
    }
    Ok(text)
}

/// Starts BIRD and waits until it answers.
pub(super) async fn start(place: &Place, router: &Router, record: &Record) -> Result<Vec<Daemon>> {
    let directory = place.directory_of(&router.name);
    let file = directory.join("bird.conf");
    std::fs::write(&file, config(router)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    let socket = directory.join("bird.ctl");
    write_wrapper(
        place,
        &router.name,
        "birdc",
        &format!("/usr/sbin/birdc -s '{}'", socket.display()),
    )?;
    let mut command = Command::new("/usr/sbin/bird");
    command.arg("-f").arg("-c").arg(&file).arg("-s").arg(&socket);
    command.arg("-P").arg(directory.join("bird.pid"));
    let netns = place.netns(&router.name);
    let log = directory.join("bird.log");
    let mut bird = Daemon::start(record, &router.name, &netns, command, &log).await?;
    wait::until("BIRD's socket", Duration::from_secs(20), || {
        let state = bird.check();
        let there = socket.exists();
        async move {
            state?;
            if there { Ok(()) } else { bail!("not there") }
        }
    })
    .await?;
    Ok(vec![bird])
}

pub(super) async fn sessions(handle: &RouterHandle) -> Result<Vec<Session>> {
    let text = handle.tool("birdc", &["show", "protocols", "all"]).await?;
    let row = |neighbor: &crate::topology::Neighbor| {
        let (state, received) =
            protocol(&text, &neighbor.name).unwrap_or_else(|| ("unknown".into(), 0));
        Session {
            neighbor: neighbor.name.clone(),
            asn: neighbor.asn,
            established: state == "Established",
            state,
            received,
        }
    };
    Ok(handle.router().neighbors.iter().map(row).collect())
}

/// State and imported routes of one protocol, from `show protocols all`.
fn protocol(text: &str, name: &str) -> Option<(String, usize)> {
    let mut lines = text.lines().skip_while(|line| {
        let mut words = line.split_ascii_whitespace();
        line.starts_with(char::is_whitespace)
            || words.next() != Some(name)
            || words.next() != Some("BGP")
    });
    // Name Proto Table State Since Info, where Info is the session's state and the last error.
    let info: Vec<&str> = lines.next()?.split_ascii_whitespace().skip(5).collect();
    let mut received = 0;
    for line in lines.take_while(|line| line.starts_with(char::is_whitespace) || line.is_empty()) {
        if let Some(counts) = line.trim().strip_prefix("Routes:") {
            let count = counts.split_ascii_whitespace().next()?;
            received += count.parse::<usize>().unwrap_or(0);
        }
    }
    Some((info.join(" "), received))
}

pub(super) async fn routes(handle: &RouterHandle) -> Result<Vec<Route>> {
    let mut routes = Vec::new();
    for table in ["master4", "master6"] {
        let text = handle.tool("birdc", &["show", "route", "table", table, "all"]).await?;
        parse_routes(&text, &mut routes)?;
    }
    mark_equal(&mut routes);
    Ok(routes)
}

/// Reads `show route all`: a line for each path, indented lines of attributes below it. The
/// prefix stands only on the first path's line.
fn parse_routes(text: &str, into: &mut Vec<Route>) -> Result<()> {
    let mut prefix = None;
    let first = into.len();
    for line in text.lines() {
        if let Some((head, tail)) = line.split_once('[')
            && (line.contains("unicast [")
                || line.contains("blackhole [")
                || line.contains("unreachable ["))
            && !line.starts_with('\t')
        {
            if let Some(word) = head.split_ascii_whitespace().next()
                && word.contains('/')
            {
                prefix = Some(word.parse().with_context(|| format!("BIRD's prefix {word}"))?);
            }
            let Some(prefix) = prefix else { bail!("a path without a prefix: {line}") };
            let after = tail.split_once(']').map_or("", |(_, rest)| rest);
            into.push(Route {
                prefix,
                next_hop: None,
                as_path: Vec::new(),
                used: after.trim_start().starts_with('*'),
                // Preference in parentheses, with an `s` while stale.
                stale: after
                    .split_once('(')
                    .and_then(|(_, p)| p.split_once(')'))
                    .is_some_and(|(p, _)| p.contains('s')),
            });
        } else if into.len() > first
            && let Some(route) = into.last_mut()
        {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("via") => route.next_hop = words.next().and_then(|ip| ip.parse().ok()),
                Some("BGP.as_path:") => {
                    route.as_path = words.filter_map(|asn| asn.parse().ok()).collect();
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// BIRD marks one best; the kernel protocol merges those that are as good (`merge paths`).
fn mark_equal(routes: &mut [Route]) {
    for index in 0..routes.len() {
        let equal = |best: &Route, other: &Route| {
            best.used && best.prefix == other.prefix && best.as_path.len() == other.as_path.len()
        };
        let candidate = routes[index].clone();
        if !candidate.as_path.is_empty() && routes.iter().any(|best| equal(best, &candidate)) {
            routes[index].used = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTOCOLS: &str = "\
BIRD 2.0.12 ready.
Name       Proto      Table      State  Since         Info
device1    Device     ---        up     04:20:01.001  
node2      BGP        ---        up     04:20:03.003  Established   
  BGP state:          Established
  Channel ipv4
    State:          UP
    Routes:         1 imported, 5 exported, 1 preferred
  Channel ipv6
    State:          UP
    Routes:         2 imported, 5 exported, 2 preferred

node4      BGP        ---        start  04:20:03.003  Active        Socket: Connection refused
  BGP state:          Active
";

    #[test]
    fn sessions_are_read_with_their_reason() {
        assert_eq!(protocol(PROTOCOLS, "node2"), Some(("Established".into(), 3)));
        let (state, received) = protocol(PROTOCOLS, "node4").unwrap();
        assert_eq!((state.as_str(), received), ("Active Socket: Connection refused", 0));
        assert_eq!(protocol(PROTOCOLS, "device1"), None);
    }

    #[test]
    fn routes_are_read_path_by_path() {
        let text = "\
BIRD 2.0.12 ready.
Table master4:
10.244.0.64/26       unicast [node2 04:20:03.100] * (100s) [AS4200000002i]
\tvia 10.0.2.12 on rack
\tType: BGP univ
\tBGP.as_path: 4200000002
                     unicast [spine 04:20:03.100] (100) [AS4200000002i]
\tvia 10.255.2.0 on spine
\tBGP.as_path: 65000 65101 4200000002
10.0.2.0/24          unicast [direct1 04:20:01.000] * (240)
\tdev rack
\tType: device univ
";
        let mut routes = Vec::new();
        parse_routes(text, &mut routes).unwrap();
        mark_equal(&mut routes);
        assert_eq!(routes.len(), 3);
        assert_eq!(routes[0].next_hop, Some("10.0.2.12".parse().unwrap()));
        assert!(routes[0].used && routes[0].stale);
        assert_eq!(routes[1].prefix, routes[0].prefix);
        assert!(!routes[1].used && !routes[1].stale);
        assert_eq!(routes[1].as_path, [65000, 65101, 4_200_000_002]);
        assert!(routes[2].used && routes[2].next_hop.is_none());
    }
}
