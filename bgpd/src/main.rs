//! The daemon: a speaker run from a YAML file, and the questions one asks it.

mod daemon;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match daemon::Args::parse().run() {
        Ok(code) => code,
        Err(error) => {
            use std::io::Write;
            // The one place left to say it; if even that is closed, the exit code remains.
            let _closed = writeln!(std::io::stderr().lock(), "bgpd: {error:#}");
            ExitCode::FAILURE
        }
    }
}
