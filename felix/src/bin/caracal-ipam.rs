//! The CNI IPAM plugin: see [`felix::cni::plugin`].

use std::process::ExitCode;

use felix::cni::plugin::{Plugin, run};

fn main() -> ExitCode {
    run(Plugin::Ipam)
}
