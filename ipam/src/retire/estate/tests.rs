use super::*;
use crate::store::Write;

const CIDR: &str = "10.0.0.0/29";

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(i64::try_from(seconds).unwrap())
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn owner(handle: &str, pairs: &[(&str, &str)]) -> Attribute {
    let owner = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let handle_id = (!handle.is_empty()).then(|| handle.to_owned());
    Attribute { handle_id, owner: Some(owner), ..Attribute::default() }
}

fn block(cidr: &str, affinity: &str, holders: &[(&str, &[(&str, &str)])]) -> Block {
    let affinity = (!affinity.is_empty()).then(|| affinity.to_owned());
    let mut block = Block::new(net(cidr), affinity, at(0)).unwrap();
    for (handle, attributes) in holders {
        block.allocate(&owner(handle, attributes), &[]).unwrap();
    }
    block
}

fn estate(blocks: Vec<Block>) -> Estate {
    let own = blocks.iter().filter(|block| block.node() == Some("gone"));
    let affinities = own.map(|block| (block.cidr(), (Some(Affinity::default()), 7))).collect();
    Estate {
        node: "gone".to_owned(),
        uid: 3,
        blocks: blocks.into_iter().map(|block| (block.cidr(), (block, 5))).collect(),
        unreadable: BTreeMap::new(),
        affinities,
        cooldown: Duration::from_secs(120),
        now: at(1000),
    }
}

/// Everything in one step, with the handles' records as they should be.
fn step(estate: &Estate) -> Step {
    let handles = estate.handles();
    let record = |nets: &BTreeSet<IpNet>| {
        let block = nets.iter().map(|net| (*net, 1)).collect();
        (Handle { block, ..Handle::default() }, 9)
    };
    let records = handles.iter().map(|(handle, nets)| (handle.clone(), record(nets))).collect();
    estate.step(&handles, &records, true)
}

fn deleted(step: &Step) -> Vec<&str> {
    let deletes = step.txn.writes.iter().filter(|write| matches!(write, Write::Delete(_)));
    deletes.map(Write::key).collect()
}

const GONE: &[(&str, &str)] = &[("node", "gone"), ("pod", "p")];
const HERE: &[(&str, &str)] = &[("node", "here"), ("pod", "q")];
const UID: &str = "/caracal/ipam/v1/kubernetes/gone";
const MARK: &str = "/caracal/ipam/v1/local/gone";

#[test]
fn a_nodes_addresses_rest_before_its_block_goes() {
    let one = step(&estate(vec![block(CIDR, "host:gone", &[("h", GONE)])]));
    assert_eq!(one.addresses, ["10.0.0.0".parse::<IpAddr>().unwrap()]);
    assert_eq!(deleted(&one), ["/calico/ipam/v2/handle/h"]);
    assert_eq!(one.kept, ["10.0.0.0/29: addresses rest"]);
    let compared: Vec<_> =
        one.txn.compares.iter().map(|c| (c.key.as_str(), c.mod_revision)).collect();
    assert_eq!(
        compared,
        [
            ("/caracal/ipam/v1/node/gone", 0),
            (UID, 3),
            ("/calico/ipam/v2/handle/h", 9),
            ("/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-29", 5)
        ]
    );
    let Some(Write::Put(_, json)) =
        one.txn.writes.iter().find(|write| write.key().contains("assignment"))
    else {
        panic!("{:?}", one.txn)
    };
    let rested = Block::decode(json).unwrap();
    assert_eq!((rested.node(), rested.resting_count()), (Some("gone"), 1));
    let later = step(&Estate { now: at(1120), ..estate(vec![rested]) });
    assert_eq!(
        deleted(&later),
        [
            "/calico/ipam/v2/host/gone/ipv4/block/10.0.0.0-29",
            UID,
            MARK,
            "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-29"
        ]
    );
    assert_eq!((later.kept.len(), later.blocks), (0, vec![net(CIDR)]));
}

#[test]
fn what_others_borrowed_stays_in_a_block_of_nobody() {
    let one = step(&estate(vec![block(CIDR, "host:gone", &[("theirs", HERE)])]));
    assert!(one.addresses.is_empty() && one.kept.is_empty(), "{one:?}");
    let put = one.txn.writes.iter().find_map(|write| match write {
        Write::Put(_, json) => Block::decode(json).ok(),
        Write::Delete(_) => None,
    });
    let left = put.unwrap();
    assert_eq!((left.affinity(), left.addresses_of("theirs").count()), (None, 1));
    // And what it borrowed itself goes out of others' blocks, which stay theirs.
    let other = step(&estate(vec![block(CIDR, "host:here", &[("h", GONE), ("theirs", HERE)])]));
    assert_eq!(other.addresses.len(), 1);
    assert_eq!(deleted(&other), ["/calico/ipam/v2/handle/h", UID, MARK]);
}

#[test]
fn a_handle_goes_as_a_whole_or_not_at_all() {
    let four = block(CIDR, "host:gone", &[("h", GONE), ("mixed", GONE)]);
    let six = block("fd00::/125", "host:gone", &[("h", GONE), ("mixed", HERE)]);
    let two = estate(vec![four, six]);
    assert_eq!(two.handles().keys().collect::<Vec<_>>(), ["h"]);
    let step = step(&two);
    assert_eq!(step.addresses.len(), 2, "both families of h: {step:?}");
    assert!(step.kept.contains(&"handle mixed: holds addresses of others too".to_owned()));
    assert!(!deleted(&step).contains(&UID));
    let migrating = Attribute {
        alternate_owner: Some([("node".to_owned(), "here".to_owned())].into()),
        ..owner("vm", GONE)
    };
    let mut block = block(CIDR, "host:gone", &[]);
    block.allocate(&migrating, &[]).unwrap();
    assert!(estate(vec![block]).handles().is_empty());
}

#[test]
fn what_nobody_can_judge_is_left_alone() {
    let unknown = step(&estate(vec![block(CIDR, "host:gone", &[("h", GONE), ("who", &[])])]));
    assert_eq!(unknown.addresses.len(), 1);
    assert_eq!(unknown.kept, ["10.0.0.0/29: nothing says whose 10.0.0.1 is"]);
    assert!(!deleted(&unknown).contains(&UID));
    let mut corrupt = estate(vec![]);
    corrupt.unreadable.insert(net(CIDR), 5);
    corrupt.affinities.insert(net(CIDR), (Some(Affinity::default()), 7));
    let corrupt = step(&corrupt);
    assert_eq!(corrupt.kept, ["10.0.0.0/29: its block or affinity cannot be read"]);
    assert!(corrupt.txn.writes.is_empty());
    // An affinity whose block is another's, or is not there, means nothing.
    let mut pointless = estate(vec![block(CIDR, "host:here", &[])]);
    pointless.affinities.insert(net(CIDR), (Some(Affinity::default()), 7));
    pointless.affinities.insert(net("10.0.0.8/29"), (Some(Affinity::default()), 8));
    let pointless = step(&pointless);
    assert_eq!(
        deleted(&pointless),
        [
            "/calico/ipam/v2/host/gone/ipv4/block/10.0.0.0-29",
            "/calico/ipam/v2/host/gone/ipv4/block/10.0.0.8-29",
            UID,
            MARK
        ]
    );
}

#[test]
fn an_allocation_without_a_handle_goes_by_its_sequence_number() {
    let one = step(&estate(vec![block(CIDR, "host:here", &[("", GONE)])]));
    assert_eq!(one.addresses, ["10.0.0.0".parse::<IpAddr>().unwrap()]);
    assert_eq!(deleted(&one), [UID, MARK]);
}

#[test]
fn no_transaction_is_larger_than_the_store_takes() {
    let mut large = Block::new(net("10.0.0.0/22"), Some("host:gone".to_owned()), at(0)).unwrap();
    for n in 0..1000 {
        large.allocate(&owner(&format!("h{n:04}"), GONE), &[]).unwrap();
    }
    let mut small: Vec<Block> = (0..100)
        .map(|n| block(&format!("10.1.{n}.0/30"), "host:gone", &[("", GONE), ("t", HERE)]))
        .collect();
    small.push(large);
    let mut estate = estate(small);
    let mut released = 0;
    for _ in 0..40 {
        let (all, some) = (estate.handles(), Estate::some_of(&estate.handles()));
        let records = some.keys().map(|h| (h.clone(), (Handle::default(), 9))).collect();
        let step = estate.step(&some, &records, some.len() == all.len());
        let most = step.txn.compares.len().max(step.txn.writes.len());
        assert!(most <= MAX_TXN_OPS, "{most}");
        crate::store::check_txn("s", &step.txn).unwrap();
        released += step.addresses.len();
        for write in &step.txn.writes {
            let Some(cidr) = model::parse_block_key(write.key()) else {
                if let Some((_, cidr)) = model::parse_affinity_key(write.key()) {
                    estate.affinities.remove(&cidr);
                }
                continue;
            };
            match write {
                Write::Put(_, json) => {
                    estate.blocks.insert(cidr, (Block::decode(json).unwrap(), 5))
                }
                Write::Delete(_) => estate.blocks.remove(&cidr),
            };
        }
        if deleted(&step).contains(&UID) {
            assert_eq!(released, 1100);
            assert!(estate.blocks.values().all(|(block, _)| block.node().is_none()));
            assert!(estate.affinities.is_empty());
            return;
        }
        estate.now = estate.now.plus(Duration::from_secs(200));
    }
    panic!("never done: {released} released");
}

#[test]
fn a_handle_that_no_transaction_takes_is_named_and_keeps_no_other() {
    let mut blocks: Vec<Block> =
        (0..126).map(|n| block(&format!("10.1.{n}.0/30"), "host:gone", &[("a", GONE)])).collect();
    blocks.push(block("10.2.0.0/30", "host:gone", &[("b", GONE)]));
    let estate = estate(blocks);
    let some = Estate::some_of(&estate.handles());
    assert_eq!(some.keys().collect::<Vec<_>>(), ["b"]);
    let step = estate.step(&some, &BTreeMap::new(), false);
    assert_eq!(step.addresses.len(), 1);
    assert_eq!(step.kept, ["handle a: is in 126 blocks, too many"]);
}
