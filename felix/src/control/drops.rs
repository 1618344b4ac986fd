//! `felix drops`: the packets that policy denied, and which policy it was.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use api::v3::Protocol;
use ipam::timestamp::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cni::protocol::Place;
use crate::engine::Denial;
use crate::model::Direction;

/// The answer to [`crate::cni::protocol::Request::Drops`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DropsReport {
    /// The node whose agent answers.
    pub node: String,
    /// The packets in the order in which they were told of: all that the agent remembers, or those
    /// after the place that was asked for, as many as fit in a message.
    pub packets: Vec<DroppedPacket>,
    /// Where to go on.
    pub next: Place,
    /// How many packets after the place asked for are forgotten already.
    pub forgotten: u64,
    /// How many packets the kernel told of since the agent started that nobody had room for.
    pub lost: u64,
    /// Why the agent does not hear of denied packets; None if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A packet that policy denied, or would fare otherwise with the staged policies in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DroppedPacket {
    /// When.
    pub time: Timestamp,
    /// The protocol's name, or its number.
    pub protocol: String,
    /// Where it comes from.
    pub source: PacketEnd,
    /// Where it goes, after destination NAT.
    pub destination: PacketEnd,
    /// Of ICMP, its type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// Of ICMP, its code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    /// It is of a flow that was allowed before; it may be an answer then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub established: bool,
    /// Who denies it. None: nobody any more, since policy has changed; or with
    /// `staged`, nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denied: Option<Denial>,
    /// What would become of it with the staged policies in force; only of packets of which that
    /// would be something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<Would>,
}

/// What would become of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Would {
    /// It would be let through.
    Allow,
    /// These would deny it.
    Deny(Denial),
}

/// One side of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PacketEnd {
    /// The pod, `namespace/name`, or `node/NAME`; None for addresses of nobody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The address.
    pub address: IpAddr,
    /// The port, if the protocol has ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl DroppedPacket {
    /// Of a protocol by its number: how it is named in a record.
    pub fn protocol_name(number: u8) -> String {
        Protocol(number).to_string()
    }

    /// Whether a pod, `namespace/name`, sent it or would have got it.
    pub fn is_of(&self, pod: &str) -> bool {
        [&self.source, &self.destination].iter().any(|end| end.name.as_deref() == Some(pod))
    }
}

impl fmt::Display for PacketEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = match (self.address, self.port) {
            (address, None) => address.to_string(),
            (IpAddr::V4(address), Some(port)) => format!("{address}:{port}"),
            (IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}"),
        };
        match &self.name {
            Some(name) => write!(f, "{name} ({address})"),
            None => f.write_str(&address),
        }
    }
}

impl fmt::Display for DroppedPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.time, self.protocol)?;
        if let (Some(kind), Some(code)) = (self.icmp_type, self.icmp_code) {
            write!(f, " type {kind} code {code}")?;
        }
        write!(f, " {} -> {}", self.source, self.destination)?;
        if self.established {
            f.write_str(" (established)")?;
        }
        f.write_str(": ")?;
        match (&self.denied, &self.staged) {
            (None, None) => {
                f.write_str("denied; policy may have changed since")?;
            }
            (None, Some(_)) => f.write_str("allowed")?,
            (Some(denial), _) => write_denial(denial, f)?,
        }
        match &self.staged {
            None => Ok(()),
            Some(Would::Allow) => f.write_str("; with staged policies allowed"),
            Some(Would::Deny(denial)) => {
                f.write_str("; with staged policies ")?;
                write_denial(denial, f)
            }
        }
    }
}

fn write_denial(denial: &Denial, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Denial { direction, endpoint, tier, policy, rule, selected_by } = denial;
    let direction = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    write!(f, "{direction} of {endpoint} denied by ")?;
    match (tier, policy) {
        (None, Some(_)) => f.write_str("its profiles, which do not allow it"),
        (None, None) => f.write_str("the want of any policy yet"),
        (Some(tier), Some(policy)) => {
            let rule = rule.as_deref().unwrap_or("spec");
            write!(f, "{rule} of {policy} in tier {tier}")
        }
        (Some(tier), None) => {
            write!(f, "the default action of tier {tier}, no rule of {}", selected_by.join(", "))
        }
    }
}

/// For people: a line for each packet.
pub fn drops_text(report: &DropsReport) -> String {
    let mut out = String::new();
    if let Some(problem) = &report.problem {
        let _ = writeln!(out, "The agent of {} hears of no packet: {problem}", report.node);
    }
    if report.forgotten > 0 {
        let _ = writeln!(out, "({} packets are forgotten already)", report.forgotten);
    }
    for packet in &report.packets {
        let _ = writeln!(out, "{packet}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(name: Option<&str>, address: &str, port: Option<u16>) -> PacketEnd {
        PacketEnd { name: name.map(Into::into), address: address.parse().unwrap(), port }
    }

    fn packet(denied: Option<Denial>) -> DroppedPacket {
        DroppedPacket {
            time: "2026-11-22T19:20:20.5Z".parse().unwrap(),
            protocol: DroppedPacket::protocol_name(6),
            source: end(Some("shop/web"), "10.0.1.1", Some(41234)),
            destination: end(Some("shop/api"), "10.0.0.1", Some(8080)),
            icmp_type: None,
            icmp_code: None,
            established: false,
            denied,
            staged: None,
        }
    }

    fn denial() -> Denial {
        Denial {
            direction: Direction::Ingress,
            endpoint: "shop/api".into(),
            tier: Some("default".into()),
            policy: Some("NetworkPolicy shop/x".into()),
            rule: Some("spec.ingress[1]".into()),
            selected_by: Vec::new(),
        }
    }

    #[test]
    fn a_line_says_who_denied_it() {
        let head =
            "2026-11-22T19:20:20.5Z TCP shop/web (10.0.1.1:41234) -> shop/api (10.0.0.1:8080)";
        let by_tier = Denial {
            policy: None,
            rule: None,
            selected_by: vec!["KubernetesNetworkPolicy shop/deny".into()],
            ..denial()
        };
        let early = Denial { tier: None, ..by_tier.clone() };
        let profiles = Denial { policy: Some("profiles".into()), ..early.clone() };
        for (denied, said) in [
            (
                Some(denial()),
                "ingress of shop/api denied by spec.ingress[1] of NetworkPolicy shop/x in tier default",
            ),
            (
                Some(by_tier),
                "ingress of shop/api denied by the default action of tier default, no rule of \
                 KubernetesNetworkPolicy shop/deny",
            ),
            (Some(early), "ingress of shop/api denied by the want of any policy yet"),
            (Some(profiles), "ingress of shop/api denied by its profiles, which do not allow it"),
            (None, "denied; policy may have changed since"),
        ] {
            assert_eq!(packet(denied).to_string(), format!("{head}: {said}"));
        }
        let ping = DroppedPacket {
            protocol: DroppedPacket::protocol_name(58),
            source: end(None, "fd00::1", None),
            destination: end(Some("node/n1"), "fd00::2", None),
            icmp_type: Some(128),
            icmp_code: Some(0),
            established: true,
            ..packet(None)
        };
        assert_eq!(
            ping.to_string(),
            "2026-11-22T19:20:20.5Z ICMPv6 type 128 code 0 fd00::1 -> node/n1 (fd00::2) \
             (established): denied; policy may have changed since"
        );
    }

    #[test]
    fn a_line_says_what_staged_policies_would_do() {
        let would = |denied, staged| DroppedPacket { staged: Some(staged), ..packet(denied) };
        let deny = would(None, Would::Deny(denial())).to_string();
        let said = ": allowed; with staged policies ingress of shop/api denied by spec.ingress[1] of \
                    NetworkPolicy shop/x in tier default";
        assert!(deny.ends_with(said), "{deny}");
        let allow = would(Some(denial()), Would::Allow);
        assert!(allow.to_string().ends_with("in tier default; with staged policies allowed"));
        for packet in [would(None, Would::Deny(denial())), allow] {
            let json = serde_json::to_value(&packet).unwrap();
            assert_eq!(serde_json::from_value::<DroppedPacket>(json).unwrap(), packet);
        }
    }

    #[test]
    fn a_report_comes_back_as_it_went_and_says_what_is_missing() {
        let report = DropsReport {
            node: "n1".into(),
            packets: vec![packet(Some(denial()))],
            next: Place { start: 1, number: 9 },
            forgotten: 3,
            lost: 0,
            problem: Some("the group is taken".into()),
        };
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["packets"][0]["denied"]["rule"], "spec.ingress[1]");
        assert_eq!(serde_json::from_value::<DropsReport>(json).unwrap(), report);
        let text = drops_text(&report);
        assert!(text.starts_with(
            "The agent of n1 hears of no packet: the group is taken\n(3 packets are forgotten"
        ));
        assert!(packet(None).is_of("shop/web") && !packet(None).is_of("shop/ap"));
    }
}
