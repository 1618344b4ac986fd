//! What reads octets of the kernel, as one plain function for fuzzers: whatever it is given, it must
//! return. `felix/fuzz` wraps it for libFuzzer.

use std::net::{IpAddr, Ipv4Addr};

use crate::buffer::{Batch, Message, Messages};
use crate::nft::{
    self, BaseChain, Chain, DataType, Element, Family, Field, Hook, Rule, Set, Value,
};
use crate::{addr, conntrack, headers, link, neigh, nflog, nfqueue, route, socket};

/// A datagram, each of whose messages is read as every answer and notification that it may be.
pub fn replies(octets: &[u8]) {
    for message in Messages(octets) {
        read(&message);
    }
}

fn read(message: &Message<'_>) {
    nft::anything(message);
    drop((link::parse(message), link::event(message), neigh::parse(message)));
    drop((addr::parse(message), route::event(message), conntrack::parse(message)));
    drop(socket::parse_error(message));
    let logged = nflog::packet(message, 0).map(|packet| packet.payload);
    let queued = nfqueue::packet(message, 0).map(|packet| packet.payload);
    for packet in logged.into_iter().chain(queued) {
        let _ = (headers::tuple(packet), headers::carried(packet));
    }
}

/// Good datagrams to start from: requests, whose attributes are those of the answers.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut tx = nft::Transaction::new(Family::Inet, "caracal");
    tx.add_table(0, Some("a table"));
    let base = BaseChain { kind: "filter".into(), hook: Hook::Forward, priority: 0, accept: true };
    let rules = vec![
        Rule::new().is_in(&[Field::Iif], "wl").verdict(nft::Verdict::Goto("judge")),
        Rule::new().ct_state(6).log("denied", 3).counter().verdict(nft::Verdict::Drop),
        Rule::new().limit_per_second(10, 5).set_mark_from(Field::Ip4Source, "cls4").comment("why"),
    ];
    let chain = Chain { name: "forward".into(), base: Some(base), rules };
    tx.add_chain(&chain);
    for rule in &chain.rules {
        tx.add_rule("forward", rule);
    }
    tx.add_set(&Set::new("cls4", &[DataType::Ipv4Addr]).maps_to(Value::Data(DataType::Mark)));
    tx.add_set(&Set::new("egr", &[DataType::IfaceIndex, DataType::Mark]).maps_to(Value::Verdict));
    tx.add_element("wl", &Element::key(&[1, 0, 0, 0]), 0);
    let mut links = Batch::new();
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    addr::add(&mut links, &addr::Address { index: 2, address, prefix_length: 24 });
    neigh::set(&mut links, &neigh::Neighbour { index: 2, address, mac: [2; 6] });
    let (batch, _) = tx.finish();
    [&*batch, &links].into_iter().filter_map(|batch| Some(batch.bytes().ok()?.to_vec())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One octet of a good datagram is another one, or the end is missing.
    #[test]
    fn what_is_damaged_does_no_harm() {
        for seed in seeds() {
            replies(&seed);
            for at in 0..seed.len() {
                replies(&seed[..at]);
                for octet in [0, 1, 4, 0x7f, 0x80, 0xff] {
                    let mut damaged = seed.clone();
                    damaged[at] = octet;
                    replies(&damaged);
                }
            }
        }
    }
}
