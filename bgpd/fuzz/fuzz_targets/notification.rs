//! See `bgpd::fuzz::notification`.
#![no_main]

bgpd_fuzz::target!(notification);
