//! Rules: expressions in the order and the registers in which `nft` itself writes them, so that
//! every rule can be listed as the text it stands for.

use super::expr::{Base, Ct, Expr, Field, Meta, Register, Verdict, ct_direction};
use super::types::DataType;

/// One rule of a chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// What it does.
    pub exprs: Vec<Expr>,
    /// What `nft list` shows after it; at most 128 bytes.
    pub comment: Option<String>,
}

/// `IPPROTO_ICMPV6`.
const ICMPV6: u8 = 58;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// Where TCP has its flags, and the one that opens a connection (RFC 9293 section 3.1).
const TCP_FLAGS: u32 = 13;
const SYN: u8 = 2;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

impl Rule {
    /// A rule that matches everything and does nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// `comment "..."`.
    #[must_use]
    pub fn comment(mut self, comment: &str) -> Self {
        self.comment = Some(comment.into());
        self
    }

    fn push(&mut self, expr: Expr) {
        self.exprs.push(expr);
    }

    fn require(&mut self, key: Meta, value: u8) {
        let compare = Expr::Compare { equal: true, register: 1, bytes: vec![value] };
        let known = self
            .exprs
            .windows(2)
            .any(|pair| pair[0] == Expr::Meta { key, to: 1 } && pair[1] == compare);
        if !known {
            self.push(Expr::Meta { key, to: 1 });
            self.push(compare);
        }
    }

    /// What has to be checked before a field can be read in family inet.
    fn depend(&mut self, field: Field) {
        match field {
            Field::Ip4Source | Field::Ip4Destination => {
                self.require(Meta::NfProto, NFPROTO_IPV4);
            }
            Field::Ip6Source | Field::Ip6Destination => {
                self.require(Meta::NfProto, NFPROTO_IPV6);
            }
            Field::Icmp6Type => {
                self.require(Meta::NfProto, NFPROTO_IPV6);
                self.require(Meta::L4Proto, ICMPV6);
            }
            _ => {}
        }
    }

    /// Loads fields one behind the other, each at a multiple of 4 bytes from register 1.
    fn load(&mut self, fields: &[Field], network_order: bool) {
        for field in fields {
            self.depend(*field);
        }
        let mut word = 0;
        for field in fields {
            let to: Register = if word % 4 == 0 { 1 + word / 4 } else { 8 + word };
            self.push(field.load(to));
            let kind = field.data_type();
            let needs_swap = kind.host_order() || kind == DataType::InetProto;
            if network_order && needs_swap {
                // On one byte the swap does nothing; nft writes it, with these numbers.
                let (len, size) =
                    if kind == DataType::InetProto { (1, 2) } else { (kind.len(), kind.len()) };
                self.push(Expr::ToNetworkOrder { from: to, to, len, size });
            }
            word += kind.len().div_ceil(4);
        }
    }

    fn lookup(&mut self, set: &str, to: Option<Register>, invert: bool) {
        self.push(Expr::Lookup { set: set.into(), from: 1, to, invert });
    }

    /// `FIELD . FIELD @SET`.
    #[must_use]
    pub fn is_in(mut self, fields: &[Field], set: &str) -> Self {
        self.load(fields, false);
        self.lookup(set, None, false);
        self
    }

    /// `FIELD . FIELD @SET`, where the set's keys are ranges: those are in network byte order.
    #[must_use]
    pub fn is_in_ranges(mut self, fields: &[Field], set: &str) -> Self {
        self.load(fields, true);
        self.lookup(set, None, false);
        self
    }

    /// `FIELD . FIELD != @SET`.
    #[must_use]
    pub fn is_not_in(mut self, fields: &[Field], set: &str) -> Self {
        self.load(fields, false);
        self.lookup(set, None, true);
        self
    }

    /// `FIELD . FIELD vmap @MAP`.
    #[must_use]
    pub fn vmap(mut self, fields: &[Field], map: &str) -> Self {
        self.load(fields, false);
        self.lookup(map, Some(super::expr::VERDICT), false);
        self
    }

    /// `FIELD . FIELD vmap @MAP`, where the map's keys are ranges: those are in network byte order.
    #[must_use]
    pub fn vmap_ranges(mut self, fields: &[Field], map: &str) -> Self {
        self.load(fields, true);
        self.lookup(map, Some(super::expr::VERDICT), false);
        self
    }

    /// `meta mark set FIELD map @MAP`; without an entry in the map the rule ends there.
    #[must_use]
    pub fn set_mark_from(self, field: Field, map: &str) -> Self {
        self.set_mark_from_all(&[field], map)
    }

    /// `meta mark set FIELD . FIELD map @MAP`, as [`Rule::set_mark_from`].
    #[must_use]
    pub fn set_mark_from_all(mut self, fields: &[Field], map: &str) -> Self {
        self.load(fields, false);
        self.lookup(map, Some(1), false);
        self.push(Expr::SetMeta { key: Meta::Mark, from: 1 });
        self
    }

    /// `meta nfproto ipv4` or `ipv6`.
    #[must_use]
    pub fn nfproto(mut self, ipv6: bool) -> Self {
        self.require(Meta::NfProto, if ipv6 { NFPROTO_IPV6 } else { NFPROTO_IPV4 });
        self
    }

    /// `FIELD VALUE`, with the value as it is on the wire.
    #[must_use]
    pub fn equals(mut self, field: Field, value: &[u8]) -> Self {
        self.load(&[field], false);
        self.push(Expr::Compare { equal: true, register: 1, bytes: value.to_vec() });
        self
    }

    /// `FIELD VALUE/LENGTH`: the bits of `mask` are compared.
    #[must_use]
    pub fn equals_masked(mut self, field: Field, value: &[u8], mask: &[u8]) -> Self {
        self.load(&[field], false);
        let xor = vec![0; mask.len()];
        self.push(Expr::Bitwise { from: 1, to: 1, mask: mask.to_vec(), xor });
        self.push(Expr::Compare { equal: true, register: 1, bytes: value.to_vec() });
        self
    }

    /// `iifname "PREFIX*"`; an interface name has at most 15 bytes.
    #[must_use]
    pub fn iifname_starts(self, prefix: &str) -> Self {
        self.name_starts(Meta::IifName, prefix)
    }

    /// `oifname "PREFIX*"`.
    #[must_use]
    pub fn oifname_starts(self, prefix: &str) -> Self {
        self.name_starts(Meta::OifName, prefix)
    }

    fn name_starts(mut self, key: Meta, prefix: &str) -> Self {
        self.push(Expr::Meta { key, to: 1 });
        self.push(Expr::Compare { equal: true, register: 1, bytes: prefix.into() });
        self
    }

    /// `tcp flags ! syn`: not what opens a connection.
    #[must_use]
    pub fn tcp_without_syn(mut self) -> Self {
        self.require(Meta::L4Proto, TCP);
        self.push(Expr::Payload { base: Base::Transport, offset: TCP_FLAGS, len: 1, to: 1 });
        self.push(Expr::Bitwise { from: 1, to: 1, mask: vec![SYN], xor: vec![0] });
        self.push(Expr::Compare { equal: true, register: 1, bytes: vec![0] });
        self
    }

    /// `ct state BITS`: any of them.
    #[must_use]
    pub fn ct_state(mut self, bits: u32) -> Self {
        self.push(Expr::Ct { key: Ct::State, to: 1 });
        self.any_bit(bits)
    }

    fn any_bit(mut self, bits: u32) -> Self {
        let mask = bits.to_ne_bytes().to_vec();
        self.push(Expr::Bitwise { from: 1, to: 1, mask, xor: vec![0; 4] });
        self.push(Expr::Compare { equal: false, register: 1, bytes: vec![0; 4] });
        self
    }

    /// `ct mark & BITS == BITS`.
    #[must_use]
    pub fn ct_mark_has(mut self, bits: u32) -> Self {
        self.push(Expr::Ct { key: Ct::Mark, to: 1 });
        let mask = bits.to_ne_bytes().to_vec();
        self.push(Expr::Bitwise { from: 1, to: 1, mask: mask.clone(), xor: vec![0; 4] });
        self.push(Expr::Compare { equal: true, register: 1, bytes: mask });
        self
    }

    /// `meta mark != 0`.
    #[must_use]
    pub fn mark_is_set(mut self) -> Self {
        self.push(Expr::Meta { key: Meta::Mark, to: 1 });
        self.push(Expr::Compare { equal: false, register: 1, bytes: vec![0; 4] });
        self
    }

    /// `meta mark VALUE`.
    #[must_use]
    pub fn mark_is(mut self, value: u32) -> Self {
        self.push(Expr::Meta { key: Meta::Mark, to: 1 });
        let bytes = value.to_ne_bytes().to_vec();
        self.push(Expr::Compare { equal: true, register: 1, bytes });
        self
    }

    /// `ct mark != 0`.
    #[must_use]
    pub fn ct_mark_is_set(mut self) -> Self {
        self.push(Expr::Ct { key: Ct::Mark, to: 1 });
        self.push(Expr::Compare { equal: false, register: 1, bytes: vec![0; 4] });
        self
    }

    /// `ct direction reply`.
    #[must_use]
    pub fn ct_reply(mut self) -> Self {
        self.push(Expr::Ct { key: Ct::Direction, to: 1 });
        let bytes = vec![ct_direction::REPLY];
        self.push(Expr::Compare { equal: true, register: 1, bytes });
        self
    }

    /// `meta l4proto PROTOCOL`.
    #[must_use]
    pub fn l4proto(mut self, protocol: u8) -> Self {
        self.require(Meta::L4Proto, protocol);
        self
    }

    /// `ct original proto-dst PORT`: after a check of the protocol.
    #[must_use]
    pub fn ct_original_destination_port(mut self, port: u16) -> Self {
        self.push(Expr::Ct { key: Ct::OriginalDestinationPort, to: 1 });
        let bytes = port.to_be_bytes().to_vec();
        self.push(Expr::Compare { equal: true, register: 1, bytes });
        self
    }

    /// `meta mark set VALUE`.
    #[must_use]
    pub fn set_mark(mut self, value: u32) -> Self {
        self.push(Expr::Immediate { to: 1, bytes: value.to_ne_bytes().to_vec() });
        self.push(Expr::SetMeta { key: Meta::Mark, from: 1 });
        self
    }

    /// `meta mark set meta mark | BITS`.
    #[must_use]
    pub fn set_mark_bits(mut self, bits: u32) -> Self {
        let (mask, xor) = ((!bits).to_ne_bytes().to_vec(), bits.to_ne_bytes().to_vec());
        self.push(Expr::Meta { key: Meta::Mark, to: 1 });
        self.push(Expr::Bitwise { from: 1, to: 1, mask, xor });
        self.push(Expr::SetMeta { key: Meta::Mark, from: 1 });
        self
    }

    /// `ct mark set VALUE`.
    #[must_use]
    pub fn set_ct_mark(mut self, value: u32) -> Self {
        self.push(Expr::Immediate { to: 1, bytes: value.to_ne_bytes().to_vec() });
        self.push(Expr::SetCt { key: Ct::Mark, from: 1 });
        self
    }

    /// `ct mark set ct mark | BITS`.
    #[must_use]
    pub fn set_ct_mark_bits(self, bits: u32) -> Self {
        self.change_ct_mark(!bits, bits)
    }

    /// `ct mark set ct mark & ~BITS`.
    #[must_use]
    pub fn clear_ct_mark_bits(self, bits: u32) -> Self {
        self.change_ct_mark(!bits, 0)
    }

    fn change_ct_mark(mut self, mask: u32, xor: u32) -> Self {
        let (mask, xor) = (mask.to_ne_bytes().to_vec(), xor.to_ne_bytes().to_vec());
        self.push(Expr::Ct { key: Ct::Mark, to: 1 });
        self.push(Expr::Bitwise { from: 1, to: 1, mask, xor });
        self.push(Expr::SetCt { key: Ct::Mark, from: 1 });
        self
    }

    /// `ct mark set meta mark`.
    #[must_use]
    pub fn save_mark(mut self) -> Self {
        self.push(Expr::Meta { key: Meta::Mark, to: 1 });
        self.push(Expr::SetCt { key: Ct::Mark, from: 1 });
        self
    }

    /// `meta mark set ct mark`.
    #[must_use]
    pub fn restore_mark(mut self) -> Self {
        self.push(Expr::Ct { key: Ct::Mark, to: 1 });
        self.push(Expr::SetMeta { key: Meta::Mark, from: 1 });
        self
    }

    /// `limit rate RATE/second burst BURST packets`.
    #[must_use]
    pub fn limit_per_second(self, rate: u64, burst: u32) -> Self {
        self.limit(rate, 1, burst)
    }

    /// `limit rate RATE/UNIT burst BURST packets`, the unit in seconds: 1, 60, 3600 or 86400.
    #[must_use]
    pub fn limit(mut self, rate: u64, seconds: u64, burst: u32) -> Self {
        self.push(Expr::Limit { rate, seconds, burst });
        self
    }

    /// `log prefix "PREFIX" group GROUP`; a prefix has at most 127 bytes.
    #[must_use]
    pub fn log(mut self, prefix: &str, group: u16) -> Self {
        self.push(Expr::Log { group, prefix: prefix.into() });
        self
    }

    /// `counter`.
    #[must_use]
    pub fn counter(mut self) -> Self {
        self.push(Expr::Counter(super::expr::Counter::default()));
        self
    }

    /// `queue num NUMBER bypass`: the packet goes to whoever listens to the queue, and passes while
    /// nobody does.
    #[must_use]
    pub fn queue(mut self, number: u16) -> Self {
        self.push(Expr::Queue { number });
        self
    }

    /// The same by way of `xt_NFQUEUE`, for kernels without `nft_queue`.
    #[must_use]
    pub fn queue_by_target(mut self, number: u16) -> Self {
        self.push(Expr::QueueTarget { number });
        self
    }

    /// `masquerade`, with `NF_NAT_RANGE_*` flags.
    #[must_use]
    pub fn masquerade(mut self, flags: u32) -> Self {
        self.push(Expr::Masquerade { flags });
        self
    }

    /// `reject`: not after routing of what goes out.
    #[must_use]
    pub fn reject(mut self) -> Self {
        self.push(Expr::Reject);
        self
    }

    /// `notrack`: before conntrack (priority -200), of packets that come in or that the host sends.
    #[must_use]
    pub fn notrack(mut self) -> Self {
        self.push(Expr::NoTrack);
        self
    }

    /// `accept`, `drop`, `return`, `jump CHAIN`, `goto CHAIN`.
    #[must_use]
    pub fn verdict(mut self, verdict: Verdict<'_>) -> Self {
        self.push(Expr::Verdict(verdict.into()));
        self
    }
}
