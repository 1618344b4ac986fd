//! AS_PATH as octets: a list of segments of four-octet AS numbers (RFC 4271 section 4.3, RFC 6793).
//! Inside the speaker every path has this form, whatever its sender's width was.

/// An unordered set of AS numbers; counts as one hop.
pub const AS_SET: u8 = 1;
/// An ordered list of AS numbers, nearest first.
pub const AS_SEQUENCE: u8 = 2;
/// The ordered path inside a confederation (RFC 5065).
pub const AS_CONFED_SEQUENCE: u8 = 3;
/// An unordered set inside a confederation.
pub const AS_CONFED_SET: u8 = 4;
/// The most AS numbers that one segment can hold.
const SEGMENT_MAX: usize = 255;

/// One segment: its type and its AS numbers, four octets each.
pub type Segment<'a> = (u8, &'a [u8]);

/// Why a path is malformed (RFC 7606 section 7.2, RFC 7607, RFC 9774 does not apply here).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// A segment type other than AS_SET and AS_SEQUENCE; those of a confederation count where the
    /// sender is in none with us (RFC 5065 section 5).
    SegmentType,
    /// A segment of no AS numbers, one past the end, or a stray octet.
    Length,
    /// AS number 0 (RFC 7607).
    Zero,
}

impl PathError {
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::SegmentType => "AS_PATH has an unexpected segment type",
            Self::Length => "AS_PATH has a segment of a wrong length",
            Self::Zero => "AS_PATH holds AS 0",
        }
    }
}

/// The segments of a four-octet path; stops where the octets stop making sense, which they do not
/// in a path that came through [`normalise`].
pub fn segments(path: &[u8]) -> impl Iterator<Item = Segment<'_>> {
    let mut rest = path;
    std::iter::from_fn(move || {
        let ([kind, count], tail) = rest.split_first_chunk::<2>()?;
        let (numbers, tail) = tail.split_at_checked(usize::from(*count) * 4)?;
        rest = tail;
        Some((*kind, numbers))
    })
}

/// The AS numbers of a path, nearest first, those of sets included.
pub fn numbers(path: &[u8]) -> impl Iterator<Item = u32> {
    segments(path).flat_map(|(_, numbers)| numbers.chunks_exact(4)).map(asn)
}

fn asn(octets: &[u8]) -> u32 {
    octets.iter().fold(0, |asn, octet| asn << 8 | u32::from(*octet))
}

/// Whether a segment is about the inside of a confederation (RFC 5065 section 3).
const fn is_inside(kind: u8) -> bool {
    matches!(kind, AS_CONFED_SEQUENCE | AS_CONFED_SET)
}

/// The length that best-path selection compares: a set counts 1 (RFC 4271 section 9.1.2.2), the
/// inside of a confederation nothing (RFC 5065 section 5.3).
pub fn length(path: &[u8]) -> u32 {
    segments(path)
        .filter(|(kind, _)| !is_inside(*kind))
        .map(|(kind, numbers)| if kind == AS_SET { 1 } else { hops(numbers) })
        .fold(0, u32::saturating_add)
}

fn hops(numbers: &[u8]) -> u32 {
    u32::try_from(numbers.len() / 4).unwrap_or(u32::MAX)
}

/// The AS that sent the route: the first of a leading sequence; None for an empty path or one
/// that starts with a set. Of a confederation, the one that sent it to the confederation.
pub fn neighbor(path: &[u8]) -> Option<u32> {
    let (kind, numbers) = segments(path).find(|(kind, _)| !is_inside(*kind))?;
    (kind == AS_SEQUENCE).then(|| asn(&numbers[..4]))
}

/// The member of a confederation that sent the route to another one: the first of a leading
/// AS_CONFED_SEQUENCE.
pub fn member(path: &[u8]) -> Option<u32> {
    let (kind, numbers) = segments(path).next()?;
    (kind == AS_CONFED_SEQUENCE).then(|| asn(&numbers[..4]))
}

/// The path without the inside of a confederation, as it leaves it (RFC 5065 section 5).
pub fn outside(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    for (kind, numbers) in segments(path).filter(|(kind, _)| !is_inside(*kind)) {
        push_segment(kind, numbers, &mut out);
    }
    out
}

/// The AS numbers of the inside of a confederation, or of the rest.
pub fn numbers_of(path: &[u8], inside: bool) -> impl Iterator<Item = u32> {
    segments(path)
        .filter(move |(kind, _)| is_inside(*kind) == inside)
        .flat_map(|(_, numbers)| numbers.chunks_exact(4))
        .map(asn)
}

/// Checks a received path of the given AS number width and appends it in four-octet form. Whether
/// segments of a confederation may be in it depends on the sender.
pub(super) fn normalise(
    octets: &[u8],
    width: usize,
    confederation: bool,
    out: &mut Vec<u8>,
) -> Result<(), PathError> {
    let mut rest = octets;
    while !rest.is_empty() {
        let ([kind, count], tail) = rest.split_first_chunk::<2>().ok_or(PathError::Length)?;
        let known = if confederation { AS_SET..=AS_CONFED_SET } else { AS_SET..=AS_SEQUENCE };
        if !known.contains(kind) {
            return Err(PathError::SegmentType);
        }
        let (numbers, tail) =
            tail.split_at_checked(usize::from(*count) * width).ok_or(PathError::Length)?;
        if numbers.is_empty() {
            return Err(PathError::Length);
        }
        out.extend_from_slice(&[*kind, *count]);
        for number in numbers.chunks_exact(width) {
            let number = asn(number);
            if number == 0 {
                return Err(PathError::Zero);
            }
            out.extend_from_slice(&number.to_be_bytes());
        }
        rest = tail;
    }
    Ok(())
}

/// Checks a received AS4_PATH and appends it without segments of a confederation, which do not
/// belong there (RFC 6793 section 6).
pub(super) fn normalise_as4(octets: &[u8], out: &mut Vec<u8>) -> Result<(), PathError> {
    let mut rest = octets;
    if rest.is_empty() {
        return Err(PathError::Length);
    }
    while let [kind, count, numbers @ ..] = rest {
        let len = usize::from(*count) * 4;
        let tail = numbers.get(len..).ok_or(PathError::Length)?;
        if !is_inside(*kind) {
            normalise(&rest[..2 + len], 4, false, out)?;
        }
        rest = tail;
    }
    if rest.is_empty() { Ok(()) } else { Err(PathError::Length) }
}

/// Joins AS_PATH and AS4_PATH of a sender that speaks two-octet AS numbers (RFC 6793 section
/// 4.2.3); both in four-octet form. What AS_PATH has more than AS4_PATH was added by those who do
/// not know the latter and goes in front.
pub(super) fn merge(as_path: &[u8], as4_path: &[u8], out: &mut Vec<u8>) {
    let Some(mut surplus) = length(as_path).checked_sub(length(as4_path)) else {
        out.extend_from_slice(as_path);
        return;
    };
    for (kind, numbers) in segments(as_path) {
        // The inside of a confederation is in AS_PATH alone.
        if is_inside(kind) {
            push_segment(kind, numbers, out);
            continue;
        }
        if surplus == 0 {
            break;
        }
        let taken = if kind == AS_SET {
            surplus -= 1;
            numbers
        } else {
            let hops = hops(numbers).min(surplus);
            surplus -= hops;
            &numbers[..usize::try_from(hops).unwrap_or(0) * 4]
        };
        push_segment(kind, taken, out);
    }
    out.extend_from_slice(as4_path);
}

fn push_segment(kind: u8, numbers: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&[kind, u8::try_from(numbers.len() / 4).unwrap_or(u8::MAX)]);
    out.extend_from_slice(numbers);
}

/// Appends `path` with `asns` in front, the first of them outermost. A leading sequence is
/// extended while it has room (RFC 4271 section 5.1.2). The inside of a confederation stays
/// outermost.
pub fn prepend(asns: &[u32], path: &[u8], out: &mut Vec<u8>) {
    let inside = segments(path).take_while(|(kind, _)| is_inside(*kind));
    let inside: usize = inside.map(|(_, numbers)| 2 + numbers.len()).sum();
    let (inside, rest) = path.split_at_checked(inside).unwrap_or((&[], path));
    out.extend_from_slice(inside);
    prepend_to(AS_SEQUENCE, asns, rest, out);
}

/// Appends `path` with a member of a confederation in front, on the way to another member (RFC
/// 5065 section 5).
pub fn prepend_member(asn: u32, path: &[u8], out: &mut Vec<u8>) {
    prepend_to(AS_CONFED_SEQUENCE, &[asn], path, out);
}

fn prepend_to(sequence: u8, asns: &[u32], path: &[u8], out: &mut Vec<u8>) {
    let (mut own, mut rest): (Vec<u32>, &[u8]) = (asns.to_vec(), path);
    if let Some((kind, numbers)) = segments(path).next()
        && kind == sequence
        && own.len() + numbers.len() / 4 <= SEGMENT_MAX
    {
        own.extend(numbers.chunks_exact(4).map(asn));
        rest = &path[2 + numbers.len()..];
    }
    // Whole segments from the far end, so that what remains in front has room for the next AS.
    let first = own.len() % SEGMENT_MAX;
    let (head, tail) = own.split_at(first);
    for chunk in std::iter::once(head).chain(tail.chunks(SEGMENT_MAX)).filter(|c| !c.is_empty()) {
        out.extend_from_slice(&[sequence, u8::try_from(chunk.len()).unwrap_or(u8::MAX)]);
        out.extend(chunk.iter().flat_map(|asn| asn.to_be_bytes()));
    }
    out.extend_from_slice(rest);
}

/// The path with each AS number replaced by what `f` makes of it; None takes it out, and a segment
/// that holds none any more is gone. The inside of a confederation stays as it is.
pub fn map(path: &[u8], mut f: impl FnMut(u32) -> Option<u32>) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    for (kind, old) in segments(path) {
        if is_inside(kind) {
            push_segment(kind, old, &mut out);
            continue;
        }
        let new = old.chunks_exact(4).filter_map(|octets| f(asn(octets)));
        let new: Vec<u8> = new.flat_map(u32::to_be_bytes).collect();
        if !new.is_empty() {
            push_segment(kind, &new, &mut out);
        }
    }
    out
}

/// Whether an AS number is for private use (RFC 6996 section 5).
pub const fn is_private(asn: u32) -> bool {
    matches!(asn, 64_512..=65_534 | 4_200_000_000..=4_294_967_294)
}

/// Appends `path` with two-octet AS numbers, [`super::AS_TRANS`] for those that do not fit: then
/// AS4_PATH must go with it (RFC 6793 section 4.2.2).
pub(super) fn narrow(path: &[u8], out: &mut Vec<u8>) {
    for (kind, numbers) in segments(path) {
        out.extend_from_slice(&[kind, u8::try_from(numbers.len() / 4).unwrap_or(u8::MAX)]);
        for number in numbers.chunks_exact(4) {
            let short = u16::try_from(asn(number)).unwrap_or(super::AS_TRANS);
            out.extend_from_slice(&short.to_be_bytes());
        }
    }
}

/// A path as text: sequences as plain numbers, sets in braces, nearest AS first; the inside of a
/// confederation in parentheses, or in brackets where it is a set.
pub fn display(path: &[u8]) -> String {
    let mut words = Vec::new();
    for (kind, numbers) in segments(path) {
        let numbers: Vec<String> = numbers.chunks_exact(4).map(|n| asn(n).to_string()).collect();
        match kind {
            AS_SET => words.push(format!("{{{}}}", numbers.join(","))),
            AS_CONFED_SEQUENCE => words.push(format!("({})", numbers.join(" "))),
            AS_CONFED_SET => words.push(format!("[{}]", numbers.join(","))),
            _ => words.extend(numbers),
        }
    }
    words.join(" ")
}
