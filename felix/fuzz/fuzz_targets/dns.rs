//! See `felix_fuzz::dns`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: felix_fuzz::plant(felix_fuzz::seeds_of_dns()),
    |octets: &[u8]| felix_fuzz::dns(octets)
);
