//! Addresses for links of other main plugins.

use super::super::super::protocol::CniRequest;
use super::*;

fn lease(node: &Node, command: &str, id: &str, ifname: &str, more: &Value) -> Call {
    let mut config = json!({
        "cniVersion": "1.1.0", "name": "lan", "type": "bridge", "isGateway": true,
        "ipam": {"type": "caracal-ipam", "gateways": ["10.0.0.1", "fd00::1"]},
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    Call::parse_ipam(&CniRequest {
        command: command.into(),
        container_id: id.into(),
        netns: node.netns().display().to_string(),
        ifname: ifname.into(),
        args: "K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web".into(),
        config,
        ..CniRequest::default()
    })
    .unwrap()
}

async fn add(node: &Node, id: &str) -> Result<Option<Value>, Error> {
    node.serve(&lease(node, "ADD", id, "net1", &json!({}))).await
}

async fn del(node: &Node, id: &str) -> Result<Option<Value>, Error> {
    node.serve(&lease(node, "DEL", id, "net1", &json!({}))).await
}

#[tokio::test]
async fn a_lease_is_addresses_and_nothing_else() {
    let node = Node::new();
    let result = add(&node, "c1").await.unwrap().unwrap();
    // The first that the allocator has is the gateway's.
    assert_eq!(
        result,
        json!({"cniVersion": "1.1.0", "ips": [
            {"address": "10.0.0.2/16", "gateway": "10.0.0.1"},
            {"address": "fd00::2/64", "gateway": "fd00::1"},
        ]})
    );
    assert_eq!(node.attachments.ready(), []);
    let handles = node.attachments.handles().unwrap();
    assert_eq!(handles.into_iter().collect::<Vec<_>>(), ["lan.c1.net1"]);
    let addresses = ["10.0.0.2", "fd00::2"].map(|one| (one.parse().unwrap(), 7));
    assert_eq!(node.attachments.reached(), addresses);
    assert_eq!(node.fake.world().routes.len(), 2);

    let check =
        |result: &Value| lease(&node, "CHECK", "c1", "net1", &json!({"prevResult": result}));
    node.serve(&check(&result)).await.unwrap();
    let error =
        node.serve(&check(&json!({"ips": [{"address": "10.0.0.2/16"}]}))).await.unwrap_err();
    assert_eq!(
        (error.code, &*error.details),
        (code::CHECK_FAILED, "prevResult does not have fd00::2")
    );
    // It is no endpoint, whoever asks.
    let mut main = node.call_for("CHECK", "c1", "net1", "web", &json!({"prevResult": result}));
    main.config.prev_result = result;
    assert_eq!(node.serve(&main).await.unwrap_err().code, code::CHECK_FAILED);

    let error = add(&node, "c1").await.unwrap_err();
    assert_eq!(error.code, code::ALREADY_ATTACHED);
    del(&node, "c1").await.unwrap();
    del(&node, "c1").await.unwrap();
    let expected = [
        "pod web",
        "assign lan.c1.net1",
        "release lan.c1.net1",
        "assign lan.c1.net1",
        "lease Some(\"cni0\")",
        "remove ",
        "release lan.c1.net1",
        "release lan.c1.net1",
    ];
    assert_eq!(node.fake.calls(), expected);
    node.assert_nothing_left();
}

/// A pod with our link, and another plugin's beside it: each goes by itself.
#[tokio::test]
async fn leases_and_endpoints_of_a_container_are_apart_and_outlive_the_agent() {
    let mut node = Node::new();
    node.add("c1").await.unwrap();
    add(&node, "c1").await.unwrap();
    add(&node, "c2").await.unwrap();
    let world = node.fake.world();
    let reached = node.attachments.reached();
    assert_eq!((world.assigned.len(), world.links.len(), reached.len()), (3, 1, 4));
    node = node.restart();
    node.settle().await;
    assert_eq!(node.fake.world().assigned, world.assigned);
    assert_eq!(node.attachments.reached(), reached);
    assert_eq!(node.attachments.handles().unwrap().len(), 3);
    del(&node, "c1").await.unwrap();
    assert_eq!(node.attachments.ready().len(), 1);
    node.del("c1").await.unwrap();
    assert_eq!(
        node.attachments.handles().unwrap().into_iter().collect::<Vec<_>>(),
        ["lan.c2.net1"]
    );
    // After a boot nobody has it any more.
    let Node { fake, directory, attachments } = node;
    drop(attachments);
    drop(open(&directory.path().join("state")));
    let path = directory.path().join("state/endpoints.log");
    let (journal, loaded) = loop {
        match Journal::open(path.parent().unwrap(), "another boot") {
            Err(super::super::super::journal::OpenError::InUse(_)) => std::thread::yield_now(),
            other => break other.unwrap(),
        }
    };
    let attachments = Attachments::new(Arc::new(fake.clone()), journal, loaded, options());
    let node = Node { fake, directory, attachments: Arc::new(attachments) };
    node.settle().await;
    node.fake.0.lock().world.routes.clear();
    node.assert_nothing_left();
}

#[tokio::test]
async fn whatever_fails_is_undone() {
    for call in ["assign", "lease", "pod"] {
        let node = Node::new();
        node.fake.failing(&[call]);
        assert_eq!(add(&node, "c1").await.unwrap_err().code, code::TRY_AGAIN_LATER);
        node.assert_nothing_left();
    }
    // A gateway that no pool has.
    let node = Node::new();
    let elsewhere = json!({"ipam": {"gateways": ["10.9.0.1"]}});
    let error = node.serve(&lease(&node, "ADD", "c1", "net1", &elsewhere)).await.unwrap_err();
    assert_eq!(error.code, code::INVALID_CONFIG);
    // No address but gateways'.
    let gateways = ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7"];
    let all: Vec<&str> = gateways.into_iter().chain(["10.0.0.8", "10.0.0.9"]).collect();
    let none = json!({"isGateway": false, "ipam": {"gateways": all}});
    let error = node.serve(&lease(&node, "ADD", "c1", "net1", &none)).await.unwrap_err();
    assert!(error.details.contains("10.0.0.9 of 10.0.0.0/16 is a gateway's"), "{error}");
    // Asked for by name, and no container's.
    let wished = json!({"runtimeConfig": {"ips": ["10.0.0.0"]}});
    let error = node.serve(&lease(&node, "ADD", "c1", "net1", &wished)).await.unwrap_err();
    assert_eq!(error.code, code::INVALID_REQUEST);
    assert!(error.details.starts_with("10.0.0.0 of 10.0.0.0/16 is the network's own"), "{error}");
    node.assert_nothing_left();
}

#[tokio::test]
async fn del_succeeds_while_the_store_is_away_and_the_release_is_not_lost() {
    let mut node = Node::new();
    add(&node, "c1").await.unwrap();
    node.fake.failing(&["release"]);
    del(&node, "c1").await.unwrap();
    assert!(node.attachments.handles().unwrap().contains("lan.c1.net1"));
    assert_eq!(node.attachments.reached(), []);
    node = node.restart();
    node.fake.failing(&[]);
    node.settle().await;
    node.assert_nothing_left();
}

#[tokio::test]
async fn gc_takes_exactly_what_the_runtime_does_not_list() {
    let node = Node::new();
    for id in ["c1", "c2", "c3"] {
        add(&node, id).await.unwrap();
    }
    // Of the same network and container, with our link.
    node.serve(&node.call("ADD", "c3", &json!({"name": "lan"}))).await.unwrap();
    let gc = |kept: &[&str]| {
        let kept = kept.iter().map(|id| json!({"containerID": id, "ifname": "net1"}));
        let kept: Vec<Value> = kept.collect();
        lease(&node, "GC", "", "", &json!({"cni.dev/valid-attachments": kept}))
    };
    node.serve(&gc(&["c1", "c2"])).await.unwrap();
    let left: Vec<String> = node.fake.world().assigned.into_keys().collect();
    assert_eq!(left, ["lan.c1.net1", "lan.c2.net1", "lan.c3"]);
    // A runtime that has lost its list, while the containers are there.
    node.serve(&gc(&[])).await.unwrap();
    assert_eq!(node.fake.world().assigned.len(), 3);
    std::fs::remove_file(node.netns()).unwrap();
    node.serve(&gc(&[])).await.unwrap();
    assert_eq!(node.fake.world().assigned.into_keys().collect::<Vec<_>>(), ["lan.c3"]);
    node.del("c3").await.unwrap();
    node.fake.0.lock().world.assigned.clear();
}

/// A runtime that did not hear the answer: what it added meanwhile is not taken from it.
#[tokio::test]
async fn what_nobody_heard_of_is_withdrawn_and_nothing_newer() {
    let node = Node::new();
    let call = lease(&node, "ADD", "c1", "net1", &json!({}));
    let unheard = node.attachments.serve(&call, &CancellationToken::new()).await.unwrap();
    del(&node, "c1").await.unwrap();
    let heard = node.attachments.serve(&call, &CancellationToken::new()).await.unwrap();
    node.attachments.withdraw(&call.id, unheard.added.unwrap()).await;
    assert_eq!(node.fake.world().assigned.len(), 1);
    node.attachments.withdraw(&call.id, heard.added.unwrap()).await;
    node.assert_nothing_left();
}
