//! What the program says of addresses that Services hold.

use std::time::{Duration, SystemTime};

use ipam::services::{Rules, Service, Services, Wish};
use ipam::{AllowedUse, Family, Pool};

use super::*;

const POOLS: &str = "\
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: services}
spec: {cidr: 192.0.2.0/28, blockSize: 30, allowedUses: [LoadBalancer]}
";

/// All pods, and none of them has an address of a Service.
const PODS: &str = "\
kind: List
items:
- {kind: Pod, metadata: {name: a, namespace: default}, status: {phase: Running, podIP: 10.0.0.1}}
- {kind: Node, metadata: {name: n1}}
- {kind: Namespace, metadata: {name: default}}
";

#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_services_are_shown_and_are_not_leaked() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let [file, pools, pods] = ["ipam.redb", "pools.yaml", "pods.yaml"].map(path);
    std::fs::write(&pools, POOLS).unwrap();
    std::fs::write(&pods, PODS).unwrap();
    let [namespace, name, uid] = ["default", "web", "1"].map(str::to_owned);
    let web = Service { namespace, name, uid };
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(&file).unwrap());
    let allowed_uses = vec![AllowedUse::LoadBalancer];
    let known = [Pool { allowed_uses, ..pool("services", "192.0.2.0/28", 30) }];
    let rules = Rules { pools: &known, reservations: &[], config: None };
    // Far older than what counts as young.
    let born = SystemTime::now() - Duration::from_secs(86_400);
    let wish = Wish::Any(Family::V4, Vec::new());
    let address =
        Services::new(store).assign(&web, &wish, None, &rules, born.into()).await.unwrap();

    let run = |arguments: &[&str]| {
        let access = ["--embedded", file.to_str().unwrap(), "--pools", pools.to_str().unwrap()];
        let (code, out, err) = ipam(&[&access, arguments].concat());
        assert_eq!(code, 0, "{arguments:?}: {out}{err}");
        out
    };
    let pods = pods.to_str().unwrap();
    let checked: Value =
        serde_json::from_str(&run(&["-o", "json", "check", "--pods", pods])).unwrap();
    let allocation = &checked["allocations"][address.to_string()][0];
    assert_eq!(checked["problems"], serde_json::json!([]));
    assert_eq!(allocation["type"], "LoadBalancer");
    assert_eq!(allocation["allocatedTo"], "default/web");
    assert_eq!((&allocation["inUse"], &allocation["borrowed"]), (&true.into(), &false.into()));
    assert!(run(&["gc", "--pods", pods]).starts_with("Releasing 0 old IPs"));
    let shown = run(&["show", &format!("--ip={address}")]);
    assert!(shown.contains("service: web") && shown.contains(&web.handle()), "{shown}");
    assert!(!run(&["show", "--show-borrowed"]).contains(&address.to_string()));
    assert!(run(&["show", "--show-blocks"]).contains("| Block    | 192.0.2."));

    // An administrator may take it away; it rests.
    let handle = format!("--handle={}", web.handle());
    let released = run(&["release", &format!("--ip={address}"), &handle]);
    assert_eq!(released, format!("Successfully released IP address {address}\n"));
    let checked: Value = serde_json::from_str(&run(&["-o", "json", "check"])).unwrap();
    assert_eq!(checked["problems"], serde_json::json!([]));
    assert_eq!(checked["handles"], 0);
}
