use std::time::Duration;

use netlink::netns::Netns;

use super::*;
use crate::model::{Change, Key, RouteTarget, Value};

mod packets;

/// Runs with a kernel of its own, and an executor for its handle.
fn with_kernel<F: Future<Output = ()>>(lock_table: bool, work: impl FnOnce(Kernel) -> F + Send) {
    let run = || {
        let kernel = Kernel::start(Options { lock_table, ..Options::default() }).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work(kernel));
    };
    Netns::create().unwrap().run(run).unwrap();
}

fn workload(index: IfIndex) -> Delta {
    let change = Change { key: Key::Workload(index), value: Some(Value::Member) };
    Delta { elements: vec![change], ..Delta::default() }
}

/// Without the line that names the owner's program, which may have any number in its name.
fn listing() -> String {
    let nft = std::process::Command::new("nft").args(["list", "table", "inet", "caracal"]).output();
    let text = String::from_utf8(nft.unwrap().stdout).unwrap();
    text.lines().filter(|line| !line.contains("progname")).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_is_committed_is_in_the_kernel_and_outlives_the_agent() {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let kernel = Kernel::start(Options::default()).unwrap();
            kernel.commit(workload(77)).await.unwrap();
            kernel.in_sync().await.unwrap();
            assert!(listing().contains("77"), "{}", listing());
            drop(kernel);
            // The next one finds it, and takes it away only once it knows that nobody wants it.
            let next = loop {
                match Kernel::start(Options::default()) {
                    Ok(next) => break next,
                    // The last one's threads end in their own time.
                    Err(Error::Held { .. }) => std::thread::yield_now(),
                    Err(error) => panic!("{error}"),
                }
            };
            next.commit(workload(78)).await.unwrap();
            assert!(listing().contains("77") && listing().contains("78"), "{}", listing());
            next.in_sync().await.unwrap();
            assert!(!listing().contains("77") && listing().contains("78"), "{}", listing());
            assert!(next.next_index() > 78);
        });
    };
    Netns::create().unwrap().run(run).unwrap();
}

#[test]
fn a_second_agent_on_the_node_is_refused() {
    with_kernel(true, |kernel| async move {
        let second = Kernel::start(Options::default());
        if kernel.status().await.unwrap().nft.owned {
            assert!(matches!(second, Err(Error::Held { .. })), "{second:?}");
        }
        kernel.commit(workload(5)).await.unwrap();
    });
}

#[test]
fn what_another_program_deletes_comes_back_unasked() {
    with_kernel(false, |kernel| async move {
        kernel.commit(workload(1234)).await.unwrap();
        kernel.in_sync().await.unwrap();
        let nft = std::process::Command::new("nft").args(["flush", "ruleset"]).status();
        assert!(nft.unwrap().success());
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while !listing().contains("1234") {
            assert!(std::time::Instant::now() < deadline, "{}", listing());
            tokio::task::yield_now().await;
        }
        assert!(kernel.status().await.unwrap().nft.repairs > 0);
    });
}

#[test]
fn a_route_without_its_link_is_named_and_the_rest_is_written() {
    with_kernel(true, |kernel| async move {
        let own = |destination: &str, target| RouteChange {
            destination: destination.parse().unwrap(),
            target: Some(target),
        };
        let waiting = kernel
            .set_routes(vec![
                own("10.0.0.7/32", RouteTarget::Link(1_000_009)),
                own("10.1.0.0/26", RouteTarget::Blackhole),
            ])
            .await
            .unwrap();
        assert_eq!(waiting.len(), 1);
        assert_eq!(waiting[0].object, "route 10.0.0.7/32");
        let routes = kernel.wanted_routes().await.unwrap();
        assert_eq!(routes.iter().map(|route| route.installed).collect::<Vec<_>>(), [false, true]);
    });
}
