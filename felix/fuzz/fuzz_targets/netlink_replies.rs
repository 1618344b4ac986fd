//! See `felix_fuzz::netlink_replies`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: felix_fuzz::plant(felix_fuzz::seeds_of_netlink_replies()),
    |octets: &[u8]| felix_fuzz::netlink_replies(octets)
);
