//! See `bgpd::fuzz::recording`.
#![no_main]

bgpd_fuzz::target!(recording);
