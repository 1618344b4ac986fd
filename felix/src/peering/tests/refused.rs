//! What cannot be honoured.

use super::*;

#[test]
fn what_cannot_be_honoured_is_named_and_disturbs_nothing_else() {
    let password = |name: &str| {
        Some(v3::BGPPassword {
            secret_key_ref: Some(v3::SecretKeyRef {
                name: name.into(),
                key: "password".into(),
                ..Default::default()
            }),
        })
    };
    let mut updates = three_nodes();
    updates.extend([
        no_mesh(),
        peer("bad-ip", tor("10.1.0")),
        peer(
            "bad-selector",
            v3::BGPPeerSpec { node_selector: "rack ==".into(), ..tor("10.1.0.3") },
        ),
        peer("good", tor("10.1.0.1")),
        peer("no-asn", v3::BGPPeerSpec { as_number: None, ..tor("10.1.0.2") }),
        peer("no-secret", v3::BGPPeerSpec { password: password("gone"), ..tor("10.1.0.4") }),
        peer("secret", v3::BGPPeerSpec { password: password("keys"), ..tor("10.1.0.5") }),
        peer("secret-not", tor("10.1.0.5:1179")),
    ]);
    updates.push(Update::Set(Object::Secret(Secret {
        key: ObjectKey::namespaced("caracal-system", "keys"),
        data: [("password".to_owned(), b"hunter2".to_vec())].into(),
    })));
    let plan = plan(updates);
    plan.config.validate().unwrap();
    let names: Vec<_> = plan.config.peers.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["good", "secret"]);
    assert!(plan.config.peers[1].password.is_some());
    let problems: Vec<_> = plan.problems.iter().map(|p| (p.object.as_str(), p.field)).collect();
    assert_eq!(
        problems,
        [
            ("BGPPeer/bad-ip", "spec.peerIP"),
            ("BGPPeer/bad-selector", "spec.nodeSelector"),
            ("BGPPeer/no-asn", "spec.asNumber"),
            ("BGPPeer/no-secret", "spec.password.secretKeyRef"),
            ("BGPPeer/secret-not", "spec.password.secretKeyRef"),
        ]
    );
    assert!(!format!("{plan:?}").contains("hunter2"), "a password never shows");
}

#[test]
fn a_value_that_the_speaker_refuses_costs_only_its_own_session() {
    let time = |seconds| Some(v3::Duration(std::time::Duration::from_secs(seconds)));
    let asn = |asn| Some(v3::AsNumber(asn));
    let cases = [
        (
            v3::BGPPeerSpec { max_restart_time: time(4096), ..tor("10.1.0.9") },
            "spec.maxRestartTime",
        ),
        (
            v3::BGPPeerSpec { max_restart_time: time(99_999), ..tor("10.1.0.9") },
            "spec.maxRestartTime",
        ),
        (v3::BGPPeerSpec { ttl_security: Some(255), ..tor("10.1.0.9") }, "spec.ttlSecurity"),
        (v3::BGPPeerSpec { as_number: asn(23456), ..tor("10.1.0.9") }, "spec.asNumber"),
        (v3::BGPPeerSpec { as_number: asn(u32::MAX), ..tor("10.1.0.9") }, "spec.asNumber"),
        (v3::BGPPeerSpec { local_as_number: asn(23456), ..tor("10.1.0.9") }, "spec.localASNumber"),
        (tor("0.0.0.0"), "spec.peerIP"),
        (tor("224.0.0.5"), "spec.peerIP"),
        (tor("255.255.255.255"), "spec.peerIP"),
        (tor("::"), "spec.peerIP"),
        (tor("ff02::5"), "spec.peerIP"),
    ];
    for (spec, field) in cases {
        let shown = format!("{spec:?}");
        let mut updates = three_nodes();
        updates.extend([peer("bad", spec), peer("good", tor("10.1.0.1"))]);
        let plan = plan(updates);
        plan.config.validate().unwrap();
        let names: Vec<_> = plan.config.peers.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["Mesh_node2", "good", "Mesh_node3"], "{shown}");
        let [problem] = &plan.problems[..] else { panic!("{shown}: {:?}", plan.problems) };
        assert_eq!((problem.object.as_str(), problem.field), ("BGPPeer/bad", field), "{shown}");
    }
}

#[test]
fn a_node_that_cannot_be_a_peer_costs_only_its_own_session() {
    for (asn, ipv4, field) in [
        (Some(23456), "10.0.0.2", "metadata.annotations[projectcalico.org/ASNumber]"),
        (Some(u32::MAX), "10.0.0.2", "metadata.annotations[projectcalico.org/ASNumber]"),
        (None, "0.0.0.0", "metadata.annotations[projectcalico.org/IPv4Address]"),
    ] {
        let mut bad = node("node2", Some(ipv4), None, &[("rack", "2")]);
        bad.as_number = asn;
        let mut updates = three_nodes();
        let nodes =
            v3::BGPPeerSpec { peer_selector: "rack == '2'".into(), ..v3::BGPPeerSpec::default() };
        updates.extend([Update::Set(Object::Node(bad)), peer("nodes", nodes)]);
        let plan = plan(updates);
        plan.config.validate().unwrap();
        let names: Vec<_> = plan.config.peers.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["Node_node3"]);
        let problems: Vec<_> = plan.problems.iter().map(|p| (p.object.as_str(), p.field)).collect();
        assert_eq!(problems, [("Node/node2", field)], "said once");
    }
}

#[test]
fn a_reserved_as_of_our_own_leaves_the_clusters() {
    let mut own = node("node1", Some("10.0.0.1"), None, &[]);
    own.as_number = Some(23456);
    let mut updates = three_nodes();
    let spec = v3::BGPConfigurationSpec {
        as_number: Some(v3::AsNumber(u32::MAX)),
        node_mesh_max_restart_time: Some(v3::Duration(std::time::Duration::from_secs(5000))),
        ..v3::BGPConfigurationSpec::default()
    };
    updates.extend([Update::Set(Object::Node(own)), configuration("default", spec)]);
    let plan = plan(updates);
    plan.config.validate().unwrap();
    assert_eq!(plan.config.asn, 64512);
    assert_eq!(plan.config.peers[0].asn, 64512);
    assert_eq!(plan.config.peers[0].restart_time, None);
    let problems: Vec<_> = plan.problems.iter().map(|p| (p.object.as_str(), p.field)).collect();
    assert_eq!(
        problems,
        [
            ("BGPConfiguration/default", "spec.asNumber"),
            ("BGPConfiguration/default", "spec.nodeMeshMaxRestartTime"),
            ("Node/node1", "metadata.annotations[projectcalico.org/ASNumber]"),
        ]
    );
}
