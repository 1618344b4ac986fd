//! See `bgpd::fuzz::open`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| bgpd::fuzz::open(octets));
