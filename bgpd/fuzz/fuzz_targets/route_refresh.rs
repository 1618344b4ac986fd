//! See `bgpd::fuzz::route_refresh`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| bgpd::fuzz::route_refresh(octets));
