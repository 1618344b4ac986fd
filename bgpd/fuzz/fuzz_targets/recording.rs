//! See `bgpd::fuzz::recording`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| bgpd::fuzz::recording(octets));
