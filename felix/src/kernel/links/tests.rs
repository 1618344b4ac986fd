use smallvec::SmallVec;

use super::*;
use crate::model::EndpointId;

/// An endpoint whose pod's namespace is the one of a thread that waits.
fn endpoint(netns: &str, index: IfIndex) -> LocalEndpoint {
    LocalEndpoint {
        id: EndpointId { container_id: format!("c{index}"), ifname: "eth0".into() },
        namespace: "default".into(),
        pod: "web".into(),
        pod_uid: String::new(),
        netns: netns.into(),
        host_interface: format!("cali{index}"),
        host_index: index,
        mac: [2, 0, 0, 0, 0, 9],
        addresses: SmallVec::from_iter(["10.244.0.9", "fd00::9"].map(|ip| ip.parse().unwrap())),
        handle: "h".into(),
        mtu: 1450,
        labels: std::collections::BTreeMap::new(),
        service_account: String::new(),
    }
}

/// Runs in a host's namespace, with the path of a pod's and a handle of it.
fn with_pod(work: impl FnOnce(&mut Plumber, &str, &Netns) + Send) {
    let pod = Netns::create().unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&pod.as_fd()));
    let run = || work(&mut Plumber::new().unwrap(), &path, &pod);
    Netns::create().unwrap().run(run).unwrap();
}

fn ip(args: &[&str]) -> String {
    let done = std::process::Command::new("ip").args(args).output().unwrap();
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// What the writer of routes does.
fn add_routes(endpoint: &LocalEndpoint) {
    for address in &endpoint.addresses {
        ip(&["route", "add", &address.to_string(), "dev", &endpoint.host_interface]);
    }
}

#[test]
fn a_link_is_complete_and_check_tells_what_is_missing() {
    with_pod(|plumber, path, pod| {
        let endpoint = endpoint(path, 1_000_001);
        plumber.create(&endpoint).unwrap();
        add_routes(&endpoint);
        assert_eq!(plumber.check(&endpoint).unwrap(), Vec::<String>::new());
        let inside = |args: &[&str]| pod.run(|| ip(args)).unwrap();
        let addresses = inside(&["-br", "addr", "show", "eth0"]);
        assert!(addresses.contains("10.244.0.9/32") && addresses.contains("fd00::9/128"));
        let routes = inside(&["route"]) + &inside(&["-6", "route"]);
        assert!(routes.contains("default via 169.254.1.1"), "{routes}");
        assert!(routes.contains("default via fe80::ecee:eeff:feee:eeee"), "{routes}");
        assert!(inside(&["neigh"]).contains("ee:ee:ee:ee:ee:ee"));

        for (damage, word) in [
            (&["route", "del", "default"][..], "0.0.0.0/0"),
            (&["addr", "del", "10.244.0.9/32", "dev", "eth0"][..], "10.244.0.9"),
            (&["link", "set", "eth0", "mtu", "1400"][..], "MTU"),
        ] {
            inside(damage);
            let differences = plumber.check(&endpoint).unwrap().join("; ");
            assert!(differences.contains(word), "{damage:?}: {differences}");
        }
        plumber.delete(std::slice::from_ref(&endpoint.host_interface)).unwrap();
        assert!(plumber.list().unwrap().is_empty());
        assert!(!inside(&["-br", "link"]).contains("eth0"), "the pair goes as one");
        let differences = plumber.check(&endpoint).unwrap().join("; ");
        assert!(differences.contains(&endpoint.host_interface), "{differences}");
        // Gone already is no error.
        plumber.delete(&[endpoint.host_interface]).unwrap();
    });
}

#[test]
fn after_an_error_nothing_is_left() {
    with_pod(|plumber, path, pod| {
        let mut wrong = endpoint(path, 1_000_002);
        // Too small for IPv6, which is found out when half of it is there.
        wrong.mtu = 1000;
        plumber.create(&wrong).unwrap_err();
        assert!(plumber.list().unwrap().is_empty());
        assert!(!pod.run(|| ip(&["-br", "link"])).unwrap().contains("eth0"));

        let missing = endpoint("/proc/self/fd/99999", 1_000_003);
        let error = plumber.create(&missing).unwrap_err().to_string();
        assert!(error.contains("/proc/self/fd/99999"), "{error}");
        let error = plumber.create(&endpoint("/proc/thread-self/ns/net", 1_000_004)).unwrap_err();
        assert!(error.to_string().contains("the host's own"), "{error}");
    });
}

#[test]
fn a_living_link_is_not_replaced() {
    with_pod(|plumber, path, _| {
        let first = endpoint(path, 1_000_005);
        plumber.create(&first).unwrap();
        add_routes(&first);
        let second = LocalEndpoint { host_index: 1_000_006, ..first.clone() };
        assert!(matches!(plumber.create(&second), Err(Error::Exists(_))));
        assert_eq!(plumber.check(&first).unwrap(), Vec::<String>::new());
    });
}
