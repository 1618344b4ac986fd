//! Endpoints whose addresses another IPAM plugin gave.

use ipnet::IpNet;

use super::super::super::protocol::{CniRequest, PodCidrs};
use super::*;

const GIVEN: [&str; 2] = ["10.9.0.7", "fd09::7"];

fn given(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn request(node: &Node, command: &str, id: &str, pod: &str) -> CniRequest {
    CniRequest {
        command: command.into(),
        container_id: id.into(),
        netns: node.netns().display().to_string(),
        ifname: "eth0".into(),
        args: format!("K8S_POD_NAMESPACE=ns;K8S_POD_NAME={pod}"),
        config: json!({"cniVersion": "1.1.0", "name": "net", "type": "caracal"}),
        ..CniRequest::default()
    }
}

async fn add(node: &Node, id: &str, pod: &str, addresses: &[&str]) -> Result<Option<Value>, Error> {
    let addresses = given(addresses);
    node.fake.0.lock().delegated.clone_from(&addresses);
    node.serve(&Call::parse_delegated(&request(node, "ADD", id, pod), &addresses, &[])?).await
}

#[tokio::test]
async fn the_endpoint_has_what_was_given_and_the_store_is_not_asked() {
    let mut node = Node::new();
    // Neither for ADD nor for DEL.
    node.fake.failing(&["assign", "release"]);
    let result = add(&node, "c1", "web", &GIVEN).await.unwrap().unwrap();
    assert_eq!(result["ips"][0]["address"], "10.9.0.7/32");
    assert_eq!(result["ips"][1]["address"], "fd09::7/128");
    assert_eq!(node.attachments.ready()[0].addresses.to_vec(), given(&GIVEN));
    assert_eq!(node.attachments.delegated().borrow().addresses, given(&GIVEN));
    node = node.restart();
    node.settle().await;
    assert_eq!(node.attachments.delegated().borrow().addresses, given(&GIVEN));
    assert_eq!(node.fake.world().links.len(), 1);

    let mut told = node.attachments.delegated();
    node.del("c1").await.unwrap();
    assert!(told.has_changed().unwrap());
    assert!(told.borrow_and_update().addresses.is_empty());
    assert!(node.fake.calls().iter().all(|call| !call.starts_with("release")));
    node.assert_nothing_left();
}

#[tokio::test]
async fn the_nodes_networks_are_kept_with_the_attachment() {
    let mut node = Node::new();
    let nets =
        |texts: &[&str]| -> Vec<IpNet> { texts.iter().map(|text| text.parse().unwrap()).collect() };
    let now = |node: &Node, command: &str, id: &str| {
        let call = Call::parse(&request(node, command, id, "web")).unwrap();
        let attachments = Arc::clone(&node.attachments);
        async move { attachments.pod_cidrs(&call).await }
    };
    let told = nets(&["10.9.0.0/24"]);
    node.fake.0.lock().delegated = given(&GIVEN);
    let call = Call::parse_delegated(&request(&node, "ADD", "c1", "web"), &given(&GIVEN), &told);
    node.serve(&call.unwrap()).await.unwrap();
    let expected = Delegated { addresses: given(&["fd09::7"]), networks: told.clone() };
    assert_eq!(*node.attachments.delegated().borrow(), expected);
    node = node.restart();
    node.settle().await;
    assert_eq!(*node.attachments.delegated().borrow(), expected);

    // Without the source, and with another answer of it, DEL hears what ADD did.
    for source in [None, Some(nets(&["10.8.0.0/24"]))] {
        node.fake.0.lock().pod_cidrs = source;
        assert_eq!(now(&node, "DEL", "c1").await.unwrap().networks, told);
    }
    // One that is not on record, of a node that is known and of one that is not.
    assert_eq!(now(&node, "DEL", "c2").await.unwrap().networks, nets(&["10.8.0.0/24"]));
    node.fake.0.lock().pod_cidrs = None;
    assert_eq!(now(&node, "DEL", "c2").await.unwrap(), PodCidrs::default());
    assert_eq!(now(&node, "STATUS", "").await.unwrap_err().code, code::NOT_AVAILABLE);

    node.del("c1").await.unwrap();
    assert_eq!(*node.attachments.delegated().borrow(), Delegated::default());
    node.assert_nothing_left();
}

#[tokio::test]
async fn add_waits_for_the_node_and_gives_up_in_time() {
    let node = Node::with(Options { deadline: Duration::from_millis(50), ..options() });
    let call = Call::parse(&request(&node, "ADD", "c1", "web")).unwrap();
    let error = node.attachments.pod_cidrs(&call).await.unwrap_err();
    assert_eq!(error.code, code::TRY_AGAIN_LATER);
    assert!(error.details.contains("node1"), "{error}");
    node.assert_nothing_left();
}

#[tokio::test]
async fn whatever_fails_is_undone() {
    for call in ["link", "commit", "open"] {
        let node = Node::new();
        node.fake.failing(&[call]);
        assert_eq!(add(&node, "c1", "web", &GIVEN).await.unwrap_err().code, code::TRY_AGAIN_LATER);
        assert!(node.attachments.delegated().borrow().addresses.is_empty());
        node.assert_nothing_left();
    }
}

#[tokio::test]
async fn an_address_is_nobodys_twice() {
    let node = Node::new();
    add(&node, "c1", "web", &GIVEN).await.unwrap();
    let error = add(&node, "c2", "other", &GIVEN[..1]).await.unwrap_err();
    assert_eq!(error.code, code::INVALID_REQUEST);
    assert!(error.details.contains("which ns/web in container c1 has"), "{error}");
    // The same pod's new container may: the old one is dead.
    add(&node, "c3", "web", &GIVEN).await.unwrap();
    assert_eq!(node.attachments.ready().len(), 1);
    node.del("c3").await.unwrap();
    node.assert_nothing_left();
}

#[tokio::test]
async fn what_no_endpoint_can_have_is_refused() {
    let node = Node::new();
    for wrong in [&[][..], &["10.9.0.7", "10.9.0.8"], &["fd09::1", "fd09::2"], &["224.0.0.1"]] {
        let error = add(&node, "c1", "web", wrong).await.unwrap_err();
        assert_eq!(error.code, code::INVALID_CONFIG);
        assert!(error.details.starts_with("ipam.type gave ["), "{error}");
    }
    let wished = ("cni.projectcalico.org/ipAddrs".to_owned(), "[\"10.9.0.8\"]".to_owned());
    node.fake.0.lock().annotations.push(wished);
    let error = add(&node, "c1", "web", &GIVEN).await.unwrap_err();
    assert!(error.details.contains("ipAddrs: addresses are another IPAM plugin's"), "{error}");
    node.assert_nothing_left();
}
