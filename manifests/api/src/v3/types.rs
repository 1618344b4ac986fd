//! Scalars and small structures that several kinds share.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Why a scalar of the API could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not {expected}")]
pub struct InvalidScalar {
    value: String,
    expected: &'static str,
}

/// An autonomous system number: 1 to 4294967295 (RFC 6793), written as an integer or, in
/// asdot+ notation (RFC 5396), as the string `"x.y"`. Written back as an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AsNumber(pub u32);

impl AsNumber {
    const EXPECTED: &'static str =
        "an AS number: an integer from 1 to 4294967295 or \"x.y\" with both parts up to 65535";
}

impl fmt::Display for AsNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<AsNumber> for u32 {
    fn from(number: AsNumber) -> Self {
        number.0
    }
}

impl FromStr for AsNumber {
    type Err = InvalidScalar;

    fn from_str(text: &str) -> Result<Self, InvalidScalar> {
        let number = match text.split_once('.') {
            None => decimal::<u32>(text),
            Some((high, low)) => decimal::<u16>(high)
                .zip(decimal::<u16>(low))
                .map(|(high, low)| (u32::from(high) << 16) | u32::from(low)),
        };
        match number {
            Some(number) if number != 0 => Ok(Self(number)),
            _ => Err(InvalidScalar { value: text.to_owned(), expected: Self::EXPECTED }),
        }
    }
}

/// Digits only: `u16::from_str` alone would take `+1`.
fn decimal<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

impl Serialize for AsNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.0)
    }
}

impl<'de> Deserialize<'de> for AsNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IntOrString::<Self>::new(Self::EXPECTED))
    }
}

impl JsonSchema for AsNumber {
    fn schema_name() -> Cow<'static, str> {
        "AsNumber".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "minimum": 1,
            "maximum": u32::MAX,
            "pattern": r"^([0-9]{1,10}|[0-9]{1,5}\.[0-9]{1,5})$",
        })
    }
}

/// An IP protocol, by IANA number or by one of the names TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite.
/// Equal however it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);
    /// UDP-Lite.
    pub const UDP_LITE: Self = Self(136);

    const NAMES: [(&'static str, Self); 6] = [
        ("TCP", Self::TCP),
        ("UDP", Self::UDP),
        ("ICMP", Self::ICMP),
        ("ICMPv6", Self::ICMPV6),
        ("SCTP", Self::SCTP),
        ("UDPLite", Self::UDP_LITE),
    ];
    const EXPECTED: &'static str =
        "a protocol: TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or a number from 1 to 255";

    /// Whether rules may match numeric ports of this protocol.
    pub fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(_, protocol)| protocol == self) {
            Some((name, _)) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

impl FromStr for Protocol {
    type Err = InvalidScalar;

    /// Names are taken in any case, as Calico does.
    fn from_str(text: &str) -> Result<Self, InvalidScalar> {
        let named = Self::NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        let numbered = || decimal::<u8>(text).filter(|number| *number != 0).map(Self);
        named
            .map(|(_, protocol)| *protocol)
            .or_else(numbered)
            .ok_or_else(|| InvalidScalar { value: text.to_owned(), expected: Self::EXPECTED })
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match Self::NAMES.iter().find(|(_, protocol)| protocol == self) {
            Some((name, _)) => serializer.serialize_str(name),
            None => serializer.serialize_u8(self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IntOrString::<Self>::new(Self::EXPECTED))
    }
}

impl JsonSchema for Protocol {
    fn schema_name() -> Cow<'static, str> {
        "Protocol".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "minimum": 1,
            "maximum": 255,
            "pattern": "^(TCP|UDP|ICMP|ICMPv6|SCTP|UDPLite|[1-9][0-9]{0,2})$",
        })
    }
}

/// Ports of a rule: one number, an inclusive range `"min:max"`, or the name of a container port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Port {
    /// An inclusive range; one port is a range of one. 1 ≤ first ≤ last.
    Range(u16, u16),
    /// `ports[].name` of a container or of a HostEndpoint.
    Named(String),
}

impl Port {
    const EXPECTED: &'static str = "a port: a number from 1 to 65535, a range \"min:max\" or a \
                                    name of letters, digits, '_', '.' and '-', at most 128 long";
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(first, last) if first == last => first.fmt(f),
            Self::Range(first, last) => write!(f, "{first}:{last}"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

impl FromStr for Port {
    type Err = InvalidScalar;

    fn from_str(text: &str) -> Result<Self, InvalidScalar> {
        let invalid = || InvalidScalar { value: text.to_owned(), expected: Self::EXPECTED };
        let number = |text| decimal::<u16>(text).filter(|port| *port != 0);
        if let Some((first, last)) = text.split_once(':') {
            let range = number(first).zip(number(last)).filter(|(first, last)| first <= last);
            return range.map(|(first, last)| Self::Range(first, last)).ok_or_else(invalid);
        }
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return number(text).map(|port| Self::Range(port, port)).ok_or_else(invalid);
        }
        let name = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        if name && text.len() <= 128 { Ok(Self::Named(text.to_owned())) } else { Err(invalid()) }
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Range(first, last) if first == last => serializer.serialize_u16(*first),
            other => serializer.collect_str(other),
        }
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IntOrString::<Self>::new(Self::EXPECTED))
    }
}

impl JsonSchema for Port {
    fn schema_name() -> Cow<'static, str> {
        "Port".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "minimum": 1,
            "maximum": u16::MAX,
            "pattern": r"^([0-9]{1,5}(:[0-9]{1,5})?|[a-zA-Z0-9_.-]{1,128})$",
        })
    }
}

/// Reads what Kubernetes calls int-or-string through `FromStr`.
struct IntOrString<T> {
    expected: &'static str,
    read: std::marker::PhantomData<T>,
}

impl<T> IntOrString<T> {
    fn new(expected: &'static str) -> Self {
        Self { expected, read: std::marker::PhantomData }
    }
}

impl<T: FromStr<Err = InvalidScalar>> Visitor<'_> for IntOrString<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }
}

/// An IP version, written as the number 4 or 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl TryFrom<u8> for IpVersion {
    type Error = InvalidScalar;

    fn try_from(number: u8) -> Result<Self, InvalidScalar> {
        match number {
            4 => Ok(Self::V4),
            6 => Ok(Self::V6),
            other => Err(InvalidScalar { value: other.to_string(), expected: "4 or 6" }),
        }
    }
}

impl From<IpVersion> for u8 {
    fn from(version: IpVersion) -> Self {
        match version {
            IpVersion::V4 => 4,
            IpVersion::V6 => 6,
        }
    }
}

impl JsonSchema for IpVersion {
    fn schema_name() -> Cow<'static, str> {
        "IpVersion".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "enum": [4, 6] })
    }
}

/// A length of time, not negative, as Go writes it: `90s`, `1m30s`, `1.5h`, `0`. Units are ns, us,
/// ms, s, m and h. Limited to ten years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Duration(pub std::time::Duration);

impl Duration {
    const EXPECTED: &'static str = "a duration such as 90s, 1m30s or 500ms, at most ten years";
    const MAX_NANOSECONDS: u128 = 10 * 366 * 86_400 * 1_000_000_000;

    /// This many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(std::time::Duration::from_secs(seconds))
    }
}

impl From<Duration> for std::time::Duration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

impl fmt::Display for Duration {
    /// In the largest of s, ms, us and ns that leaves a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanoseconds = self.0.as_nanos();
        let units = [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us"), (1, "ns")];
        match units.into_iter().find(|(unit, _)| nanoseconds.is_multiple_of(*unit)) {
            Some((unit, name)) => write!(f, "{}{name}", nanoseconds / unit),
            None => f.write_str("0s"),
        }
    }
}

impl FromStr for Duration {
    type Err = InvalidScalar;

    fn from_str(text: &str) -> Result<Self, InvalidScalar> {
        nanoseconds(text)
            .filter(|total| *total <= Self::MAX_NANOSECONDS)
            .and_then(|total| u64::try_from(total).ok())
            .map(|total| Self(std::time::Duration::from_nanos(total)))
            .ok_or_else(|| InvalidScalar { value: text.to_owned(), expected: Self::EXPECTED })
    }
}

/// The sum of a duration's parts, in integers: floating point would neither be exact nor bounded.
fn nanoseconds(text: &str) -> Option<u128> {
    if text == "0" {
        return Some(0);
    }
    if text.is_empty() {
        return None;
    }
    let mut rest = text;
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let number_ends = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_ends);
        let unit_ends = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_ends);
        let unit: u128 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3_600 * 1_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let whole = if whole.is_empty() { 0 } else { decimal::<u64>(whole)? };
        total = total.checked_add(u128::from(whole).checked_mul(unit)?)?;
        let mut scale = unit;
        for digit in fraction.chars() {
            scale /= 10;
            total = total.checked_add(scale * u128::from(digit.to_digit(10)?))?;
        }
        rest = after;
    }
    Some(total)
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 64,
            "pattern": r"^(0|([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+)$",
        })
    }
}

/// A BGP password, kept in a Secret of the agent's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BGPPassword {
    /// The key of a Secret in the agent's own namespace that holds the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
}

/// One key of a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub name: String,
    /// The key in the Secret's data.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
    /// Whether the Secret or its key may be missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// Whether something is on.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum Switch {
    /// On.
    Enabled,
    /// Off.
    Disabled,
}

/// Who programs the routes to other nodes' blocks into the kernel.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum ProgramClusterRoutes {
    /// All of them.
    Enabled,
    /// None of them.
    Disabled,
    /// Only those of pools with IPIP encapsulation.
    EnabledIPIPOnly,
    /// Only those of pools without encapsulation.
    EnabledNoEncapOnly,
}
