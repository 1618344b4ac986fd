//! UPDATE messages in (RFC 4271 section 4.3, RFC 4760) with the error handling of RFC 7606.

mod walk;

use std::net::Ipv4Addr;

use smallvec::SmallVec;

use self::walk::Walk;
use super::attributes::{AttributeBlock, NextHop};
use super::{Family, FamilySet, Notification, Prefix4, Prefix6, Prefixes, Reader, code};

/// How sender and receiver stand to each other in a confederation (RFC 5065).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confederation {
    /// They are not in one together.
    #[default]
    None,
    /// They are in the same member AS of one.
    SameMember,
    /// They are in different members of one. Such a sender is not external.
    OtherMember,
}

/// What was agreed with the sender, as far as it changes how an UPDATE reads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context {
    /// AS numbers have four octets in AS_PATH and AGGREGATOR (RFC 6793).
    pub four_octet_as: bool,
    /// The sender is in another AS.
    pub external: bool,
    /// The confederation that both are in.
    pub confederation: Confederation,
    /// Families negotiated; NLRI of others are ignored.
    pub families: FamilySet,
    /// Families whose NLRI have path identifiers (RFC 7911).
    pub add_path: FamilySet,
    /// The AS that must be the leftmost of an external path (RFC 4271 section 6.3), if that is
    /// to be enforced.
    pub first_as: Option<u32>,
    /// IPv4 routes may have an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
}

/// How far an error reaches (RFC 7606 section 2), mildest first. A session reset is the `Err` of
/// [`parse_update`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disposition {
    /// The attribute was left out.
    DiscardAttribute,
    /// The announced routes are to be taken as withdrawn.
    TreatAsWithdraw,
    /// The family's NLRI cannot be found: its routes are to be removed, and the family ignored
    /// for the rest of the session.
    DisableFamily(Family),
}

/// An error in an UPDATE that does not end the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttributeError {
    /// The attribute's type code; 0 for the attributes as a whole.
    pub kind: u8,
    /// What becomes of it.
    pub disposition: Disposition,
    /// What was wrong.
    pub reason: &'static str,
}

/// NLRI of MP_REACH_NLRI with their next hop.
#[derive(Clone, Copy, Debug)]
pub enum Reach<'a> {
    /// AFI 1, SAFI 1.
    V4(NextHop, Prefixes<'a, Prefix4>),
    /// AFI 2, SAFI 1.
    V6(NextHop, Prefixes<'a, Prefix6>),
}

/// NLRI of MP_UNREACH_NLRI.
#[derive(Clone, Copy, Debug)]
pub enum Unreach<'a> {
    /// AFI 1, SAFI 1.
    V4(Prefixes<'a, Prefix4>),
    /// AFI 2, SAFI 1.
    V6(Prefixes<'a, Prefix6>),
}

/// An UPDATE whose NLRI borrow from the message. Its attributes are in the block given to
/// [`parse_update`].
#[derive(Debug)]
pub struct ParsedUpdate<'a> {
    /// IPv4 prefixes withdrawn in the message's own field.
    pub withdrawn: Prefixes<'a, Prefix4>,
    /// IPv4 prefixes announced in the message's own field, with their next hop.
    pub announced: Option<(NextHop, Prefixes<'a, Prefix4>)>,
    /// MP_REACH_NLRI of a negotiated family.
    pub reach: Option<Reach<'a>>,
    /// MP_UNREACH_NLRI of a negotiated family.
    pub unreach: Option<Unreach<'a>>,
    /// The message is the End-of-RIB marker of this family (RFC 4724 section 2).
    pub end_of_rib: Option<Family>,
    /// What was wrong; empty in almost every message.
    pub errors: SmallVec<[AttributeError; 1]>,
}

impl ParsedUpdate<'_> {
    /// Whether the announced prefixes are to be taken as withdrawn.
    pub fn treat_as_withdraw(&self) -> bool {
        self.errors.iter().any(|e| e.disposition == Disposition::TreatAsWithdraw)
    }
}

fn reset(subcode: u8, data: &[u8], reason: &'static str) -> Notification {
    Notification::new(code::UPDATE, subcode, data, reason)
}

/// Parses the body of an UPDATE and writes its attributes to `block`.
///
/// # Errors
/// The NOTIFICATION for the few errors that RFC 7606 leaves to a session reset: lengths that do
/// not add up, IPv4 NLRI that cannot be delimited, MP attributes twice or too short to name their
/// family, unknown well-known attributes, and errors that may have hidden what is announced.
pub fn parse_update<'a>(
    body: &'a [u8],
    context: &Context,
    block: &mut AttributeBlock,
) -> Result<ParsedUpdate<'a>, Notification> {
    let lengths = || reset(1, &[], "the field lengths exceed the message");
    let mut reader = Reader(body);
    let withdrawn_len = reader.u16().ok_or_else(lengths)?;
    let withdrawn = reader.take(usize::from(withdrawn_len)).ok_or_else(lengths)?;
    let attributes_len = reader.u16().ok_or_else(lengths)?;
    let attributes = reader.take(usize::from(attributes_len)).ok_or_else(lengths)?;
    let nlri = reader.0;

    let network = || reset(10, &[], "an IPv4 prefix cannot be delimited");
    let add_path = context.add_path.contains(Family::Ipv4Unicast);
    let withdrawn = Prefixes::parse(withdrawn, add_path).ok_or_else(network)?;
    let nlri = Prefixes::<Prefix4>::parse(nlri, add_path).ok_or_else(network)?;
    block.bytes.clear();
    let mut walk = Walk::new(*context);
    walk.run(attributes)?;

    let v4 = context.families.contains(Family::Ipv4Unicast);
    let mut update = ParsedUpdate {
        withdrawn: if v4 { withdrawn } else { Prefixes::empty() },
        announced: None,
        reach: walk.reach,
        unreach: walk.unreach,
        end_of_rib: None,
        errors: SmallVec::new(),
    };
    if attributes.is_empty() && body.len() == 4 {
        update.end_of_rib = Some(Family::Ipv4Unicast);
    } else if withdrawn_len == 0 && nlri.is_empty() && walk.kept.is_empty() && !walk.others {
        update.end_of_rib = match walk.unreach {
            Some(Unreach::V4(p)) if p.is_empty() => Some(Family::Ipv4Unicast),
            Some(Unreach::V6(p)) if p.is_empty() => Some(Family::Ipv6Unicast),
            _ => None,
        };
    }
    if !nlri.is_empty() || walk.reach.is_some() {
        walk.finish(!nlri.is_empty(), block);
    } else if walk.others && !walk.announces {
        // RFC 7606 section 5.2: what was announced may be hidden, and there is nothing that could be
        // taken as withdrawn.
        walk.check_path(block);
        if walk.errors.iter().any(|e| e.disposition != Disposition::DiscardAttribute) {
            return Err(reset(1, &[], "an attribute is malformed, and nothing is announced"));
        }
    }
    update.errors = walk.errors;
    if v4 && !nlri.is_empty() {
        let addr = walk.next_hop.unwrap_or(Ipv4Addr::UNSPECIFIED);
        update.announced = Some((NextHop::new(addr.into()), nlri));
    }
    Ok(update)
}
