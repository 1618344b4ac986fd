//! See `bgpd::fuzz::stream`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| bgpd::fuzz::stream(octets));
