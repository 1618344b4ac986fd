//! Taking in connections.

use std::io;
use std::time::Duration;

/// How long after a failure the next attempt is made.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts one connection, however often that fails. `what` is for the log.
///
/// Mostly it fails for want of descriptors (EMFILE, ENFILE) or memory. The connection is then still
/// there, so that the socket stays readable, and nothing tells when descriptors are to be had again:
/// all there is to do is to try anew, but not at once, which would keep the processor busy. A
/// connection that its peer gave up before it was accepted is none, and its error is no reason to wait.
pub async fn accept<T, F>(what: &str, mut attempt: impl FnMut() -> F) -> T
where
    F: Future<Output = io::Result<T>>,
{
    loop {
        match attempt().await {
            Ok(accepted) => return accepted,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {
                tracing::debug!(%error, "{what}: a connection was given up");
            }
            Err(error) => {
                tracing::warn!(%error, "{what}: cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_goes_on_until_there_is_one() {
        let results = [libc::EMFILE, libc::ECONNABORTED, libc::ENFILE]
            .map(|errno| Err(io::Error::from_raw_os_error(errno)));
        let mut results = results.into_iter().chain([Ok(7), Ok(8)]);
        let accepted = accept("test", || std::future::ready(results.next().unwrap())).await;
        assert_eq!((accepted, results.count()), (7, 1));
    }
}
