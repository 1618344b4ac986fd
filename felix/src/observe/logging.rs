//! The log: to standard error, as text or JSON, its level changeable while the agent runs.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::config::{LogConfig, LogFormat};

/// What holds until felix.yaml or FelixConfiguration says otherwise.
const DEFAULT_LEVEL: &str = "info";

/// Chatter of libraries whose every failure the agent reports itself, once and in its own words.
const QUIET: &str = "kube_client=off,kube_runtime=off,hyper=warn,hyper_util=warn,h2=warn,tower=warn,rustls=warn,\
                     netlink_proto=warn,notify=warn";

/// The running log.
#[derive(Clone)]
pub struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
    /// felix.yaml names a level: FelixConfiguration then has no say.
    fixed: bool,
}

/// Starts the log; later calls in the same process fail.
///
/// # Errors
/// A log is running already, or the level cannot be read.
pub fn start(config: &LogConfig) -> anyhow::Result<Logging> {
    let level = config.level.as_deref().unwrap_or(DEFAULT_LEVEL);
    let (filter, handle) = reload::Layer::new(filter(level).map_err(anyhow::Error::msg)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    match config.format {
        LogFormat::Text => {
            registry.with(lines.with_ansi(std::io::stderr().is_terminal())).try_init()?;
        }
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init()?,
    }
    Ok(Logging { filter: handle, fixed: config.level.is_some() })
}

impl Logging {
    /// Follows FelixConfiguration's `logSeverityScreen` (None: not set), unless felix.yaml names a
    /// level. Returns false for a word that is no severity; nothing changes then.
    pub fn set_severity(&self, severity: Option<&str>) -> bool {
        let level = match severity.map(str::to_ascii_lowercase).as_deref() {
            None | Some("" | "info") => DEFAULT_LEVEL,
            Some("trace") => "trace",
            Some("debug") => "debug",
            Some("warning" | "warn") => "warn",
            Some("error" | "fatal" | "panic") => "error",
            Some("none" | "off") => "off",
            Some(_) => return false,
        };
        if !self.fixed
            && let Ok(filter) = filter(level)
            && let Err(error) = self.filter.reload(filter)
        {
            tracing::warn!(%error, "the log level could not be changed");
        }
        true
    }
}

/// Whether `log.level` can be read; the error is the reason.
///
/// # Errors
/// Neither a level nor a list of directives.
pub fn check_level(level: &str) -> Result<(), String> {
    filter(level).map(drop)
}

fn filter(level: &str) -> Result<EnvFilter, String> {
    let wrong = || {
        format!("{level:?} is not trace, debug, info, warn, error, off or a list of target=level")
    };
    // A bare word that is no level would pass as the name of a target, and silence everything.
    let levels = ["trace", "debug", "info", "warn", "error", "off"];
    for part in level.split(',') {
        if !part.contains(['=', '['])
            && !levels.contains(&part.trim().to_ascii_lowercase().as_str())
        {
            return Err(wrong());
        }
    }
    // What comes later is stronger, so a directive for one of the quiet libraries is heard.
    EnvFilter::try_new(format!("{QUIET},{level}")).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_told_from_nonsense() {
        for good in ["info", "WARN", "off", "info,felix::kernel=debug", "warn,[span]=trace"] {
            assert!(check_level(good).is_ok(), "{good}");
        }
        for bad in ["loud", "info,loud", "felix=loud", ""] {
            assert!(check_level(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn severities_of_the_api_change_the_level_unless_it_is_fixed() {
        let (_layer, handle) = reload::Layer::new(filter("info").unwrap());
        let level =
            |logging: &Logging| logging.filter.with_current(EnvFilter::max_level_hint).unwrap();
        let free = Logging { filter: handle.clone(), fixed: false };
        assert!(free.set_severity(Some("Debug")));
        assert_eq!(level(&free), Some(tracing::level_filters::LevelFilter::DEBUG));
        let fixed = Logging { filter: handle, fixed: true };
        assert!(fixed.set_severity(Some("Error")));
        assert_eq!(level(&fixed), Some(tracing::level_filters::LevelFilter::DEBUG));
        assert!(free.set_severity(None));
        assert_eq!(level(&free), Some(tracing::level_filters::LevelFilter::INFO));
        assert!(!free.set_severity(Some("Loud")));
    }
}
