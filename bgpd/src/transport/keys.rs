//! The keys that listeners check segments with: TCP MD5 (RFC 2385) and TCP-AO (RFC 5925).

use std::collections::HashMap;
use std::fmt::Display;
use std::io;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};

use super::{tcp, tcp_ao};
use crate::config::{Password, PeerConfig, TcpAo};

/// What segments of a peer are signed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Md5(Password),
    Ao(TcpAo),
}

impl Key {
    pub(crate) fn of(peer: &PeerConfig) -> Option<Self> {
        let ao = peer.tcp_ao.clone().map(Self::Ao);
        ao.or_else(|| peer.password.clone().map(Self::Md5))
    }

    fn set(&self, listener: &TcpListener, net: IpNet) -> io::Result<()> {
        match self {
            Self::Md5(password) => tcp::set_md5(listener, net, Some(password.bytes())),
            Self::Ao(ao) => {
                tcp_ao::supported()?;
                ao.keys.iter().try_for_each(|key| {
                    // The same one may be there already.
                    tcp_ao::remove(listener, net, key)?;
                    tcp_ao::add(listener, net, key, false)
                })
            }
        }
    }

    fn remove(&self, listener: &TcpListener, net: IpNet) -> io::Result<()> {
        match self {
            Self::Md5(_) => tcp::set_md5(listener, net, None),
            Self::Ao(ao) => ao.keys.iter().try_for_each(|key| tcp_ao::remove(listener, net, key)),
        }
    }
}

/// The keys that all listeners have, and for which of them they could not be set, and why.
#[derive(Debug, Default)]
pub(crate) struct Keys(HashMap<IpNet, (Key, Result<(), String>)>);

impl Keys {
    /// There are new listeners, which have none.
    pub(crate) fn renew(&mut self) {
        for (_, result) in self.0.values_mut() {
            *result = Err("not set yet".to_owned());
        }
    }

    /// Gives the listeners these keys, and takes back others.
    pub(crate) fn set<'a>(
        &mut self,
        listeners: impl Iterator<Item = (SocketAddr, &'a TcpListener)> + Clone,
        wanted: HashMap<IpNet, Key>,
    ) {
        let all = |net: IpNet, act: &dyn Fn(&TcpListener) -> io::Result<()>| {
            let mut result = Ok(());
            let of_family =
                |(address, _): &(SocketAddr, _)| address.is_ipv4() == net.addr().is_ipv4();
            for (address, listener) in listeners.clone().filter(of_family) {
                if let Err(error) = act(listener) {
                    tracing::error!(peer = %net, %address, %error, "no key for the listener");
                    result = Err(error.to_string());
                }
            }
            result
        };
        for (net, (old, known)) in &self.0 {
            // An MD5 key is overwritten, so that there is no moment without one.
            let overwritten = match (old, wanted.get(net)) {
                (Key::Md5(_), Some(Key::Md5(_))) => true,
                (Key::Ao(old), Some(Key::Ao(new))) => old == new,
                // What the kernel does not know there is none of.
                (Key::Ao(_), None) => known.is_err() && tcp_ao::supported().is_err(),
                _ => false,
            };
            if !overwritten && let Err(why) = all(*net, &|listener| old.remove(listener, *net)) {
                tracing::error!(peer = %net, why, "an old key stays");
            }
        }
        let keys = wanted.into_iter().map(|(net, key)| {
            let known = self.0.get(&net).is_some_and(|(old, known)| known.is_ok() && *old == key);
            let result = if known { Ok(()) } else { all(net, &|listener| key.set(listener, net)) };
            (net, (key, result))
        });
        self.0 = keys.collect();
    }

    /// Where keys could not be set, and why.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (IpNet, &str)> {
        self.0.iter().filter_map(|(net, (_, result))| Some((*net, result.as_ref().err()?.as_str())))
    }

    /// Whether a connection was checked as it had to be. What is not there is not checked, and a key
    /// may be younger than the connection, which the kernel tells of TCP-AO.
    pub(crate) fn admit(&self, stream: &TcpStream, from: IpAddr) -> bool {
        let mut keys = self.0.iter().filter(|(net, _)| net.contains(&from));
        keys.all(|(_, (key, result))| {
            result.is_ok() && (!matches!(key, Key::Ao(_)) || tcp_ao::is_on(stream))
        })
    }
}

/// An error of the kernel's with what it is about.
pub(super) fn about(what: &str, error: &(impl Display + ?Sized), kind: io::ErrorKind) -> io::Error {
    io::Error::new(kind, format!("{what}: {error}"))
}
