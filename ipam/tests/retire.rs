//! What a node held that Kubernetes has deleted: given back once, and only when it is proven gone.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test fails by panicking, and its modules are shared by several of them"
)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use ipam::retire::{self, Challenge, Machine, Retired};
use ipam::store::Store;
use ipam::store::memory::{Fault, MemoryStore};
use ipam::timestamp::Timestamp;
use ipam::{AssignRequest, Error, Families, Live, Tunnel, model};

mod common;
use common::cluster::{Cluster, Node, all, consistent, net, pool};
use common::counting::Counting;
use common::eventually;
use common::kubernetes::Kubernetes;

struct World {
    memory: MemoryStore,
    store: Arc<dyn Store>,
    cluster: Cluster,
    kubernetes: Kubernetes,
    here: Node,
}

/// A cluster with the node `here`, and `gone`, which is known but has no agent yet.
async fn world() -> World {
    let memory = MemoryStore::default();
    let store: Arc<dyn Store> = Arc::new(memory.clone());
    let pools = vec![pool("four", "10.0.0.0/26", 29), pool("six", "fd00::/120", 125)];
    let cluster = Cluster::on(&store, pools);
    let kubernetes = Kubernetes::of(&[("here", "u1"), ("gone", "u2")]);
    let here = cluster.node("here");
    here.both("mine").await.unwrap();
    assert!(here.ipam.identify("u1", Machine::This).await.unwrap());
    World { memory, store, cluster, kubernetes, here }
}

impl World {
    async fn gone(&self) -> Node {
        let gone = self.cluster.node("gone");
        gone.both("a").await.unwrap();
        gone.both("b").await.unwrap();
        assert!(gone.ipam.identify("u2", Machine::This).await.unwrap());
        gone
    }

    async fn challenge(&self) -> Challenge {
        self.here.ipam.challenge("gone", &self.kubernetes).await.unwrap()
    }

    async fn retire(&self) -> Retired {
        self.here.ipam.retire("gone", &self.kubernetes).await.unwrap()
    }
}

#[tokio::test]
async fn what_a_deleted_node_held_rests_and_is_free() {
    let world = world().await;
    let gone = world.gone().await;
    assert_eq!(
        world.challenge().await,
        Challenge::Refused("Kubernetes has a node of this name".to_owned())
    );
    let tunnel = AssignRequest::tunnel(Tunnel::WireguardV6, "gone", Vec::new());
    gone.ipam.assign(tunnel).await.unwrap();
    gone.stop().await;
    world.kubernetes.delete("gone");
    assert_eq!(world.challenge().await, Challenge::Unowned);
    let retired = world.retire().await;
    assert_eq!((retired.addresses.len(), retired.blocks.len()), (5, 0), "{retired:?}");
    assert!(retired.kept.iter().all(|reason| reason.ends_with("addresses rest")), "{retired:?}");
    assert_eq!(consistent(&*world.store).await.len(), 2, "those of the other node");
    world.cluster.clock.advance(121);
    let retired = world.retire().await;
    assert_eq!((retired.addresses.len(), retired.blocks.len()), (0, 2), "{retired:?}");
    assert!(retired.kept.is_empty(), "{retired:?}");
    assert_eq!(world.retire().await, Retired::default(), "nothing is left");
    assert!(all(&*world.store).await.keys().all(|key| !key.contains("gone")));
    assert_eq!(world.here.ipam.known_nodes().await.unwrap(), ["here"]);
    consistent(&*world.store).await;
}

#[tokio::test]
async fn an_agent_that_lives_objects() {
    let world = world().await;
    let gone = world.gone().await;
    world.kubernetes.delete("gone");
    assert_eq!(world.challenge().await, Challenge::Unowned);
    // It has nothing to do at present, and answers all the same.
    let key = model::node_key("gone");
    let store = &world.store;
    eventually("the agent to take its name again", async || {
        store.read(std::slice::from_ref(&key)).await.unwrap().entries.pop()
    })
    .await;
    assert_eq!(world.retire().await.kept, ["its agent lives: it took its name again"]);
    assert_eq!(consistent(store.as_ref()).await.len(), 6);
    gone.v4("c").await.unwrap();
}

#[tokio::test]
async fn nothing_goes_without_proof() {
    let mut world = world().await;
    let gone = world.gone().await;
    gone.stop().await;
    world.kubernetes.delete("gone");
    assert_eq!(world.challenge().await, Challenge::Unowned);
    let before = all(&*world.store).await;
    // Kubernetes does not answer; it is another cluster's, or empty; the node is there again.
    world.kubernetes.away = true;
    assert_eq!(world.retire().await.kept, ["no answer"]);
    world.kubernetes = Kubernetes::default();
    assert_eq!(world.retire().await.kept, ["Kubernetes does not know here either"]);
    world.kubernetes = Kubernetes::of(&[("here", "u1"), ("gone", "u3")]);
    assert_eq!(world.retire().await.kept, ["Kubernetes has a node of this name"]);
    // A node that Kubernetes never had is another source's.
    world.kubernetes = Kubernetes::of(&[("here", "u1")]);
    let other = world.cluster.node("bare-metal");
    other.v4("x").await.unwrap();
    other.stop().await;
    assert_eq!(
        world.here.ipam.challenge("bare-metal", &world.kubernetes).await.unwrap(),
        Challenge::Refused("nothing says that it ever was a node of Kubernetes".to_owned())
    );
    let retired = world.here.ipam.retire("bare-metal", &world.kubernetes).await.unwrap();
    assert_eq!(retired, Retired::default());
    let itself = world.here.ipam.challenge("here", &world.kubernetes).await.unwrap();
    assert_eq!(itself, Challenge::Refused("it is the node that asks".to_owned()));
    let after = all(&*world.store).await;
    for (key, value) in before.iter().filter(|(key, _)| key.contains("gone")) {
        assert_eq!(after.get(key), Some(value), "{key}");
    }
}

/// The node comes back, or its block changes, after all was read and while Kubernetes is asked.
#[tokio::test]
async fn a_node_that_comes_back_at_the_last_moment_keeps_everything() {
    let mut world = world().await;
    let disk = world.gone().await.stop().await;
    world.kubernetes.delete("gone");
    assert_eq!(world.challenge().await, Challenge::Unowned);
    let back = Arc::new(tokio::sync::Mutex::new(None));
    let (cluster, slot, disk) =
        (world.cluster.clone(), back.clone(), Arc::new(Mutex::new(Some(disk))));
    // About this node and the other, before and after all is read.
    let questions = Arc::new(AtomicU32::new(0));
    world.kubernetes.meanwhile = Some(Arc::new(move || {
        let (cluster, slot, disk) = (cluster.clone(), slot.clone(), disk.clone());
        let question = questions.fetch_add(1, Ordering::SeqCst);
        async move {
            if question < 2 {
                return;
            }
            let Some(disk) = disk.lock().unwrap().take() else { return };
            let node = cluster.node_on("gone", disk);
            node.v4("c").await.unwrap();
            *slot.lock().await = Some(node);
        }
        .boxed()
    }));
    let retired = world.retire().await;
    assert_eq!(retired.kept, ["its agent lives: it took its name again"]);
    assert_eq!(retired.addresses.len(), 0);
    assert_eq!(consistent(&*world.store).await.len(), 7);
    assert!(back.lock().await.is_some());
}

#[tokio::test]
async fn lost_replies_and_several_at_once_do_no_harm() {
    let world = world().await;
    world.gone().await.stop().await;
    world.kubernetes.delete("gone");
    let other = world.cluster.node("other");
    other.v4("o").await.unwrap();
    world.kubernetes.make("other", "u4", None);
    assert_eq!(world.challenge().await, Challenge::Unowned);
    for fault in [Fault::LoseRequest, Fault::LoseReply] {
        world.memory.inject([Some(fault)]);
        let lost = world.here.ipam.retire("gone", &world.kubernetes).await;
        assert!(matches!(lost, Err(Error::StoreUnavailable { .. })), "{lost:?}");
        consistent(&*world.store).await;
    }
    let (one, two) = (world.here.ipam.clone(), other.ipam.clone());
    let (one, two) =
        tokio::join!(one.retire("gone", &world.kubernetes), two.retire("gone", &world.kubernetes));
    assert!(one.is_ok() && two.is_ok(), "{one:?} {two:?}");
    assert_eq!(consistent(&*world.store).await.len(), 3);
    world.cluster.clock.advance(121);
    let (one, two) = tokio::join!(
        world.here.ipam.retire("gone", &world.kubernetes),
        other.ipam.retire("gone", &world.kubernetes)
    );
    assert_eq!(one.unwrap().blocks.len() + two.unwrap().blocks.len(), 2);
    consistent(&*world.store).await;
}

#[tokio::test]
async fn a_machine_that_is_made_anew_takes_over_once_its_predecessor_is_gone() {
    let mut world = world().await;
    world.gone().await.stop().await;
    // The same name on an empty disk.
    let anew = world.cluster.node("gone");
    let refused = anew.v4("c").await.unwrap_err();
    assert!(matches!(refused, Error::NodeTaken { .. }), "{refused}");
    // Kubernetes still has the old one: it may be a second machine of that name.
    assert!(!anew.ipam.succeed("u2", Machine::This, &world.kubernetes).await.unwrap());
    assert!(!anew.ipam.succeed("u3", Machine::This, &world.kubernetes).await.unwrap());
    assert!(!anew.ipam.identify("u3", Machine::This).await.unwrap());
    world.kubernetes = Kubernetes::of(&[("here", "u1"), ("gone", "u3")]);
    assert!(!anew.ipam.succeed("u3", Machine::Another, &world.kubernetes).await.unwrap());
    assert!(anew.ipam.succeed("u3", Machine::This, &world.kubernetes).await.unwrap());
    let ipam = &anew.ipam;
    let identified = async || ipam.identify("u3", Machine::This).await.unwrap().then_some(());
    eventually("the name", identified).await;
    // What the predecessor's pods had is found by the next collection.
    let live = Live::none(ipam.epoch());
    assert_eq!(ipam.collect(live).await.unwrap().len(), 4);
    let request = anew.request("c", Families::V4);
    assert!(net("10.0.0.0/26").contains(&ipam.assign(request).await.unwrap().addresses[0].addr()));
    assert_eq!(consistent(&*world.store).await.len(), 3);
}

/// Kubernetes has the new node already while the machine of the old one still runs.
#[tokio::test]
async fn a_predecessor_that_runs_is_not_its_successor() {
    let mut world = world().await;
    let old = world.gone().await;
    let anew = world.cluster.node("gone");
    world.kubernetes = Kubernetes::of(&[("here", "u1"), ("gone", "u3")]);
    let key = model::node_uid_key("gone");
    let store = world.store.clone();
    let recorded = async || -> model::NodeUid {
        let entry = store.read(std::slice::from_ref(&key)).await.unwrap().entries.remove(0);
        model::decode(&key, &entry.value).unwrap()
    };
    let first = recorded().await;
    assert_eq!(first.uid, "u2");
    // Not even where nothing says whose node that is: it has said already which one it is.
    for machine in [Machine::Another, Machine::Unknown] {
        assert!(!old.ipam.identify("u3", machine).await.unwrap());
        assert!(!old.ipam.succeed("u3", machine, &world.kubernetes).await.unwrap());
    }
    assert_eq!(recorded().await, first);
    assert!(!anew.ipam.identify("u3", Machine::This).await.unwrap(), "the name is the old one's");
    // The old one takes its name again, as if the new one had not asked, and is succeeded still.
    let owner = model::node_key("gone");
    assert!(anew.ipam.succeed("u3", Machine::This, &world.kubernetes).await.unwrap());
    eventually("somebody takes the name", async || {
        store.read(std::slice::from_ref(&owner)).await.unwrap().entries.pop()
    })
    .await;
    assert_eq!(recorded().await, first);
    old.stop().await;
    eventually("the new one is itself", async || {
        if anew.ipam.identify("u3", Machine::This).await.unwrap() {
            return Some(());
        }
        anew.ipam.succeed("u3", Machine::This, &world.kubernetes).await.unwrap();
        None
    })
    .await;
    let second = recorded().await;
    assert!(second.uid == "u3" && second.instance != first.instance, "{second:?}");
    // The same machine as another node: provably, or not.
    assert!(!anew.ipam.identify("u4", Machine::Unknown).await.unwrap());
    assert!(anew.ipam.identify("u4", Machine::This).await.unwrap());
    assert_eq!(recorded().await.uid, "u4");
}

#[tokio::test]
async fn a_node_that_never_said_which_it_is_does_not_say_so_of_another() {
    let world = world().await;
    let old = world.cluster.node("gone");
    old.v4("a").await.unwrap();
    assert!(!old.ipam.identify("u3", Machine::Another).await.unwrap());
    assert_eq!(world.here.ipam.known_nodes().await.unwrap(), ["here"]);
    // No kubelet has said anything.
    assert!(old.ipam.identify("u3", Machine::Unknown).await.unwrap());
    assert_eq!(world.here.ipam.known_nodes().await.unwrap(), ["gone", "here"]);
}

/// While Kubernetes does not answer nobody reads all blocks for nothing.
#[tokio::test]
async fn without_an_answer_of_kubernetes_no_block_is_read() {
    let mut world = world().await;
    world.gone().await.stop().await;
    world.kubernetes.delete("gone");
    assert_eq!(world.challenge().await, Challenge::Unowned);
    world.kubernetes.away = true;
    let mut counting = Counting::default();
    counting.store = world.memory.clone();
    let (now, rest) = (Timestamp::from(SystemTime::now()), Duration::from_secs(1));
    let asked = retire::retire(&counting, "here", "gone", &world.kubernetes, now, rest);
    assert_eq!(asked.await.unwrap().kept, ["no answer"]);
    assert_eq!(counting.counts(), (1, 0), "the node's two records, at once");
}
