//! What a message costs: the memory that is allocated at a time while it is read.

#![allow(unsafe_code, reason = "to count is to be the allocator; it is that of tests alone")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;

use super::*;
use crate::fuzz;

/// The system's allocator, which counts for each thread by itself.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    /// Octets that are allocated, and the most that ever were, since [`peak`] began.
    static COUNTED: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

fn count(octets: usize, sign: isize) {
    let octets = isize::try_from(octets).unwrap_or(isize::MAX);
    let _gone = COUNTED.try_with(|counted| {
        let (now, most) = counted.get();
        let now = now.saturating_add(sign * octets);
        counted.set((now, most.max(now)));
    });
}

// SAFETY: every call goes to the system's allocator as it came; to count allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both are there while one is copied to the other.
        count(size, 1);
        count(layout.size(), -1);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// The most octets that were allocated at a time by what `f` does in this thread.
fn peak(f: impl FnOnce()) -> usize {
    COUNTED.set((0, 0));
    f();
    let (_, most) = COUNTED.get();
    usize::try_from(most).unwrap_or(0)
}

/// The most octets of memory that reading a message of `len` octets may take at a time, as the codec
/// promises.
const fn memory_bound(kind: MessageType, len: usize) -> usize {
    match kind {
        MessageType::Open => 32 * len,
        _ => 8 * len + 32 * 1024,
    }
}

/// Reads a message as a session does, and fails where that takes more memory than is promised; returns
/// how much.
pub(super) fn assert_bounded(kind: MessageType, body: &[u8], how: [u8; 2]) -> usize {
    let context = fuzz::context(how);
    let octets = peak(|| match kind {
        MessageType::Open => drop(Open::parse(body)),
        MessageType::Update => {
            let mut block = AttributeBlock::default();
            drop(parse_update(body, &context, &mut block));
        }
        MessageType::Notification => drop(Notification::parse(body).to_string()),
        MessageType::RouteRefresh => drop(RouteRefresh::parse(body, true)),
        MessageType::Keepalive => {}
    });
    let bound = memory_bound(kind, HEADER_LEN + body.len());
    assert!(octets <= bound, "{octets} octets for {} of {kind:?}, {bound} at most", body.len());
    octets
}

#[test]
fn allocations_are_counted() {
    assert_eq!(peak(|| drop(vec![0_u8; 1000])), 1000);
    let growing = peak(|| {
        let mut octets = Vec::<u8>::with_capacity(100);
        octets.resize(100, 1);
        octets.reserve_exact(200);
        drop(octets);
        drop(vec![0_u8; 50]);
    });
    assert_eq!(growing, 400, "while the first 100 are copied to the 300");
    assert_eq!(peak(|| ()), 0);
}

/// The longest messages with the most to remember in each octet.
#[test]
fn no_message_takes_more_memory_than_is_said() {
    let attributes = |attributes: &[u8]| {
        let len = u16::try_from(attributes.len()).unwrap().to_be_bytes();
        [&[0, 0], &len[..], attributes, &[8, 10]].concat()
    };
    let room = MAX_EXTENDED_LEN - HEADER_LEN - 6;
    let mut good = Vec::new();
    push(&mut good, flag::TRANSITIVE, kind::ORIGIN, &[0]);
    push(&mut good, flag::TRANSITIVE, kind::NEXT_HOP, &[192, 0, 2, 1]);
    push(&mut good, flag::TRANSITIVE, kind::LOCAL_PREF, &[0; 4]);
    let long_path = |width: usize, octets: usize| {
        let segment = [&[2, 255][..], &[7].repeat(255 * width)].concat();
        segment.repeat(octets / segment.len())
    };
    // Of a sender with two octets for an AS number; the path once more in four.
    let mut paths = good.clone();
    push(&mut paths, flag::TRANSITIVE, kind::AS_PATH, &long_path(2, room / 3));
    push(&mut paths, 0xc0, kind::AGGREGATOR, &[0x5b, 0xa0, 1, 1, 1, 1]);
    push(&mut paths, 0xc0, kind::AS4_PATH, &long_path(4, room / 2));
    let mut path = good.clone();
    push(&mut path, flag::TRANSITIVE, kind::AS_PATH, &long_path(2, room - 100));
    // Without those that end the session at once.
    let every_kind: Vec<u8> =
        (0..=255).filter(|k| !matches!(k, 14 | 15)).flat_map(|kind| [0xc0, kind, 0]).collect();
    let open = |capabilities: &[u8]| {
        let len = u16::try_from(capabilities.len()).unwrap();
        let mut body = vec![4, 0xfd, 0xe9, 0, 90, 1, 1, 1, 1, 255, 255];
        body.extend((len + 3).to_be_bytes());
        body.push(2);
        body.extend(len.to_be_bytes());
        body.extend(capabilities);
        body
    };
    let most = MAX_LEN - HEADER_LEN - 16;
    let families = [&[69, 252][..], &[1; 252]].concat();
    use MessageType::{Notification, Open, RouteRefresh, Update};
    let mut most_used = BTreeMap::new();
    for (what, kind, body, how) in [
        ("prefixes", Update, [attributes(&good), vec![0; room - good.len()]].concat(), [2, 0]),
        ("one over and over", Update, attributes(&[0xc0, 1, 0].repeat(room / 3)), [0, 0]),
        ("every attribute", Update, attributes(&every_kind), [0, 0]),
        ("every attribute twice", Update, attributes(&every_kind.repeat(2)), [0, 0]),
        ("a path", Update, attributes(&path), [3, 0]),
        ("two paths", Update, attributes(&paths), [3, 0]),
        ("capabilities", Open, open(&[2, 0].repeat(most / 2)), [0, 0]),
        ("unknown capabilities", Open, open(&[200, 1, 0].repeat(most / 3)), [0, 0]),
        ("families", Open, open(&families.repeat(most / families.len())), [0, 0]),
        ("a text", Notification, [&[6, 2][..], &[255; 256]].concat(), [0, 0]),
        ("a text inside", Notification, [&[6, 9, 6, 2][..], &vec![255; room]].concat(), [0, 0]),
        ("a demarcation", RouteRefresh, [&[0, 1, 1, 1][..], &vec![0; room]].concat(), [0, 0]),
    ] {
        let octets = assert_bounded(kind, &body, how);
        let percent = octets * 100 / memory_bound(kind, HEADER_LEN + body.len());
        let entry: &mut (usize, &str) = most_used.entry(kind as u8).or_default();
        *entry = (*entry).max((percent, what));
    }
    // What is promised is no more than what is needed, so that these are the worst.
    for kind in [Update, Open] {
        assert!(most_used[&(kind as u8)].0 > 50, "{kind:?}: {most_used:?} percent");
    }
}
