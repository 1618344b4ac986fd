//! What became of each test.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::progress::print;

/// In lines.
const BEGINNING: usize = 6;

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    /// With what it said.
    Failed(String),
    /// It could not be run here, and why.
    Skipped(String),
}

/// Results as they come in: a line for each, and a summary at the end.
#[derive(Debug)]
pub(crate) struct Tally {
    filter: String,
    list: bool,
    start: Instant,
    passed: usize,
    failed: Vec<(String, String)>,
    skipped: Vec<(String, String)>,
}

impl Tally {
    pub(crate) fn new(filter: &str, list: bool) -> Self {
        Self {
            filter: filter.to_owned(),
            list,
            start: Instant::now(),
            passed: 0,
            failed: Vec::new(),
            skipped: Vec::new(),
        }
    }

    /// Is the test asked for? Under `--list` its name is printed and the answer is no.
    pub(crate) fn wants(&self, name: &str) -> bool {
        let wanted = name.contains(&self.filter);
        if wanted && self.list {
            print(&format!("{name}\n"));
        }
        wanted && !self.list
    }

    /// Could a test whose name starts so be asked for?
    pub(crate) fn may_want(&self, prefix: &str) -> bool {
        let filter = &self.filter;
        filter.is_empty()
            || prefix.contains(filter.as_str())
            // The filter may begin anywhere in the prefix and go on in the rest of the name.
            || (0..prefix.len()).any(|at| {
                prefix.is_char_boundary(at) && filter.starts_with(prefix.split_at(at).1)
            })
            || !filter.contains("::")
    }

    /// Is a suite asked for, and nothing else?
    pub(crate) fn means_suites(&self) -> bool {
        let suite =
            |test: &crate::suites::Test| format!("e2e::{}", test.name).starts_with(&self.filter);
        self.filter.len() > "e2e::".len() && crate::suites::all().iter().any(suite)
    }

    /// Notes and prints a result.
    pub(crate) fn add(&mut self, name: &str, took: Option<Duration>, outcome: Outcome) {
        let time = took.map(|t| format!(" ({:.1} s)", t.as_secs_f64())).unwrap_or_default();
        match outcome {
            Outcome::Passed => {
                self.passed += 1;
                print(&format!("passed   {name}{time}\n"));
            }
            Outcome::Failed(said) => {
                print(&format!("FAILED   {name}{time}\n{}", beginning(&said)));
                self.failed.push((name.to_owned(), said));
            }
            Outcome::Skipped(why) => {
                print(&format!("skipped  {name}: {why}\n"));
                self.skipped.push((name.to_owned(), why));
            }
        }
    }

    /// What the failures said, what was skipped and why, and the count.
    pub(crate) fn finish(self) -> ExitCode {
        if self.list {
            return ExitCode::SUCCESS;
        }
        print(&self.summary());
        // A filter that fits nothing is a mistake, not a success.
        if self.failed.is_empty() && self.passed + self.skipped.len() > 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    fn summary(&self) -> String {
        let mut text = String::new();
        for (name, said) in &self.failed {
            let _ = writeln!(text, "\n==== {name}\n{}", said.trim_end());
        }
        if !self.skipped.is_empty() {
            let _ = writeln!(text, "\n{} skipped:", self.skipped.len());
        }
        for (name, why) in &self.skipped {
            let _ = writeln!(text, "  {name}: {why}");
        }
        if !self.failed.is_empty() {
            let _ = writeln!(text, "\n{} failed:", self.failed.len());
        }
        for (name, _) in &self.failed {
            let _ = writeln!(text, "  {name}");
        }
        let _ = writeln!(text, "\nin {:.0} s", self.start.elapsed().as_secs_f64());
        let _ = writeln!(text, "{} passed, {} failed", self.passed, self.failed.len());
        text
    }
}

/// What a failure said first, for those who watch: all of it is in the summary.
fn beginning(said: &str) -> String {
    let lines = said.lines().filter(|line| !line.trim().is_empty()).take(BEGINNING);
    lines.fold(String::new(), |text, line| text + "         | " + line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_at_once_how_it_begins() {
        let lines: Vec<String> = (0..100).map(|number| format!("line {number}\n\n")).collect();
        let shown = beginning(&lines.concat());
        assert_eq!(shown.lines().count(), BEGINNING);
        assert!(shown.starts_with("         | line 0\n         | line 1\n"));
        assert_eq!(beginning(""), "");
    }

    #[test]
    fn the_last_line_counts() {
        let mut tally = Tally::new("", false);
        tally.add("a", None, Outcome::Passed);
        tally.add("b", None, Outcome::Failed("because".into()));
        tally.add("c", None, Outcome::Skipped("no etcd".into()));
        let summary = tally.summary();
        assert_eq!(summary.lines().last(), Some("1 passed, 1 failed"));
        assert!(summary.contains("because") && summary.contains("c: no etcd"));
        assert_eq!(tally.finish(), ExitCode::FAILURE);
        assert_eq!(Tally::new("nothing", false).finish(), ExitCode::FAILURE);
    }

    #[test]
    fn a_filter_chooses_by_any_part_of_the_name() {
        let tally = |filter| Tally::new(filter, false);
        assert!(tally("policy").wants("e2e::policy::allow"));
        assert!(!tally("policy").wants("e2e::reach::all"));
        for (filter, prefix, may) in [
            ("", "bgpd::", true),
            ("session", "bgpd::", true),
            ("bgpd::session", "bgpd::", true),
            ("d::session", "bgpd::", true),
            ("e2e::reach", "bgpd::", false),
            ("e2e::", "e2e::", true),
        ] {
            assert_eq!(tally(filter).may_want(prefix), may, "{filter} {prefix}");
        }
    }
}
