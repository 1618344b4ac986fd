//! `netgauze-bgp-pkt` as the judge.

use std::net::IpAddr;

use ipnet::IpNet;
use netgauze_bgp_pkt::BgpMessage;
use netgauze_bgp_pkt::capabilities::BgpCapability as Theirs;
use netgauze_bgp_pkt::nlri::{Ipv4UnicastAddress, Ipv6UnicastAddress};
use netgauze_bgp_pkt::notification::{
    BgpNotificationMessage, CeaseError, FiniteStateMachineError, HoldTimerExpiredError,
    MessageHeaderError, OpenMessageError, RouteRefreshError, UpdateMessageError,
};
use netgauze_bgp_pkt::path_attribute::{
    Aggregator, As4PathSegment, AsPath, MpReach, MpUnreach, PathAttributeValue,
};
use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_parse_utils::WritablePdu;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::judges::{Told, announcements_mean_the_same, withdrawals_mean_the_same};
use super::strategies::{announcement, known_open};
use super::{MAX_LEN, frames};
use crate::wire::attributes::kind;
use crate::wire::{
    Capability, Family, FamilyAddPath, FamilyRestart, LongLivedFamily, NextHop, NextHopFamily,
    Notification, Open, RouteRefresh, UpdateEncoder, encode_end_of_rib, encode_keepalive,
};

fn read(octets: &[u8], context: &mut BgpParsingContext) -> BgpMessage {
    let mut reader = SliceReader::new(octets);
    match BgpMessage::parse(&mut reader, context) {
        Ok(message) => message,
        Err(error) => panic!("they refuse it: {error}"),
    }
}

fn written(message: &BgpMessage) -> Vec<u8> {
    let mut out = Vec::new();
    message.write(&mut out).unwrap();
    out
}

/// What they know of a session once they have our OPEN.
fn context(four_octet_as: bool, add_path: bool) -> BgpParsingContext {
    let mut context = BgpParsingContext::asn2_default();
    context.set_asn4(four_octet_as);
    if add_path {
        let families = Family::ALL.map(|family| {
            let (afi, safi) = family.wire();
            FamilyAddPath { afi, safi, mode: FamilyAddPath::SEND }
        });
        let capabilities = vec![Capability::AddPath(families.to_vec())];
        let mut octets = Vec::new();
        Open::new(65001, 90, [192, 0, 2, 1].into(), capabilities).encode(&mut octets);
        let BgpMessage::Open(open) = read(&octets, &mut context) else { panic!("not an OPEN") };
        for capability in open.capabilities() {
            context.update_capabilities(capability, true);
        }
    }
    context
}

fn v4(all: &[Ipv4UnicastAddress]) -> impl Iterator<Item = (u32, IpNet)> + '_ {
    all.iter().map(|nlri| (nlri.path_id().unwrap_or(0), nlri.network().address().into()))
}

fn v6(all: &[Ipv6UnicastAddress]) -> impl Iterator<Item = (u32, IpNet)> + '_ {
    all.iter().map(|nlri| (nlri.path_id().unwrap_or(0), nlri.network().address().into()))
}

/// The octets of a list's items.
fn each<T, const N: usize>(items: &[T], octets: impl Fn(&T) -> [u8; N]) -> Vec<u8> {
    items.iter().flat_map(octets).collect()
}

/// What they understand of an UPDATE, and what they write of it.
fn judge(octets: &[u8], encoder: UpdateEncoder) -> (Told, Option<Vec<u8>>) {
    let mut context = context(encoder.four_octet_as, encoder.add_path);
    let message = read(octets, &mut context);
    let BgpMessage::Update(update) = &message else { panic!("not an UPDATE") };
    let mut told = Told {
        announced: v4(update.nlri()).collect(),
        withdrawn: v4(update.withdraw_routes()).collect(),
        ..Told::default()
    };
    for attribute in update.path_attributes() {
        use PathAttributeValue as Value;
        let (kind, value) = match attribute.value() {
            Value::NextHop(hop) => {
                told.next_hop = Some(NextHop::new(IpAddr::V4(hop.next_hop())));
                continue;
            }
            Value::MpReach(reach) => {
                let (addr, link_local) = match reach {
                    MpReach::Ipv4Unicast { next_hop, next_hop_local, nlri } => {
                        told.announced.extend(v4(nlri));
                        (*next_hop, *next_hop_local)
                    }
                    MpReach::Ipv6Unicast { next_hop_global, next_hop_local, nlri } => {
                        told.announced.extend(v6(nlri));
                        (IpAddr::V6(*next_hop_global), *next_hop_local)
                    }
                    other => panic!("we wrote no {other:?}"),
                };
                told.next_hop = Some(NextHop { addr, link_local });
                continue;
            }
            Value::MpUnreach(unreach) => {
                match unreach {
                    MpUnreach::Ipv4Unicast { nlri } => told.withdrawn.extend(v4(nlri)),
                    MpUnreach::Ipv6Unicast { nlri } => told.withdrawn.extend(v6(nlri)),
                    other => panic!("we wrote no {other:?}"),
                }
                continue;
            }
            Value::Origin(origin) => (kind::ORIGIN, vec![*origin as u8]),
            Value::AsPath(path) => (kind::AS_PATH, their_path(path)),
            // It holds the whole path where it is there.
            Value::As4Path(path) => {
                put(&mut told.attributes, kind::AS_PATH, four_octet_path(path.segments()));
                continue;
            }
            Value::UnknownAttribute(unknown) if unknown.code() == kind::AS4_AGGREGATOR => {
                put(&mut told.attributes, kind::AGGREGATOR, unknown.value().to_vec());
                continue;
            }
            Value::MultiExitDiscriminator(med) => {
                (kind::MULTI_EXIT_DISC, med.metric().to_be_bytes().to_vec())
            }
            Value::LocalPreference(preference) => {
                (kind::LOCAL_PREF, preference.metric().to_be_bytes().to_vec())
            }
            Value::AtomicAggregate(_) => (kind::ATOMIC_AGGREGATE, Vec::new()),
            Value::Aggregator(aggregator) => {
                let (asn, origin) = match aggregator {
                    Aggregator::As2Aggregator(a) => (u32::from(*a.asn()), a.origin()),
                    Aggregator::As4Aggregator(a) => (*a.asn(), a.origin()),
                };
                (kind::AGGREGATOR, [asn.to_be_bytes(), origin.octets()].concat())
            }
            Value::Communities(all) => {
                (kind::COMMUNITIES, each(all.communities(), |c| c.value().to_be_bytes()))
            }
            Value::Originator(originator) => {
                (kind::ORIGINATOR_ID, originator.id().octets().to_vec())
            }
            Value::ClusterList(list) => {
                (kind::CLUSTER_LIST, each(list.cluster_list(), |id| id.id().octets()))
            }
            Value::LargeCommunities(all) => {
                let parts = all.communities().iter().flat_map(|c| {
                    [c.global_admin(), c.local_data1(), c.local_data2()].map(u32::to_be_bytes)
                });
                (kind::LARGE_COMMUNITIES, parts.flatten().collect())
            }
            Value::OnlyToCustomer(customer) => {
                (kind::ONLY_TO_CUSTOMER, customer.asn().to_be_bytes().to_vec())
            }
            // They take these apart further than we do; what they make of it they write.
            Value::ExtendedCommunities(all) => {
                let mut value = Vec::new();
                all.communities().iter().for_each(|c| c.write(&mut value).unwrap());
                (kind::EXTENDED_COMMUNITIES, value)
            }
            Value::ExtendedCommunitiesIpv6(all) => {
                let mut value = Vec::new();
                all.communities().iter().for_each(|c| c.write(&mut value).unwrap());
                (kind::IPV6_EXTENDED_COMMUNITIES, value)
            }
            Value::UnknownAttribute(unknown) => (unknown.code(), unknown.value().to_vec()),
            other => panic!("we wrote no {other:?}"),
        };
        told.attributes.push((kind, value));
    }
    (told, Some(written(&message)))
}

/// Puts another value in place of the one that has been told.
fn put(attributes: &mut [(u8, Vec<u8>)], kind: u8, value: Vec<u8>) {
    let (_, old) = attributes.iter_mut().find(|(k, _)| *k == kind).unwrap();
    assert_ne!(*old, value, "it was needed");
    *old = value;
}

/// Their path in four octets.
fn their_path(path: &AsPath) -> Vec<u8> {
    match path {
        AsPath::As4PathSegments(segments) => four_octet_path(segments),
        AsPath::As2PathSegments(segments) => {
            let long = segments.iter().map(|segment| {
                let numbers = segment.as_numbers().iter().map(|n| u32::from(*n));
                As4PathSegment::new(segment.segment_type(), numbers.collect::<Vec<_>>())
            });
            four_octet_path(&long.collect::<Vec<_>>())
        }
    }
}

fn four_octet_path(segments: &[As4PathSegment]) -> Vec<u8> {
    let mut value = Vec::new();
    for segment in segments {
        let numbers = segment.as_numbers();
        value.extend([segment.segment_type().into(), u8::try_from(numbers.len()).unwrap()]);
        value.extend(each(numbers, |n| n.to_be_bytes()));
    }
    value
}

/// Their capability as ours would say it.
fn ours(capability: &Theirs) -> Capability {
    /// AFI and SAFI of what they have one type for.
    macro_rules! wire {
        ($of:expr) => {{
            let family = $of.address_type();
            let (afi, safi) = (family.address_family(), family.subsequent_address_family());
            (u16::from(afi), u8::from(safi))
        }};
    }
    match capability {
        Theirs::MultiProtocolExtensions(family) => {
            let (afi, safi) = wire!(family);
            Capability::Multiprotocol(afi, safi)
        }
        Theirs::RouteRefresh => Capability::RouteRefresh,
        Theirs::EnhancedRouteRefresh => Capability::EnhancedRouteRefresh,
        Theirs::ExtendedMessage => Capability::ExtendedMessage,
        Theirs::ExtendedNextHopEncoding(all) => {
            let family = all.encodings().iter().map(|encoding| {
                let (afi, safi) = wire!(encoding);
                let next_hop = encoding.next_hop_afi().into();
                NextHopFamily { afi, safi: safi.into(), next_hop }
            });
            Capability::ExtendedNextHop(family.collect())
        }
        Theirs::GracefulRestartCapability(restart) => {
            let family = restart.address_families().iter().map(|family| {
                let (afi, safi) = wire!(family);
                FamilyRestart { afi, safi, forwarding: family.forwarding_state() }
            });
            Capability::GracefulRestart {
                restarting: restart.restart(),
                notification: restart.graceful_notification(),
                time: restart.time(),
                families: family.collect(),
            }
        }
        Theirs::LongLivedGracefulRestart(restart) => {
            let family = restart.address_families().iter().map(|family| {
                let (afi, safi) = wire!(family);
                let (forwarding, time) = (family.forwarding_state(), family.stale_time());
                LongLivedFamily { afi, safi, forwarding, time }
            });
            Capability::LongLivedGracefulRestart(family.collect())
        }
        Theirs::AddPath(all) => {
            let family = all.address_families().iter().map(|family| {
                let (afi, safi) = wire!(family);
                let receive = if family.receive() { FamilyAddPath::RECEIVE } else { 0 };
                let send = if family.send() { FamilyAddPath::SEND } else { 0 };
                FamilyAddPath { afi, safi, mode: receive | send }
            });
            Capability::AddPath(family.collect())
        }
        Theirs::FourOctetAs(asn) => Capability::FourOctetAs(asn.asn4()),
        Theirs::BgpRole(role) => Capability::Role(role.role().into()),
        Theirs::Unrecognized(unknown) => {
            Capability::Unknown(*unknown.code(), unknown.value().to_vec())
        }
        other => panic!("we wrote no {other:?}"),
    }
}

/// Code, subcode and data of their NOTIFICATION.
#[rustfmt::skip]
fn codes(notification: &BgpNotificationMessage) -> (u8, u8, &[u8]) {
    use BgpNotificationMessage as N;
    let (code, (subcode, data)) = match notification {
        N::MessageHeaderError(error) => (1, match error {
            MessageHeaderError::Unspecific { value } => (0, value),
            MessageHeaderError::ConnectionNotSynchronized { value } => (1, value),
            MessageHeaderError::BadMessageLength { value } => (2, value),
            MessageHeaderError::BadMessageType { value } => (3, value),
        }),
        N::OpenMessageError(error) => (2, match error {
            OpenMessageError::Unspecific { value } => (0, value),
            OpenMessageError::UnsupportedVersionNumber { value } => (1, value),
            OpenMessageError::BadPeerAs { value } => (2, value),
            OpenMessageError::BadBgpIdentifier { value } => (3, value),
            OpenMessageError::UnsupportedOptionalParameter { value } => (4, value),
            OpenMessageError::UnacceptableHoldTime { value } => (6, value),
            OpenMessageError::UnsupportedCapability { value } => (7, value),
            OpenMessageError::RoleMismatch { value } => (11, value),
        }),
        N::UpdateMessageError(error) => (3, match error {
            UpdateMessageError::Unspecific { value } => (0, value),
            UpdateMessageError::MalformedAttributeList { value } => (1, value),
            UpdateMessageError::UnrecognizedWellKnownAttribute { value } => (2, value),
            UpdateMessageError::MissingWellKnownAttribute { value } => (3, value),
            UpdateMessageError::AttributeFlagsError { value } => (4, value),
            UpdateMessageError::AttributeLengthError { value } => (5, value),
            UpdateMessageError::InvalidOriginAttribute { value } => (6, value),
            UpdateMessageError::InvalidNextHopAttribute { value } => (8, value),
            UpdateMessageError::OptionalAttributeError { value } => (9, value),
            UpdateMessageError::InvalidNetworkField { value } => (10, value),
            UpdateMessageError::MalformedAsPath { value } => (11, value),
        }),
        N::HoldTimerExpiredError(HoldTimerExpiredError::Unspecific { sub_code, value }) => {
            (4, (*sub_code, value))
        }
        N::FiniteStateMachineError(error) => (5, match error {
            FiniteStateMachineError::Unspecific { value } => (0, value),
            FiniteStateMachineError::ReceiveUnexpectedMessageInOpenSentState { value } => (1, value),
            FiniteStateMachineError::ReceiveUnexpectedMessageInOpenConfirmState { value } => (2, value),
            FiniteStateMachineError::ReceiveUnexpectedMessageInEstablishedState { value } => (3, value),
        }),
        N::CeaseError(error) => (6, match error {
            CeaseError::MaximumNumberOfPrefixesReached { value } => (1, value),
            CeaseError::AdministrativeShutdown { value } => (2, value),
            CeaseError::PeerDeConfigured { value } => (3, value),
            CeaseError::AdministrativeReset { value } => (4, value),
            CeaseError::ConnectionRejected { value } => (5, value),
            CeaseError::OtherConfigurationChange { value } => (6, value),
            CeaseError::ConnectionCollisionResolution { value } => (7, value),
            CeaseError::OutOfResources { value } => (8, value),
            CeaseError::HardReset { value } => (9, value),
            CeaseError::BfdDown { value } => (10, value),
        }),
        N::RouteRefreshError(RouteRefreshError::InvalidMessageLength { value }) => (7, (1, value)),
    };
    (code, subcode, data)
}

/// The codes above: all that we know but 8, which they do not.
const CODES: [(u8, &[u8]); 7] = [
    (1, &[0, 1, 2, 3]),
    (2, &[0, 1, 2, 3, 4, 6, 7, 11]),
    (3, &[0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11]),
    (4, &[0]),
    (5, &[0, 1, 2, 3]),
    (6, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    (7, &[1]),
];

proptest! {
    #[test]
    fn updates_mean_the_same(
        announcement in announcement(),
        four_octet_as: bool,
        extended_messages: bool,
        add_path: bool,
    ) {
        // They refuse multicast prefixes here; we refuse them one by one, further on.
        let mut announcement = announcement;
        announcement.prefixes.retain(|p| match p.addr() {
            IpAddr::V4(addr) => addr.octets()[0] < 224,
            IpAddr::V6(addr) => addr.octets()[0] < 0xfe,
        });
        prop_assume!(!announcement.prefixes.is_empty());
        let encoder =
            UpdateEncoder { four_octet_as, extended_messages, extended_next_hop: true, add_path };
        announcements_mean_the_same(&announcement, encoder, |octets| judge(octets, encoder));
        withdrawals_mean_the_same(&announcement, encoder, |octets| judge(octets, encoder));
    }

    #[test]
    fn opens_mean_the_same(open in known_open()) {
        let mut open = open;
        let mut octets = Vec::new();
        open.encode(&mut octets);
        // They do not know the long form (RFC 9072).
        while frames(&octets, MAX_LEN)[0].body[9] == 255 {
            open.capabilities.remove(0);
            octets.clear();
            open.encode(&mut octets);
        }
        let message = read(&octets, &mut BgpParsingContext::default());
        let BgpMessage::Open(theirs) = &message else { panic!("not an OPEN") };
        prop_assert_eq!(theirs.my_asn4(), open.asn());
        let read = Open {
            my_as: theirs.my_as(),
            hold_time: theirs.hold_time(),
            router_id: theirs.bgp_id(),
            capabilities: theirs.capabilities().into_iter().map(ours).collect(),
        };
        prop_assert_eq!(&read, &open);
        let written = written(&message);
        prop_assert_eq!(Open::parse(frames(&written, MAX_LEN)[0].body).unwrap(), open);
    }

    #[test]
    fn notifications_mean_the_same(
        (code, subcode) in select(&CODES[..]).prop_flat_map(|(c, s)| (Just(c), select(s))),
        data in vec(any::<u8>(), 0..300),
    ) {
        let notification = Notification::new(code, subcode, &data, "");
        let mut octets = Vec::new();
        notification.encode(&mut octets);
        let message = read(&octets, &mut BgpParsingContext::default());
        let BgpMessage::Notification(theirs) = &message else { panic!("not a NOTIFICATION") };
        prop_assert_eq!(codes(theirs), (code, subcode, &data[..]));
        let written = written(&message);
        prop_assert_eq!(Notification::parse(frames(&written, MAX_LEN)[0].body), notification);
    }
}

#[test]
fn route_refreshes_mean_the_same() {
    for family in Family::ALL {
        for (what, subtype) in
            [(RouteRefresh::Request, 0), (RouteRefresh::Begin, 1), (RouteRefresh::End, 2)]
        {
            let mut octets = Vec::new();
            what.encode(family, &mut octets);
            let message = read(&octets, &mut BgpParsingContext::default());
            let BgpMessage::RouteRefresh(theirs) = &message else { panic!("no ROUTE-REFRESH") };
            assert_eq!(u8::from(theirs.operation_type()), subtype);
            let theirs = theirs.address_type();
            let afi = u16::from(theirs.address_family());
            let safi = u8::from(theirs.subsequent_address_family());
            assert_eq!((afi, safi), family.wire());
            let read = RouteRefresh::parse(frames(&written(&message), MAX_LEN)[0].body, true);
            assert_eq!(read, Ok(Some((what, family))));
        }
    }
}

#[test]
fn keepalives_and_ends_of_rib_are_the_same_octets() {
    let mut octets = Vec::new();
    encode_keepalive(&mut octets);
    assert_eq!(read(&octets, &mut BgpParsingContext::default()), BgpMessage::KeepAlive);
    assert_eq!(written(&BgpMessage::KeepAlive), octets);
    for family in Family::ALL {
        let mut octets = Vec::new();
        encode_end_of_rib(family, &mut octets);
        let message = read(&octets, &mut BgpParsingContext::default());
        assert_eq!(written(&message), octets);
        let BgpMessage::Update(update) = &message else { panic!("not an UPDATE") };
        let theirs = update.end_of_rib().unwrap();
        let afi = u16::from(theirs.address_family());
        assert_eq!((afi, u8::from(theirs.subsequent_address_family())), family.wire());
    }
}
