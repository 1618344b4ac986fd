//! See `bgpd::fuzz::bfd`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| bgpd::fuzz::bfd(octets));
