//! See `bgpd::fuzz::bfd`.
#![no_main]

bgpd_fuzz::target!(bfd);
