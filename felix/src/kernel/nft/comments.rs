//! What `nft list` says beside elements. It is compared as values are: an element whose comment should be
//! another is written again.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::counts::Counts;
use crate::model::{Change, Class, Delta, Key, Traffic, Value};

/// Of those elements that are the only ones to have comments where nobody is named by them.
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
    pub(super) fn beside<'a>(
        &'a self,
        key: &Key,
        value: &Value,
        counts: &'a Counts,
    ) -> Option<Arc<str>> {
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

    /// The kernel has this element now, with this comment; or does not have it any more.
    pub(super) fn note(&mut self, key: &Key, text: Option<Arc<str>>) {
        if has_comment(key) {
            match text {
                Some(text) => self.written.insert(*key, text),
                None => self.written.remove(key),
            };
        }
    }

    /// Nothing is known of the kernel's.
    pub(super) fn forget_written(&mut self) {
        self.written.clear();
    }
}

/// Whether an element is named by more than who decides.
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
