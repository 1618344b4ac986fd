//! See `felix_fuzz::selector`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: felix_fuzz::plant(felix_fuzz::seeds_of_selector()),
    |octets: &[u8]| felix_fuzz::selector(octets)
);
