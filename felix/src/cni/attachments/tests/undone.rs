//! Whatever goes wrong in an ADD, and wherever the agent ends: all of it is there, or nothing.

use futures::future::join_all;
use serde_json::json;

use super::super::super::testing::{Fault, World};
use super::*;

use super::kit::*;

#[tokio::test]
async fn whichever_step_of_add_fails_all_is_undone() {
    for fault in [Fault::FailBefore, Fault::FailAfter] {
        for step in 0..5 {
            let node = Node::new();
            node.fake.faults(&[(step, fault)]);
            let error = node.add("c1").await.unwrap_err();
            assert_eq!(error.code, code::TRY_AGAIN_LATER, "{fault:?} at {step}");
            assert!(error.details.starts_with("injected into "), "{error}");
            node.fake.assert_empty();
            assert_eq!(node.attachments.unfinished(), 0);
            node.add("c1").await.unwrap();
            node.del("c1").await.unwrap();
            node.assert_nothing_left();
        }
    }
    // The control: there is no sixth step to fail.
    let node = Node::new();
    node.fake.faults(&[(5, Fault::FailBefore)]);
    node.add("c1").await.unwrap();
}

#[tokio::test]
async fn whichever_step_hangs_the_deadline_names_it_and_all_is_undone() {
    let doing = [
        "waiting for pod ns/web",
        "waiting for addresses",
        "waiting for addresses",
        "waiting for policy to be in the kernel",
        "setting up the link",
    ];
    let case = |fault, step: usize| async move {
        let node = Node::with(Options { deadline: Duration::from_secs(2), ..options() });
        node.fake.faults(&[(step, fault)]);
        let error = node.add("c1").await.unwrap_err();
        assert_eq!(error.code, code::TRY_AGAIN_LATER);
        assert_eq!(error.details, format!("still {} after 2s", doing[step]));
        node.assert_nothing_left();
    };
    let faults = [Fault::HangBefore, Fault::HangAfter].into_iter();
    join_all(faults.flat_map(|fault| (0..doing.len()).map(move |step| case(fault, step)))).await;
}

#[tokio::test]
async fn whatever_fails_in_the_undoing_it_is_finished_later() {
    // The link's set-up fails (call 4), and then each of the three steps that undo it, or all.
    let mut cases = Vec::new();
    for undoing in [vec![5], vec![6], vec![7], vec![5, 6], vec![5, 6, 7]] {
        for fault in [Fault::FailBefore, Fault::FailAfter, Fault::HangBefore, Fault::HangAfter] {
            for restarted in [false, true] {
                let undoing = undoing.clone();
                cases.push(async move {
                    let mut node = Node::new();
                    let faults = undoing.iter().map(|call| (*call, fault));
                    let faults: Vec<_> = faults.chain([(4, Fault::FailAfter)]).collect();
                    node.fake.faults(&faults);
                    node.add("c1").await.unwrap_err();
                    assert_eq!(node.attachments.unfinished(), 1, "{undoing:?} {fault:?}");
                    if restarted {
                        node = node.restart();
                    }
                    node.settle().await;
                    node.assert_nothing_left();
                });
            }
        }
    }
    join_all(cases).await;
}

#[tokio::test]
async fn given_up_at_any_await_all_is_undone() {
    let mut completed = 0;
    for polls in 0..100 {
        let node = Node::new();
        let cancel = CancellationToken::new();
        let call = node.call("ADD", "c1", &json!({}));
        let mut served = Box::pin(node.attachments.serve(&call, &cancel));
        let outcome = match poll_times(&mut served, polls).await {
            Some(outcome) => outcome,
            None => {
                cancel.cancel();
                (&mut served).await
            }
        };
        drop(served);
        match outcome {
            Ok(_) => {
                completed += 1;
                node.del("c1").await.unwrap();
            }
            Err(error) => assert!(error.details.starts_with("given up while "), "{error}"),
        }
        node.assert_nothing_left();
        if completed > 3 {
            assert!(polls > 10, "it never waited");
            return;
        }
    }
    panic!("ADD never completed");
}

#[tokio::test]
async fn killed_at_any_await_a_new_agent_keeps_what_was_answered_and_undoes_the_rest() {
    for command in ["ADD", "DEL"] {
        let mut completed = 0;
        for polls in 0..100 {
            let mut node = Node::new();
            if command == "DEL" {
                node.add("c1").await.unwrap();
            }
            let call = node.call(command, "c1", &json!({}));
            let cancel = CancellationToken::new();
            // Not given up, but gone: nothing of it runs any more.
            let answered =
                poll_times(node.attachments.serve(&call, &cancel), polls).await.is_some();
            node = node.restart();
            let ready = node.attachments.ready();
            node.settle().await;
            assert_eq!(node.attachments.ready(), ready);
            match (command, answered, ready.len()) {
                // An answer that was on its way may have been recorded, and not be heard.
                ("ADD", true, 1) | ("ADD", false, 0 | 1) | ("DEL", true, 0) => {}
                // A DEL that was not recorded is repeated by the runtime.
                ("DEL", false, 0 | 1) => {}
                other => panic!("{other:?} after {polls} polls"),
            }
            let world = node.fake.world();
            if ready.is_empty() {
                assert_eq!(world, World::default(), "{command} after {polls} polls");
            } else if command == "ADD" {
                assert_eq!(
                    (world.links.len(), world.committed.len(), world.assigned.len()),
                    (1, 1, 1)
                );
            }
            node.del("c1").await.unwrap();
            node.assert_nothing_left();
            completed += usize::from(answered);
            if completed > 3 {
                break;
            }
        }
        assert!(completed > 3, "{command} never completed");
    }
}
