//! What `nft list` says beside elements. It is compared as values are: an element whose comment should be
//! another is written again.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::counts::Counts;
use crate::model::{Change, Class, Delta, Key, Traffic, Value};

/// Of the elements that say whose they are. All others, and these where packets are counted, say who decides,
/// or nothing.
#[derive(Debug, Default)]
pub(super) struct Comments {
    wanted: FxHashMap<Key, Arc<str>>,
    /// As they are in the kernel.
    written: FxHashMap<Key, Arc<str>>,
}

impl Comments {
    /// Takes what a delta says about elements, and forgets those of elements that it removes.
    pub(super) fn learn(&mut self, delta: &Delta) {
        for Change { key, value } in &delta.elements {
            if value.is_none() && has_comment(key) {
                self.wanted.remove(key);
            }
        }
        for (key, text) in &delta.comments {
            let fits = text.len() <= Delta::COMMENT && !text.contains('"');
            let text = if fits { text.clone() } else { fitting(text.to_string()).into() };
            self.wanted.insert(*key, text);
        }
    }

    /// What there should be beside an element of this value.
    pub(super) fn beside(&self, key: &Key, value: &Value, counts: &Counts) -> Option<Arc<str>> {
        match value {
            Value::Counted { by, .. } => counts.name(*by).map(|name| fitting(name).into()),
            _ if has_comment(key) => self.wanted.get(key).cloned(),
            _ => None,
        }
    }

    /// Whether an element that has this value and keeps it says something else than it should. One that
    /// nothing was said of may say anything.
    pub(super) fn differ(&self, key: &Key, value: &Value) -> bool {
        has_comment(key)
            && !matches!(value, Value::Counted { .. })
            && self.wanted.get(key).is_some_and(|text| self.written.get(key) != Some(text))
    }

    /// The kernel has this element now, with what there should be beside it; or does not have it any more.
    pub(super) fn committed(&mut self, key: &Key, value: Option<&Value>) {
        if !has_comment(key) {
            return;
        }
        let counted = matches!(value, Some(Value::Counted { .. }));
        let text = value.filter(|_| !counted).and_then(|_| self.wanted.get(key));
        match text {
            Some(text) => self.written.insert(*key, text.clone()),
            None => self.written.remove(key),
        };
    }

    /// This was read.
    pub(super) fn found(&mut self, key: &Key, text: &str) {
        if has_comment(key) {
            self.written.insert(*key, text.into());
        }
    }

    /// Nothing is known of the kernel's.
    pub(super) fn forget_written(&mut self) {
        self.written.clear();
    }
}

/// Whether an element says whose it is.
pub(super) fn has_comment(key: &Key) -> bool {
    match key {
        Key::Workload(_) | Key::HostInterface(_) => true,
        Key::Policy { class, traffic, .. } => class.is_none() && *traffic == Traffic::Any,
        Key::HostTable { class, .. } => *class == Class::default(),
        _ => false,
    }
}

/// What a list can show.
fn fitting(mut text: String) -> String {
    // Quotes would end it.
    text.retain(|c| c != '"');
    let mut end = text.len().min(Delta::COMMENT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}
