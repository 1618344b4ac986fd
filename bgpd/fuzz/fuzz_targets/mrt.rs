//! See `bgpd::fuzz::mrt`.
#![no_main]

bgpd_fuzz::target!(mrt);
