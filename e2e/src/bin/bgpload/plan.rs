//! Who takes part in a workload: the one plan that sessions and configurations come from.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Result, bail, ensure};

use crate::session::Speaker;

/// Where the subject is. All of ours are in the same subnet.
pub(crate) const SUBJECT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 99, 0, 1), 179);
pub(crate) const PREFIX_LENGTH: u8 = 16;
/// The subject's AS.
pub(crate) const ASN: u32 = 64512;
/// The AS of our first external peer; the others' follow.
const FIRST_ASN: u32 = 64601;
/// No more fit into what we call private ASes, addresses and /24s.
const MOST_PEERS: u16 = 400;
const MOST_ROUTES: u32 = 1 << 21;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    /// A table from one external peer, until it is selected.
    One,
    /// The same, until a second AS has all.
    Forward,
    /// A table like the Internet's, until a second AS has all.
    Internet,
    /// One more route through a full table, until a second AS has it.
    Probe,
    /// Clients of a route reflector, until each has the others' routes.
    Reflect,
    /// A table from one external peer, until all the others have it.
    Fan,
    /// Peers that connect at once, until all sessions are up.
    Herd,
    /// A table is withdrawn, and announced again and lost with its session, until a second AS has
    /// nothing.
    Withdraw,
}

/// By name, with routes and peers unless told otherwise.
const WORKLOADS: [(&str, Workload, u32, u16); 8] = [
    ("one", Workload::One, 1_000_000, 2),
    ("fwd", Workload::Forward, 1_000_000, 2),
    ("dfz", Workload::Internet, 870_000, 2),
    ("probe", Workload::Probe, 1_000_000, 2),
    ("rr", Workload::Reflect, 64, 200),
    ("fan", Workload::Fan, 100_000, 51),
    ("herd", Workload::Herd, 0, 200),
    ("withdraw", Workload::Withdraw, 1_000_000, 2),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) workload: Workload,
    /// In a table; of a reflector's client, each one's.
    pub(crate) routes: u32,
    /// Those that the workload is about.
    pub(crate) peers: u16,
}

impl Plan {
    pub(crate) fn of(name: &str, routes: Option<u32>, peers: Option<u16>) -> Result<Self> {
        let known = WORKLOADS.iter().find(|workload| workload.0 == name);
        let Some(&(name, workload, usual_routes, usual_peers)) = known else {
            let names: Vec<&str> = WORKLOADS.iter().map(|workload| workload.0).collect();
            bail!("no workload {name:?}; there are: {}", names.join(" "));
        };
        let (routes, peers) = (routes.unwrap_or(usual_routes), peers.unwrap_or(usual_peers));
        ensure!((2..=MOST_PEERS).contains(&peers), "--peers {peers}: 2 to {MOST_PEERS}");
        let all = u64::from(routes) * if workload == Workload::Reflect { peers.into() } else { 1 };
        ensure!(all <= MOST_ROUTES.into(), "--routes {routes}: {MOST_ROUTES} together at most");
        Ok(Self { name, workload, routes, peers })
    }

    /// Are the peers in the subject's AS, and its clients?
    pub(crate) fn reflects(&self) -> bool {
        self.workload == Workload::Reflect
    }

    /// Those that peer with the subject. A herd is preceded by one that says when the subject is
    /// ready: the last.
    pub(crate) fn speakers(&self) -> Vec<Speaker> {
        let count = self.peers + u16::from(self.workload == Workload::Herd);
        let speaker = |number: u16| {
            let [third, fourth] = [number / 250 + 1, number % 250 + 1].map(|n| n.to_be_bytes()[1]);
            let asn = if self.reflects() { ASN } else { FIRST_ASN + u32::from(number) };
            Speaker { address: Ipv4Addr::new(10, 99, third, fourth), asn }
        };
        (0..count).map(speaker).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_usual_ones_or_those_asked_for() {
        let plan = Plan::of("fan", None, Some(300)).unwrap();
        assert_eq!((plan.routes, plan.speakers().len()), (100_000, 300));
        assert_eq!(plan.speakers()[299].address, Ipv4Addr::new(10, 99, 2, 50));
        assert_eq!(plan.speakers()[299].asn, 64900);
        let herd = Plan::of("herd", None, None).unwrap();
        assert_eq!(herd.speakers().len(), 201);
        let reflector = Plan::of("rr", None, None).unwrap();
        assert!(reflector.speakers().iter().all(|speaker| speaker.asn == ASN));
    }

    #[test]
    fn what_is_unknown_or_too_much_is_refused() {
        assert!(Plan::of("every", None, None).unwrap_err().to_string().contains("one fwd dfz"));
        assert!(Plan::of("rr", Some(100_000), None).is_err());
        assert!(Plan::of("one", None, Some(1)).is_err());
        assert!(Plan::of("fan", None, Some(4000)).is_err());
    }
}
