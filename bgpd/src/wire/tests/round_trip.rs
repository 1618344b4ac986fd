//! What is written reads back, whatever it is.

use super::strategies::{announcement, open_strategy};
use super::*;

proptest! {
    #[test]
    fn opens_read_back(open in open_strategy()) {
        let mut out = Vec::new();
        open.encode(&mut out);
        prop_assert_eq!(Open::parse(frames(&out, MAX_LEN)[0].body).unwrap(), open);
    }

    /// Every route comes out once, with its attributes and next hop, in messages that fit.
    #[test]
    fn announcements_read_back(
        announcement in announcement(),
        four_octet_as: bool,
        extended_messages: bool,
        add_path: bool,
    ) {
        let encoder =
            UpdateEncoder { four_octet_as, extended_messages, extended_next_hop: true, add_path };
        let out = announcement.encode(encoder);
        let read = read_back(&out, encoder, false);
        prop_assert!(!read.is_empty());
        let mut prefixes = Vec::new();
        for part in read {
            prop_assert_eq!(&part.block, &announcement.block);
            prop_assert_eq!(part.next_hop, announcement.next_hop);
            prefixes.extend(part.prefixes);
        }
        prop_assert_eq!(prefixes, announcement.prefixes);
    }

    #[test]
    fn withdrawals_read_back(
        announcement in announcement(),
        extended_messages: bool,
        add_path: bool,
    ) {
        let encoder = UpdateEncoder {
            four_octet_as: true,
            extended_messages,
            extended_next_hop: true,
            add_path,
        };
        let out = announcement.encode_withdraw(encoder);
        prop_assert_eq!(withdrawn(&out, encoder), announcement.numbered(encoder));
    }

    /// Bits beyond the length mean nothing (RFC 4271 section 4.3).
    #[test]
    fn host_bits_are_cleared(addr: [u8; 16], len in 0..=128_u8) {
        let octets = &addr[..usize::from(len.div_ceil(8))];
        let v6 = Prefix6::from_octets(octets, len).to_net();
        prop_assert_eq!(v6, v6.trunc());
        prop_assert_eq!(Prefix6::from_net(&v6).map(Prefix::to_net), Some(v6));
        let len = len.min(32);
        let v4 = Prefix4::from_octets(&addr[..usize::from(len.div_ceil(8))], len).to_net();
        prop_assert_eq!(v4, v4.trunc());
        prop_assert_eq!(v4.prefix_len(), len);
    }

    #[test]
    fn communities_have_one_text_form(value: u32, parts: [u32; 3]) {
        let community = Community(value);
        prop_assert_eq!(community.to_string().parse::<Community>().unwrap(), community);
        let large = LargeCommunity(parts);
        prop_assert_eq!(large.to_string().parse::<LargeCommunity>().unwrap(), large);
    }
}
