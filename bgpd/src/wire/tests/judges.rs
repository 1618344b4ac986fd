//! Independent codecs as the judges: what we write they read as what we meant, and what they write of it
//! we read as the same.

use ipnet::IpNet;

use super::strategies::Announcement;
use super::{encoder_max, frames, read_back, withdrawn};
use crate::wire::{NextHop, UpdateEncoder, attributes};

/// What an UPDATE says, as another codec understands it.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Type and value, as in a block: without next hop and NLRI.
    pub(super) attributes: Vec<(u8, Vec<u8>)>,
    pub(super) next_hop: Option<NextHop>,
    /// Each with its path identifier; 0 where there is none.
    pub(super) announced: Vec<(u32, IpNet)>,
    pub(super) withdrawn: Vec<(u32, IpNet)>,
}

/// Compares announcements. `judge` says what it understands of a message, and writes it if it can.
pub(super) fn announcements_mean_the_same(
    announcement: &Announcement,
    encoder: UpdateEncoder,
    judge: impl Fn(&[u8]) -> (Told, Option<Vec<u8>>),
) {
    let wanted = attributes::iter(&announcement.block).map(|a| (a.kind, a.value.to_vec()));
    let wanted: Vec<_> = wanted.collect();
    let (mut announced, mut written) = (Vec::new(), Some(Vec::new()));
    for message in frames(&announcement.encode(encoder), encoder_max(encoder)) {
        let (told, theirs) = judge(&message.octets());
        assert_eq!(told.attributes, wanted);
        assert_eq!(told.next_hop, Some(announcement.next_hop));
        assert!(told.withdrawn.is_empty());
        announced.extend(told.announced);
        written = written.zip(theirs).map(|(all, theirs)| [all, theirs].concat());
    }
    assert_eq!(announced, announcement.numbered(encoder));
    let Some(written) = written else { return };
    // They may write longer than they read: an extended length where none is needed.
    let encoder = UpdateEncoder { extended_messages: true, ..encoder };
    let mut prefixes = Vec::new();
    // Path identifiers are compared there.
    for part in read_back(&written, encoder, false) {
        assert_eq!(part.block, announcement.block);
        assert_eq!(part.next_hop, announcement.next_hop);
        prefixes.extend(part.prefixes);
    }
    assert_eq!(prefixes, announcement.prefixes);
}

/// Compares withdrawals, as [`announcements_mean_the_same`].
pub(super) fn withdrawals_mean_the_same(
    announcement: &Announcement,
    encoder: UpdateEncoder,
    judge: impl Fn(&[u8]) -> (Told, Option<Vec<u8>>),
) {
    let (mut told, mut written) = (Vec::new(), Vec::new());
    for message in frames(&announcement.encode_withdraw(encoder), encoder_max(encoder)) {
        let (theirs, octets) = judge(&message.octets());
        assert!(theirs.attributes.is_empty() && theirs.announced.is_empty());
        told.extend(theirs.withdrawn);
        written.extend(octets.expect("withdrawals can be written"));
    }
    let wanted = announcement.numbered(encoder);
    assert_eq!(told, wanted);
    let encoder = UpdateEncoder { extended_messages: true, ..encoder };
    assert_eq!(withdrawn(&written, encoder), wanted);
}
