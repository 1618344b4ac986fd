//! What most tests start from: us in AS 65001 and one external peer in AS 65002, on one link.
//!
//! We are 10.0.1.1, fd00:1::1 and fe80::1:1, the peer is 10.0.1.2 and so on. We announce
//! 10.1.0.0/24 and fd00:a:1::/64, the peer 10.2.0.0/24 and fd00:a:2::/64, over IPv4.

use super::{Lab, Link, Node};

/// Two nodes with a link.
pub(crate) struct Pair {
    pub(crate) us: Node,
    pub(crate) peer: Node,
    pub(crate) link: Link,
    pub(crate) lab: Lab,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let lab = Lab::new();
        let (us, peer) = (lab.node("us"), lab.node("peer"));
        let link = lab.link(&us, &peer);
        Self { us, peer, link, lab }
    }
}

/// Our configuration, with more fields of the peer (`password: secret, hold-time: 3`). More of the
/// top level may be appended.
pub(crate) fn ours(fields: &str) -> String {
    format!(
        "
router-id: 10.255.0.1
asn: 65001
ebgp-requires-policy: false
networks:
  - prefix: 10.1.0.0/24
  - prefix: fd00:a:1::/64
peers:
  - {{name: peer, address: 10.0.1.2, asn: 65002, next-hop-v6: 'fd00:1::1', connect-retry-time: 1,
      {fields}}}
"
    )
}

/// The peer as FRR. More sections, also of the same router, may be appended.
pub(crate) const FRR: &str = "
router bgp 65002
 bgp router-id 10.255.0.2
 neighbor 10.0.1.1 remote-as 65001
 neighbor 10.0.1.1 timers connect 1
 neighbor 10.0.1.1 advertisement-interval 0
 address-family ipv4 unicast
  network 10.2.0.0/24
  neighbor 10.0.1.1 activate
 exit-address-family
 address-family ipv6 unicast
  network fd00:a:2::/64
  neighbor 10.0.1.1 activate
 exit-address-family
";

/// The peer as BIRD, with more lines of the protocol, which is called `ours`.
pub(crate) fn bird(lines: &str) -> String {
    format!(
        "
router id 10.255.0.2;
protocol static {{ ipv4; route 10.2.0.0/24 blackhole; }}
protocol static {{ ipv6; route fd00:a:2::/64 blackhole; }}
protocol kernel {{ ipv4 {{ export where source = RTS_BGP; }}; }}
protocol kernel {{ ipv6 {{ export where source = RTS_BGP; }}; }}
protocol bgp ours {{
  local 10.0.1.2 as 65002;
  neighbor 10.0.1.1 as 65001;
  connect delay time 1; connect retry time 1; error wait time 1, 2;
  ipv4 {{ import all; export all; }};
  ipv6 {{ import all; export all; next hop address fd00:1::2; }};
  {lines}
}}
"
    )
}

/// The peer as GoBGP, with more fields of the neighbor (`config` has more in `inner`). It
/// announces nothing by itself.
pub(crate) fn gobgp(inner: &str, fields: &str) -> String {
    format!(
        "
global: {{config: {{as: 65002, router-id: 10.255.0.2}}}}
neighbors:
  - config: {{neighbor-address: 10.0.1.1, peer-as: 65001, {inner}}}
    timers: {{config: {{connect-retry: 1, idle-hold-time-after-reset: 1}}}}
    {fields}
"
    )
}

/// Families of [`gobgp`], for its `fields`.
pub(crate) const BOTH_FAMILIES: &str =
    "afi-safis: [{config: {afi-safi-name: ipv4-unicast}}, {config: {afi-safi-name: ipv6-unicast}}]";
