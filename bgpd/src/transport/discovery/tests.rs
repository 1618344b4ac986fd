use super::*;

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

#[test]
fn a_link_that_comes_is_advertised_on_quickly_and_then_at_intervals() {
    let start = Instant::now();
    let mut schedule = Schedule::new(start, seconds(10));
    let mut at = Vec::new();
    for _ in 0..5 {
        let due = schedule.due();
        at.push((due - start).as_secs());
        schedule.sent(due, true);
    }
    assert_eq!(at, [0, 1, 2, 12, 22]);
    // Asked, at once; asked again, not before a second has passed.
    let now = start + seconds(25);
    schedule.solicited(now);
    assert_eq!(schedule.due(), now);
    schedule.sent(now, true);
    schedule.solicited(now);
    assert_eq!(schedule.due(), now + seconds(1));
    // As long as there is no address to send from, it is tried every second.
    let mut schedule = Schedule::new(start, seconds(10));
    for n in 0..20 {
        assert_eq!(schedule.due(), start + seconds(n));
        schedule.sent(start + seconds(n), false);
    }
}

#[test]
fn only_what_comes_from_the_link_is_believed() {
    let router: Ipv6Addr = "fe80::1".parse().unwrap();
    let global: Ipv6Addr = "2001:db8::1".parse().unwrap();
    let mut advertisement = [0; 16];
    advertisement[0] = 134;
    let with = |options: &[u8]| [&advertisement[..], options].concat();
    let heard = Some(Heard::Router(router));
    let link = Some(255);
    assert_eq!(router::parse(&advertisement, router, link), heard);
    assert_eq!(router::parse(&with(&[1, 1, 2, 0, 0, 0, 0, 1]), router, link), heard);
    assert_eq!(router::parse(&[133, 0, 0, 0, 0, 0, 0, 0], global, link), Some(Heard::Solicitation));
    for (octets, from, hops, why) in [
        (&advertisement[..], global, link, "not a link-local address"),
        (&advertisement[..], router, Some(254), "from beyond the link"),
        (&advertisement[..], router, None, "who knows from where"),
        (&advertisement[..15], router, link, "short"),
        (&with(&[1, 0, 0, 0, 0, 0, 0, 0]), router, link, "an option without length"),
        (&with(&[1, 2, 0, 0, 0, 0, 0, 0]), router, link, "an option that is cut off"),
        (&with(&[1]), router, link, "half an option"),
        (&[134, 1, 0, 0], router, link, "another code"),
        (&[135; 24], router, link, "another type"),
        (&[], router, link, "nothing"),
    ] {
        assert_eq!(router::parse(octets, from, hops), None, "{why}");
    }
}

#[test]
fn links_are_read_and_what_is_cut_off_is_not() {
    let message = |kind: u16, index: u32, flags: u32, name: &str| {
        let name = [name.as_bytes(), &[0]].concat();
        let mut attribute = u16::try_from(4 + name.len()).unwrap().to_ne_bytes().to_vec();
        attribute.extend(libc::IFLA_IFNAME.to_ne_bytes());
        attribute.extend(&name);
        attribute.resize(attribute.len().next_multiple_of(4), 0);
        let mut body = vec![0; 16];
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        body[8..12].copy_from_slice(&flags.to_ne_bytes());
        body.extend([8, 0, 99, 0, 1, 2, 3, 4]); // an attribute of no interest
        body.extend(attribute);
        let len = u32::try_from(16 + body.len()).unwrap();
        let mut octets = len.to_ne_bytes().to_vec();
        octets.extend(kind.to_ne_bytes());
        octets.resize(16, 0);
        octets.extend(body);
        octets
    };
    let change = |index, name: &str, works| links::Change { index, name: name.into(), works };
    let up = (libc::IFF_UP | libc::IFF_RUNNING) as u32;
    let all = [
        message(libc::RTM_NEWLINK, 7, up, "eth1"),
        message(libc::RTM_NEWLINK, 8, libc::IFF_UP as u32, "uplink0"),
        message(libc::RTM_NEWADDR, 9, up, "eth9"),
        message(libc::RTM_DELLINK, 7, up, "eth1"),
    ]
    .concat();
    let expected = [change(7, "eth1", true), change(8, "uplink0", false), change(7, "eth1", false)];
    assert_eq!(links::parse(&all), (expected.to_vec(), false));
    let done = [&all[..], &20_u32.to_ne_bytes(), &3_u16.to_ne_bytes(), &[0; 14]].concat();
    assert_eq!(links::parse(&done), (expected.to_vec(), true));
    for len in 0..all.len() {
        let read = links::parse(&all[..len]).0;
        assert_eq!(read, expected[..read.len()], "{len} octets");
    }
    let mut endless = all;
    endless[..4].copy_from_slice(&0_u32.to_ne_bytes());
    assert_eq!(links::parse(&endless), (Vec::new(), false));
}
