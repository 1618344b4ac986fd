//! Reading what libtest prints.

use std::collections::BTreeMap;

use super::Outcome;

/// The results in the output of a test program that ran with `--show-output`.
///
/// A test that passed but whose first line of output is `skipped: WHY` did not test anything, and
/// says so that way because libtest knows no skipping at run time. None if the output is not that
/// of a program that ran to its end: it crashed.
pub(super) fn parse(output: &str) -> Option<BTreeMap<String, Outcome>> {
    let mut results: BTreeMap<String, Outcome> = BTreeMap::new();
    let mut said: BTreeMap<&str, String> = BTreeMap::new();
    let mut section: Option<&str> = None;
    let mut finished = false;
    for line in output.lines() {
        if let Some(name) =
            line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            section = Some(name);
        } else if matches!(line, "successes:" | "failures:") {
            section = None;
        } else if line.starts_with("test result: ") {
            finished = true;
            section = None;
        } else if let Some(name) = section {
            let text = said.entry(name).or_default();
            text.push_str(line);
            text.push('\n');
        } else if let Some((name, outcome)) = result(line) {
            results.insert(name.to_owned(), outcome);
        }
    }
    for (name, outcome) in &mut results {
        let text = said.get(name.as_str()).map_or("", String::as_str);
        match outcome {
            Outcome::Failed(reason) => text.clone_into(reason),
            Outcome::Passed => {
                if let Some(why) = text.lines().next().and_then(|l| l.strip_prefix("skipped: ")) {
                    *outcome = Outcome::Skipped(why.to_owned());
                }
            }
            Outcome::Skipped(_) => {}
        }
    }
    finished.then_some(results)
}

/// `test NAME ... ok`, `... FAILED` or `... ignored, WHY`.
fn result(line: &str) -> Option<(&str, Outcome)> {
    let (name, word) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    // `#[should_panic]` adds to the name.
    let name = name.strip_suffix(" - should panic").unwrap_or(name);
    let outcome = match word.split_once(", ").unwrap_or((word, "")) {
        ("ok", _) => Outcome::Passed,
        ("FAILED", _) => Outcome::Failed(String::new()),
        ("ignored", "") => Outcome::Skipped("ignored".into()),
        ("ignored", why) => Outcome::Skipped(why.into()),
        _ => return None,
    };
    Some((name, outcome))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 5 tests
test a::passes ... ok
test a::panics - should panic ... ok
test a::fails ... FAILED
test a::waits ... ignored, needs a router
test a::skips ... ok

successes:

---- a::skips stdout ----
skipped: no kube-apiserver
more

successes:
    a::passes
    a::skips

failures:

---- a::fails stdout ----
thread panicked
test inside ... ok

failures:
    a::fails

test result: FAILED. 3 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn every_way_a_test_ends_is_told_apart() {
        let results = parse(OUTPUT).unwrap();
        assert_eq!(results.len(), 5);
        assert_eq!(results["a::passes"], Outcome::Passed);
        assert_eq!(results["a::panics"], Outcome::Passed);
        assert_eq!(results["a::waits"], Outcome::Skipped("needs a router".into()));
        assert_eq!(results["a::skips"], Outcome::Skipped("no kube-apiserver".into()));
        let Outcome::Failed(said) = &results["a::fails"] else { panic!("it failed") };
        assert!(said.contains("thread panicked") && said.contains("test inside ... ok"));
    }

    #[test]
    fn a_program_that_did_not_finish_has_no_results() {
        assert_eq!(parse("running 2 tests\ntest a ... ok\n"), None);
    }
}
