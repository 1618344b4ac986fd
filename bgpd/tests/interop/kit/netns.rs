//! A lab: nodes, each a network namespace, and links between them.

use std::cell::Cell;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, bail, ensure};
use netlink::netns::Netns;

use super::Result;

static LABS: AtomicU32 = AtomicU32::new(0);

/// A folder for everything that a test leaves, and what its namespaces are made in.
pub(crate) struct Lab {
    folder: PathBuf,
    links: Cell<u8>,
}

impl Lab {
    /// A lab without nodes.
    ///
    /// # Panics
    /// If this is not root.
    pub(crate) fn new() -> Self {
        let count = LABS.fetch_add(1, Ordering::Relaxed);
        let name = format!("bgpd-interop-{}-{count}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).unwrap();
        Self { folder, links: Cell::new(0) }
    }

    /// A node: a new namespace with nothing but a loopback interface that is up.
    pub(crate) fn node(&self, name: &str) -> Node {
        let folder = self.folder.join(name);
        fs::create_dir(&folder).unwrap();
        let netns = Netns::create().expect("a network namespace; these tests need root");
        let node = Node { name: name.to_owned(), folder, netns };
        node.ip("link set lo up");
        node
    }

    /// Us, and nodes of these names around us: the link to each has the number of its place, from 1.
    pub(crate) fn star<const N: usize>(&self, names: [&str; N]) -> (Node, [Node; N]) {
        let us = self.node("us");
        let around = names.map(|name| {
            let node = self.node(name);
            self.link(&us, &node);
            node
        });
        (us, around)
    }

    /// Us and a peer, with a router between them: the peer is 10.0.2.2.
    pub(crate) fn two_hops(&self) -> [Node; 3] {
        let [us, router, peer] = ["us", "router", "peer"].map(|name| self.node(name));
        self.link(&us, &router);
        self.link(&router, &peer);
        router.forward();
        us.ip("route add 10.0.2.0/24 via 10.0.1.2");
        peer.ip("route add 10.0.1.0/24 via 10.0.2.1");
        [us, router, peer]
    }

    /// Joins two nodes by a cable: the lab's link `n` has 10.0.n.0/24 and fd00:n::/64. On each
    /// node the interface has the name of the other one.
    pub(crate) fn link(&self, a: &Node, b: &Node) -> Link {
        let number = self.links.get() + 1;
        self.links.set(number);
        let end = |host: u8, interface: &Node| End {
            interface: interface.name.clone(),
            v4: Ipv4Addr::new(10, 0, number, host),
            v6: format!("fd00:{number}::{host}").parse().unwrap(),
            link_local: format!("fe80::{number}:{host}").parse().unwrap(),
        };
        let link = Link { a: end(1, b), b: end(2, a) };
        self.link_again(a, b, &link);
        link
    }

    /// Joins two nodes by another cable in place of one that has been taken away.
    pub(crate) fn link_again(&self, a: &Node, b: &Node, link: &Link) {
        let (here, there) = (&link.a.interface, &link.b.interface);
        let netns = format!("/proc/{}/fd/{}", std::process::id(), b.netns.as_fd().as_raw_fd());
        a.ip(&format!("link add {here} type veth peer name {there} netns {netns}"));
        for (node, end) in [(a, &link.a), (b, &link.b)] {
            let End { interface, v4, v6, link_local } = end;
            // No duplicate address detection: addresses can be used at once.
            node.ip(&format!(
                "link set {interface} addrgenmode none\n\
                 address add {v4}/24 dev {interface}\n\
                 address add {v6}/64 dev {interface} nodad\n\
                 address add {link_local}/64 dev {interface} nodad\n\
                 link set {interface} up"
            ));
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let removed = fs::remove_dir_all(&self.folder);
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

/// A link between two nodes.
pub(crate) struct Link {
    /// The end at the node named first.
    pub(crate) a: End,
    /// The end at the other.
    pub(crate) b: End,
}

/// One end of a link.
pub(crate) struct End {
    /// Name of the interface.
    pub(crate) interface: String,
    /// With 24 bits of prefix.
    pub(crate) v4: Ipv4Addr,
    /// With 64 bits of prefix.
    pub(crate) v6: Ipv6Addr,
    /// With 64 bits of prefix.
    pub(crate) link_local: Ipv6Addr,
}

impl End {
    /// The address of a family.
    pub(crate) fn address(&self, ipv4: bool) -> IpAddr {
        if ipv4 { self.v4.into() } else { self.v6.into() }
    }
}

/// A network namespace, and a folder for what runs in it.
pub(crate) struct Node {
    name: String,
    folder: PathBuf,
    netns: Netns,
}

impl Node {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A command that will run in the namespace, and be killed when the thread that starts it
    /// ends.
    #[allow(unsafe_code, reason = "there is no safe way to act between fork and exec")]
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let netns = self.netns.as_fd().try_clone_to_owned().unwrap();
        let parent = std::process::id();
        let prepare = move || {
            // SAFETY: prctl, setns and getppid may be called between fork and exec; none takes a
            // pointer, and the descriptor is open for as long as the closure lives.
            let (dies, entered, lived) = unsafe {
                (
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL),
                    libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET),
                    libc::getppid(),
                )
            };
            if dies != 0 || entered != 0 {
                return Err(std::io::Error::last_os_error());
            }
            // Whoever was to be outlived may be gone already.
            if u32::try_from(lived) != Ok(parent) {
                return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        };
        // SAFETY: the closure makes system calls only: no allocation, no lock.
        unsafe { command.pre_exec(prepare) };
        command
    }

    /// Runs a command to its end and returns what it says; an error if it fails.
    pub(crate) fn run(&self, words: &[&str]) -> Result<String> {
        let mut command = self.command(words[0]);
        let done = command.args(&words[1..]).output().with_context(|| words.join(" "))?;
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "{}: {}{said}{complaint}", words.join(" "), done.status);
        Ok(said)
    }

    /// Runs lines of `ip`.
    pub(crate) fn ip(&self, lines: &str) {
        let mut command = self.command("ip");
        let mut child = command.args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{}: ip: {lines}", self.name);
    }

    /// Does something with the namespace as the thread's own, on a thread made for it. Sockets
    /// stay in the namespace; `/proc/sys/net` is that of the namespace.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.netns.run(work).unwrap()
    }

    /// Forwards packets of both families.
    pub(crate) fn forward(&self) {
        self.inside(|| {
            for file in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                fs::write(Path::new("/proc/sys/net").join(file), "1").unwrap();
            }
        });
    }

    /// The index of an interface, which is the scope of link-local addresses on it.
    pub(crate) fn index(&self, interface: &str) -> u32 {
        let text = self.run(&["ip", "-j", "link", "show", "dev", interface]).unwrap();
        let links: serde_json::Value = serde_json::from_str(&text).unwrap();
        links[0]["ifindex"].as_u64().and_then(|index| index.try_into().ok()).unwrap()
    }

    /// All addresses of its links, as `ADDRESS/LENGTH`.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let text = self.run(&["ip", "-j", "address"]).unwrap();
        let links: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        let links = links.iter().filter(|link| link["ifname"] != "lo");
        let addresses = links.flat_map(|link| link["addr_info"].as_array().into_iter().flatten());
        let text =
            |a: &serde_json::Value| format!("{}/{}", a["local"].as_str().unwrap(), a["prefixlen"]);
        addresses.map(text).collect()
    }

    /// A counter of the namespace's kernel, as `/proc/net/netstat` has it: `TcpExt` and
    /// `TCPMD5Failure`, say.
    pub(crate) fn counter(&self, group: &str, name: &str) -> u64 {
        let text = self.inside(|| fs::read_to_string("/proc/thread-self/net/netstat")).unwrap();
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let pairs = names.split_whitespace().zip(values.split_whitespace());
        let (_, value) = pairs.into_iter().find(|(found, _)| *found == name).unwrap();
        value.parse().unwrap()
    }

    /// The kernel's route to a prefix, as `ip route` shows it.
    pub(crate) fn kernel_route(&self, prefix: &str) -> Result<String> {
        let family = if prefix.contains(':') { "-6" } else { "-4" };
        let route = self.run(&["ip", family, "route", "show", prefix])?;
        if route.trim().is_empty() {
            bail!("no route to {prefix} on {}", self.name);
        }
        Ok(route)
    }
}
