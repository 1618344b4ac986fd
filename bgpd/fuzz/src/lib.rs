//! What the fuzz targets have in common.

use std::path::PathBuf;

/// Names the folder that a target puts what it starts from into.
pub const SEEDS: &str = "FUZZ_SEEDS";

/// Makes one function of `bgpd::fuzz` a target of libFuzzer.
#[macro_export]
macro_rules! target {
    ($name:ident) => {
        libfuzzer_sys::fuzz_target!(
            init: $crate::plant(stringify!($name)),
            |octets: &[u8]| bgpd::fuzz::$name(octets)
        );
    };
}

/// Writes what the target starts from, each input into a file of its own, if there is a folder for
/// that. libFuzzer reads its folders after this.
///
/// # Panics
/// Where there is no such target, or a file cannot be written.
pub fn plant(name: &str) {
    let Some(folder) = std::env::var_os(SEEDS).map(PathBuf::from) else { return };
    let target = bgpd::fuzz::TARGETS.into_iter().find(|target| target.name == name);
    let target = target.unwrap_or_else(|| panic!("{name} is not among bgpd::fuzz::TARGETS"));
    for (at, seed) in (target.seeds)().into_iter().enumerate() {
        let file = folder.join(format!("{at:03}"));
        std::fs::write(&file, seed).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}
