//! The daemon: a speaker run from a YAML file, and the questions one asks it.

mod daemon;

use std::process::ExitCode;

use clap::Parser;

/// The exit code of a wrong command line (`sysexits.h`); clap's own, 2, has a meaning of ours.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let args = match daemon::Args::try_parse() {
        Ok(args) => args,
        Err(said) => {
            let _closed = said.print();
            return if said.use_stderr() { USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    match args.run() {
        Ok(code) => code,
        Err(error) => {
            use std::io::Write;
            // The one place left to say it; if even that is closed, the exit code remains.
            let _closed = writeln!(std::io::stderr().lock(), "bgpd: {error:#}");
            ExitCode::FAILURE
        }
    }
}
