//! See `bgpd::fuzz::update`.
#![no_main]

bgpd_fuzz::target!(update);
