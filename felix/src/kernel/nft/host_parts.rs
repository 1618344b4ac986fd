//! Which chains host endpoints need: what their elements say, counted.

use crate::kernel::layout::host::{Hosts, Views};
use crate::model::host::{HostHook, View};
use crate::model::{Class, Key};

/// Interfaces by name, all interfaces, traffic that is forwarded, before destination NAT, before connection
/// tracking.
const KINDS: usize = 5;
/// Each view but the plain one, at each hook.
const VIEWS: usize = HostHook::ALL.len() * View::TOLD_APART;

/// How many elements say what of the chains that host endpoints need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HostParts([usize; KINDS + VIEWS]);

impl Default for HostParts {
    fn default() -> Self {
        Self([0; KINDS + VIEWS])
    }
}

impl HostParts {
    /// Whether chains may depend on an element.
    pub(super) fn concerns(key: &Key) -> bool {
        part(key).is_some()
    }

    /// An element was there before, or is there now, or both.
    pub(super) fn note(&mut self, key: &Key, before: bool, now: bool) {
        if let Some(count) = part(key).and_then(|part| self.0.get_mut(part)) {
            *count += usize::from(now);
            *count -= usize::from(before);
        }
    }

    /// What is needed.
    pub(super) fn hosts(&self) -> Hosts {
        let (kinds, views) = self.0.split_at(KINDS);
        let mut hosts = Hosts {
            named: kinds[0] > 0,
            all: kinds[1] > 0,
            forward: kinds[2] > 0,
            pre_dnat: kinds[3] > 0,
            untracked: kinds[4] > 0,
            views: Views::default(),
        };
        for ((hook, view), count) in all_views().zip(views) {
            if *count > 0 {
                hosts.views.add(hook, view);
            }
        }
        hosts
    }
}

fn all_views() -> impl Iterator<Item = (HostHook, View)> {
    HostHook::ALL.into_iter().flat_map(|hook| View::told_apart().map(move |view| (hook, view)))
}

fn part(key: &Key) -> Option<usize> {
    match *key {
        Key::HostInterface(_) => Some(0),
        Key::HostTable { hook, view, class: Class(0), .. } if view != View::PLAIN => {
            Some(KINDS + all_views().position(|other| other == (hook, view))?)
        }
        Key::HostTable { hook, class: Class(0), .. } if hook.forwards() => Some(2),
        Key::HostTable { hook: HostHook::PreDnat, class: Class(0), .. } => Some(3),
        Key::HostTable { hook, class: Class(0), .. } if hook.is_early() => Some(4),
        Key::HostTable { interface: None, class: Class(0), .. } => Some(1),
        _ => None,
    }
}
