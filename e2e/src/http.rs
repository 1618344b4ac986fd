//! One HTTP request, from inside a namespace.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::netns::Netns;

const PATIENCE: Duration = Duration::from_secs(5);

/// GET over HTTP/1.0: status code and body.
///
/// # Errors
/// Fails when nobody answers within 5 s, or what answers is not HTTP.
pub(crate) async fn get(netns: &Netns, server: SocketAddr, path: &str) -> Result<(u16, String)> {
    let ask = async {
        let mut stream = netns.connect(server, PATIENCE).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {server}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").context("not HTTP")?;
        let status = head.split_ascii_whitespace().nth(1).context("no status")?.parse()?;
        anyhow::Ok((status, body.to_owned()))
    };
    tokio::time::timeout(PATIENCE, ask)
        .await
        .context("no answer")?
        .with_context(|| format!("http://{server}{path}"))
}
