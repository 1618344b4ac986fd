//! Two sessions over a link that loses, delays and reorders packets, or stops; with virtual time.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::bfd::session::{Params, Session};
use crate::bfd::{Packet, State, Time};
use crate::transport::memory::Random;

const MS: Duration = Duration::from_millis(1);

/// How a packet fares.
enum Fate {
    Lost,
    After(Duration),
}

struct Link {
    now: Time,
    random: Random,
    ends: [Session; 2],
    /// On its way to an end.
    under_way: BTreeMap<(Time, u64), (usize, [u8; 24])>,
    sequence: u64,
    /// Packets lost in a row, towards each end.
    lost: [u32; 2],
}

impl Link {
    fn new(seed: u64, params: [Params; 2]) -> Self {
        let mut random = Random::new(seed);
        let mut end = |n: u32| {
            let at = usize::try_from(n).unwrap();
            Session::new(params[at], NonZeroU32::new(n + 1).unwrap(), random.next(), Time::ZERO)
        };
        let ends = [end(0), end(1)];
        let (now, under_way) = (Time::ZERO, BTreeMap::new());
        Self { now, random, ends, under_way, sequence: 0, lost: [0; 2] }
    }

    /// Runs for a while, with the fate of each packet decided by `fate`: the random source, the end
    /// it goes to, and how many before it were lost in a row.
    fn run(&mut self, duration: Duration, mut fate: impl FnMut(&mut Random, usize, u32) -> Fate) {
        let end = self.now + duration;
        loop {
            for from in 0..2 {
                let to = 1 - from;
                while let Some(packet) = self.ends[from].transmit(self.now) {
                    match fate(&mut self.random, to, self.lost[to]) {
                        Fate::Lost => self.lost[to] += 1,
                        Fate::After(delay) => {
                            self.lost[to] = 0;
                            self.sequence += 1;
                            let key = (self.now + delay, self.sequence);
                            self.under_way.insert(key, (to, packet.encode()));
                        }
                    }
                }
            }
            let arrival = self.under_way.first_key_value().map(|((at, _), _)| *at);
            let deadlines = self.ends.iter().filter_map(Session::next_deadline);
            let Some(next) = deadlines.chain(arrival).min().filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            if arrival.is_some_and(|at| at <= self.now) {
                let (_, (to, octets)) = self.under_way.pop_first().unwrap();
                self.ends[to].receive(self.now, &Packet::parse(&octets).unwrap());
            } else {
                self.ends.iter_mut().for_each(|session| session.expire(self.now));
            }
        }
    }

    fn states(&self) -> [State; 2] {
        [self.ends[0].state(), self.ends[1].state()]
    }
}

fn params(random: &mut Random) -> Params {
    let mut interval = || u32::try_from(10_000 + random.below(300) * 1000).unwrap();
    let (min_tx, min_rx) = (interval(), interval());
    Params { min_tx, min_rx, multiplier: u8::try_from(2 + random.below(5)).unwrap() }
}

/// Delays such that packets overtake each other, but none is later than the next but one.
fn jumble(random: &mut Random, interval: Duration) -> Duration {
    let most = usize::try_from(interval.as_micros() / 2).unwrap();
    Duration::from_micros(random.below(most) as u64)
}

#[test]
fn both_come_up_over_a_bad_link_and_stay_up_on_a_good_one() {
    for seed in 0..100 {
        let mut random = Random::new(seed);
        let both = [params(&mut random), params(&mut random)];
        let mut link = Link::new(seed, both);
        // Half of all packets are lost, the others take up to a second.
        link.run(Duration::from_secs(20), |random, _, _| {
            if random.chance(50) { Fate::Lost } else { Fate::After(jumble(random, 2000 * MS)) }
        });
        // Healed: three slow packets are enough, after what is still under way.
        link.run(Duration::from_secs(6), |_, _, _| Fate::After(MS));
        assert_eq!(link.states(), [State::Up; 2], "seed {seed}");
        let flaps = link.ends.each_ref().map(|end| end.tally().flaps);
        link.run(Duration::from_secs(60), |_, _, _| Fate::After(MS));
        assert_eq!(link.ends.each_ref().map(|end| end.tally().flaps), flaps, "seed {seed}");
        // Both go by what the slower wish is.
        for (at, end) in link.ends.iter().enumerate() {
            let (own, other) = (both[at], both[1 - at]);
            let micros = |n: u32| Duration::from_micros(n.into());
            assert_eq!(end.tx_interval(), micros(own.min_tx.max(other.min_rx)), "seed {seed}");
            let silence = micros(own.min_rx.max(other.min_tx)) * other.multiplier.into();
            assert_eq!(end.detection_time(), silence, "seed {seed}");
        }
    }
}

#[test]
fn a_cut_is_noticed_within_the_detection_time_and_healed() {
    for seed in 0..100 {
        let mut random = Random::new(seed);
        let mut link = Link::new(seed, [params(&mut random), params(&mut random)]);
        link.run(Duration::from_secs(10), |_, _, _| Fate::After(MS));
        assert_eq!(link.states(), [State::Up; 2], "seed {seed}");
        // One way only: the other end is told by the one that hears nothing.
        let deaf = random.below(2);
        let silence = link.ends[deaf].detection_time();
        link.run(
            silence + 2 * MS,
            |_, to, _| {
                if to == deaf { Fate::Lost } else { Fate::After(MS) }
            },
        );
        assert_eq!(link.states(), [State::Down; 2], "seed {seed}");
        assert_eq!(link.ends.each_ref().map(|end| end.tally().failures), [1; 2], "seed {seed}");
        link.run(Duration::from_secs(10), |_, _, _| Fate::After(MS));
        assert_eq!(link.states(), [State::Up; 2], "seed {seed}");
        // Both ways.
        let silence = link.ends.iter().map(Session::detection_time).max().unwrap();
        link.run(silence + 2 * MS, |_, _, _| Fate::Lost);
        assert_eq!(link.states(), [State::Down; 2], "seed {seed}");
        link.run(Duration::from_secs(10), |_, _, _| Fate::After(MS));
        assert_eq!(link.states(), [State::Up; 2], "seed {seed}");
        assert_eq!(link.ends.each_ref().map(|end| end.tally().failures), [2; 2], "seed {seed}");
    }
}

/// The detection time is a multiple of the interval without jitter: two losses fewer in a row leave
/// a whole interval for delays and never end a session, however they fall, nor does a change of the
/// parameters meanwhile.
#[test]
fn losses_that_are_allowed_for_and_other_parameters_never_end_a_session() {
    for seed in 0..100 {
        let mut random = Random::new(seed);
        let mut both = [params(&mut random), params(&mut random)];
        let mut link = Link::new(seed, both);
        link.run(Duration::from_secs(10), |_, _, _| Fate::After(MS));
        assert_eq!(link.states(), [State::Up; 2], "seed {seed}");
        let mut before = both;
        for _ in 0..6 {
            let least = both.map(|p| u32::from(p.multiplier));
            // Delays of up to half an interval, be it the one before the change.
            let spare = both.iter().chain(&before).map(|p| p.min_tx).min().unwrap() / 2;
            link.run(Duration::from_secs(20), |random, to, lost| {
                if lost + 2 < least[1 - to] && random.chance(60) {
                    Fate::Lost
                } else {
                    Fate::After(Duration::from_micros(random.below(spare as usize) as u64))
                }
            });
            assert_eq!(link.ends.each_ref().map(|end| end.tally().flaps), [0; 2], "seed {seed}");
            before = both;
            let at = random.below(2);
            // The same multiplier: one that becomes less takes effect before packets under way.
            both[at] = Params { multiplier: both[at].multiplier, ..params(&mut random) };
            let now = link.now;
            link.ends[at].configure(now, both[at]);
        }
        assert_eq!(link.states(), [State::Up; 2], "seed {seed}");
    }
}
