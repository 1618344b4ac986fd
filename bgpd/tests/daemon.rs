//! The daemon as its users meet it: a YAML file, a process, and questions on the command line.
//!
//! Each test has loopback addresses and a folder of its own, and waits for conditions.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may")]

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
        let child = Command::new(env!("CARGO_BIN_EXE_bgpd"))
            .args(["run", "--config"])
            .arg(folder.join("bgpd.yaml"))
            .arg("--socket")
            .arg(folder.join("socket"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { folder, child }
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
