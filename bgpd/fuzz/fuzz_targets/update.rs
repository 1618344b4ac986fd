//! See `bgpd::fuzz::update`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| bgpd::fuzz::update(octets));
