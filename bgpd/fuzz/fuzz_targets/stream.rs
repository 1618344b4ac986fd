//! See `bgpd::fuzz::stream`.
#![no_main]

bgpd_fuzz::target!(stream);
