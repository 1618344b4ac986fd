//! Reports: JSON lines on standard output, readiness over `$NOTIFY_SOCKET` (sd_notify(3)).

use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

/// One line; a reader that has gone is none of our business.
pub(crate) fn line(value: &serde_json::Value) {
    let mut text = value.to_string();
    text.push('\n');
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Says that everything is listening. Whoever started us need not want to know.
pub(crate) fn ready() -> Result<()> {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET") {
        UnixDatagram::unbound()?
            .send_to(b"READY=1", &socket)
            .with_context(|| format!("cannot notify {}", socket.display()))?;
    }
    Ok(())
}

/// Milliseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
