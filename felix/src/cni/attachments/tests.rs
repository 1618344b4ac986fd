mod delegated;
mod kit;
mod leases;
mod undone;

use serde_json::json;

use super::super::spec::PodArgs;
use super::super::testing::{Fault, World};
use super::*;
use kit::*;

#[tokio::test]
async fn add_and_del_do_one_thing_after_the_other() {
    let node = Node::new();
    let call = node.call_for("ADD", "c1", "eth0", "nginx", &json!({}));
    let call = Call { pod: PodArgs { namespace: "default".into(), ..call.pod }, ..call };
    let result = node.serve(&call).await.unwrap().unwrap();
    assert_eq!(result["interfaces"][0]["name"], CALI);
    assert_eq!(result["ips"][0]["address"], "10.0.0.1/32");
    assert_eq!(result["ips"][1]["address"], "fd00::1/128");
    let [endpoint] = node.attachments.ready().try_into().unwrap();
    assert_eq!((endpoint.pod_uid.as_str(), &*endpoint.labels["app"]), ("uid", "a"));
    assert_eq!(endpoint.mac[0] & 3, 2, "locally administered, unicast");
    assert_eq!(node.attachments.handles().unwrap().into_iter().collect::<Vec<_>>(), ["net.c1"]);

    node.del("c1").await.unwrap();
    assert_eq!(
        node.fake.calls(),
        [
            "pod nginx",
            "assign net.c1",
            &format!("link {CALI}"),
            &format!("commit {CALI}"),
            &format!("open {CALI}"),
            &format!("remove {CALI}"),
            &format!("unlink {CALI}"),
            "release net.c1",
        ]
    );
    node.assert_nothing_left();
}

#[tokio::test]
async fn an_endpoint_outlives_the_agent() {
    let mut node = Node::new();
    node.add("c1").await.unwrap();
    let (endpoints, world) = (node.attachments.ready(), node.fake.world());
    for _ in 0..3 {
        node = node.restart();
        node.settle().await;
        assert_eq!(
            (node.attachments.ready(), node.fake.world()),
            (endpoints.clone(), world.clone())
        );
    }
    node.del("c1").await.unwrap();
    node.assert_nothing_left();
}

#[tokio::test]
async fn a_second_add_is_refused_and_changes_nothing() {
    let node = Node::new();
    node.add("c1").await.unwrap();
    let (world, calls) = (node.fake.world(), node.fake.calls());
    let error = node.add("c1").await.unwrap_err();
    assert_eq!(error.code, code::ALREADY_ATTACHED);
    assert_eq!((node.fake.world(), node.fake.calls()), (world, calls));
    node.del("c1").await.unwrap();
    node.add("c1").await.unwrap();
    node.del("c1").await.unwrap();
    node.assert_nothing_left();
}

#[tokio::test]
async fn del_may_be_repeated_come_first_and_know_nothing() {
    let node = Node::new();
    node.del("c1").await.unwrap();
    node.add("c1").await.unwrap();
    std::fs::remove_file(node.netns()).unwrap();
    let mut call = node.call("DEL", "c1", &json!({}));
    call.netns = String::new();
    call.config.name = "another".into();
    node.serve(&call).await.unwrap();
    node.fake.assert_empty();
    node.serve(&call).await.unwrap();
    // What it does not know at all it releases by its handle, as far as it can.
    node.fake.0.lock().world.assigned.insert("net.lost".into(), vec![]);
    node.del("lost").await.unwrap();
    node.fake.failing(&["release"]);
    node.del("lost").await.unwrap();
    node.assert_nothing_left();
}

#[tokio::test]
async fn del_succeeds_while_etcd_is_away_and_the_release_is_not_lost() {
    for restarted in [false, true] {
        for fault in ["release is refused", "release hangs"] {
            let mut node = Node::new();
            node.add("c1").await.unwrap();
            if fault == "release hangs" {
                node.fake.faults(&[(2, Fault::HangBefore)]);
            } else {
                node.fake.failing(&["release"]);
            }
            node.del("c1").await.unwrap();
            let world = node.fake.world();
            assert_eq!((world.links.len(), world.committed.len(), world.assigned.len()), (0, 0, 1));
            assert!(node.attachments.handles().unwrap().contains("net.c1"));
            assert_eq!(node.attachments.ready(), []);
            if restarted {
                node = node.restart();
            }
            // Its address must not go to another ADD of the same name before.
            if fault == "release is refused" {
                let error = node.add("c1").await.unwrap_err();
                assert_eq!(error.code, code::TRY_AGAIN_LATER);
                assert!(error.details.contains("still being removed"), "{error}");
                node.del("c1").await.unwrap();
            }
            node.fake.failing(&[]);
            node.settle().await;
            node.assert_nothing_left();
        }
    }
}

#[tokio::test]
async fn del_that_leaves_something_says_so_and_is_finished() {
    for step in ["remove", "unlink"] {
        let node = Node::new();
        node.add("c1").await.unwrap();
        node.fake.failing(&[step]);
        let error = node.del("c1").await.unwrap_err();
        assert_eq!(error.code, code::INCOMPLETE_REMOVAL);
        assert!(error.details.contains(&format!("{step} cali")), "{error}");
        assert_eq!(node.fake.world().assigned.len(), 1, "released before the link was gone");
        node.fake.failing(&[]);
        if step == "remove" {
            node.del("c1").await.unwrap();
        } else {
            node.settle().await;
        }
        node.assert_nothing_left();
    }
}

#[tokio::test]
async fn a_pods_new_container_takes_the_place_of_its_old_one() {
    let node = Node::new();
    node.add("old").await.unwrap();
    node.add("new").await.unwrap();
    let world = node.fake.world();
    assert_eq!((world.links.len(), world.committed.len()), (1, 1));
    assert_eq!(world.assigned.keys().collect::<Vec<_>>(), ["net.new"]);
    // The late DEL of the old one.
    node.del("old").await.unwrap();
    assert_eq!(node.fake.world(), world);
    let [endpoint] = node.attachments.ready().try_into().unwrap();
    assert_eq!(endpoint.id.container_id, "new");

    // If the old one cannot be removed, it stays what it is, and nothing new is begun.
    node.fake.failing(&["unlink"]);
    assert_eq!(node.add("newer").await.unwrap_err().code, code::TRY_AGAIN_LATER);
    assert!(!node.fake.world().assigned.contains_key("net.newer"));
    node.fake.failing(&[]);
    node.settle().await;
    node.assert_nothing_left();
}

#[tokio::test]
async fn interfaces_of_one_container_come_and_go_alone() {
    let node = Node::new();
    for ifname in ["eth0", "net1"] {
        node.serve(&node.call_for("ADD", "c1", ifname, "web", &json!({}))).await.unwrap();
    }
    assert_eq!(node.fake.world().assigned.keys().collect::<Vec<_>>(), ["net.c1", "net.c1.net1"]);
    node.serve(&node.call_for("DEL", "c1", "net1", "web", &json!({}))).await.unwrap();
    assert_eq!(node.fake.world().assigned.keys().collect::<Vec<_>>(), ["net.c1"]);
    assert_eq!(node.fake.world().links.len(), 1);
    node.del("c1").await.unwrap();
    node.assert_nothing_left();
}

#[tokio::test]
async fn what_cannot_be_added_is_refused_with_its_reason() {
    let node = Node::new();
    let mut call = node.call("ADD", "c1", &json!({}));
    call.netns = "/nonexistent/netns".into();
    let error = node.serve(&call).await.unwrap_err();
    assert_eq!(error.code, code::INVALID_NETNS);
    assert!(error.details.starts_with("/nonexistent/netns: "), "{error}");
    assert_eq!(node.fake.calls(), [""; 0]);

    let annotation = "cni.projectcalico.org/ipAddrs".to_owned();
    node.fake.0.lock().annotations = vec![(annotation, "10.0.0.1".into())];
    let error = node.add("c1").await.unwrap_err();
    assert_eq!(error.code, code::INVALID_REQUEST);
    assert!(error.details.starts_with("annotation cni.projectcalico.org/ipAddrs: "), "{error}");
    assert_eq!(node.fake.calls(), ["pod web"]);
    node.assert_nothing_left();
}

#[tokio::test]
async fn a_pod_that_the_source_does_not_know_is_waited_for() {
    let node = Node::with(Options { deadline: Duration::from_secs(2), ..options() });
    node.fake.0.lock().unknown.insert("web".into());
    let error = node.add("c1").await.unwrap_err();
    assert_eq!(
        (error.code, error.details.as_str()),
        (code::TRY_AGAIN_LATER, "pod web is not known")
    );
    node.assert_nothing_left();
}

#[tokio::test]
async fn gc_removes_what_the_runtime_has_no_more_and_goes_on_after_errors() {
    let node = Node::new();
    for n in 0..6 {
        let id = format!("c{n}");
        node.serve(&node.call_for("ADD", &id, "eth0", &id, &json!({}))).await.unwrap();
    }
    let other = json!({"name": "other"});
    node.serve(&node.call_for("ADD", "x", "eth0", "x", &other)).await.unwrap();
    let gc = |valid: &[&str]| {
        let valid = valid.iter().map(|id| json!({"containerID": id, "ifname": "eth0"}));
        let valid = json!({"cni.dev/valid-attachments": valid.collect::<Value>()});
        node.call("GC", "", &valid)
    };
    let handles = || node.fake.world().assigned.into_keys().collect::<Vec<_>>();
    let all = ["c0", "c1", "c2", "c3", "c4", "c5"];
    node.serve(&gc(&all)).await.unwrap();
    assert_eq!(handles().len(), 7);

    // c1's removal fails; c2 goes all the same, and a request is at work on c3.
    let under_way = node.attachments.containers.lock("c3").await;
    let interface = add::host_interface("cali", "ns", "c1", "eth0");
    let unlink: &'static str = Box::leak(format!("unlink {interface}").into_boxed_str());
    node.fake.failing(&[unlink]);
    let error = node.serve(&gc(&["c0", "c4", "c5"])).await.unwrap_err();
    assert_eq!(error.code, code::INCOMPLETE_REMOVAL);
    assert!(error.details.starts_with("c1 eth0: link: "), "{error}");
    assert_eq!(handles(), ["net.c0", "net.c1", "net.c3", "net.c4", "net.c5", "other.x"]);
    drop(under_way);
    node.fake.failing(&["collect"]);
    let error = node.serve(&gc(&["c0"])).await.unwrap_err();
    assert_eq!(error.details, "addresses: collect net is failing");
    node.fake.failing(&[]);
    assert_eq!(handles(), ["net.c0", "other.x"]);
    // Addresses that the journal does not know, as after one that was damaged.
    for handle in ["net.lost", "net.c9", "other.lost"] {
        node.fake.0.lock().world.assigned.insert(handle.into(), Vec::new());
    }
    node.serve(&gc(&["c0", "c9"])).await.unwrap();
    assert_eq!(handles(), ["net.c0", "net.c9", "other.lost", "other.x"], "of this network only");
    // An empty list: the runtime may not have its containers yet.
    node.serve(&gc(&[])).await.unwrap();
    assert_eq!(handles(), ["net.c0", "net.c9", "other.lost", "other.x"]);
    std::fs::remove_file(node.netns()).unwrap();
    node.serve(&gc(&[])).await.unwrap();
    assert_eq!(handles(), ["net.c9", "other.lost", "other.x"], "c0 has no namespace any more");
    node.fake.0.lock().world.assigned.retain(|handle, _| handle == "other.x");
    node.serve(&node.call_for("DEL", "x", "eth0", "x", &other)).await.unwrap();
    node.assert_nothing_left();
}

#[tokio::test]
async fn check_finds_what_is_not_as_it_was_made() {
    let node = Node::new();
    let result = node.add("c1").await.unwrap().unwrap();
    let check = node.call("CHECK", "c1", &json!({"prevResult": result}));
    node.serve(&check).await.unwrap();
    node.fake.0.lock().differences = vec!["no route to 10.0.0.1".into(), "no link".into()];
    let mut other = result.clone();
    other["ips"][0]["address"] = "10.0.0.9/32".into();
    let error =
        node.serve(&node.call("CHECK", "c1", &json!({"prevResult": other}))).await.unwrap_err();
    assert_eq!(error.code, code::CHECK_FAILED);
    assert_eq!(
        error.details,
        "eth0 has 10.0.0.1/32, prevResult does not; prevResult has 10.0.0.9/32, eth0 does not; \
         no route to 10.0.0.1; no link"
    );
    node.del("c1").await.unwrap();
    let error = node.serve(&check).await.unwrap_err();
    assert_eq!(error.details, "there is no such attachment");
    node.assert_nothing_left();
}

#[tokio::test]
async fn without_a_disk_nothing_is_added_and_status_says_why() {
    let node = Node::new();
    let status = node.call("STATUS", "", &json!({}));
    node.serve(&status).await.unwrap();
    node.add("before").await.unwrap();
    // The new log's name is taken by a directory: every rewrite fails. The one that is open is
    // used up first.
    let state = node.directory.path().join("state");
    std::fs::create_dir(state.join("endpoints.log.new")).unwrap();
    let (add, del) =
        ["ADD", "DEL"].map(|verb| node.call_for(verb, "c", "eth0", "c", &json!({}))).into();
    let error = loop {
        let _ = node.serve(&add).await;
        let _ = node.serve(&del).await;
        if let Err(error) = node.serve(&status).await {
            break error;
        }
    };
    assert_eq!(
        (error.code, error.msg.as_str()),
        (code::NOT_AVAILABLE, "endpoints cannot be recorded")
    );
    assert!(error.details.contains("endpoints.log"), "{error}");
    let error = node.serve(&node.call_for("ADD", "d", "eth0", "d", &json!({}))).await.unwrap_err();
    assert_eq!(error.code, code::TRY_AGAIN_LATER);
    assert!(!node.fake.world().assigned.contains_key("net.d"));
    std::fs::remove_dir(state.join("endpoints.log.new")).unwrap();
    node.settle().await;
    node.add("before").await.unwrap_err();
    node.del("before").await.unwrap();
    node.serve(&status).await.unwrap();
    node.assert_nothing_left();
}

#[tokio::test]
async fn what_a_damaged_journal_leaves_open_is_left_alone_until_the_runtime_says() {
    for command in ["DEL", "ADD of the pod's next container"] {
        let node = Node::new();
        node.add("c1").await.unwrap();
        let world = node.fake.world();
        let (fake, directory) = (node.fake.clone(), Arc::clone(&node.directory));
        drop(node);
        let path = directory.path().join("state");
        drop(open(&path));
        // As it was written: the intent, then the completion, which is damaged.
        let (journal, loaded) = open(&path);
        let mut adding = loaded.records[0].clone();
        adding.phase = Phase::Uncertain;
        journal.put(adding).await.unwrap();
        drop(journal);

        let node = Node::start(fake, directory, options());
        let world = World { routes: BTreeMap::new(), ..world };
        let stop = CancellationToken::new();
        stop.cancel();
        node.attachments.finish_unfinished(&stop).await;
        assert_eq!(node.fake.world(), world);
        assert_eq!(node.attachments.ready(), []);
        assert_eq!(node.add("c1").await.unwrap_err().code, code::ALREADY_ATTACHED);
        if command == "DEL" {
            node.del("c1").await.unwrap();
        } else {
            node.add("c2").await.unwrap();
            assert_eq!(node.fake.world().links.len(), 1);
            node.del("c2").await.unwrap();
        }
        node.assert_nothing_left();
    }
}

/// Many requests at once for few containers of few pods, with faults, and the runtime going away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_any_interleaving_nothing_is_violated_and_nothing_left() {
    for seed in 0..8_u64 {
        let node = Arc::new(Node::new());
        let stop = CancellationToken::new();
        let janitor = {
            let (node, stop) = (Arc::clone(&node), stop.clone());
            tokio::spawn(async move { node.attachments.finish_unfinished(&stop).await })
        };
        let mut random = seed * 2 + 1;
        let mut next = move |below: u64| {
            // Knuth's MMIX generator: the same runs each time, apart from the scheduler.
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..300 {
            let (container, pod) = (format!("c{}", next(6)), format!("p{}", next(3)));
            let (verb, give_up, polls) = (next(10), next(4) == 0, next(12));
            if next(20) == 0 {
                let number = node.fake.calls().len() + usize::try_from(next(8)).unwrap();
                let faults = [Fault::FailBefore, Fault::FailAfter, Fault::Panic];
                let fault = faults[usize::try_from(next(3)).unwrap()];
                node.fake.0.lock().faults.insert(number, fault);
            }
            let node = Arc::clone(&node);
            tasks.spawn(async move {
                let call = match verb {
                    0..6 => node.call_for("ADD", &container, "eth0", &pod, &json!({})),
                    6..9 => node.call_for("DEL", &container, "eth0", &pod, &json!({})),
                    _ => {
                        let valid = json!([{"containerID": container, "ifname": "eth0"}]);
                        node.call("GC", "", &json!({"cni.dev/valid-attachments": valid}))
                    }
                };
                let cancel = CancellationToken::new();
                if give_up {
                    let mut served = Box::pin(node.attachments.serve(&call, &cancel));
                    if poll_times(&mut served, usize::try_from(polls).unwrap()).await.is_none() {
                        cancel.cancel();
                        let _ = served.await;
                    }
                } else {
                    let _ = node.attachments.serve(&call, &cancel).await;
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            // An injected panic ends the request as it would in the server.
            if ended.is_err() {
                node.attachments.interrupted();
            }
        }
        // The janitor may have been the one to panic, and is started again.
        node.fake.0.lock().faults.clear();
        stop.cancel();
        let _ = janitor.await;
        node.settle().await;

        let world = node.fake.world();
        let ready = node.attachments.ready();
        let links: Vec<_> =
            ready.iter().map(|one| (one.host_interface.clone(), one.host_index)).collect();
        assert_eq!(world.links, links.into_iter().collect(), "seed {seed}");
        assert_eq!(world.committed.len(), ready.len(), "seed {seed}");
        assert_eq!(world.routes.len(), ready.len() * 2, "seed {seed}");
        let handles =
            ready.iter().map(|one| (one.handle.clone(), one.addresses.to_vec())).collect();
        assert_eq!(world.assigned, handles, "seed {seed}");
        assert_eq!(node.fake.0.lock().violations, [""; 0], "seed {seed}");
        for one in ready {
            node.del(&one.id.container_id).await.unwrap();
        }
        let node = Arc::into_inner(node).unwrap();
        assert!(node.attachments.containers.try_lock("c0").is_some());
        node.assert_nothing_left();
    }
}
