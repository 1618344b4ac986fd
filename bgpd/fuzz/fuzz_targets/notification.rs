//! See `bgpd::fuzz::notification`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| bgpd::fuzz::notification(octets));
