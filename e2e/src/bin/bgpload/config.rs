//! The same workload in every subject's own words: no policy, no kernel, wait for the peers.

use std::fmt::Write as _;

use anyhow::{Result, bail};
use serde_json::json;

use crate::plan::{ASN, Plan, SUBJECT};

/// The configuration file of a subject.
pub(crate) fn of(subject: &str, plan: &Plan) -> Result<String> {
    match subject {
        "bgpd" => Ok(bgpd(plan)),
        "bird" => Ok(bird(plan)?),
        "frr" => Ok(frr(plan, "")?),
        // Its update groups wait for up to ten seconds; this is FRR without that.
        "frr-eager" => Ok(frr(plan, " coalesce-time 0\n")?),
        "gobgp" => Ok(gobgp(plan)),
        _ => bail!("no subject {subject:?}; there are: bgpd bird frr frr-eager gobgp"),
    }
}

fn bgpd(plan: &Plan) -> String {
    let peer = |(number, speaker): (usize, &crate::session::Speaker)| {
        json!({
            "name": format!("peer{number}"), "address": speaker.address, "asn": speaker.asn,
            "passive": true, "families": ["ipv4-unicast"],
            "route-reflector-client": plan.reflects(),
        })
    };
    let config = json!({
        "router-id": SUBJECT.ip(), "asn": ASN, "listen": [SUBJECT], "ebgp-requires-policy": false,
        "peers": plan.speakers().iter().enumerate().map(peer).collect::<Vec<_>>(),
    });
    // YAML, as it happens.
    format!("{config:#}\n")
}

fn bird(plan: &Plan) -> Result<String, std::fmt::Error> {
    let own = SUBJECT.ip();
    let mut text = format!("log stderr {{ warning, error, fatal, bug }};\nrouter id {own};\n");
    writeln!(text, "protocol device {{ }}")?;
    if plan.reflects() {
        // Where next hops of internal peers are looked up; not among what is advertised.
        writeln!(
            text,
            "ipv4 table connected;\nprotocol direct {{ ipv4 {{ table connected; }}; }}"
        )?;
    }
    for (number, speaker) in plan.speakers().iter().enumerate() {
        writeln!(text, "protocol bgp peer{number} {{\n  local {own} as {ASN};\n  passive on;")?;
        writeln!(text, "  neighbor {} as {};", speaker.address, speaker.asn)?;
        let igp = if plan.reflects() {
            writeln!(text, "  rr client;")?;
            " igp table connected;"
        } else {
            ""
        };
        writeln!(text, "  ipv4 {{ import all; export all;{igp} }};\n}}")?;
    }
    Ok(text)
}

fn frr(plan: &Plan, further: &str) -> Result<String, std::fmt::Error> {
    let mut text = String::from("frr defaults traditional\nhostname subject\nlog stdout\n");
    writeln!(text, "router bgp {ASN}\n bgp router-id {}", SUBJECT.ip())?;
    write!(text, " no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n{further}")?;
    let speakers = plan.speakers();
    for speaker in &speakers {
        let address = speaker.address;
        writeln!(text, " neighbor {address} remote-as {}", speaker.asn)?;
        writeln!(text, " neighbor {address} passive")?;
    }
    writeln!(text, " address-family ipv4 unicast")?;
    for speaker in &speakers {
        writeln!(text, "  neighbor {} activate", speaker.address)?;
        if plan.reflects() {
            writeln!(text, "  neighbor {} route-reflector-client", speaker.address)?;
        }
    }
    writeln!(text, " exit-address-family")?;
    Ok(text)
}

fn gobgp(plan: &Plan) -> String {
    let neighbor = |speaker: &crate::session::Speaker| {
        let mut neighbor = json!({
            "config": { "neighbor-address": speaker.address, "peer-as": speaker.asn },
            "transport": { "config": { "passive-mode": true } },
        });
        if plan.reflects() {
            neighbor["route-reflector"] = json!({ "config": {
                "route-reflector-client": true, "route-reflector-cluster-id": SUBJECT.ip(),
            } });
        }
        neighbor
    };
    let config = json!({
        "global": { "config": {
            "as": ASN, "router-id": SUBJECT.ip(), "port": SUBJECT.port(),
            "local-address-list": [SUBJECT.ip()],
        } },
        "neighbors": plan.speakers().iter().map(neighbor).collect::<Vec<_>>(),
    });
    format!("{config:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subject_hears_of_every_peer_and_of_clients() {
        for subject in ["bgpd", "bird", "frr", "frr-eager", "gobgp"] {
            for (workload, client) in [("rr", true), ("herd", false)] {
                let plan = Plan::of(workload, None, None).unwrap();
                let text = of(subject, &plan).unwrap();
                for speaker in plan.speakers() {
                    assert!(text.contains(&speaker.address.to_string()), "{subject} {speaker:?}");
                }
                let client_word = ["reflector-client\": true", "rr client", "reflector-client\n"];
                assert_eq!(client_word.iter().any(|word| text.contains(word)), client, "{text}");
            }
        }
        assert!(of("quagga", &Plan::of("one", None, None).unwrap()).is_err());
    }
}
