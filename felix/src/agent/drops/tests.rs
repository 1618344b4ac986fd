use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use api::v3;
use serde_json::json;
use smallvec::SmallVec;

use super::*;
use crate::config::FlowRecordsConfig;
use crate::engine::HostLink;
use crate::model::host::InterfaceName;
use crate::model::{EndpointId, IfIndex, Labels, LocalEndpoint, Node, Object, Update};

const INDEX: IfIndex = 7;

fn record(pod: &str) -> DroppedPacket {
    let end = |name: &str, address: &str, port| PacketEnd {
        name: Some(name.into()),
        address: address.parse().unwrap(),
        port: Some(port),
    };
    DroppedPacket {
        time: SystemTime::UNIX_EPOCH.into(),
        protocol: "TCP".into(),
        source: end(pod, "10.0.0.1", 1),
        destination: end("shop/api", "10.0.0.2", 2),
        icmp_type: None,
        icmp_code: None,
        established: false,
        denied: None,
        staged: None,
    }
}

fn drops() -> Drops {
    Drops::new(DeniedMonitor::default())
}

fn after(place: Place) -> DropsQuestion {
    DropsQuestion { after: Some(place), ..DropsQuestion::default() }
}

#[tokio::test]
async fn the_last_thousand_are_kept_and_what_is_forgotten_is_counted() {
    let drops = drops();
    drops.denied.add((0..3).map(|_| record("shop/web")));
    let all = drops.answer("n1", &DropsQuestion::default()).await;
    assert_eq!((all.packets.len(), all.forgotten, all.next.number), (3, 0, 3));
    drops.denied.add((0..KEPT + 7).map(|_| record("shop/web")));
    let rest = drops.answer("n1", &after(all.next)).await;
    assert_eq!((rest.packets.len(), rest.forgotten), (KEPT, 7));
    assert_eq!(rest.next.number, 3 + KEPT as u64 + 7);
    // The place of another start of the agent: all that there is.
    let other = Place { start: rest.next.start + 1, number: rest.next.number };
    let all = drops.answer("n1", &after(other)).await;
    assert_eq!((all.packets.len(), all.forgotten), (KEPT, 0));
}

#[tokio::test]
async fn a_pod_is_told_of_its_own_and_goes_on_behind_the_others() {
    let drops = drops();
    drops.denied.add(["shop/web", "default/web", "shop/web"].map(record));
    for (pod, number) in [("shop/web", 2), ("web", 1), ("shop/api", 3), ("api", 0)] {
        let question = DropsQuestion { pod: Some(pod.into()), ..DropsQuestion::default() };
        let report = drops.answer("n1", &question).await;
        assert_eq!((report.packets.len(), report.next.number), (number, 3), "{pod}");
    }
}

#[tokio::test]
async fn a_follower_is_told_as_soon_as_there_is_something() {
    let drops = Arc::new(drops());
    let start = drops.answer("n1", &DropsQuestion::default()).await.next;
    let follower = tokio::spawn({
        let drops = Arc::clone(&drops);
        async move { drops.answer("n1", &after(start)).await }
    });
    drops.denied.add([record("shop/web")]);
    assert_eq!(follower.await.unwrap().packets.len(), 1);
}

#[tokio::test]
async fn an_answer_fits_in_a_message_and_the_next_one_goes_on() {
    let drops = drops();
    let long = |n: usize| record(&format!("shop/{}{n}", "x".repeat(4000)));
    drops.denied.add((0..KEPT).map(long));
    let (mut seen, mut question) = (Vec::new(), DropsQuestion::default());
    while seen.len() < KEPT {
        let report = drops.answer("n1", &question).await;
        assert!(serde_json::to_vec(&report).unwrap().len() < MAX_MESSAGE);
        assert!(!report.packets.is_empty() && report.forgotten == 0);
        seen.extend(report.packets);
        question = after(report.next);
    }
    assert_eq!(seen, (0..KEPT).map(long).collect::<Vec<_>>());
}

#[test]
fn the_metric_does_not_grow_without_bound() {
    let mut counts = Counts { metrics: DeniedMetrics::default(), known: HashSet::new() };
    let denial = |n: usize| Denial {
        direction: Direction::Egress,
        endpoint: "shop/web".into(),
        tier: Some("default".into()),
        policy: Some(format!("NetworkPolicy shop/{n}")),
        rule: None,
        selected_by: Vec::new(),
    };
    for n in 0..LABELS + 50 {
        counts.count(labels(Some(&denial(n))), |metrics| &metrics.packets);
    }
    counts.count(labels(Some(&denial(0))), |metrics| &metrics.packets);
    counts.count(labels(None), |metrics| &metrics.packets);
    let count = |labels: DeniedLabels| counts.metrics.packets.get_or_create(&labels).get();
    assert_eq!(count(labels(Some(&denial(0)))), 2);
    let others =
        DeniedLabels { tier: String::new(), policy: "others".into(), ..labels(Some(&denial(0))) };
    assert_eq!(count(others), 50);
}

/// Pod shop/api of this node, node2, and pod shop/web of that; nothing but TCP to port 80 reaches api.
fn parts() -> (Engine, Peering) {
    let (mut engine, mut peering) = (Engine::new(), Peering::new("node1", "caracal-system"));
    engine.endpoint_set(LocalEndpoint {
        id: EndpointId { container_id: "c1".into(), ifname: "eth0".into() },
        namespace: "shop".into(),
        pod: "api".into(),
        pod_uid: String::new(),
        netns: String::new(),
        host_interface: "cali1".into(),
        host_index: INDEX,
        mac: [2, 0, 0, 0, 0, 1],
        addresses: SmallVec::from_iter(["10.0.0.1".parse().unwrap()]),
        handle: String::new(),
        mtu: 1500,
        labels: BTreeMap::new(),
        service_account: String::new(),
    });
    let policy = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec: {podSelector: {}, ingress: [{ports: [{port: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec: {nodeName: node2, containers: []}
status: {podIP: 10.0.1.1, podIPs: [{ip: 10.0.1.1}]}
";
    let objects = crate::source::objects(policy).unwrap();
    let node = Object::Node(Node {
        name: "node2".into(),
        labels: Labels::default(),
        ipv4: "172.16.0.2".parse().ok(),
        ipv6: None,
        addresses: Default::default(),
        internal: Arc::default(),
        as_number: None,
        route_reflector_cluster_id: None,
        unschedulable: false,
        pod_cidrs: Arc::default(),
    });
    for update in objects.into_iter().chain([node]).map(Update::Set).chain([Update::InSync]) {
        peering.apply(&update);
        engine.apply(update);
    }
    drop(engine.take_delta());
    (engine, peering)
}

fn packet(source: &str, port: u16) -> DeniedPacket {
    DeniedPacket {
        flow: Flow {
            protocol: 6,
            source: source.parse().unwrap(),
            destination: "10.0.0.1".parse().unwrap(),
            source_port: 50000,
            destination_port: port,
        },
        fate: Fate::Denied,
        hook: Some(Hook::Forward),
        input: Some(2),
        output: Some(INDEX),
        time: SystemTime::UNIX_EPOCH,
    }
}

#[test]
fn packets_have_the_names_of_both_sides_and_of_who_denied_them() {
    let (engine, peering) = parts();
    let packets = [
        packet("10.0.1.1", 22),
        packet("172.16.0.2", 22),
        packet("192.0.2.9", 22),
        packet("10.0.1.1", 80),
    ];
    let records = attribute(&packets, &engine, &Staged::default(), &peering).denied;
    let names: Vec<_> = records.iter().map(|record| record.source.name.as_deref()).collect();
    assert_eq!(names, [Some("shop/web"), Some("node/node2"), None, Some("shop/web")]);
    for record in &records[..3] {
        assert_eq!(record.destination.name.as_deref(), Some("shop/api"));
        let denial = record.denied.as_ref().unwrap();
        assert_eq!((denial.direction, denial.endpoint.as_str()), (Direction::Ingress, "shop/api"));
        assert_eq!((denial.tier.as_deref(), denial.policy.as_deref()), (Some("default"), None));
        assert_eq!(denial.selected_by, ["KubernetesNetworkPolicy shop/web"]);
    }
    // It is allowed by now.
    assert_eq!(records[3].denied, None);
    // It came by another way than policy looks at.
    let foreign = DeniedPacket { output: Some(INDEX + 1), ..packets[0].clone() };
    assert_eq!(attribute(&[foreign], &engine, &Staged::default(), &peering).denied[0].denied, None);
}

/// Where the kernel denied it says which of the host endpoint's policies are asked.
#[test]
fn a_host_endpoint_denies_where_the_kernel_met_the_packet() {
    let (mut engine, peering) = parts();
    engine.set_node("node1", "cali");
    let name = InterfaceName::new("eth0").unwrap();
    engine.set_host_links(vec![HostLink { name, index: 2, addresses: Vec::new() }]);
    let spec = json!({"node": "node1", "interfaceName": "eth0"});
    let uplink = v3::HostEndpoint::new("uplink", serde_json::from_value(spec).unwrap());
    let policy = |name: &str, spec| {
        v3::GlobalNetworkPolicy::new(name, serde_json::from_value(spec).unwrap()).into()
    };
    let closes = |port: u16| {
        json!([{"action": "Allow", "protocol": "UDP"},
        {"action": "Deny", "protocol": "TCP", "destination": {"ports": [port]}}])
    };
    let objects: [Object; 4] = [
        uplink.into(),
        policy("through", json!({"selector": "!all()", "ingress": closes(1)})),
        policy(
            "own",
            json!({"selector": "!has(app)", "applyOnForward": true, "ingress": closes(81)}),
        ),
        policy(
            "early",
            json!({"selector": "!has(app)", "applyOnForward": true, "preDNAT": true,
            "ingress": closes(82)}),
        ),
    ];
    objects.into_iter().for_each(|object| engine.apply(Update::Set(object)));
    drop(engine.take_delta());
    let met =
        |hook, port, output| DeniedPacket { hook: Some(hook), output, ..packet("192.0.2.9", port) };
    let packets = [
        met(Hook::Input, 81, None),
        met(Hook::Forward, 90, Some(INDEX)),
        met(Hook::Prerouting, 82, None),
        met(Hook::Input, 82, None),
        DeniedPacket { input: None, ..met(Hook::Postrouting, 82, Some(2)) },
        met(Hook::Prerouting, 81, None),
    ];
    let said: Vec<_> = attribute(&packets, &engine, &Staged::default(), &peering)
        .denied
        .into_iter()
        .map(|record| record.to_string().rsplit_once(": ").unwrap().1.to_owned())
        .collect();
    let ingress = "ingress of HostEndpoint uplink denied by";
    let by_tier =
        format!("{ingress} the default action of tier default, no rule of GlobalNetworkPolicy own");
    assert_eq!(
        said,
        [
            format!("{ingress} spec.ingress[1] of GlobalNetworkPolicy own in tier default"),
            by_tier.clone(),
            format!("{ingress} spec.ingress[1] of GlobalNetworkPolicy early in tier default"),
            by_tier,
            "egress of HostEndpoint uplink denied by its profiles, which do not allow it".into(),
            "denied; policy may have changed since".into(),
        ]
    );
}

#[test]
fn an_answer_in_a_flow_that_was_cut_is_judged_as_its_first_packet_would_be() {
    let (engine, peering) = parts();
    let first = packet("10.0.1.1", 22).flow;
    let answer = DeniedPacket {
        flow: reversed(&first),
        fate: Fate::Cut,
        input: Some(INDEX),
        output: Some(2),
        ..packet("10.0.1.1", 22)
    };
    let [record] =
        &attribute(std::slice::from_ref(&answer), &engine, &Staged::default(), &peering).denied[..]
    else {
        panic!()
    };
    assert_eq!(record.source.name.as_deref(), Some("shop/api"));
    assert!(record.established);
    assert_eq!(record.denied.as_ref().unwrap().direction, Direction::Ingress);
    let new = DeniedPacket { fate: Fate::Denied, ..answer };
    assert_eq!(attribute(&[new], &engine, &Staged::default(), &peering).denied[0].denied, None);
}

/// Everything from the queue to the records, with a brain that only answers.
#[tokio::test]
async fn packets_go_through_the_brain_in_bounded_questions() {
    let (engine, peering) = parts();
    let (sender, denied, monitor) = Denied::by_hand(QUEUE);
    let drops = Arc::new(Drops::new(monitor));
    let (brain, mut commands) = mpsc::channel(8);
    let most = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&most);
    let answering = tokio::spawn(async move {
        while let Some(command) = commands.recv().await {
            if let Command::Denied { packets, reply } = command {
                seen.fetch_max(packets.len(), Ordering::Relaxed);
                answer(&packets, (&engine, &Staged::default()), &peering, reply);
            }
        }
    });
    for _ in 0..300 {
        sender.send(packet("10.0.1.1", 22)).await.unwrap();
    }
    let stop = CancellationToken::new();
    let metrics = DeniedMetrics::default();
    let folder = tempfile::tempdir().unwrap();
    let config = FlowRecordsConfig { file: folder.path().join("flows"), max_bytes: 1 << 20 };
    let file = RecordFile::new("node1", &config);
    let task = run(
        denied,
        Arc::clone(&drops),
        brain.downgrade(),
        metrics.clone(),
        Some(file),
        stop.clone(),
    );
    let task = tokio::spawn(task);
    let mut told = drops.denied.told.subscribe();
    tokio::time::timeout(Duration::from_secs(30), told.wait_for(|number| *number == 300))
        .await
        .unwrap()
        .unwrap();
    assert!(most.load(Ordering::Relaxed) <= BATCH);
    let record = drops.denied.recent().records.back().cloned().unwrap();
    assert_eq!(metrics.packets.get_or_create(&labels(record.denied.as_ref())).get(), 300);
    let written = std::fs::read_to_string(&config.file).unwrap();
    assert_eq!(written.lines().count(), 300);
    let line: serde_json::Value = serde_json::from_str(written.lines().next().unwrap()).unwrap();
    assert_eq!((&line["node"], &line["denied"]["tier"]), (&"node1".into(), &"default".into()));
    stop.cancel();
    task.await.unwrap().unwrap();
    drop(brain);
    answering.await.unwrap();
}

#[test]
fn what_staged_policies_would_do_is_told_of_what_they_would_change_alone() {
    let (engine, peering) = parts();
    let mut staged = Staged::default();
    let tried = "apiVersion: projectcalico.org/v3
kind: StagedKubernetesNetworkPolicy
metadata: {name: web, namespace: shop}
spec: {podSelector: {}, ingress: [{ports: [{port: 22}]}]}
";
    for object in crate::source::objects(tried).unwrap() {
        staged.apply(&Update::Set(object), &engine);
    }
    let sample = |port, fate| DeniedPacket { fate, ..packet("10.0.1.1", port) };
    let packets = [
        sample(22, Fate::Denied),
        sample(23, Fate::Denied),
        sample(80, Fate::Allowed),
        // Policy has changed since.
        sample(22, Fate::Allowed),
        sample(80, Fate::Denied),
    ];
    assert_eq!(attribute(&packets, &engine, &staged, &peering).staged, []);
    staged.settle(&engine);
    let records = attribute(&packets, &engine, &staged, &peering);
    let ports = |records: &[DroppedPacket]| -> Vec<_> {
        records.iter().map(|record| record.destination.port.unwrap()).collect()
    };
    assert_eq!(ports(&records.denied), [22, 23, 80]);
    assert_eq!(ports(&records.staged), [22, 80]);
    assert_eq!(records.staged[0].staged, Some(Would::Allow));
    assert_eq!(staged_labels(&records.staged[0]).policy, "allow");
    let Some(Would::Deny(denial)) = &records.staged[1].staged else { panic!("{records:?}") };
    assert_eq!(denial.selected_by, ["StagedKubernetesNetworkPolicy shop/web"]);
    assert_eq!(records.staged[1].denied, None);
}

#[test]
fn the_file_of_records_is_bounded_and_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flows.jsonl");
    let config = FlowRecordsConfig { file: path.clone(), max_bytes: 2000 };
    let lines = |name: &str| -> usize {
        std::fs::read_to_string(folder.path().join(name)).map_or(0, |text| text.lines().count())
    };
    let mut file = RecordFile::new("node1", &config);
    for _ in 0..100 {
        file.append(&[record("shop/web")]);
    }
    let (now, before) = (lines("flows.jsonl"), lines("flows.jsonl.1"));
    assert!(now > 0 && before > 1 && now + before < 100, "{now} {before}");
    for name in ["flows.jsonl", "flows.jsonl.1"] {
        let length = std::fs::metadata(folder.path().join(name)).unwrap().len();
        assert!(length <= 2000, "{name}: {length}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    // One that is there already is gone on with.
    std::fs::write(&path, "").unwrap();
    RecordFile::new("node1", &config).append(&[record("shop/web")]);
    RecordFile::new("node1", &config).append(&[record("shop/web")]);
    assert_eq!(lines("flows.jsonl"), 2);
    // A folder that is away for a while costs what came meanwhile, no more.
    let mut lost = RecordFile::new(
        "node1",
        &FlowRecordsConfig { file: folder.path().join("none/flows"), max_bytes: 2000 },
    );
    lost.append(&[record("shop/web")]);
    std::fs::create_dir(folder.path().join("none")).unwrap();
    lost.append(&[record("shop/web")]);
    assert_eq!(lines("none/flows"), 1);
}
