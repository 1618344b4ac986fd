use super::*;

fn to(protocol: u8, port: u16) -> Header {
    Header { protocol, source: 50000, port }
}

const ALLOW: Step = Step::Decide(Verdict::Allow);
const DENY: Step = Step::Decide(Verdict::Deny);

/// Elements of which none is logged.
fn plain(elements: impl Iterator<Item = (Traffic, Ruling)>) -> Vec<(Traffic, Verdict)> {
    let verdict = |(traffic, ruling): (Traffic, Ruling)| {
        assert!(!ruling.log, "{traffic}");
        (traffic, ruling.verdict)
    };
    elements.map(verdict).collect()
}

#[test]
fn one_port_is_one_element() {
    let mut rules = Flattener::new(&[]);
    rules.ports(0, ALLOW, 6, (80, 80), ALL_PORTS);
    let table = rules.finish();
    let elements = plain(table.needed_elements());
    assert_eq!(elements, [(Traffic::Port(6, 80), Verdict::Allow)]);
}

#[test]
fn ranges_are_expanded_up_to_64_ports() {
    let mut rules = Flattener::new(&[]);
    rules.ports(0, ALLOW, 6, (100, 163), ALL_PORTS);
    assert_eq!(rules.finish().needed_elements().count(), 64);
    let mut rules = Flattener::new(&[]);
    rules.ports(0, ALLOW, 6, (100, 164), ALL_PORTS);
    let elements = plain(rules.finish().needed_elements());
    assert_eq!(elements, [(Traffic::Ports(6, 100, 164), Verdict::Allow)]);
}

#[test]
fn all_but_one_port_is_two_elements() {
    let mut rules = Flattener::new(&[]);
    rules.ports(0, DENY, 17, (53, 53), ALL_PORTS);
    rules.protocol(1, ALLOW, 17);
    let elements = plain(rules.finish().all_elements());
    assert_eq!(
        elements,
        [
            (Traffic::Port(17, 53), Verdict::Deny),
            (Traffic::Protocol(17), Verdict::Allow),
            (Traffic::Any, Verdict::Deny)
        ]
    );
}

#[test]
fn a_type_of_icmp_is_a_range_of_codes() {
    let mut rules = Flattener::new(&[]);
    rules.ports(0, DENY, 1, (0x0803, 0x0803), ALL_PORTS);
    rules.ports(1, ALLOW, 1, (0x0800, 0x08ff), ALL_PORTS);
    rules.ports(2, ALLOW, 58, (0x8000, 0x8000), ALL_PORTS);
    let table = rules.finish();
    let elements = plain(table.needed_elements());
    let mut wanted: Vec<_> =
        [0x0800, 0x0801, 0x0802].map(|n| (Traffic::Port(1, n), Verdict::Allow)).into();
    wanted.push((Traffic::Port(58, 0x8000), Verdict::Allow));
    wanted.push((Traffic::Ports(1, 0x0804, 0x08ff), Verdict::Allow));
    assert_eq!(elements, wanted);
    for (protocol, number, verdict) in [
        (1, 0x0800, Verdict::Allow),
        (1, 0x0803, Verdict::Deny),
        (1, 0x08ff, Verdict::Allow),
        (1, 0x0900, Verdict::Deny),
        (58, 0x8000, Verdict::Allow),
        (58, 0x8001, Verdict::Deny),
    ] {
        assert_eq!(table.verdict(to(protocol, number)), verdict, "{protocol} {number:#06x}");
    }
}

#[test]
fn a_protocol_that_ends_like_the_rest_needs_no_element() {
    let mut rules = Flattener::new(&[]);
    rules.ports(0, ALLOW, 6, (80, 80), ALL_PORTS);
    assert!(rules.all_traffic(1, ALLOW));
    let elements = plain(rules.finish().needed_elements());
    assert_eq!(elements, [(Traffic::Any, Verdict::Allow)]);
}

#[test]
fn pass_skips_the_rest_of_its_tier() {
    let mut rules = Flattener::new(&[]);
    rules.ports(0, Step::SkipTo(2), 6, (80, 80), ALL_PORTS);
    assert!(!rules.all_traffic(1, Step::SkipTo(2)));
    rules.ports(2, ALLOW, 6, (80, 81), ALL_PORTS);
    rules.all_traffic(3, DENY);
    let table = rules.finish();
    assert_eq!(table.verdict(to(6, 80)), Verdict::Allow);
    assert_eq!(table.verdict(to(6, 81)), Verdict::Allow);
    assert_eq!(table.verdict(to(6, 82)), Verdict::Deny);
    assert_eq!(table.verdict(to(1, 80)), Verdict::Deny);

    let mut rules = Flattener::new(&[]);
    rules.ports(0, Step::SkipTo(2), 6, (80, 80), ALL_PORTS);
    rules.all_traffic(1, DENY);
    rules.all_traffic(2, ALLOW);
    let table = rules.finish();
    assert_eq!(table.verdict(to(6, 80)), Verdict::Allow);
    assert_eq!(table.verdict(to(6, 81)), Verdict::Deny);
}

#[test]
fn lookup_finds_the_edges_of_ranges() {
    let mut rules = Flattener::new(&[]);
    rules.ports(0, ALLOW, 6, (0, 1000), ALL_PORTS);
    rules.ports(1, ALLOW, 6, (2000, 65535), ALL_PORTS);
    rules.ports(2, ALLOW, 132, (5, 500), ALL_PORTS);
    rules.all_traffic(3, DENY);
    let table = rules.finish();
    for (protocol, port, verdict) in [
        (6, 0, Verdict::Allow),
        (6, 1000, Verdict::Allow),
        (6, 1001, Verdict::Deny),
        (6, 1999, Verdict::Deny),
        (6, 2000, Verdict::Allow),
        (6, 65535, Verdict::Allow),
        (132, 4, Verdict::Deny),
        (132, 500, Verdict::Allow),
        (17, 80, Verdict::Deny),
    ] {
        assert_eq!(table.verdict(to(protocol, port)), verdict, "{protocol} {port}");
    }
}

#[test]
fn source_ports_are_told_apart_only_where_they_matter() {
    let mut rules = Flattener::new(&[]);
    rules.ports(0, ALLOW, 6, (80, 80), ALL_PORTS);
    rules.ports(1, DENY, 6, (443, 444), (0, 1023));
    rules.ports(2, ALLOW, 6, (443, 443), ALL_PORTS);
    rules.ports(3, ALLOW, 17, ALL_PORTS, (53, 53));
    let table = rules.finish();
    let elements = plain(table.needed_elements());
    assert_eq!(
        elements,
        [
            (Traffic::Port(6, 80), Verdict::Allow),
            (Traffic::Pairs(6, (443, 443), (1024, u16::MAX)), Verdict::Allow),
            (Traffic::Pairs(17, ALL_PORTS, (53, 53)), Verdict::Allow),
        ]
    );
    for (protocol, source, port, verdict) in [
        (6, 1, 80, Verdict::Allow),
        (6, 1023, 443, Verdict::Deny),
        (6, 1024, 443, Verdict::Allow),
        (6, 1024, 444, Verdict::Deny),
        (17, 53, 9, Verdict::Allow),
        (17, 54, 9, Verdict::Deny),
        (132, 53, 9, Verdict::Deny),
    ] {
        let header = Header { protocol, source, port };
        assert_eq!(table.verdict(header), verdict, "{header:?}");
    }
}

#[test]
fn source_ports_that_come_to_the_same_leave_no_trace() {
    let mut rules = Flattener::new(&[]);
    rules.ports(0, ALLOW, 6, (80, 81), (1, 99));
    rules.ports(1, Step::SkipTo(3), 6, (80, 80), (50, 200));
    rules.ports(2, ALLOW, 6, (80, 81), ALL_PORTS);
    rules.ports(3, ALLOW, 6, (80, 80), (0, 40000));
    let table = rules.finish();
    let mut plain = Flattener::new(&[]);
    plain.ports(0, ALLOW, 6, (80, 81), ALL_PORTS);
    assert_eq!(table, plain.finish());
}

#[test]
fn what_is_logged_goes_on() {
    let mut rules = Flattener::new(&[]);
    rules.ports(0, Step::Log, 6, (80, 81), ALL_PORTS);
    rules.ports(1, ALLOW, 6, (80, 80), ALL_PORTS);
    rules.ports(2, Step::Log, 6, (80, 80), ALL_PORTS);
    rules.ports(3, Step::SkipTo(5), 17, (53, 53), ALL_PORTS);
    assert!(!rules.all_traffic(4, Step::Log), "nothing is decided by it");
    rules.ports(5, ALLOW, 17, (53, 53), ALL_PORTS);
    let table = rules.finish();
    let elements: Vec<_> = table.needed_elements().collect();
    let ruling = Ruling::new;
    assert_eq!(
        elements,
        [
            (Traffic::Port(6, 80), ruling(Verdict::Allow, true)),
            (Traffic::Port(17, 53), ruling(Verdict::Allow, false)),
            (Traffic::Any, ruling(Verdict::Deny, true)),
        ]
    );
    assert_eq!(table.find(to(6, 81)), (Traffic::Any, ruling(Verdict::Deny, true)));
    assert_eq!(table.verdict(to(6, 80)), Verdict::Allow);
}
