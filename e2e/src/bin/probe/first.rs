//! A pod that uses its network from the first instant: sends and listens before it has a link.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::json;

use crate::target::Target;
use crate::{serve, tell};

const REPORT: Duration = Duration::from_millis(20);

/// Sends to every target, in rounds with a pause between them, and counts every datagram that arrives, by sender. Runs until killed; a line every 20 ms.
pub(crate) fn run(port: u16, pause: Duration, targets: &[Target]) -> Result<bool> {
    let mut addresses = Vec::new();
    for target in targets {
        match target {
            Target::Udp(address) => addresses.push(dual(*address)),
            _ => bail!("{target}: this sends UDP only"),
        }
    }
    let socket = serve::listen_udp(port)?;
    let receiver = socket.try_clone()?;
    let from: Arc<Mutex<BTreeMap<IpAddr, u64>>> = Arc::default();
    let heard = Arc::clone(&from);
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        loop {
            if let Ok((_, sender)) = receiver.recv_from(&mut buffer) {
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                *heard.entry(sender.ip().to_canonical()).or_default() += 1;
            }
        }
    });
    tell::ready()?;
    let (mut sent, mut unsent) = (0_u64, 0_u64);
    let mut report = Instant::now();
    loop {
        for address in &addresses {
            match socket.send_to(b"first", address) {
                Ok(_) => sent += 1,
                Err(_) => unsent += 1,
            }
        }
        if report.elapsed() >= REPORT {
            report = Instant::now();
            let heard = from.lock().unwrap_or_else(PoisonError::into_inner);
            let heard: BTreeMap<String, u64> =
                heard.iter().map(|(address, count)| (address.to_string(), *count)).collect();
            tell::line(&json!({
                "time": tell::now(), "sent": sent, "unsent": unsent, "heard": heard,
            }));
        }
        thread::sleep(pause);
    }
}

/// An address as a dual-stack socket wants it.
fn dual(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}
