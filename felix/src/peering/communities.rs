//! Communities: their text, and which of them own routes carry (BGPConfiguration's
//! `prefixAdvertisements`).

use std::collections::BTreeMap;

use api::v3;
use bgpd::Network;
use bgpd::wire::{Community, LargeCommunity};
use ipnet::IpNet;

/// A community of either kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Either {
    Standard(Community),
    Large(LargeCommunity),
}

/// `aa:nn` (RFC 1997) or `aa:nn:mm` (RFC 8092).
pub(super) fn community(text: &str) -> Result<Either, String> {
    match text.split(':').count() {
        3 => text.parse().map(Either::Large),
        _ => text.parse().map(Either::Standard),
    }
}

/// What own routes carry, by the network that they are in.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Advertisements(Vec<(IpNet, Vec<Either>)>);

impl Advertisements {
    /// Those of a BGPConfiguration, and what is wrong with the others: each stands for itself.
    pub(super) fn of(spec: &v3::BGPConfigurationSpec) -> (Self, Vec<String>) {
        let names: BTreeMap<&str, &str> =
            spec.communities.iter().map(|named| (&*named.name, &*named.value)).collect();
        let (mut all, mut wrong) = (Vec::new(), Vec::new());
        for (at, advertisement) in spec.prefix_advertisements.iter().enumerate() {
            let v3::PrefixAdvertisement { cidr, communities } = advertisement;
            let Ok(net) = cidr.parse::<IpNet>() else {
                wrong.push(format!("[{at}].cidr: {cidr:?} is not a network"));
                continue;
            };
            let mut carried = Vec::new();
            for text in communities {
                match community(names.get(&**text).unwrap_or(&&**text)) {
                    Ok(community) => carried.push(community),
                    Err(_) => wrong.push(format!(
                        "[{at}].communities: {text:?} is neither the name of a community nor one"
                    )),
                }
            }
            all.push((net, carried));
        }
        (Self(all), wrong)
    }

    /// Gives a route what it is to carry.
    pub(super) fn mark(&self, network: &mut Network) {
        let of = self.0.iter().filter(|(net, _)| net.contains(&network.prefix));
        for community in of.flat_map(|(_, communities)| communities) {
            match *community {
                Either::Standard(one) if !network.communities.contains(&one) => {
                    network.communities.push(one);
                }
                Either::Large(one) if !network.large_communities.contains(&one) => {
                    network.large_communities.push(one);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn routes_carry_what_their_prefix_says_by_name_or_by_value_and_once() {
        let spec = json!({
            "communities": [
                { "name": "pods", "value": "64512:100" },
                { "name": "site", "value": "64512:1:7" },
            ],
            "prefixAdvertisements": [
                { "cidr": "10.244.0.0/16", "communities": ["pods", "64512:200"] },
                { "cidr": "10.244.8.0/24", "communities": ["site", "pods"] },
                { "cidr": "fd00::/16", "communities": ["nobody"] },
                { "cidr": "everything", "communities": ["pods"] },
            ],
        });
        let (all, wrong) = Advertisements::of(&serde_json::from_value(spec).unwrap());
        assert_eq!(
            wrong,
            [
                "[2].communities: \"nobody\" is neither the name of a community nor one",
                "[3].cidr: \"everything\" is not a network",
            ]
        );
        let carried = |net: &str| {
            let mut network = Network::new(net.parse().unwrap());
            all.mark(&mut network);
            let standard = network.communities.iter().map(ToString::to_string);
            let large = network.large_communities.iter().map(ToString::to_string);
            standard.chain(large).collect::<Vec<_>>()
        };
        assert_eq!(carried("10.244.0.0/26"), ["64512:100", "64512:200"]);
        assert_eq!(carried("10.244.8.64/26"), ["64512:100", "64512:200", "64512:1:7"]);
        assert_eq!(carried("10.245.0.0/26"), [""; 0]);
        assert_eq!(carried("fd00:1::/122"), [""; 0]);
    }
}
