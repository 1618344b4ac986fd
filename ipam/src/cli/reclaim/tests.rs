use std::collections::BTreeMap;

use ipam::Family;
use ipam::block::Attribute;
use ipam::model::Handle;
use ipam::store::Store;
use serde_json::Value;

use super::*;

#[allow(unreachable_pub, reason = "the tests of the library use it too")]
#[path = "../../../tests/common/counting.rs"]
mod counting;

use counting::Counting;

const GRACE: Duration = Duration::from_secs(900);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(1_787_405_600 + seconds)
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// A block in which each of these handles has an address.
fn block(cidr: &str, handles: &[&str]) -> Block {
    let mut block = Block::new(net(cidr), Some("host:n".to_owned()), at(0)).unwrap();
    for handle in handles {
        let handle_id = Some((*handle).to_owned()).filter(|handle| !handle.is_empty());
        block.allocate(&Attribute { handle_id, ..Attribute::default() }, &[]).unwrap();
    }
    block.seal();
    block
}

async fn put_block(store: &dyn Store, block: &Block) {
    let txn = Txn::default().put(model::block_key(&block.cidr()), block.encode());
    store.txn(txn).await.unwrap();
}

async fn put_record(store: &dyn Store, handle: &str, blocks: &[(&str, u32)]) {
    let block = blocks.iter().map(|(cidr, count)| (net(cidr), *count)).collect();
    let record = Handle { block, ..Handle::default() };
    let txn = Txn::default().put(model::handle_key(handle), model::encode(&record));
    store.txn(txn).await.unwrap();
}

/// What a handle's record says; None: there is none.
async fn record(store: &dyn Store, handle: &str) -> Option<BTreeMap<IpNet, u32>> {
    let read = store.read(&[model::handle_key(handle)]).await.unwrap();
    let entry = read.entries.first()?;
    Some(model::decode::<Handle>(&entry.key, &entry.value).unwrap().block)
}

/// All that a handle has in these blocks.
fn group(handle: &str, blocks: &[&Block]) -> Group {
    let addresses = blocks.iter().flat_map(|block| {
        let sequence = |ip| match block.state(ip) {
            Some(AddressState::Allocated(_, sequence)) => sequence,
            _ => None,
        };
        block.addresses_of(handle).map(move |ip| (ip, sequence(ip)))
    });
    Group { handle: Some(handle.to_owned()), addresses: addresses.collect() }
}

fn unused(groups: Vec<Group>, handles: &[&str], seen: Seen) -> Unused {
    Unused { groups, handles: handles.iter().map(|&handle| handle.to_owned()).collect(), seen }
}

async fn holdings(store: &dyn Store) -> Holdings<'_> {
    Holdings::list(store, at(1000), [Family::V4, Family::V6]).await.unwrap()
}

/// What becomes of it.
async fn release(store: &dyn Store, unused: Unused, dry_run: bool) -> Value {
    let mut out = Vec::new();
    let how = How { dry_run, grace: GRACE, now: at(1000) };
    unused.release(&mut holdings(store).await, how, true, &mut out).await.unwrap();
    serde_json::from_slice(&out).unwrap()
}

fn now(revision: Revision) -> Seen {
    Seen { revision, at: at(1000) }
}

#[tokio::test]
async fn all_that_is_needed_is_read_once() {
    let store = Counting::default();
    let handles: Vec<String> = (0..30).map(|n| format!("h{n}")).collect();
    let names: Vec<&str> = handles.iter().map(String::as_str).collect();
    let cidrs = ["10.0.0.0/28", "10.0.0.16/28", "fd00::/124"];
    let mut groups = Vec::new();
    for (cidr, some) in cidrs.iter().zip(names.chunks(10)) {
        let block = block(cidr, some);
        put_block(&store.store, &block).await;
        for handle in some {
            put_record(&store.store, handle, &[(cidr, 1)]).await;
            groups.push(group(handle, &[&block]));
        }
    }
    let mut known = Holdings::new(&store, at(1000), cidrs.map(net));
    let how = How { dry_run: true, grace: GRACE, now: at(1000) };
    let all = || unused(groups.clone(), &[], now(100));
    all().release(&mut known, how, true, &mut Vec::new()).await.unwrap();
    assert_eq!(store.counts(), (1, 0));
    let how = How { dry_run: false, ..how };
    let done = all().release(&mut known, how, true, &mut Vec::new()).await.unwrap();
    // What one wrote the next one knows.
    assert_eq!((done, store.counts()), (Outcome::Well, (1, 30)));
    assert!(store.store.list_keys(model::HANDLES).await.unwrap().keys.is_empty());
}

#[tokio::test]
async fn a_block_that_does_not_exist_leaves_the_record() {
    let store = Counting::default();
    let (one, two) = ("10.0.0.0/30", "10.0.0.4/30");
    let block = block(one, &["a", "b", "b"]);
    put_block(&store, &block).await;
    put_record(&store, "a", &[(one, 1), (two, 1)]).await;
    // More than it has in the one, and of one that it does not have.
    put_record(&store, "b", &[(one, 3), (two, 1)]).await;
    let done = release(&store, unused(vec![group("a", &[&block])], &[], now(9)), false).await;
    assert_eq!(done["released"], serde_json::json!(["10.0.0.0"]));
    assert_eq!(record(&store, "a").await, None);
    // The address by itself.
    let mut known = holdings(&store).await;
    known.read([model::block_key(&net(one)), model::handle_key("b")]).await.unwrap();
    known.read_blocks_of("b").await.unwrap();
    let mut block = known.block(&net(one)).unwrap().unwrap();
    let how = Release::Rest(at(1000));
    block.release_address("10.0.0.1".parse().unwrap(), Some("b"), None, how).unwrap();
    let txn = known.release(Some("b"), [(net(one), block)].into()).unwrap();
    assert!(known.commit(txn).await.unwrap());
    assert_eq!(record(&store, "b").await, Some([(net(one), 1)].into()));
}

/// A handle without a record gets one, and a further address with it, after all was read.
#[tokio::test]
async fn a_record_that_appears_is_noticed() {
    let store = Counting::default();
    let (one, two) = (block("10.0.0.0/30", &["a"]), block("10.0.0.4/30", &["a"]));
    put_block(&store, &one).await;
    let mut known = holdings(&store).await;
    let group = group("a", &[&one]);
    unused(vec![group.clone()], &[], now(9)).read(&mut known).await.unwrap();
    let early = group.transaction(&known, at(1000)).unwrap();
    put_block(&store, &two).await;
    put_record(&store, "a", &[("10.0.0.0/30", 1), ("10.0.0.4/30", 1)]).await;
    assert!(!known.commit(early).await.unwrap());
    let again = change(&mut known, Some("a"), false, |known| group.transaction(known, at(1000)));
    assert_eq!(again.await.unwrap(), Err("it holds 10.0.0.4 by now".to_owned()));
}

#[tokio::test]
async fn a_record_without_an_address_goes_once_it_is_old() {
    let store = Counting::default();
    put_record(&store, "a", &[("10.0.0.0/30", 1)]).await;
    let revision = store.list("/", None).await.unwrap().revision;
    let kept = async |seen: Seen, dry_run: bool| {
        let done = release(&store, unused(Vec::new(), &["a"], seen), dry_run).await;
        done["kept"][0]["reason"].as_str().map(str::to_owned)
    };
    for (age, dry_run) in [(0, false), (899, false), (0, true)] {
        let reason = kept(Seen { revision, at: at(1000 - age) }, dry_run).await.unwrap();
        assert!(reason.contains("on its way") && reason.contains("15 minutes"), "{reason}");
    }
    let old = Seen { revision, at: at(100) };
    assert_eq!(kept(old, true).await, None);
    // The request that wrote it goes on.
    put_block(&store, &block("10.0.0.0/30", &["a"])).await;
    assert_eq!(kept(old, false).await.unwrap(), "it holds 10.0.0.0 by now");
    put_block(&store, &block("10.0.0.0/30", &[])).await;
    put_record(&store, "a", &[("10.0.0.0/30", 1)]).await;
    assert_eq!(kept(old, false).await.unwrap(), "its record was written since");
    assert!(record(&store, "a").await.is_some());
    assert_eq!(kept(Seen { revision: revision + 3, ..old }, false).await, None);
    assert_eq!(record(&store, "a").await, None);
}

#[test]
fn of_two_reports_the_older_one_counts() {
    let (old, young) = (Seen { revision: 3, at: at(0) }, Seen { revision: 5, at: at(9) });
    for (first, second) in [(old, young), (young, old)] {
        let mut both = unused(Vec::new(), &["a", "b"], first);
        both.intersect(&unused(Vec::new(), &["b", "c"], second));
        assert_eq!(both, unused(Vec::new(), &["b"], old));
    }
}
