//! `usePodCidr`: where the configuration of another IPAM plugin says so in place of a network,
//! Calico's plugin puts one of the node's `spec.podCIDRs` there before it executes it, and so does
//! this. `subnet` of `ipam`, and of any range in `ipam.ranges`; `usePodCidr` stands for the IPv4
//! one, `usePodCidrIPv6` for the other, in letters of either case. Pure.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::Value;

use super::protocol::{Error, PodCidrs};
use super::spec::{Command, code, config_error};

/// A field that asks for a network of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// As people write it, `ipam.ranges[0][0].subnet`.
    field: String,
    /// As RFC 6901 has it.
    pointer: String,
    ipv6: bool,
}

/// All fields that ask.
pub(super) fn asked(config: &Value) -> Vec<Asked> {
    let ipam = &config["ipam"];
    let sets = ipam["ranges"].as_array().into_iter().flatten().enumerate();
    let ranges = sets.flat_map(|(set, ranges)| {
        let ranges = ranges.as_array().into_iter().flatten().enumerate();
        ranges.map(move |(number, range)| {
            let field = format!("ipam.ranges[{set}][{number}]");
            (field, format!("/ipam/ranges/{set}/{number}"), range)
        })
    });
    let places = [("ipam".to_owned(), "/ipam".to_owned(), ipam)].into_iter().chain(ranges);
    let asking = places.filter_map(|(field, pointer, object)| {
        let text = object.get("subnet")?.as_str()?;
        let ipv6 = match text {
            _ if text.eq_ignore_ascii_case("usePodCidr") => false,
            _ if text.eq_ignore_ascii_case("usePodCidrIPv6") => true,
            _ => return None,
        };
        let (field, pointer) = (format!("{field}.subnet"), format!("{pointer}/subnet"));
        Some(Asked { field, pointer, ipv6 })
    });
    asking.collect()
}

/// Puts the node's networks where they are asked for. Returns those that were, each once.
///
/// # Errors
/// For ADD and STATUS: the node has no network of a family. The other commands go by the container
/// alone, and want no more than some network there.
pub(super) fn fill(
    config: &mut Value,
    asked: &[Asked],
    command: Command,
    found: &PodCidrs,
) -> Result<Vec<IpNet>, Error> {
    let mut networks = Vec::new();
    for Asked { field, pointer, ipv6 } in asked {
        let of_family = |net: &&IpNet| matches!(net, IpNet::V6(_)) == *ipv6;
        let net = match (found.networks.iter().find(of_family), command) {
            (Some(net), _) => *net,
            (None, Command::Add | Command::Status) => {
                return Err(missing(command, field, *ipv6, &found.node));
            }
            (None, _) => nobodys(*ipv6),
        };
        if let Some(subnet) = config.pointer_mut(pointer) {
            *subnet = net.to_string().into();
        }
        if !networks.contains(&net) {
            networks.push(net);
        }
    }
    Ok(networks)
}

fn missing(command: Command, field: &str, ipv6: bool, node: &str) -> Error {
    let family = if ipv6 { "IPv6" } else { "IPv4" };
    let reason = format!(
        "asks for the node's network, and Node {node} has no {family} network in spec.podCIDRs"
    );
    let mut error = config_error(field, &reason);
    if command == Command::Status {
        (error.code, error.msg) = (code::NOT_AVAILABLE, "not ready for new pods".into());
    }
    error
}

/// A network that no pod is in: of "this network" (RFC 1122), and of addresses to be discarded (RFC
/// 6666). So it overlaps no range that the configuration gives itself.
fn nobodys(ipv6: bool) -> IpNet {
    if ipv6 {
        Ipv6Net::new_assert(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64).into()
    } else {
        Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 8).into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(networks: &[&str]) -> PodCidrs {
        let networks = networks.iter().map(|net| net.parse().unwrap()).collect();
        PodCidrs { node: "node1".into(), networks }
    }

    fn both() -> Value {
        json!({"ipam": {"type": "host-local", "ranges": [
            [{"subnet": "usePodCidr"}, {"subnet": "10.9.0.0/24"}], [{"subnet": "usepodcidripv6"}],
        ]}})
    }

    #[test]
    fn the_nodes_networks_stand_where_they_are_asked_for() {
        let mut config = both();
        let asked = asked(&config);
        let found = found(&["fd00:1::/64", "10.244.1.0/24", "10.244.2.0/24"]);
        let networks = fill(&mut config, &asked, Command::Add, &found).unwrap();
        assert_eq!(networks, ["10.244.1.0/24", "fd00:1::/64"].map(|n| n.parse().unwrap()));
        assert_eq!(
            config["ipam"]["ranges"],
            json!([
                [{"subnet": "10.244.1.0/24"}, {"subnet": "10.9.0.0/24"}],
                [{"subnet": "fd00:1::/64"}],
            ])
        );

        let mut config = json!({"ipam": {"subnet": "usePodCidr"}});
        let asked = super::asked(&config);
        fill(&mut config, &asked, Command::Add, &found).unwrap();
        assert_eq!(config["ipam"]["subnet"], "10.244.1.0/24");
    }

    #[test]
    fn who_does_not_ask_is_left_alone() {
        for config in [
            json!({}),
            json!({"ipam": "usePodCidr"}),
            json!({"ipam": {"subnet": 7, "ranges": "usePodCidr"}}),
            json!({"ipam": {"subnet": "10.0.0.0/8", "ranges": [{"subnet": "usePodCidr"}, [1]]}}),
        ] {
            assert_eq!(asked(&config), []);
        }
    }

    #[test]
    fn a_node_without_a_network_is_named_with_the_field() {
        let asked = asked(&both());
        let found = found(&["10.244.1.0/24"]);
        let error = fill(&mut both(), &asked, Command::Add, &found).unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid network configuration: ipam.ranges[1][0].subnet asks for the node's network, \
             and Node node1 has no IPv6 network in spec.podCIDRs (code 7)"
        );
        let error = fill(&mut both(), &asked, Command::Status, &found).unwrap_err();
        assert_eq!(error.code, code::NOT_AVAILABLE);
    }

    #[test]
    fn what_goes_by_the_container_alone_needs_no_network_of_the_node() {
        let asked = asked(&both());
        for command in [Command::Del, Command::Check, Command::Gc] {
            let mut config = both();
            fill(&mut config, &asked, command, &PodCidrs::default()).unwrap();
            assert_eq!(config["ipam"]["ranges"][0][0]["subnet"], "0.0.0.0/8");
            assert_eq!(config["ipam"]["ranges"][1][0]["subnet"], "100::/64");
        }
    }
}
