//! Times as Calico's JSON has them: RFC 3339 in UTC, and the text Go prints for a `time.Time`.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An instant of UTC, with nanoseconds, between the years 0000 and 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    seconds: i64,
    nanos: u32,
}

/// The text is not an RFC 3339 time (`2026-08-22T13:33:20Z`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an RFC 3339 time such as 2026-08-22T13:33:20Z")]
pub struct ParseTimestampError(String);

const DAY: i64 = 86_400;
/// 0000-01-01T00:00:00Z and 9999-12-31T23:59:59Z: what RFC 3339 can write.
const FIRST: i64 = -62_167_219_200;
const LAST: i64 = 253_402_300_799;

impl Timestamp {
    /// From seconds since 1970, clamped to the years that RFC 3339 can write.
    pub fn from_seconds(seconds: i64) -> Self {
        Self { seconds: seconds.clamp(FIRST, LAST), nanos: 0 }
    }

    /// Without the fraction: Calico writes claim and release times in whole seconds.
    pub fn whole_seconds(self) -> Self {
        Self { nanos: 0, ..self }
    }

    /// Nanoseconds since 1970, 0 for earlier times: where a block's sequence number starts.
    pub fn unix_nanos(self) -> u64 {
        u64::try_from(self.seconds)
            .ok()
            .and_then(|s| s.checked_mul(1_000_000_000)?.checked_add(u64::from(self.nanos)))
            .unwrap_or(0)
    }

    /// Later by `by`, clamped to the year 9999.
    pub fn plus(self, by: Duration) -> Self {
        let nanos = self.nanos + by.subsec_nanos();
        let carry = i64::from(nanos >= 1_000_000_000);
        let seconds = i64::try_from(by.as_secs())
            .ok()
            .and_then(|s| self.seconds.checked_add(s)?.checked_add(carry))
            .unwrap_or(LAST);
        Self { seconds: seconds.clamp(FIRST, LAST), nanos: nanos % 1_000_000_000 }
    }

    /// Time passed since `earlier`; zero if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        if earlier >= self {
            return Duration::ZERO;
        }
        let borrow = i64::from(self.nanos < earlier.nanos);
        let seconds = self.seconds - earlier.seconds - borrow;
        let nanos = (self.nanos + 1_000_000_000 - earlier.nanos) % 1_000_000_000;
        Duration::new(u64::try_from(seconds).unwrap_or(0), nanos)
    }

    /// As Go's `time.Time.String()` prints a time in UTC: `2026-08-22 13:33:21.1 +0000 UTC`.
    /// Calico writes the `timestamp` attribute of an allocation so.
    pub fn go_string(self) -> String {
        let (date, time, fraction) = self.parts();
        format!("{date} {time}{fraction} +0000 UTC")
    }

    fn parts(self) -> (String, String, String) {
        let (days, second) = (self.seconds.div_euclid(DAY), self.seconds.rem_euclid(DAY));
        let (year, month, day) = civil_from_days(days);
        let fraction = match self.nanos {
            0 => String::new(),
            nanos => format!(".{nanos:09}").trim_end_matches('0').to_owned(),
        };
        (
            format!("{year:04}-{month:02}-{day:02}"),
            format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60),
            fraction,
        )
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self::from_seconds(0).plus(after),
            Err(before) => {
                let before = i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX);
                Self::from_seconds(before.saturating_neg())
            }
        }
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 with as many digits of the fraction as are not zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (date, time, fraction) = self.parts();
        write!(f, "{date}T{time}{fraction}Z")
    }
}

impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    /// Accepts any offset and any number of digits in the fraction (those past nine are cut).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text.as_bytes()).ok_or_else(|| ParseTimestampError(text.to_owned()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn parse(text: &[u8]) -> Option<Timestamp> {
    let number = |from: usize, to: usize| -> Option<i64> {
        text.get(from..to)?.iter().try_fold(0_i64, |sum, digit| {
            digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0'))
        })
    };
    let is = |at: usize, any: &[u8]| text.get(at).is_some_and(|byte| any.contains(byte));
    let separated = is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":");
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let in_range = (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60; // a leap second reads as the first of the next minute
    if !separated || !in_range {
        return None;
    }
    let mut at = 19;
    let mut nanos = 0;
    if is(at, b".") {
        at += 1;
        let start = at;
        let mut unit = 100_000_000;
        while let Some(digit) = text.get(at).filter(|byte| byte.is_ascii_digit()) {
            nanos += u32::from(digit - b'0') * unit;
            unit /= 10;
            at += 1;
        }
        if at == start {
            return None;
        }
    }
    let offset = if is(at, b"Zz") && text.len() == at + 1 {
        0
    } else if is(at, b"+-") && is(at + 3, b":") && text.len() == at + 6 {
        let (hours, minutes) = (number(at + 1, at + 3)?, number(at + 4, at + 6)?);
        let offset = hours * 3600 + minutes * 60;
        if text[at] == b'-' { -offset } else { offset }
    } else {
        return None;
    };
    let seconds =
        days_from_civil(year, month, day) * DAY + hour * 3600 + minute * 60 + second - offset;
    (FIRST..=LAST).contains(&seconds).then_some(Timestamp { seconds, nanos })
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar. Years are counted from March, so
/// that the leap day is the last of its year; 400 years are one era of 146,097 days.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_and_writes_rfc3339() {
        for (text, seconds, nanos) in [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("2026-08-22T13:33:20Z", 1_787_405_600, 0),
            ("2024-02-29T23:59:59.5Z", 1_709_251_199, 500_000_000),
            ("1969-12-31T23:59:59.000000001Z", -1, 1),
        ] {
            let parsed: Timestamp = text.parse().unwrap();
            assert_eq!((parsed.seconds, parsed.nanos), (seconds, nanos), "{text}");
            assert_eq!(parsed.to_string(), text);
        }
        assert_eq!(
            "2026-08-22T15:33:20.10+02:00".parse::<Timestamp>().unwrap().to_string(),
            "2026-08-22T13:33:20.1Z"
        );
    }

    #[test]
    fn refuses_what_is_not_a_time() {
        for text in [
            "",
            "2026",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-08-22T24:00:00Z",
            "2026-08-22T13:33:20",
            "2026-08-22T13:33:20.Z",
            "2026-08-22T13:33:20Zx",
            "2026-08-22T13:33:20+0200",
            "+026-08-22T13:33:20Z",
            "0000-01-01T00:00:00+01:00",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    #[test]
    fn prints_as_go_does() {
        let time: Timestamp = "2026-08-22T13:33:21.1Z".parse().unwrap();
        assert_eq!(time.go_string(), "2026-08-22 13:33:21.1 +0000 UTC");
    }

    proptest! {
        #[test]
        fn text_round_trips(seconds in FIRST..=LAST, nanos in 0_u32..1_000_000_000) {
            let time = Timestamp { seconds, nanos };
            prop_assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
        }

        #[test]
        fn plus_and_since_are_inverse(seconds in 0_i64..4_000_000_000, nanos in 0_u32..1_000_000_000, by in 0_u64..1 << 50) {
            let (time, by) = (Timestamp { seconds, nanos }, Duration::from_nanos(by));
            prop_assert_eq!(time.plus(by).since(time), by);
        }

        #[test]
        fn never_panics(text in "\\PC*") {
            let _ = text.parse::<Timestamp>();
        }
    }
}
