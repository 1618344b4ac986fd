//! Attributes while they are changed.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::attributes::{Attribute, flag, iter, kind, push};

/// Type, flags and value.
type Entry<'a> = (u8, u8, Cow<'a, [u8]>);

/// A block's attributes, each of which can be read, replaced and taken out. Those that stay are
/// borrowed from the block.
#[derive(Clone, Debug, Default)]
pub struct Draft<'a> {
    /// Sorted by type.
    attributes: SmallVec<[Entry<'a>; 12]>,
}

impl<'a> Draft<'a> {
    /// The attributes of a block as they are.
    pub fn of(block: &'a [u8]) -> Self {
        let attributes = iter(block)
            .map(|Attribute { kind, flags, value }| (kind, flags, Cow::Borrowed(value)))
            .collect();
        Self { attributes }
    }

    fn position(&self, kind: u8) -> Result<usize, usize> {
        self.attributes.binary_search_by_key(&kind, |(kind, ..)| *kind)
    }

    /// The value of an attribute.
    pub fn get(&self, kind: u8) -> Option<&[u8]> {
        self.position(kind).ok().map(|at| &*self.attributes[at].2)
    }

    /// The value of an attribute of four octets.
    pub fn number(&self, kind: u8) -> Option<u32> {
        self.get(kind)?.first_chunk::<4>().map(|octets| u32::from_be_bytes(*octets))
    }

    /// The AS path; empty where there is none.
    pub fn as_path(&self) -> &[u8] {
        self.get(kind::AS_PATH).unwrap_or_default()
    }

    /// Replaces or adds an attribute of a type known here. That others passed it on without
    /// knowing it (Partial, RFC 4271 section 5) is still said of it.
    pub fn put(&mut self, kind: u8, value: Vec<u8>) {
        let value = Cow::Owned(value);
        match self.position(kind) {
            Ok(at) => self.attributes[at].2 = value,
            Err(at) => self.attributes.insert(at, (kind, flags(kind), value)),
        }
    }

    /// Replaces or adds an attribute of four octets.
    pub fn put_number(&mut self, kind: u8, value: u32) {
        self.put(kind, value.to_be_bytes().to_vec());
    }

    /// As [`Self::put`], for a list that must not be there when it is empty.
    pub fn put_list(&mut self, kind: u8, value: Vec<u8>) {
        if value.is_empty() {
            self.remove(kind);
        } else {
            self.put(kind, value);
        }
    }

    /// Adds an item to a list of such, unless it is there.
    pub fn add<const N: usize>(&mut self, kind: u8, item: &[u8; N]) {
        let list = self.get(kind).unwrap_or_default();
        if !list.as_chunks::<N>().0.contains(item) {
            self.put(kind, [list, item].concat());
        }
    }

    /// Takes an attribute out.
    pub fn remove(&mut self, kind: u8) {
        if let Ok(at) = self.position(kind) {
            self.attributes.remove(at);
        }
    }

    /// The block.
    pub fn finish(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        for (kind, flags, value) in &self.attributes {
            push(&mut out, *flags, *kind, value);
        }
        out
    }
}

/// The flags that an attribute's definition gives it.
const fn flags(kind: u8) -> u8 {
    match kind {
        kind::ORIGIN | kind::AS_PATH | kind::LOCAL_PREF | kind::ATOMIC_AGGREGATE => {
            flag::TRANSITIVE
        }
        kind::MULTI_EXIT_DISC | kind::ORIGINATOR_ID | kind::CLUSTER_LIST => flag::OPTIONAL,
        _ => flag::OPTIONAL | flag::TRANSITIVE,
    }
}
