//! A hash that is the same in every run and on every machine: what it names is compared with what
//! an earlier run of the agent left in the kernel.

/// FNV-1a over 64 bits, folded to 32.
#[derive(Debug)]
pub(super) struct StableHasher(u64);

impl Default for StableHasher {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl StableHasher {
    pub(super) fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "folded: both halves count")]
    pub(super) fn finish(&self) -> u32 {
        (self.0 >> 32) as u32 ^ self.0 as u32
    }
}
