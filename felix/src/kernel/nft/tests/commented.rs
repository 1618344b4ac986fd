//! What the list says beside elements.

use std::process::Command;

use super::counted::{counted, listing};
use super::*;

/// Everything, with the text beside each element that may have one of its own.
fn commented(version: &str) -> Delta {
    let mut delta = delta(everything());
    for Change { key, .. } in &delta.elements {
        if comments::has_comment(key) {
            delta.comments.push((*key, format!("{version} of \"{key:?}\"").into()));
        }
    }
    assert!(delta.comments.len() > 5);
    delta
}

fn times(text: &str) -> usize {
    listing().matches(text).count()
}

/// Another program's command.
fn nft(command: &str) {
    let done = Command::new("nft").arg(command).output().unwrap();
    assert!(done.status.success(), "{command}: {done:?}");
}

#[test]
fn comments_are_written_and_changed_like_values() {
    inside(|| {
        let first = commented("first");
        let all = first.comments.len();
        let mut writer = start(true);
        writer.change(&first);
        writer.set_in_sync();
        writer.flush().unwrap();
        assert_eq!(kernel_has(), wanted(&everything()));
        assert_eq!(times("comment \"first of Workload("), 1, "{}", listing());
        assert_eq!(times("comment \"first of"), all);

        // Said again, or read again, it is no reason to write.
        let before = generation();
        writer.change(&first);
        assert!(writer.flush_briefly());
        writer.doubt();
        writer.flush().unwrap();
        assert_eq!(generation(), before);

        // One says something else, and nothing else is written.
        let (key, _) = first.comments[0];
        let comments = vec![(key, "x".repeat(200).into())];
        writer.change(&Delta { comments, ..Delta::default() });
        assert!(writer.flush_briefly());
        assert_eq!(generation(), before + 1);
        assert_eq!(kernel_has(), wanted(&everything()));
        assert_eq!(times(&"x".repeat(Delta::COMMENT)), 1);
        assert_eq!(times(&"x".repeat(Delta::COMMENT + 1)), 0);
        writer.doubt();
        writer.flush().unwrap();
        assert_eq!(generation(), before + 1, "what was cut is what was written");

        // It goes with the element, and does not come back with it.
        let change = |value| Delta { elements: vec![Change { key, value }], ..Delta::default() };
        let value = wanted(&everything())[&key];
        writer.change(&change(None));
        writer.flush().unwrap();
        writer.change(&change(Some(value)));
        writer.flush().unwrap();
        assert_eq!(times("comment \"first of"), all - 1);
        assert_eq!(times("xxx"), 0);
    });
}

#[test]
fn a_restarted_agent_knows_what_was_said() {
    inside(|| {
        {
            let mut writer = start(true);
            writer.change(&commented("first"));
            writer.set_in_sync();
            writer.flush().unwrap();
        }
        let mut writer = start(true);
        let before = generation();
        writer.change(&commented("first"));
        writer.set_in_sync();
        writer.flush().unwrap();
        assert_eq!(generation(), before);
        writer.change(&commented("second"));
        writer.flush().unwrap();
        assert_eq!(generation(), before + 1);
        assert_eq!((times("first of"), kernel_has()), (0, wanted(&everything())));
        assert_eq!(times("second of"), commented("second").comments.len());
    });
}

/// Another program takes the table away, or an element and puts it back without what was said of it.
#[test]
fn comments_are_repaired() {
    inside(|| {
        let delta = commented("first");
        let all = delta.comments.len();
        let mut writer = start(false);
        writer.change(&delta);
        writer.set_in_sync();
        writer.flush().unwrap();
        nft(&format!("delete table inet {TABLE}"));
        writer.doubt();
        writer.flush().unwrap();
        assert_eq!((times("first of"), kernel_has()), (all, wanted(&everything())));

        let text = format!("element inet {TABLE} wl {{ 7 }}");
        assert!(everything().contains(&member(Key::Workload(7))));
        nft(&format!("delete {text}; add {text}"));
        assert_eq!(times("first of"), all - 1);
        writer.doubt();
        writer.flush().unwrap();
        assert_eq!((times("first of"), kernel_has()), (all, wanted(&everything())));
    });
}

/// Elements that count say who decides instead.
#[test]
fn who_decides_is_said_first() {
    inside(|| {
        let plain = commented("first");
        let mut writer = start(true);
        writer.change(&plain);
        writer.flush().unwrap();
        let policy = |key: &Key| matches!(key, Key::Policy { .. });
        let instead = plain.comments.iter().filter(|(key, _)| policy(key)).count();
        assert!(instead > 0);
        writer.change(&counted(&everything()));
        writer.flush().unwrap();
        assert_eq!(times("first of"), plain.comments.len() - instead);
        // Not told again, but known.
        writer.change(&delta(everything()));
        writer.flush().unwrap();
        assert_eq!(times("first of"), plain.comments.len());
    });
}
