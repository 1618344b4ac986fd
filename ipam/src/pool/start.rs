//! The block of a pool that a node's search starts at, which is Calico's for the same name: a node
//! that changes from one to the other goes on where it was, and both, side by side, look in the
//! same place first.
//!
//! Calico draws it with Go's `math/rand`, seeded with the FNV-1 hash of the node's name: an additive
//! lagged Fibonacci generator, `x(n) = x(n-607) + x(n-273)` over 64 bits. Go seeds it by mixing a
//! linear congruential sequence into the state that the generator has 7.8e12 steps after another
//! such seeding; it carries that state as a table, here it is computed.

use std::iter::successors;
use std::sync::LazyLock;

/// Words of the generator's state.
const LONG: usize = 607;
/// The second lag.
const SHORT: usize = 273;
/// How far the state that seeds are mixed into is from its own seed.
const COOKED_AFTER: u64 = 7_800_000_000_000;

/// A number below 2 to the power of `bits` (at most 127), as `big.Int.Rand` of Go draws it first after
/// `rand.NewSource(seed)`.
pub(super) fn draw(seed: u64, bits: u32) -> u128 {
    let mut generator = Generator::new(seed);
    // The limit itself is a power of two and has one bit more; what is drawn has as many.
    let limit = 1_u128 << bits;
    let mask = (limit << 1).wrapping_sub(1);
    loop {
        let low = u128::from(generator.two_halves());
        let high = if bits >= 64 { u128::from(generator.two_halves()) } else { 0 };
        let drawn = (high << 64 | low) & mask;
        if drawn < limit {
            return drawn;
        }
    }
}

struct Generator {
    state: [u64; LONG],
    feed: usize,
    tap: usize,
}

impl Generator {
    fn new(seed: u64) -> Self {
        let mut state = *COOKED;
        for (word, fresh) in state.iter_mut().zip(congruential(seed, 40, 20)) {
            *word ^= fresh;
        }
        Self { state, feed: LONG - SHORT, tap: 0 }
    }

    fn next(&mut self) -> u64 {
        let down = |at: usize| at.checked_sub(1).unwrap_or(LONG - 1);
        (self.feed, self.tap) = (down(self.feed), down(self.tap));
        let sum = self.state[self.feed].wrapping_add(self.state[self.tap]);
        self.state[self.feed] = sum;
        sum
    }

    /// Two `Uint32` of Go, the first one below: bits 31 to 62 of each step.
    fn two_halves(&mut self) -> u64 {
        let mut half = || self.next() >> 31 & 0xffff_ffff;
        half() | half() << 32
    }
}

/// The words that a seed makes: three numbers each of Lehmer's generator (multiplier 48271, modulus
/// 2^31 - 1), the first ones shifted by so many bits.
fn congruential(seed: u64, first: u32, second: u32) -> impl Iterator<Item = u64> {
    const MODULUS: u64 = (1 << 31) - 1;
    let seed = match seed % MODULUS {
        0 => 89_482_311,
        seed => seed,
    };
    let mut numbers = successors(Some(seed), |x| Some(x * 48_271 % MODULUS)).skip(21);
    std::iter::from_fn(move || {
        let mut number = || numbers.next();
        Some(number()? << first ^ number()? << second ^ number()?)
    })
}

/// The state after [`COOKED_AFTER`] steps. The generator is linear, so many steps are one power of `x`
/// modulo its polynomial `x^607 - x^334 - 1`, by squaring.
static COOKED: LazyLock<[u64; LONG]> = LazyLock::new(|| {
    // The words in the order in which they count: the feed goes down from LONG - SHORT - 1.
    let word_of = |n: usize| (2 * LONG - SHORT - 1 - n) % LONG;
    let start: Vec<u64> = congruential(1, 20, 10).take(LONG).collect();
    let mut sequence: Vec<u64> = (0..LONG).map(|n| start[word_of(n)]).collect();
    for n in LONG..2 * LONG {
        sequence.push(sequence[n - LONG].wrapping_add(sequence[n - SHORT]));
    }
    let power = power_of_x(COOKED_AFTER);
    let mut state = [0; LONG];
    for at in 0..LONG {
        let terms = power.iter().zip(&sequence[at..]);
        let word = terms.fold(0, |sum: u64, (c, s)| sum.wrapping_add(c.wrapping_mul(*s)));
        #[allow(clippy::cast_possible_truncation, reason = "less than 607")]
        let position = ((COOKED_AFTER + at as u64) % LONG as u64) as usize;
        state[word_of(position)] = word;
    }
    state
});

/// The coefficients of `x` to this power, lowest first.
fn power_of_x(exponent: u64) -> Vec<u64> {
    let mut power = vec![0_u64; LONG];
    power[0] = 1;
    for bit in (0..u64::BITS - exponent.leading_zeros()).rev() {
        // One word more, for the multiplication by x.
        let mut product = vec![0_u64; 2 * LONG];
        let shift = (exponent >> bit & 1) as usize;
        for (i, a) in power.iter().enumerate().filter(|(_, a)| **a != 0) {
            for (sum, b) in product[i + shift..].iter_mut().zip(&power) {
                *sum = sum.wrapping_add(a.wrapping_mul(*b));
            }
        }
        for high in (LONG..2 * LONG).rev() {
            let coefficient = product[high];
            for lower in [high - LONG, high - SHORT] {
                product[lower] = product[lower].wrapping_add(coefficient);
            }
        }
        product.truncate(LONG);
        power = product;
    }
    power
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Go 1.26 gives.
    #[test]
    fn the_generator_is_gos() {
        let mut generator = Generator::new(1);
        let first: Vec<u64> = (0..5).map(|_| generator.next()).collect();
        let of_go = [
            0x4d65_8221_07fc_fd52,
            0x7862_9a0f_5f3f_164f,
            0xd510_4dc7_6695_721d,
            0xb807_04bb_7b4d_7c03,
            0x365a_8581_49c6_e2d1,
        ];
        assert_eq!(first, of_go);
    }

    /// What Go 1.26 gives for seeds that are the hashes of names.
    #[test]
    fn what_is_drawn_is_what_go_draws() {
        for (name, bits, drawn) in [
            ("node1", 0, 0),
            ("node1", 1, 0),
            ("node1", 4, 0x7),
            ("node1", 10, 0x29a),
            ("node1", 63, 0x297e_934b_e3a9_1654),
            ("node1", 64, 0xc030_46d0_bfc5_fa9a),
            ("node1", 66, 0x2_0cc6_2981_64fa_0b47),
            ("node1", 106, 0x34b_e3a9_1654_c030_46d0_bfc5_fa9a),
            ("node2", 4, 0),
            ("node2", 10, 0x1a0),
            ("node-a.example.com", 1, 1),
            ("node-a.example.com", 10, 0x317),
            ("node-a.example.com", 106, 0x35d_180d_4895_868d_8e49_d71a_5a15),
            ("ip-10-0-0-1.eu-west-1.compute.internal", 4, 0x9),
            ("ip-10-0-0-1.eu-west-1.compute.internal", 66, 0x3_803d_b51c_cb49_7b4d),
            ("load-balancer", 10, 0x24a),
        ] {
            let seed = u64::from(crate::pool::hash(name));
            assert_eq!(draw(seed, bits), drawn, "{name} {bits}");
        }
        assert!(draw(7, 127) < 1 << 127);
    }
}
