use super::*;
use crate::pool::tests::pool;
use crate::store::memory::MemoryStore;

fn service(name: &str) -> Service {
    let uid = "3f0c1c0e-6a0b-4a57-9a0b-0d7a1c2b3e4f".to_owned();
    Service { namespace: "default".to_owned(), name: name.to_owned(), uid }
}

fn now() -> Timestamp {
    "2026-08-22T13:33:20.5Z".parse().unwrap()
}

fn services_pool(name: &str, cidr: &str, block_size: u8) -> Pool {
    let allowed_uses = vec![AllowedUse::LoadBalancer];
    Pool { block_size, allowed_uses, ..pool(name, cidr) }
}

fn any() -> Wish {
    Wish::Any(Family::V4, Vec::new())
}

#[test]
fn handles_are_calicos() {
    // sha256("web-default-3f0c…") in base64url begins with these letters; it has a `-` or `_` in it.
    for (bytes, text) in [
        (&b""[..], ""),
        (b"f", "Zg"),
        (b"fo", "Zm8"),
        (b"foo", "Zm9v"),
        (b"foob", "Zm9vYg"),
        (&[0xfb, 0xff, 0xfe], ""),
        (&[0xfb, 0xf0, 0x00], "AA"),
    ] {
        assert_eq!(letters(bytes), text, "{bytes:?}");
    }
    assert_eq!(service("web").handle(), service("WEB").handle(), "in lower case");
    assert_eq!(service("web").handle(), "lb-yHzn6jVEbORYIezHvgkhEUwsvt1jzun8pgwA306sss");
}

#[tokio::test]
async fn keys_and_values_are_calicos() {
    let store = MemoryStore::default();
    let services = Services::new(Arc::new(store.clone()));
    let pools = [services_pool("lb", "192.0.2.0/30", 30), services_pool("lb6", "fd00::/126", 126)];
    let rules = Rules { pools: &pools, reservations: &[], config: None };
    let given = services.assign(&service("web"), &any(), None, &rules, now()).await.unwrap();
    assert_eq!(given.to_string(), "192.0.2.0");
    let six = Wish::Address("fd00::2".parse().unwrap());
    services.assign(&service("web"), &six, None, &rules, now()).await.unwrap();
    let handle = service("web").handle();
    let block = |cidr: &str, at: usize| {
        let mut allocations = ["null"; 4];
        allocations[at] = "0";
        let free: Vec<String> = (0..4).filter(|n| *n != at).map(|n| n.to_string()).collect();
        format!(
            r#"{{"cidr":"{cidr}","affinity":"virtual:load-balancer","affinity_claim_time":"2026-08-22T13:33:20Z","allocations":[{}],"unallocated":[{}],"attributes":[{{"handle_id":"{handle}","secondary":{{"namespace":"default","service":"web","timestamp":"2026-08-22 13:33:20.5 +0000 UTC","type":"LoadBalancer"}}}}],"sequenceNumber":1787405600500000001,"sequenceNumberForAllocation":{{"{at}":1787405600500000000}},"deleted":false}}"#,
            allocations.join(","),
            free.join(",")
        )
    };
    let confirmed = r#"{"state":"confirmed","deleted":false}"#.to_owned();
    let wanted = [
        ("/calico/ipam/v2/assignment/ipv4/block/192.0.2.0-30", block("192.0.2.0/30", 0)),
        ("/calico/ipam/v2/assignment/ipv6/block/fd00::-126", block("fd00::/126", 2)),
        (
            &format!("/calico/ipam/v2/handle/{handle}"),
            r#"{"block":{"192.0.2.0/30":1,"fd00::/126":1},"deleted":false}"#.to_owned(),
        ),
        ("/calico/ipam/v2/virtual/load-balancer/ipv4/block/192.0.2.0-30", confirmed.clone()),
        ("/calico/ipam/v2/virtual/load-balancer/ipv6/block/fd00::-126", confirmed),
    ];
    let found: Vec<(String, String)> = store
        .list("/", None)
        .await
        .unwrap()
        .entries
        .into_iter()
        .map(|entry| (entry.key, String::from_utf8_lossy(&entry.value).into_owned()))
        .collect();
    let wanted: Vec<_> = wanted.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    assert_eq!(found, wanted);
}
