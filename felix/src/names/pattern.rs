//! What `domainNames` says of names.

use std::fmt;
use std::sync::Arc;

/// The longest name, in bytes, as text without the dot of the root (RFC 1035 section 2.3.4).
const LONGEST: usize = 253;
/// The longest label, in bytes.
const LONGEST_LABEL: usize = 63;

/// A name, or all names below one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern {
    /// In lower case, without the root's dot.
    name: Arc<str>,
    /// All names with one label more or several, but not the name itself.
    below: bool,
}

/// Why a text is no [`Pattern`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a name of two labels or more, with or without *. before it")]
pub struct PatternError;

impl Pattern {
    /// From `example.org` or `*.example.org`, in any case, with or without a dot at the end.
    ///
    /// # Errors
    /// [`PatternError`]: it is neither, or longer than a name can be.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let (below, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let is_label = |label: &str| {
            let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
            label.len() <= LONGEST_LABEL
                && edge(label.as_bytes().first())
                && edge(label.as_bytes().last())
                && label.bytes().all(is_usual)
        };
        let is_name = name.len() <= LONGEST && name.contains('.') && name.split('.').all(is_label);
        if is_name { Ok(Self { name: name.into(), below }) } else { Err(PatternError) }
    }

    /// Whether a name is meant, which is in lower case and without a dot at the end.
    pub fn matches(&self, name: &str) -> bool {
        if !self.below {
            return *self.name == *name;
        }
        let above = name.strip_suffix(&*self.name).and_then(|rest| rest.strip_suffix('.'));
        above.is_some_and(|labels| !labels.is_empty())
    }
}

/// Letters, digits, and what stands between them.
pub(super) fn is_usual(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.name)
    }
}

/// Several patterns, equal if the same are in them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DomainNames(Arc<[Pattern]>);

impl DomainNames {
    /// Whether one of them means a name, as in [`Pattern::matches`].
    pub fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(name))
    }
}

impl FromIterator<Pattern> for DomainNames {
    fn from_iter<T: IntoIterator<Item = Pattern>>(patterns: T) -> Self {
        let mut patterns: Vec<Pattern> = patterns.into_iter().collect();
        patterns.sort_unstable();
        patterns.dedup();
        Self(patterns.into())
    }
}

impl fmt::Display for DomainNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, pattern) in self.0.iter().enumerate() {
            write!(f, "{}{pattern}", if number > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_the_api_says() {
        // The examples of the API's own documentation, and edges.
        for (pattern, meant, others) in [
            (
                "kubernetes.io",
                &["kubernetes.io"][..],
                &["www.kubernetes.io", "my-kubernetes.io", "wikipedia.org", "io", ""][..],
            ),
            (
                "Blog.Kubernetes.IO.",
                &["blog.kubernetes.io"],
                &["www.kubernetes.io", "kubernetes.io"],
            ),
            (
                "*.kubernetes.io",
                &["www.kubernetes.io", "blog.kubernetes.io", "latest.blog.kubernetes.io"],
                &["kubernetes.io", ".kubernetes.io", "wikipedia.org", "my-kubernetes.io"],
            ),
            ("*.a-b.c", &["_tcp.a-b.c", "x._tcp.a-b.c"], &["a-b.c"]),
        ] {
            let parsed = Pattern::parse(pattern).unwrap();
            assert!(meant.iter().all(|name| parsed.matches(name)), "{pattern}");
            assert!(!others.iter().any(|name| parsed.matches(name)), "{pattern}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        let long = format!("{}.org", "a".repeat(64));
        let longest = format!("{}org", "abcdefghi.".repeat(26));
        for text in [
            "", ".", "*", "*.", "*.org", "org", "org.", "a..b", ".a.b", "a.b..", "*.*.a.b",
            "a.*.b", "*a.b", "-a.b", "a-.b", "a b.c", "ä.de", "a.b/24", &long, &longest,
        ] {
            assert_eq!(Pattern::parse(text), Err(PatternError), "{text:?}");
        }
        assert_eq!(Pattern::parse("*.Ex_a-mple.org.").unwrap().to_string(), "*.ex_a-mple.org");
    }

    #[test]
    fn a_list_is_the_same_in_any_order() {
        let list = |texts: &[&str]| -> DomainNames {
            texts.iter().map(|text| Pattern::parse(text).unwrap()).collect()
        };
        let names = list(&["b.org", "*.a.org", "B.org."]);
        assert_eq!(names, list(&["*.a.org", "b.org"]));
        assert_eq!(names.to_string(), "*.a.org, b.org");
        assert!(names.matches("x.a.org") && names.matches("b.org") && !names.matches("a.org"));
    }
}
