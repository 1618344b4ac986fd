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

/// Both halves, one after the other.
fn create(plumber: &mut Plumber, endpoint: &LocalEndpoint) -> Result<(), Error> {
    let link = plumber.prepare(endpoint)?;
    plumber.open(link, endpoint)
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
        create(plumber, &endpoint).unwrap();
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
        plumber.delete(&[LinkId::of(&endpoint)]).unwrap();
        assert!(plumber.list().unwrap().is_empty());
        assert!(!inside(&["-br", "link"]).contains("eth0"), "the pair goes as one");
        let differences = plumber.check(&endpoint).unwrap().join("; ");
        assert!(differences.contains(&endpoint.host_interface), "{differences}");
        // Gone already is no error.
        plumber.delete(&[LinkId::of(&endpoint)]).unwrap();
    });
}

#[test]
fn after_an_error_nothing_is_left() {
    with_pod(|plumber, path, pod| {
        let mut wrong = endpoint(path, 1_000_002);
        // Too small for IPv6, which is found out when half of it is there.
        wrong.mtu = 1000;
        create(plumber, &wrong).unwrap_err();
        assert!(plumber.list().unwrap().is_empty());
        assert!(!pod.run(|| ip(&["-br", "link"])).unwrap().contains("eth0"));

        let missing = endpoint("/proc/self/fd/99999", 1_000_003);
        let error = create(plumber, &missing).unwrap_err().to_string();
        assert!(error.contains("/proc/self/fd/99999"), "{error}");
        let error = create(plumber, &endpoint("/proc/thread-self/ns/net", 1_000_004)).unwrap_err();
        assert!(error.to_string().contains("the host's own"), "{error}");
    });
}

#[test]
fn a_living_link_is_not_replaced() {
    with_pod(|plumber, path, _| {
        let first = endpoint(path, 1_000_005);
        create(plumber, &first).unwrap();
        add_routes(&first);
        let second = LocalEndpoint { host_index: 1_000_006, ..first.clone() };
        assert!(matches!(create(plumber, &second), Err(Error::Exists(_))));
        // Nor does undoing the attempt take it away.
        plumber.delete(&[LinkId::of(&second)]).unwrap();
        assert_eq!(plumber.check(&first).unwrap(), Vec::<String>::new());
    });
}

#[test]
fn a_prepared_link_is_down_and_goes_with_its_namespace() {
    let pod = Netns::create().unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&pod.as_fd()));
    let run = || {
        let mut plumber = Plumber::new().unwrap();
        let endpoint = endpoint(&path, 1_000_007);
        let link = plumber.prepare(&endpoint).unwrap();
        assert!(!plumber.list().unwrap()[0].is_up());
        let inside = pod.run(|| ip(&["-br", "addr", "show", "eth0"])).unwrap();
        assert!(inside.contains("DOWN") && !inside.contains('/'), "{inside}");
        // An ADD that waits for its addresses holds on to the pod's namespace; not for ever.
        drop((pod, link));
        let gone = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !plumber.list().unwrap().is_empty() {
            assert!(std::time::Instant::now() < gone, "the link is still there");
            std::thread::yield_now();
        }
    };
    Netns::create().unwrap().run(run).unwrap();
}

#[test]
fn ipv6_is_switched_on_for_a_pod_that_has_an_address_of_it_only() {
    with_pod(|plumber, path, pod| {
        let off = || std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        pod.run(off).unwrap();
        let read = || std::fs::read_to_string("/proc/sys/net/ipv6/conf/eth0/disable_ipv6").unwrap();
        let mut one = endpoint(path, 1_000_008);
        one.addresses.retain(|address| address.is_ipv4());
        create(plumber, &one).unwrap();
        assert_eq!(pod.run(read).unwrap(), "1\n", "as the runtime has it");
        plumber.delete(&[LinkId::of(&one)]).unwrap();
        create(plumber, &endpoint(path, 1_000_009)).unwrap();
        assert_eq!(pod.run(read).unwrap(), "0\n");
    });
}
