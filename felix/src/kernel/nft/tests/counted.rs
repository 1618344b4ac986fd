//! Elements that count: nothing else about them differs from those that do not.

use std::process::Command;
use std::sync::Arc;

use super::*;
use crate::model::{Decider, Decision};

fn decision(number: usize) -> Arc<Decision> {
    Arc::new(Decision {
        tier: Some("default".into()),
        policy: Some("NetworkPolicy shop/\"api\"".into()),
        direction: crate::model::Direction::Ingress,
        rule: Some(format!("spec.ingress[{number}]")),
    })
}

/// The same elements, where they may count: by another decider each.
pub(super) fn counted(plain: &[Change]) -> Delta {
    let mut delta = Delta::default();
    for change in plain {
        let by = Decider(u32::try_from(delta.deciders.len() + 1).unwrap());
        let value = match (change.key, change.value) {
            (Key::Policy { .. } | Key::HostPolicy { .. }, Some(Value::Verdict(verdict))) => {
                Some(Value::Counted { verdict, log: false, by })
            }
            (Key::Policy { .. } | Key::HostPolicy { .. }, Some(Value::Logged(verdict))) => {
                Some(Value::Counted { verdict, log: true, by })
            }
            (_, other) => other,
        };
        if value != change.value {
            delta.deciders.push((by, decision(delta.deciders.len())));
        }
        delta.elements.push(Change { value, ..*change });
    }
    delta
}

/// As the kernel has them.
fn anonymous(delta: &Delta) -> FxHashMap<Key, Value> {
    let mut all = wanted(&delta.elements);
    for value in all.values_mut() {
        if let Value::Counted { by, .. } = value {
            *by = Decider::NOBODY;
        }
    }
    all
}

pub(super) fn listing() -> String {
    let listed = Command::new("nft").args(["list", "table", "inet", TABLE]).output().unwrap();
    String::from_utf8(listed.stdout).unwrap()
}

#[test]
fn counting_comes_and_goes_in_a_transaction_each() {
    inside(|| {
        let mut writer = start(true);
        writer.change(&delta(everything()));
        writer.flush().unwrap();
        let plain = listing();
        assert_eq!(writer.counts().unwrap(), []);

        let before = generation();
        let counted = counted(&everything());
        writer.change(&counted);
        writer.flush().unwrap();
        assert_eq!(generation(), before + 1);
        assert_eq!(kernel_has(), anonymous(&counted));
        let keys: Vec<Key> = everything().iter().map(|change| change.key).collect();
        let values: Vec<_> = counted.elements.iter().map(|change| change.value).collect();
        assert_eq!(writer.values(&keys).unwrap(), values, "it is known who decides");
        let text = listing();
        let element =
            "counter packets 0 bytes 0 comment \"spec.ingress[0] of NetworkPolicy shop/api\"";
        assert!(text.contains(element), "{text}");
        let zero = crate::kernel::Count::default();
        let all = counted.deciders.iter().map(|(_, decision)| (decision.clone(), zero));
        let mut all: Vec<_> = all.collect();
        all.sort();
        assert_eq!(writer.counts().unwrap(), all);

        // Reading again what is there is no reason to write it again.
        let before = generation();
        writer.doubt();
        writer.flush().unwrap();
        writer.set_sampling(true);
        writer.flush().unwrap();
        writer.set_sampling(false);
        writer.flush().unwrap();
        assert_eq!(writer.values(&keys).unwrap(), values);
        assert_eq!(generation(), before + 2, "the chains that differ, and no element");

        writer.change(&delta(everything()));
        writer.flush().unwrap();
        assert_eq!(generation(), before + 3);
        assert_eq!(kernel_has(), wanted(&everything()));
        assert_eq!(listing().len(), plain.len());
        assert_eq!(writer.counts().unwrap(), []);
    });
}

/// What is in the kernel counts for another agent, of whose deciders this one knows nothing.
#[test]
fn a_restarted_agent_counts_anew() {
    inside(|| {
        let counted = counted(&everything());
        {
            let mut writer = start(true);
            writer.change(&counted);
            writer.set_in_sync();
            writer.flush().unwrap();
        }
        let mut writer = start(true);
        assert_eq!(kernel_has(), anonymous(&counted), "until it is in sync nothing changes");
        let before = generation();
        writer.change(&counted);
        writer.set_in_sync();
        writer.flush().unwrap();
        assert_eq!(generation(), before + 1);
        assert_eq!(kernel_has(), anonymous(&counted));
        assert_eq!(writer.counts().unwrap().len(), counted.deciders.len());
    });
}
