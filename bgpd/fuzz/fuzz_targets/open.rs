//! See `bgpd::fuzz::open`.
#![no_main]

bgpd_fuzz::target!(open);
