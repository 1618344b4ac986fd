//! See `felix_fuzz::policy`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: felix_fuzz::plant(felix_fuzz::seeds_of_policy()),
    |octets: &[u8]| felix_fuzz::policy(octets)
);
