//! What the engine wants changed in the kernel.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Decider, Decision, Key, Value};

/// One element wanted (`Some`) or no longer wanted (`None`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which element.
    pub key: Key,
    /// Its new value.
    pub value: Option<Value>,
}

/// What the engine wants changed in the kernel: one nftables transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Changes, at most one for a key.
    pub elements: Vec<Change>,
    /// Addresses whose flows are judged again once the transaction is in the kernel: those of local
    /// endpoints whose policy changed, and peers that a policy now sees as something else.
    pub rejudge: Vec<IpAddr>,
    /// The same of peers in these ranges, first and last, that no pod has: networks are said of them.
    pub rejudge_ranges: Vec<(IpAddr, IpAddr)>,
    /// Who the new numbers in [`Value::Counted`] stand for.
    pub deciders: Vec<(Decider, Arc<Decision>)>,
    /// What `nft list` says from now on beside elements, of these or written before, that nobody is named
    /// by ([`Value::Counted`]): whose they are, and which policies are in force there. It goes with the
    /// element. What is longer than [`Delta::COMMENT`] is cut.
    pub comments: Vec<(Key, Arc<str>)>,
}

impl Delta {
    /// The longest comment, in bytes.
    pub const COMMENT: usize = 127;
}

/// Whose flows are meant: of these addresses, and of all in these ranges, first and last of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parties {
    /// Single addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Ranges, which may overlap.
    pub ranges: BTreeSet<(IpAddr, IpAddr)>,
    /// All that pass host endpoints, whosesoever.
    pub at_hosts: bool,
}

impl Parties {
    /// Whose flows a delta wants judged again.
    pub fn of(delta: &Delta) -> Self {
        Self {
            addresses: delta.rejudge.iter().copied().collect(),
            ranges: delta.rejudge_ranges.iter().copied().collect(),
            at_hosts: delta.elements.iter().any(|change| change.key.is_of_hosts()),
        }
    }

    /// Nobody.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.ranges.is_empty() && !self.at_hosts
    }

    /// Adds others.
    pub fn extend(&mut self, others: Self) {
        self.addresses.extend(others.addresses);
        self.ranges.extend(others.ranges);
        self.at_hosts |= others.at_hosts;
    }
}

impl Key {
    /// Whether a host endpoint's policy is another when this element is.
    pub fn is_of_hosts(&self) -> bool {
        matches!(
            self,
            Self::HostInterface(_)
                | Self::HostTable { .. }
                | Self::HostView { .. }
                | Self::HostPolicy { .. }
                | Self::Failsafe(..)
        )
    }
}

impl FromIterator<IpAddr> for Parties {
    fn from_iter<T: IntoIterator<Item = IpAddr>>(addresses: T) -> Self {
        Self { addresses: addresses.into_iter().collect(), ..Self::default() }
    }
}
