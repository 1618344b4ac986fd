//! `/livez`, `/readyz` and `/metrics` over plain HTTP.
//!
//! The health pages answer 200 or 503 with one line for each check, as the API server's do.

use std::fmt::Write as _;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use futures::future::BoxFuture;
use tokio::net::TcpListener;

use super::health::{Check, Health};
use super::metrics::Metrics;

/// Brings metrics up to date that are read off something when they are asked for.
pub type Refresh = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// Longest that a scrape waits for that; then it gets the figures of before.
const REFRESH: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Shared {
    health: Health,
    metrics: Arc<Metrics>,
    refresh: Refresh,
}

/// Serves until `shutdown` resolves; requests under way are finished.
///
/// # Errors
/// The listener failed.
pub async fn serve(
    listener: TcpListener,
    health: Health,
    metrics: Arc<Metrics>,
    refresh: Refresh,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .with_state(Shared { health, metrics, refresh });
    axum::serve(listener, router).with_graceful_shutdown(shutdown).await
}

async fn livez(State(shared): State<Shared>) -> impl IntoResponse {
    report("livez", &shared.health.live().await)
}

async fn readyz(State(shared): State<Shared>) -> impl IntoResponse {
    report("readyz", &shared.health.ready())
}

async fn metrics_text(State(shared): State<Shared>) -> impl IntoResponse {
    if tokio::time::timeout(REFRESH, (shared.refresh)()).await.is_err() {
        tracing::debug!("the figures of a scrape are old ones");
    }
    match shared.metrics.encode() {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], text),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
            error.to_string(),
        ),
    }
}

fn report(page: &str, checks: &[Check]) -> (StatusCode, String) {
    let mut text = String::new();
    for Check { name, result } in checks {
        // Writing to a String does not fail.
        let _ = match result {
            Ok(()) => writeln!(text, "[+]{name} ok"),
            Err(reason) => writeln!(text, "[-]{name} failed: {reason}"),
        };
    }
    if checks.iter().all(|check| check.result.is_ok()) {
        text.push_str(page);
        text.push_str(" check passed\n");
        (StatusCode::OK, text)
    } else {
        text.push_str(page);
        text.push_str(" check failed\n");
        (StatusCode::SERVICE_UNAVAILABLE, text)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn fetch(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: felix\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        reply
    }

    #[tokio::test]
    async fn the_pages_follow_the_agents_state() {
        let (health, metrics) = (Health::default(), Arc::new(Metrics::new()));
        let condition = health.register_condition("source");
        let hung = health.register_loop("engine", Duration::from_millis(50));
        metrics.source.updates.get_or_create(&("Pod", "set").into()).inc();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::clone(&metrics);
        let refresh: Refresh = Arc::new(move || {
            shared.dataplane.endpoints.set(7);
            Box::pin(std::future::ready(()))
        });
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server =
            tokio::spawn(serve(listener, health.clone(), Arc::clone(&metrics), refresh, async {
                let _ = stopped.await;
            }));

        let reply = fetch(address, "/readyz").await;
        assert!(reply.starts_with("HTTP/1.1 503"), "{reply}");
        assert!(reply.ends_with("[-]source failed: starting\nreadyz check failed\n"), "{reply}");
        condition.set(Ok(()));
        let reply = fetch(address, "/readyz").await;
        assert!(
            reply.starts_with("HTTP/1.1 200")
                && reply.ends_with("[+]source ok\nreadyz check passed\n"),
            "{reply}"
        );

        let reply = fetch(address, "/livez").await;
        assert!(
            reply.starts_with("HTTP/1.1 503")
                && reply.contains("[-]engine failed: no answer within 50ms"),
            "{reply}"
        );
        drop(hung);

        let reply = fetch(address, "/metrics").await;
        assert!(
            reply.contains(
                "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"
            ),
            "{reply}"
        );
        assert!(
            reply.contains("felix_source_updates_total{kind=\"Pod\",operation=\"set\"} 1\n"),
            "{reply}"
        );
        assert!(reply.contains("felix_endpoints 7\n"), "read when asked for: {reply}");
        assert!(reply.ends_with("# EOF\n"), "{reply}");
        assert!(fetch(address, "/other").await.starts_with("HTTP/1.1 404"));
        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
    }
}
