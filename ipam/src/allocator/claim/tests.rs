use std::time::SystemTime;

use api::selector::Selector;

use super::*;
use crate::pool::AllowedUse;
use crate::store::memory::MemoryStore;

/// A search that knows of no block.
async fn search(store: Arc<MemoryStore>, cidr: IpNet, node: &str) -> Claim {
    let node_key = model::node_key(node);
    let Ok(Outcome::Committed(node_revision)) =
        store.txn(Txn::default().put(node_key, b"{}".to_vec())).await
    else {
        panic!("the node has no record");
    };
    Claim {
        store,
        node: node.into(),
        node_revision,
        target: Target::Spare,
        family: Family::of_net(&cidr),
        pools: vec![Pool {
            name: "pool".into(),
            cidr,
            block_size: cidr.prefix_len(),
            disabled: false,
            node_selector: Selector::all(),
            namespace_selector: None,
            allowed_uses: vec![AllowedUse::Workload],
            manual: false,
        }],
        reservations: Vec::new(),
        forbidden: None,
        borrow: false,
        cooldown: Duration::ZERO,
        census: Some(Census::empty()),
        now: SystemTime::now().into(),
    }
}

#[tokio::test]
async fn a_block_of_ones_own_that_was_not_known_is_found_once() {
    let cidr: IpNet = "10.0.0.0/30".parse().unwrap();
    let store = Arc::new(MemoryStore::new("memory"));
    let claim = search(store.clone(), cidr, "n1").await;
    let own = Block::new(cidr, Some("host:n1".into()), claim.now).unwrap();
    store.txn(Txn::default().put(model::block_key(&cidr), own.encode())).await.unwrap();

    let Finished { claim, found } = claim.run().await;
    assert!(matches!(found, Ok(Found::Own { cidr: found, .. }) if found == cidr), "{found:?}");
    let Finished { found, .. } = claim.run().await;
    assert!(matches!(found, Ok(Found::Nothing(_))), "{found:?}");
}
