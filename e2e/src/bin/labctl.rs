//! The lab itself; `cargo lab` runs it once everything is built.

use std::process::ExitCode;

fn main() -> ExitCode {
    e2e::cli::main()
}
