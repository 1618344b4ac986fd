//! Capabilities in words.

use crate::wire::{Capability, Family, FamilyAddPath, LongLivedFamily, Role};

fn family_text(afi: u16, safi: u8) -> String {
    Family::from_wire(afi, safi).map_or_else(|| format!("{afi}/{safi}"), |f| f.to_string())
}

pub(super) fn text(capability: &Capability) -> String {
    match capability {
        Capability::Multiprotocol(afi, safi) => {
            format!("multiprotocol {}", family_text(*afi, *safi))
        }
        Capability::RouteRefresh => "route-refresh".to_owned(),
        Capability::ExtendedMessage => "extended-message".to_owned(),
        Capability::FourOctetAs(asn) => format!("four-octet-as {asn}"),
        Capability::GracefulRestart { restarting, notification, time, families } => {
            let mut text = format!("graceful-restart {time}s");
            for (set, flag) in [(restarting, " restarting"), (notification, " notification")] {
                text.push_str(if *set { flag } else { "" });
            }
            for family in families {
                text.push(' ');
                text.push_str(&family_text(family.afi, family.safi));
                text.push_str(if family.forwarding { " (forwarding kept)" } else { "" });
            }
            text
        }
        Capability::ExtendedNextHop(families) => {
            let families = families.iter().map(|f| format!(" {}/{}>{}", f.afi, f.safi, f.next_hop));
            format!("extended-next-hop{}", families.collect::<String>())
        }
        Capability::EnhancedRouteRefresh => "enhanced-route-refresh".to_owned(),
        Capability::AddPath(families) => {
            let mode = |mode| match mode {
                FamilyAddPath::RECEIVE => "receive".to_owned(),
                FamilyAddPath::SEND => "send".to_owned(),
                3 => "both".to_owned(),
                other => format!("mode {other}"),
            };
            let text =
                |f: &FamilyAddPath| format!(" {} {}", family_text(f.afi, f.safi), mode(f.mode));
            format!("add-path{}", families.iter().map(text).collect::<String>())
        }
        Capability::LongLivedGracefulRestart(families) => {
            let text = |f: &LongLivedFamily| {
                let kept = if f.forwarding { " (forwarding kept)" } else { "" };
                format!(" {} {}s{kept}", family_text(f.afi, f.safi), f.time)
            };
            let families = families.iter().map(text).collect::<String>();
            format!("long-lived-graceful-restart{families}")
        }
        Capability::Role(role) => match Role::from_wire(*role) {
            Some(role) => format!("role {role}"),
            None => format!("role {role}"),
        },
        Capability::Unknown(code, value) => format!("unknown {code} ({} octets)", value.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::NextHopFamily;

    #[test]
    fn every_capability_has_words() {
        let paths = |mode| Capability::AddPath(vec![FamilyAddPath { afi: 1, safi: 1, mode }]);
        let kept = LongLivedFamily { afi: 2, safi: 1, forwarding: true, time: 3600 };
        for (capability, words) in [
            (Capability::multiprotocol(Family::Ipv6Unicast), "multiprotocol ipv6-unicast"),
            (Capability::Multiprotocol(1, 128), "multiprotocol 1/128"),
            (
                Capability::ExtendedNextHop(vec![NextHopFamily::IPV4_OVER_IPV6]),
                "extended-next-hop 1/1>2",
            ),
            (paths(1), "add-path ipv4-unicast receive"),
            (paths(3), "add-path ipv4-unicast both"),
            (paths(9), "add-path ipv4-unicast mode 9"),
            (
                Capability::LongLivedGracefulRestart(vec![kept]),
                "long-lived-graceful-restart ipv6-unicast 3600s (forwarding kept)",
            ),
            (Capability::Role(3), "role customer"),
            (Capability::Role(77), "role 77"),
            (Capability::Unknown(73, vec![1, 2]), "unknown 73 (2 octets)"),
        ] {
            assert_eq!(text(&capability), words);
        }
    }
}
