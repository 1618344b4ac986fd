//! Waiting on conditions, never on the clock alone.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// An error that no waiting mends: [`until`] returns it at once.
#[derive(Debug)]
pub(crate) struct Hopeless(pub(crate) String);

impl std::error::Error for Hopeless {}

impl std::fmt::Display for Hopeless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Asks `attempt` again and again until it succeeds; its errors mean "not yet", but for
/// [`Hopeless`].
///
/// Polls quickly at first (5 ms) and then every 100 ms.
///
/// # Errors
/// After `within`, the last "not yet", under a line that says what was awaited.
pub(crate) async fn until<T, F, Fut>(what: &str, within: Duration, mut attempt: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let start = Instant::now();
    let mut pause = Duration::from_millis(5);
    let mut before: Option<anyhow::Error> = None;
    loop {
        let left = within.saturating_sub(start.elapsed());
        let outcome = match tokio::time::timeout(left.max(pause), attempt()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) if error.is::<Hopeless>() => return Err(error.context(what.to_owned())),
            Ok(Err(error)) => error,
            // The one before had its time, and says more.
            Err(_) => before
                .take()
                .unwrap_or_else(|| anyhow::anyhow!("no answer within {} ms", left.as_millis())),
        };
        if start.elapsed() + pause >= within {
            return Err(outcome)
                .with_context(|| format!("{what}: not within {:.1} s", within.as_secs_f64()));
        }
        before = Some(outcome);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// The opposite: `holds` has to succeed at every look for the whole of `during`.
///
/// # Errors
/// The first failure, with the time it happened.
pub(crate) async fn always<F, Fut>(what: &str, during: Duration, mut holds: F) -> Result<()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<()>>,
{
    let start = Instant::now();
    while start.elapsed() < during {
        holds().await.with_context(|| {
            format!("{what}: no longer after {} ms", start.elapsed().as_millis())
        })?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn until_returns_the_first_success_and_names_what_it_missed() {
        let mut looks = 0;
        let third = until("third look", Duration::from_secs(5), || {
            looks += 1;
            let answer = if looks == 3 { Ok(looks) } else { Err(anyhow::anyhow!("look {looks}")) };
            async move { answer }
        });
        assert_eq!(third.await.unwrap(), 3);

        let never = until("the moon", Duration::from_millis(30), || async {
            Err::<(), _>(anyhow::anyhow!("still dark"))
        });
        let text = format!("{:#}", never.await.unwrap_err());
        assert!(text.contains("the moon") && text.contains("still dark"), "{text}");
    }

    #[tokio::test]
    async fn until_does_not_wait_for_what_cannot_come() {
        let start = Instant::now();
        let dead = until("a dead process", Duration::from_secs(60), || async {
            Err::<(), _>(Hopeless("it ended".into()).into())
        });
        assert!(format!("{:#}", dead.await.unwrap_err()).contains("a dead process: it ended"));
        assert!(start.elapsed() < Duration::from_secs(5));
    }

    #[tokio::test]
    async fn until_bounds_an_attempt_that_hangs() {
        let start = Instant::now();
        let hung = until("an answer", Duration::from_millis(50), || async {
            std::future::pending::<Result<()>>().await
        });
        assert!(hung.await.is_err());
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}
