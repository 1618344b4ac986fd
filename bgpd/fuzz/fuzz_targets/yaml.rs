//! See `bgpd::fuzz::yaml`.
#![no_main]

bgpd_fuzz::target!(yaml);
