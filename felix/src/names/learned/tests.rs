use proptest::prelude::*;

use super::*;

fn id(name: &str) -> EndpointId {
    EndpointId { container_id: name.into(), ifname: "eth0".into() }
}

fn v4(last: u8) -> IpAddr {
    [192, 0, 2, last].into()
}

fn answer(name: &str, addresses: &[(u8, u32)]) -> Answer {
    let addresses = addresses.iter().map(|(last, ttl)| (v4(*last), *ttl)).collect();
    Answer { name: name.into(), addresses }
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn names(list: &[&str]) -> Vec<Arc<str>> {
    list.iter().map(|name| Arc::from(*name)).collect()
}

fn known(now: &[&str], lapsed: &[&str]) -> Known {
    Known { names: names(now), lapsed: names(lapsed) }
}

fn change(last: u8, known: Known) -> Change {
    Change { endpoint: id("a"), address: v4(last), known }
}

#[test]
fn an_address_counts_for_its_time_and_the_grace() {
    let mut learned = Learned::default();
    let (a, start) = (id("a"), at(1000));
    let changes = learned.learn(&a, &answer("x.org", &[(1, 60), (2, 1)]), start);
    assert_eq!(changes, [change(1, known(&["x.org"], &[])), change(2, known(&["x.org"], &[]))]);
    assert_eq!((learned.len(), learned.counts().learned), (2, 2));
    // The shorter one has the least time that there is.
    let lapses = learned.next().unwrap();
    assert!(lapses >= start + LEAST + GRACE && lapses <= start + LEAST + GRACE + at(1));
    assert_eq!(learned.lapse(lapses - Duration::from_millis(1)), []);
    assert_eq!(learned.lapse(lapses), [change(2, known(&[], &["x.org"]))]);
    assert_eq!(learned.len(), 1);
    // Told again in time: no change, and it counts from then.
    assert_eq!(learned.learn(&a, &answer("x.org", &[(1, 60)]), at(1060)), []);
    assert_eq!(learned.lapse(at(1129)), []);
    assert_eq!(learned.lapse(at(1131)), [change(1, known(&[], &["x.org"]))]);
    // Told again after it lapsed.
    let changes = learned.learn(&a, &answer("x.org", &[(2, 1)]), at(1200));
    assert_eq!(changes, [change(2, known(&["x.org"], &[]))]);
    assert_eq!(learned.counts(), Counts { learned: 2, evicted: 0 });
    // A shorter time does not take back what was said.
    learned.learn(&a, &answer("x.org", &[(2, 900)]), at(1200));
    assert_eq!(learned.learn(&a, &answer("x.org", &[(2, 0)]), at(1201)), []);
    assert_eq!(learned.lapse(at(2100)), []);
    // No time is longer than the longest.
    learned.learn(&a, &answer("x.org", &[(2, u32::MAX)]), at(1201));
    assert_eq!(learned.lapse(at(1202) + MOST + GRACE), [change(2, known(&[], &["x.org"]))]);
    // In the end nothing is kept.
    assert_eq!(learned.lapse(at(1131) + KEPT), [change(1, Known::default())]);
    learned.lapse(at(1202) + MOST + GRACE + KEPT);
    assert_eq!((learned.next(), learned.is_empty()), (None, true));
}

#[test]
fn an_address_may_have_several_names() {
    let mut learned = Learned::default();
    let a = id("a");
    learned.learn(&a, &answer("x.org", &[(1, 20)]), at(0));
    let changes = learned.learn(&a, &answer("b.org", &[(1, 60)]), at(0));
    assert_eq!(changes, [change(1, known(&["b.org", "x.org"], &[]))]);
    assert_eq!(learned.lapse(at(40)), [change(1, known(&["b.org"], &["x.org"]))]);
    // What one endpoint learned is not another's.
    let changes = learned.learn(&id("b"), &answer("x.org", &[(1, 20)]), at(40));
    assert_eq!(changes[0].known, known(&["x.org"], &[]));
    learned.forget(&id("b"));
    assert_eq!(learned.len(), 1);
    assert_eq!(learned.take_touched(), [a, id("b")].into());
    assert!(learned.take_touched().is_empty());
}

#[test]
fn beyond_the_bounds_the_oldest_goes_what_has_lapsed_first() {
    let mut learned = Learned::new(Limits { of_name: 2, of_endpoint: 3 });
    let a = id("a");
    learned.learn(&a, &answer("x.org", &[(1, 600)]), at(0));
    learned.learn(&a, &answer("x.org", &[(2, 600)]), at(1));
    learned.learn(&a, &answer("x.org", &[(1, 600)]), at(2));
    let changes = learned.learn(&a, &answer("x.org", &[(3, 600)]), at(3));
    let wanted = [change(2, Known::default()), change(3, known(&["x.org"], &[]))];
    assert_eq!(changes, wanted, "the second was told of least recently");
    assert_eq!(learned.counts(), Counts { learned: 3, evicted: 1 });
    learned.learn(&a, &answer("y.org", &[(4, 1)]), at(4));
    learned.lapse(at(100));
    let changes = learned.learn(&a, &answer("z.org", &[(5, 600)]), at(100));
    assert_eq!(changes[0], change(4, Known::default()), "it had lapsed");
    assert_eq!(learned.counts().evicted, 2);
    // An answer with too many is cut, and others of its name go first.
    let many: Vec<(u8, u32)> = (10..20).map(|last| (last, 60)).collect();
    learned.learn(&a, &answer("z.org", &many), at(101));
    assert_eq!(learned.len(), 3);
    assert_eq!(learned.saved(&a).iter().filter(|saved| saved.name == "z.org").count(), 2);
}

#[test]
fn what_was_saved_comes_back_as_it_counts_then() {
    let mut learned = Learned::default();
    let a = id("a");
    learned.learn(&a, &answer("x.org", &[(1, 60), (2, 600)]), at(1000));
    learned.learn(&a, &answer("y.org", &[(2, 20)]), at(1000));
    let saved = learned.saved(&a);
    assert_eq!(saved.len(), 3);
    let json = serde_json::to_string(&saved).unwrap();
    let mut again = Learned::default();
    let changes = again.restore(&a, serde_json::from_str(&json).unwrap(), at(1100));
    let wanted = [change(1, known(&[], &["x.org"])), change(2, known(&["x.org"], &["y.org"]))];
    assert_eq!(changes, wanted);
    assert_eq!(again.saved(&a), saved);
    assert!(again.take_touched().is_empty(), "the disk has it");
    // Nothing is believed longer than any answer could say.
    let endless =
        vec![Saved { name: "x.org".into(), address: v4(9), told: 0, until: u64::MAX / 4 }];
    let mut other = Learned::default();
    other.restore(&a, endless, at(0));
    assert_eq!(other.next(), Some(MOST + GRACE));
    assert_eq!(again.restore(&id("b"), saved, at(1000) + KEPT + MOST), []);
}

proptest! {
    /// Under any order of answers and times the bounds hold, and the changes that were told are what is
    /// known.
    #[test]
    fn changes_add_up_to_what_is_known(
        steps in prop::collection::vec((0u8..2, 0u8..4, prop::collection::vec((0u8..8, 0u32..200), 0..6), 0u64..90), 1..60)
    ) {
        let limits = Limits { of_name: 3, of_endpoint: 6 };
        let mut learned = Learned::new(limits);
        let mut told: BTreeMap<(EndpointId, IpAddr), Known> = BTreeMap::new();
        let mut now = at(50);
        for (endpoint, name, addresses, passed) in steps {
            now += at(passed);
            let mut changes = learned.lapse(now);
            prop_assert!(learned.next().is_none_or(|next| next > now));
            let id = id(&endpoint.to_string());
            changes.extend(learned.learn(&id, &answer(&format!("{name}.org"), &addresses), now));
            for Change { endpoint, address, known } in changes {
                if known.is_empty() {
                    told.remove(&(endpoint, address));
                } else {
                    told.insert((endpoint, address), known);
                }
            }
            let mut live = 0;
            for ((endpoint, address), known) in &told {
                let saved = learned.saved(endpoint);
                let saved: Vec<&Saved> =
                    saved.iter().filter(|saved| saved.address == *address).collect();
                prop_assert_eq!(saved.len(), known.names.len() + known.lapsed.len());
                for saved in saved {
                    let lapsed = at(saved.until) <= now;
                    let list = if lapsed { &known.lapsed } else { &known.names };
                    prop_assert!(list.iter().any(|name| **name == *saved.name));
                }
                live += known.names.len();
            }
            prop_assert_eq!(live, learned.len());
            for endpoint in ["0", "1"] {
                let saved = learned.saved(&EndpointId { container_id: endpoint.into(), ifname: "eth0".into() });
                prop_assert!(saved.len() <= limits.of_endpoint);
            }
        }
    }
}
