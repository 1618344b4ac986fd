//! See `bgpd::fuzz::yaml`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| bgpd::fuzz::yaml(octets));
