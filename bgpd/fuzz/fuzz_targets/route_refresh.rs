//! See `bgpd::fuzz::route_refresh`.
#![no_main]

bgpd_fuzz::target!(route_refresh);
