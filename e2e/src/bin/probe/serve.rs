//! Echo servers that tell the client which address it came from.

use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use anyhow::{Context as _, Result};
use socket2::{Domain, Socket, Type};

use crate::tell;

/// Serves until killed.
pub(crate) fn run(ports: &[u16]) -> Result<bool> {
    for &port in ports {
        let tcp = listen_tcp(port)?;
        let udp = listen_udp(port)?;
        thread::spawn(move || accept(&tcp));
        thread::spawn(move || answer(&udp));
    }
    tell::ready()?;
    loop {
        thread::park();
    }
}

/// Both families on one socket.
fn dual_stack(kind: Type, port: u16) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV6, kind, None)?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    socket.bind(&address.into()).with_context(|| format!("cannot bind port {port}"))?;
    Ok(socket)
}

pub(crate) fn listen_udp(port: u16) -> Result<UdpSocket> {
    Ok(dual_stack(Type::DGRAM, port)?.into())
}

pub(crate) fn listen_tcp(port: u16) -> Result<TcpListener> {
    let socket = dual_stack(Type::STREAM, port)?;
    socket.listen(1024)?;
    Ok(socket.into())
}

fn accept(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        thread::spawn(move || echo(stream));
    }
}

fn echo(mut stream: TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let greeting = greeting(stream.peer_addr().ok()?, stream.local_addr().ok());
    stream.write_all(format!("{greeting}\n").as_bytes()).ok()?;
    let mut buffer = [0; 16384];
    loop {
        let length = stream.read(&mut buffer).ok().filter(|length| *length > 0)?;
        stream.write_all(buffer.get(..length)?).ok()?;
    }
}

fn answer(socket: &UdpSocket) {
    let mut buffer = [0; 16384];
    loop {
        // Errors here are ICMP about earlier answers.
        let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
        let mut reply = greeting(client, None);
        reply["payload"] = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into();
        let _ = socket.send_to(reply.to_string().as_bytes(), client);
    }
}

/// Addresses without the IPv6 clothes that a dual-stack socket gives to IPv4.
fn greeting(client: SocketAddr, server: Option<SocketAddr>) -> serde_json::Value {
    let server = server.map(|address| address.ip().to_canonical().to_string());
    serde_json::json!({
        "client": client.ip().to_canonical().to_string(),
        "clientPort": client.port(),
        "server": server,
    })
}
