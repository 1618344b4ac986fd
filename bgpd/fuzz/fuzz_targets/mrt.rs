//! See `bgpd::fuzz::mrt`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| bgpd::fuzz::mrt(octets));
