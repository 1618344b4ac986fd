//! What a rule does to a route.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{CommunityPattern, Origin};
use crate::wire::attributes::kind;
use crate::wire::{
    Community, Draft, ExtendedCommunity, Family, LargeCommunity, NextHop, path, text_form,
};

/// Changes to the attributes of a route. Communities of a kind are first replaced, then deleted,
/// then added; private AS numbers are dealt with before others are put in front.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Changes {
    /// LOCAL_PREF.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub med: Option<MedChange>,
    /// ORIGIN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// The next hop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<NextHopChange>,
    /// All standard communities, in place of those there are; an empty list removes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub communities: Option<Vec<Community>>,
    /// All large communities, in place of those there are; an empty list removes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub large_communities: Option<Vec<LargeCommunity>>,
    /// All extended communities, in place of those there are; an empty list removes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extended_communities: Option<Vec<ExtendedCommunity>>,
    /// Communities of any kind deleted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub delete_communities: Vec<CommunityPattern>,
    /// Those in these community sets deleted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub delete_community_sets: Vec<String>,
    /// Standard communities added.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add_communities: Vec<Community>,
    /// Large communities added.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add_large_communities: Vec<LargeCommunity>,
    /// Extended communities added.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add_extended_communities: Vec<ExtendedCommunity>,
    /// Private AS numbers in the path (RFC 6996).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_as: Option<PrivateAs>,
    /// How many times the first AS number of the path is put in front of it again, at most 10.
    #[serde(skip_serializing_if = "is_zero")]
    pub prepend_last: u8,
    /// How many times our own AS number, as the peer knows it, is put in front of the path, at most
    /// 10; beside the one that an external peer is told anyway. Towards our confederation it is that of
    /// our member AS, which stays inside (RFC 5065 section 5).
    #[serde(skip_serializing_if = "is_zero")]
    pub prepend_own: u8,
    /// AS numbers put in front of the path, the first of them outermost, at most 10. They go in
    /// front of those of `prepend-own`, which go in front of those of `prepend-last`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prepend_as_path: Vec<u32>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_zero(count: &u8) -> bool {
    *count == 0
}

/// What becomes of MULTI_EXIT_DISC: a number, or `{add: n}`, `{subtract: n}`, `remove`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged, expecting = "med is a number, {add: n}, {subtract: n} or remove")]
pub enum MedChange {
    /// This value.
    Set(u32),
    /// Something else.
    By(MedOperation),
}

/// A change to MULTI_EXIT_DISC that is no new value. One that is not there counts as 0, and results
/// stay between 0 and the largest number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MedOperation {
    /// This much more.
    Add(u32),
    /// This much less.
    Subtract(u32),
    /// None at all.
    Remove,
}

/// What becomes of the next hop: `self`, `unchanged` or an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum NextHopChange {
    /// Ourselves, in an export policy.
    Ourselves,
    /// What was learned, in an export policy.
    Unchanged,
    /// This address; routes of the other family are left alone.
    Address(IpAddr),
}

impl NextHopChange {
    /// The address, if it is for routes of this family.
    pub(crate) fn address(self, family: Family) -> Option<NextHop> {
        match self {
            Self::Address(address) if address.is_ipv4() == (family == Family::Ipv4Unicast) => {
                Some(NextHop::new(address))
            }
            _ => None,
        }
    }
}

impl std::str::FromStr for NextHopChange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "self" => Ok(Self::Ourselves),
            "unchanged" => Ok(Self::Unchanged),
            _ => text
                .parse()
                .map(Self::Address)
                .map_err(|_| format!("{text:?} is neither self, unchanged nor an address")),
        }
    }
}

impl std::fmt::Display for NextHopChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ourselves => f.write_str("self"),
            Self::Unchanged => f.write_str("unchanged"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

text_form!(NextHopChange);

/// What becomes of private AS numbers in a path: 64512 to 65534 and 4200000000 to 4294967294
/// (RFC 6996 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrivateAs {
    /// They are taken out.
    Remove,
    /// Ours stands in their place.
    Replace,
}

impl PrivateAs {
    /// The path without private AS numbers but `keep`.
    pub(crate) fn apply(self, path: &[u8], own: u32, keep: Option<u32>) -> Vec<u8> {
        path::map(path, |asn| {
            if !path::is_private(asn) || Some(asn) == keep {
                return Some(asn);
            }
            (self == Self::Replace).then_some(own)
        })
    }
}

/// Our AS number, as a peer knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Own {
    pub(crate) asn: u32,
    /// It is that of a member of a confederation, which nobody outside may see.
    pub(crate) member: bool,
}

impl Changes {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Makes all changes but that of the next hop. `own` is our AS number as the peer knows it,
    /// `deleted` holds the patterns of the sets named.
    pub(super) fn apply(
        &self,
        draft: &mut Draft<'_>,
        own: Own,
        deleted: &[std::sync::Arc<[CommunityPattern]>],
    ) {
        if let Some(local_pref) = self.local_pref {
            draft.put_number(kind::LOCAL_PREF, local_pref);
        }
        if let Some(origin) = self.origin {
            draft.put(kind::ORIGIN, vec![origin.wire()]);
        }
        self.change_med(draft);
        self.change_path(draft, own);
        let delete = || self.delete_communities.iter().chain(deleted.iter().flat_map(|d| &**d));
        rewrite(
            draft,
            kind::COMMUNITIES,
            self.communities.as_deref(),
            |c| delete().any(|pattern| pattern.matches(c)),
            &self.add_communities,
        );
        rewrite(
            draft,
            kind::EXTENDED_COMMUNITIES,
            self.extended_communities.as_deref(),
            |c| delete().any(|pattern| pattern.matches_extended(c)),
            &self.add_extended_communities,
        );
        rewrite(
            draft,
            kind::LARGE_COMMUNITIES,
            self.large_communities.as_deref(),
            |c| delete().any(|pattern| pattern.matches_large(c)),
            &self.add_large_communities,
        );
    }

    fn change_med(&self, draft: &mut Draft<'_>) {
        let old = draft.number(kind::MULTI_EXIT_DISC).unwrap_or(0);
        let new = match self.med {
            None => return,
            Some(MedChange::By(MedOperation::Remove)) => {
                draft.remove(kind::MULTI_EXIT_DISC);
                return;
            }
            Some(MedChange::Set(med)) => med,
            Some(MedChange::By(MedOperation::Add(n))) => old.saturating_add(n),
            Some(MedChange::By(MedOperation::Subtract(n))) => old.saturating_sub(n),
        };
        draft.put_number(kind::MULTI_EXIT_DISC, new);
    }

    fn change_path(&self, draft: &mut Draft<'_>, own: Own) {
        if let Some(private) = self.private_as {
            let path = private.apply(draft.as_path(), own.asn, None);
            draft.put(kind::AS_PATH, path);
        }
        let last = path::numbers(draft.as_path()).next();
        let mut front = self.prepend_as_path.clone();
        let ours = std::iter::repeat_n(own.asn, self.prepend_own.into());
        front.extend(ours.clone().filter(|_| !own.member));
        let times = usize::from(self.prepend_last);
        front.extend(last.into_iter().flat_map(|last| std::iter::repeat_n(last, times)));
        if !front.is_empty() {
            let mut path = Vec::new();
            path::prepend(&front, draft.as_path(), &mut path);
            draft.put(kind::AS_PATH, path);
        }
        for member in ours.filter(|_| own.member) {
            let mut path = Vec::new();
            path::prepend_member(member, draft.as_path(), &mut path);
            draft.put(kind::AS_PATH, path);
        }
    }
}

/// A community of one kind, as it stands in its attribute.
trait Wire: Copy + PartialEq {
    /// The communities of an attribute's value.
    fn read(value: &[u8]) -> Vec<Self>;
    /// Appends this one.
    fn write(self, out: &mut Vec<u8>);
}

impl Wire for Community {
    fn read(value: &[u8]) -> Vec<Self> {
        value.as_chunks().0.iter().map(|c| Self(u32::from_be_bytes(*c))).collect()
    }

    fn write(self, out: &mut Vec<u8>) {
        out.extend(self.0.to_be_bytes());
    }
}

impl Wire for ExtendedCommunity {
    fn read(value: &[u8]) -> Vec<Self> {
        value.as_chunks().0.iter().map(|c| Self(u64::from_be_bytes(*c))).collect()
    }

    fn write(self, out: &mut Vec<u8>) {
        out.extend(self.0.to_be_bytes());
    }
}

impl Wire for LargeCommunity {
    fn read(value: &[u8]) -> Vec<Self> {
        let number =
            |c: &[u8; 12], at: usize| u32::from_be_bytes([c[at], c[at + 1], c[at + 2], c[at + 3]]);
        let chunks = value.as_chunks::<12>().0.iter();
        chunks.map(|c| Self([number(c, 0), number(c, 4), number(c, 8)])).collect()
    }

    fn write(self, out: &mut Vec<u8>) {
        out.extend(self.0.iter().flat_map(|part| part.to_be_bytes()));
    }
}

/// Replaces, deletes and adds communities of one kind. What is not touched stays as it came, also
/// where a community is there twice.
fn rewrite<T: Wire>(
    draft: &mut Draft<'_>,
    kind: u8,
    replaced: Option<&[T]>,
    deleted: impl Fn(T) -> bool,
    added: &[T],
) {
    let old = T::read(draft.get(kind).unwrap_or_default());
    let mut new: Vec<T> = replaced.unwrap_or(&old).to_vec();
    new.retain(|community| !deleted(*community));
    for community in added {
        if !new.contains(community) {
            new.push(*community);
        }
    }
    if new != old {
        let mut value = Vec::new();
        new.into_iter().for_each(|community| community.write(&mut value));
        draft.put_list(kind, value);
    }
}
