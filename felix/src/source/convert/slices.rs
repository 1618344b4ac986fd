//! EndpointSlices (`discovery.k8s.io/v1`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{Convert, Converted, Problem, key, protocol};
use crate::model::{self, Kind, Object};

/// Whose endpoints these are.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// `addressType` of names that a resolver would have to be asked for.
const FQDN: &str = "FQDN";

impl Convert for EndpointSlice {
    const KIND: Kind = Kind::EndpointSlice;

    fn convert(self) -> Result<Converted, Problem> {
        let mut problems = Vec::new();
        let meta = &self.metadata;
        let service = meta.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        let slice = model::EndpointSlice {
            key: key(meta)?,
            service: service.filter(|name| !name.is_empty()).map(|name| name.as_str().into()),
            addresses: addresses(&self, &mut problems).into_iter().collect(),
            ports: ports(&self, &mut problems).into_iter().collect(),
        };
        Ok(Converted { object: Object::EndpointSlice(slice), problems })
    }
}

fn addresses(slice: &EndpointSlice, problems: &mut Vec<Problem>) -> BTreeSet<IpAddr> {
    let mut addresses = BTreeSet::new();
    if slice.address_type == FQDN {
        return addresses;
    }
    for (number, endpoint) in slice.endpoints.iter().flatten().enumerate() {
        for text in &endpoint.addresses {
            match text.parse() {
                Ok(address) => drop(addresses.insert(address)),
                Err(_) => problems.push(Problem::new(
                    format!("endpoints[{number}].addresses"),
                    format!("{text:?} is not an IP address"),
                )),
            }
        }
    }
    addresses
}

/// A port without a number means whatever a reader takes it for; for a rule it is none.
fn ports(slice: &EndpointSlice, problems: &mut Vec<Problem>) -> BTreeSet<(u8, u16)> {
    let mut ports = BTreeSet::new();
    for (number, port) in slice.ports.iter().flatten().enumerate() {
        let Some(given) = port.port else { continue };
        let field = || format!("ports[{number}]");
        match (protocol(port.protocol.as_deref()), u16::try_from(given)) {
            (Ok(protocol), Ok(port)) if port > 0 => drop(ports.insert((protocol, port))),
            (Err(reason), _) => problems.push(Problem::new(field(), reason)),
            (Ok(_), _) => {
                let reason = format!("{given} is not a port from 1 to 65535");
                problems.push(Problem::new(field(), reason));
            }
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::ObjectKey;
    use crate::source::convert::decode;

    fn slice(json: serde_json::Value) -> (model::EndpointSlice, Vec<String>) {
        let Converted { object, problems } = decode::<EndpointSlice>(json).unwrap();
        assert_eq!(object.kind(), Kind::EndpointSlice);
        let Object::EndpointSlice(slice) = object else { panic!("{object:?}") };
        (slice, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_whole_slice() {
        let (slice, problems) = slice(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": "shop", "name": "db-x7k2p", "labels": {
                "kubernetes.io/service-name": "db", "app": "db"}},
            "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.0.1.2"], "conditions": {"ready": false, "terminating": true},
                 "nodeName": "n2", "targetRef": {"kind": "Pod", "name": "db-1"}},
                {"addresses": ["10.0.0.9", "10.0.1.2"], "conditions": {"ready": true}},
            ],
            "ports": [
                {"name": "sql", "port": 5432, "protocol": "TCP"},
                {"name": "gossip", "port": 7946, "protocol": "UDP"},
                {"name": "old", "port": 5432},
                {"name": "any", "protocol": "SCTP"},
            ],
        }));
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(
            slice,
            model::EndpointSlice {
                key: ObjectKey::namespaced("shop", "db-x7k2p"),
                service: Some("db".into()),
                addresses: ["10.0.0.9", "10.0.1.2"].map(|ip| ip.parse().unwrap()).into(),
                ports: [(6, 5432), (17, 7946)].into(),
            }
        );
    }

    #[test]
    fn the_least_of_a_slice_and_names_instead_of_addresses() {
        for (kind, address) in [("IPv6", None), ("FQDN", Some("db.example.com"))] {
            let endpoints: Vec<_> = address.iter().map(|a| json!({"addresses": [a]})).collect();
            let (slice, problems) = slice(json!({
                "metadata": {"name": "a"}, "addressType": kind, "endpoints": endpoints,
            }));
            assert_eq!(problems, Vec::<String>::new());
            assert_eq!(slice.key, ObjectKey::namespaced("default", "a"));
            assert!(slice.service.is_none() && slice.addresses.is_empty(), "{slice:?}");
            assert!(slice.ports.is_empty());
        }
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_reported() {
        let (slice, problems) = slice(json!({
            "metadata": {"name": "a"}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.256", "10.0.0.2"]}],
            "ports": [{"port": 0}, {"port": 80, "protocol": "ICMP"}, {"port": 81}, {"port": 65536}],
        }));
        let read: [IpAddr; 2] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().unwrap());
        assert_eq!(*slice.addresses, read);
        assert_eq!(&*slice.ports, [(6, 81)]);
        assert_eq!(
            problems,
            [
                "endpoints[1].addresses: \"10.0.0.256\" is not an IP address",
                "ports[0]: 0 is not a port from 1 to 65535",
                "ports[1]: unknown protocol \"ICMP\"",
                "ports[3]: 65536 is not a port from 1 to 65535",
            ]
        );
    }
}
