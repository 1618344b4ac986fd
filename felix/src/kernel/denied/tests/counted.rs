//! Counters of policy, with real packets.

use std::sync::Arc;

use super::*;
use crate::kernel::Count;
use crate::model::{Decider, Decision};

/// What one packet of a [`Sender`] has: headers of IPv4 and UDP, and its byte.
const BYTES: u64 = 20 + 8 + 1;

fn by(number: u32) -> Arc<Decision> {
    Arc::new(Decision {
        tier: Some("default".into()),
        policy: Some(format!("NetworkPolicy default/p{number}")),
        direction: Direction::Egress,
        rule: Some("spec.egress[0]".into()),
    })
}

/// What becomes of what a pod sends to UDP port 90, and of anything else.
fn policy(port: (Verdict, u32), rest: (Verdict, u32)) -> Delta {
    let element = |traffic, (verdict, by)| {
        let direction = Direction::Egress;
        let key = Key::Policy { direction, index: INDEX, class: None, traffic };
        (key, Some(Value::Counted { verdict, log: false, by: Decider(by) }))
    };
    let elements = delta([element(Traffic::Port(17, 90), port), element(Traffic::Any, rest)]);
    let deciders = [port.1, rest.1].map(|number| (Decider(number), by(number))).into();
    Delta { deciders, ..elements }
}

/// Waits until so many packets have been counted for each.
async fn counted(kernel: &Kernel, expected: &[(u32, u64)]) {
    let count = |packets| Count { packets, bytes: packets * BYTES };
    let expected: Vec<_> =
        expected.iter().map(|(number, packets)| (by(*number), count(*packets))).collect();
    let deadline = Instant::now() + SOON;
    loop {
        let found = kernel.counts().await.unwrap();
        if found == expected {
            return;
        }
        assert!(Instant::now() < deadline, "expected {expected:?}, found {found:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn packets_are_counted_for_who_decides() {
    with_pod(|kernel, sender| async move {
        use Verdict::{Allow, Deny};
        kernel.commit(policy((Allow, 1), (Deny, 2))).await.unwrap();
        counted(&kernel, &[(1, 0), (2, 0)]).await;
        // Nobody answers, so that the second does not belong to a flow either.
        sender.send(0, 90);
        sender.send(0, 90);
        for _ in 0..3 {
            sender.send(0, 91);
        }
        counted(&kernel, &[(1, 2), (2, 3)]).await;

        // Another decides the same, and who decided has done so.
        kernel.commit(policy((Allow, 3), (Deny, 2))).await.unwrap();
        counted(&kernel, &[(1, 2), (2, 3), (3, 0)]).await;
        sender.send(0, 90);
        counted(&kernel, &[(1, 2), (2, 3), (3, 1)]).await;

        // The same decide otherwise.
        kernel.commit(policy((Deny, 3), (Allow, 2))).await.unwrap();
        sender.send(0, 90);
        sender.send(0, 92);
        counted(&kernel, &[(1, 2), (2, 4), (3, 2)]).await;

        // Counting ends, and what was counted with it.
        let key = Key::Policy {
            direction: Direction::Egress,
            index: INDEX,
            class: None,
            traffic: Traffic::Port(17, 90),
        };
        let plain = [(key, Some(Value::Verdict(Deny)))];
        kernel.commit(delta(plain)).await.unwrap();
        kernel.commit(egress(Some(Allow))).await.unwrap();
        assert_eq!(kernel.counts().await.unwrap(), []);
    });
}
