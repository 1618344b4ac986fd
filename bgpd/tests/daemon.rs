//! The daemon as its users meet it: a YAML file, a process, and questions on the command line.
//!
//! Each test has loopback addresses and a folder of its own, and waits for conditions.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

/// A daemon of AS 65000 + `host` on 127.1.`test`.`host`; ended with the value.
struct Daemon {
    folder: PathBuf,
    child: Child,
}

/// Where a daemon will be: its address, and a port that nobody has.
fn place(test: u8, host: u8) -> (Ipv4Addr, u16) {
    let address = Ipv4Addr::new(127, 1, test, host);
    let port = TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port();
    (address, port)
}

impl Daemon {
    fn start(test: u8, host: u8, yaml: &str) -> Self {
        let id = std::process::id();
        let folder = std::env::temp_dir().join(format!("bgpd-daemon-{id}-{test}-{host}"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("bgpd.yaml"), yaml).unwrap();
        let child = Self::run(&folder);
        Self { folder, child }
    }

    fn run(folder: &std::path::Path) -> Child {
        Command::new(env!("CARGO_BIN_EXE_bgpd"))
            .args(["run", "--config"])
            .arg(folder.join("bgpd.yaml"))
            .arg("--socket")
            .arg(folder.join("socket"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Ends it with a signal, and starts it again with this file; whether it says that it restarts.
    fn restart(&mut self, signal: &str, yaml: &str) -> bool {
        signal_to(&self.child, signal);
        self.child.wait().unwrap();
        std::fs::write(self.folder.join("bgpd.yaml"), yaml).unwrap();
        self.child = Self::run(&self.folder);
        let status = self.until(&["status"], |_| true);
        status["progress"]["restarting"].as_bool().unwrap()
    }

    /// Waits until it has a session, and has written down what the next one is to know.
    fn until_remembered(&self) {
        self.until(&["neighbors"], |all| all[0]["state"] == "established");
        let file = self.folder.join("socket.restart");
        // Written after this answer, not before.
        self.until(&["status"], |status| status["restart_window"] != 0 && file.exists());
    }

    fn ask(&self, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_bgpd"))
            .args(words)
            .arg("--socket")
            .arg(self.folder.join("socket"))
            .output()
            .unwrap()
    }

    /// What a question prints; None if it fails.
    fn text(&self, words: &[&str]) -> Option<String> {
        let output = self.ask(words);
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    fn json(&self, words: &[&str]) -> Option<Value> {
        let text = self.text(&[words, &["-o", "json"]].concat())?;
        Some(serde_json::from_str(&text).unwrap())
    }

    /// Asks until the answer is as wanted.
    fn until(&self, words: &[&str], wanted: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + LIMIT;
        loop {
            let answer = self.json(words);
            if let Some(answer) = answer.as_ref().filter(|a| wanted(a)) {
                return answer.clone();
            }
            assert!(Instant::now() < end, "{words:?}: {answer:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
        let _gone = std::fs::remove_dir_all(&self.folder);
    }
}

/// The YAML of a daemon with one peer, and more lines.
fn yaml(own: (Ipv4Addr, u16), other: (Ipv4Addr, u16), more: &str) -> String {
    let asn = |address: Ipv4Addr| 65000 + u32::from(address.octets()[3]);
    format!(
        "router-id: {0}\nasn: {1}\nlisten: [\"{0}:{2}\"]\nebgp-requires-policy: false\n\
         peers:\n- name: other\n  address: {3}\n  asn: {4}\n  port: {5}\n  source-address: {0}\n  \
         connect-retry-time: 1\n{more}",
        own.0,
        asn(own.0),
        own.1,
        other.0,
        asn(other.0),
        other.1,
    )
}

/// Two daemons that are each other's peer; the second has more lines.
fn pair(test: u8, first: &str, second: &str) -> (Daemon, Daemon) {
    let (a, b) = (place(test, 1), place(test, 2));
    let daemons =
        (Daemon::start(test, 1, &yaml(a, b, first)), Daemon::start(test, 2, &yaml(b, a, second)));
    daemons.0.until(&["neighbors"], |all| all[0]["state"] == "established");
    daemons
}

#[test]
fn every_question_has_an_answer_for_people_and_one_for_programs() {
    let networks =
        "networks:\n- prefix: 10.1.0.0/16\n- prefix: 10.1.2.0/24\n  communities: [\"65002:7\"]\n";
    let (first, second) = pair(1, "", networks);
    first.until(&["routes"], |routes| routes.as_array().is_some_and(|r| r.len() == 2));
    let count = |words: &[&str]| {
        let routes = first.json(&[&["routes"], words].concat()).unwrap();
        routes.as_array().unwrap().len()
    };
    assert_eq!(count(&["10.1.0.0/16"]), 1);
    assert_eq!(count(&["10.1.0.0/16", "--longer"]), 2);
    assert_eq!(count(&["10.1.2.3", "--covering"]), 2);
    assert_eq!(count(&["10.1.3.3"]), 1);
    assert_eq!(count(&["--community", "65002:7"]), 1);
    assert_eq!(count(&["--origin-as", "65002", "--reason", "only-path"]), 2);
    assert_eq!(count(&["--through-as", "1"]), 0);
    assert_eq!(
        second.json(&["routes", "--advertised-to", "other"]).unwrap()[1]["prefix"],
        "10.1.2.0/24"
    );

    let detail = first.json(&["neighbors", "other"]).unwrap();
    assert_eq!(detail["open_received"]["asn"], 65002);
    let shown = first.text(&["neighbors", "other"]).unwrap();
    for part in ["four-octet-as 65002", "OPEN", "UPDATE", "keepalives received", "ipv4-unicast"] {
        assert!(shown.contains(part), "no {part} in\n{shown}");
    }
    let explained = first.text(&["explain", "10.1.2.9"]).unwrap();
    assert!(explained.contains("the only usable path"), "{explained}");
    for what in ["neighbors", "routes", "status", "config", "groups", "memory"] {
        let shown = first.text(&["show", what]).unwrap();
        assert_eq!(first.json(&["show", what]).is_some(), first.json(&[what]).is_some());
        assert!(shown.trim().len() > 20, "{what}: {shown}");
    }
    let config = first.json(&["show", "config"]).unwrap();
    assert_eq!(config["peers"][0]["name"], "other");
    assert_eq!(first.json(&["show", "memory"]).unwrap()["paths"], 2);
    assert_eq!(second.json(&["show", "groups"]).unwrap()[0]["members"][0], "other");

    for (words, complaint) in [
        (&["neighbors", "nobody"][..], "no neighbor \"nobody\""),
        (&["routes", "--neighbor", "nobody"], "no neighbor \"nobody\""),
        (&["explain", "11.0.0.0/8"], "no route to 11.0.0.0/8"),
        (&["routes", "10.1.0.0/33"], "neither a prefix nor an address"),
        (&["routes", "--reason", "bad-luck"], "unknown variant"),
    ] {
        let output = first.ask(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(complaint), "{words:?}: {said}");
    }
}

fn get(address: (Ipv4Addr, u16), request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    write!(stream, "{request}\r\nHost: x\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn prometheus_finds_what_it_needs() {
    let metrics = place(2, 1);
    // The first line goes on with the peer.
    let first = format!(
        "  max-prefixes: {{limit: 100}}\nlisten-ranges:\n- {{prefix: 127.9.0.0/16, limit: 7, \
         peer: {{name: pods, asn: 65009}}}}\nmetrics-listen: \"{}:{}\"\n",
        metrics.0, metrics.1
    );
    let (first, _second) = pair(2, &first, "networks:\n- prefix: 10.1.0.0/16\n");
    first.until(&["routes"], |routes| routes.as_array().is_some_and(|r| r.len() == 1));
    let text = get(metrics, "GET /metrics HTTP/1.1");
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    let peer = "peer=\"127.1.2.2\",name=\"other\"";
    for line in [
        format!("bgp_peer_up{{{peer}}} 1"),
        format!("bgp_peer_state{{{peer},state=\"established\"}} 1"),
        format!("bgp_peer_state{{{peer},state=\"idle\"}} 0"),
        format!("bgp_peer_prefixes_accepted{{{peer},family=\"ipv4-unicast\"}} 1"),
        format!("bgp_session_ups_total{{{peer}}} 1"),
        format!("bgp_messages_total{{{peer},direction=\"received\",type=\"open\"}} "),
        format!("bgp_update_errors_total{{{peer},treatment=\"treat-as-withdraw\"}} 0"),
        format!("bgp_peer_prefixes_stale{{{peer},family=\"ipv4-unicast\"}} 0"),
        format!("bgp_peer_prefixes_limit{{{peer},family=\"ipv4-unicast\"}} 100"),
        format!("bgp_peer_family_up{{{peer},family=\"ipv4-unicast\"}} 1"),
        format!("bgp_peer_halted{{{peer}}} 0"),
        "bgp_fib_awaited 0".to_owned(),
        "bgp_listen_range_limit{range=\"pods\"} 7".to_owned(),
        "bgp_listen_range_refused_total{range=\"pods\"} 0".to_owned(),
        "bgp_rib_prefixes{family=\"ipv4-unicast\"} 1".to_owned(),
        "bgp_attribute_sets ".to_owned(),
    ] {
        assert!(
            body.lines().any(|l| l == line || line.ends_with(' ') && l.starts_with(&line)),
            "no {line} in\n{body}"
        );
    }
    assert!(body.ends_with("# EOF\n"));
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        // A counter's samples have a suffix that its name has not.
        let name = name.strip_suffix("_total").unwrap_or(name);
        for about in ["HELP", "TYPE"] {
            assert!(body.contains(&format!("# {about} {name} ")), "no {about} of {line}");
        }
        assert!(name.starts_with("bgp_"), "{line}");
    }
    let unanswered = TcpStream::connect(metrics).unwrap();
    assert!(get(metrics, "GET / HTTP/1.1").starts_with("HTTP/1.0 404 "));
    assert!(get(metrics, "POST /metrics HTTP/1.1").starts_with("HTTP/1.0 405 "));
    assert_eq!(get(metrics, &format!("GET /{} HTTP/1.1", "x".repeat(9000))), "", "too long");
    drop(unanswered);
}

#[test]
fn a_table_and_what_happens_can_be_had_as_mrt() {
    let id = std::process::id();
    let updates = std::env::temp_dir().join(format!("bgpd-daemon-{id}-updates.mrt"));
    let dump = updates.with_extension("dump");
    let first = format!("mrt: {{updates: {}, rotate-seconds: 3600}}\n", updates.display());
    let (mut first, _second) = pair(3, &first, "networks:\n- prefix: 10.1.0.0/16\n");
    first.until(&["routes"], |routes| routes.as_array().is_some_and(|r| r.len() == 1));
    let output = first.ask(&["mrt", "dump", dump.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let bodies = |path: &PathBuf| {
        let octets = std::fs::read(path).unwrap();
        let (mut rest, mut bodies) = (&octets[..], Vec::new());
        while let Ok(Some((record, len))) = bgpd::mrt::record(rest) {
            bodies.push(format!("{:?}", record.body));
            rest = &rest[len..];
        }
        assert!(rest.is_empty());
        std::fs::remove_file(path).unwrap();
        bodies
    };
    let table = bodies(&dump);
    assert!(table.len() == 2 && table[1].contains("10.1.0.0/16"), "{table:?}");
    // Ended in an orderly way, it has written down all.
    terminate(&first.child);
    first.child.wait().unwrap();
    let stream = bodies(&updates);
    assert!(stream.iter().any(|r| r.contains("OpenConfirm, Established")), "{stream:?}");
    assert!(stream.iter().filter(|r| r.starts_with("Message")).count() >= 3, "{stream:?}");
    assert!(stream.last().unwrap().contains("Idle"), "{stream:?}");
}

fn terminate(child: &Child) {
    signal_to(child, "TERM");
}

fn signal_to(child: &Child, signal: &str) {
    let mut kill = Command::new("kill");
    let status = kill.args(["-s", signal]).arg(child.id().to_string()).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_daemon_knows_by_itself_that_it_restarts() {
    let (a, b) = (place(5, 1), place(5, 2));
    let own = yaml(a, b, "");
    let mut first = Daemon::start(5, 1, &own);
    let _second = Daemon::start(5, 2, &yaml(b, a, ""));
    for signal in ["KILL", "USR1"] {
        first.until_remembered();
        assert!(first.restart(signal, &own), "{signal}");
    }
    // One that crashes again before it has a session still does.
    assert!(first.restart("KILL", &own));
    // What is said goes first.
    first.until_remembered();
    assert!(!first.restart("KILL", &yaml(a, b, "graceful-restart: {restarting: false}\n")));
    first.until_remembered();
    // After a goodbye nobody keeps anything.
    assert!(!first.restart("TERM", &own));
    first.until_remembered();
    assert!(!first.restart("TERM", &own));
    assert!(first.restart("KILL", &yaml(a, b, "graceful-restart: {restarting: true}\n")));
    // Another router is no restart of this one.
    first.until_remembered();
    let other = own.replace("router-id: 127.1.5.1", "router-id: 127.1.5.7");
    assert!(!first.restart("KILL", &other));
}

/// Connects as a station does, and reads until it has seen so many messages of each type.
#[test]
fn a_monitoring_station_is_connected_to_and_told_and_told_of_the_end() {
    let listener = TcpListener::bind((Ipv4Addr::new(127, 1, 4, 9), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let first = format!(
        "bmp:\n- address: 127.1.4.9\n  port: {port}\n  monitor: [pre-policy, loc-rib]\n  \
         stats-interval: 1\n"
    );
    let (mut first, _second) = pair(4, &first, "networks:\n- prefix: 10.1.0.0/16\n");
    let until = |wanted: &[u8], stream: &mut TcpStream| {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut missing = wanted.to_vec();
        while !missing.is_empty() {
            let mut header = [0; 6];
            stream.read_exact(&mut header).unwrap();
            assert_eq!(header[0], 3);
            let len = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
            let mut body = vec![0; usize::try_from(len).unwrap() - 6];
            stream.read_exact(&mut body).unwrap();
            if let Some(at) = missing.iter().position(|sort| *sort == header[5]) {
                missing.remove(at);
            }
        }
    };
    let (mut stream, _) = listener.accept().unwrap();
    // Initiation, two peers up, a route in each RIB, statistics.
    until(&[4, 3, 3, 0, 0, 1], &mut stream);
    // It breaks, and is made anew, with everything from the start.
    drop(stream);
    let (mut stream, _) = listener.accept().unwrap();
    until(&[4, 3, 3, 0, 0], &mut stream);
    terminate(&first.child);
    // The session goes down, and then all ends.
    until(&[2, 5], &mut stream);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
    first.child.wait().unwrap();
}

#[test]
fn the_configurations_that_come_with_it_are_right() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/bgpd");
    let files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 2, "{files:?}");
    let check = |file: &PathBuf| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bgpd"));
        command.args(["run", "--check", "--config"]).arg(file).output().unwrap()
    };
    for file in &files {
        let output = check(file);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && error.is_empty(), "{error}");
    }
    // The control: what is wrong is named.
    let id = std::process::id();
    let wrong = std::env::temp_dir().join(format!("bgpd-daemon-{id}-wrong.yaml"));
    let text = std::fs::read_to_string(&files[0]).unwrap();
    std::fs::write(&wrong, text.replace("asn:", "asm:")).unwrap();
    let output = check(&wrong);
    std::fs::remove_file(&wrong).unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("asm"), "{error}");
}
