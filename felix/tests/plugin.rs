//! The CNI plugin, executed as a container runtime does, against a real server.
#![allow(clippy::unwrap_used, clippy::panic, reason = "this whole file is a test")]

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use felix::cni::journal::Journal;
use felix::cni::{Listener, Options, Server, backend, protocol, spec};
use felix::model;
use serde_json::{Value, json};
use testing::Fake;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

#[path = "../src/cni/testing.rs"]
mod testing;

/// A directory for one node, and its agent once started.
struct Node {
    directory: testing::Directory,
    fake: Fake,
    agent: Option<(Runtime, CancellationToken, tokio::task::JoinHandle<()>)>,
}

/// One execution.
struct Run {
    environment: Vec<(&'static str, String)>,
    input: Vec<u8>,
}

impl Node {
    fn new() -> Self {
        let directory = testing::directory();
        std::fs::write(directory.path().join("netns"), "").unwrap();
        Self { directory, fake: Fake::default(), agent: None }
    }

    fn started() -> Self {
        let mut node = Self::new();
        node.start();
        node
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("felix.sock")
    }

    fn start(&mut self) {
        let runtime = Runtime::new().unwrap();
        let inside = runtime.enter();
        let (journal, loaded) = Journal::open(self.directory.path(), "boot").unwrap();
        let backend = Arc::new(self.fake.clone());
        let server = Server::new(backend, journal, loaded, Options::default()).unwrap();
        let listener = Listener::bind(&self.socket()).unwrap();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let serving = runtime.spawn(async move { server.serve(listener, stopped).await });
        drop(inside);
        self.agent = Some((runtime, stop, serving));
    }

    fn config(&self, more: &Value) -> Value {
        let mut config = json!({
            "cniVersion": "1.1.0", "name": "net", "type": "caracal", "socket": self.socket(),
        });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    }

    fn call(&self, command: &str, container: &str, more: &Value) -> Run {
        Run {
            environment: vec![
                ("CNI_COMMAND", command.into()),
                ("CNI_CONTAINERID", container.into()),
                ("CNI_NETNS", self.directory.path().join("netns").display().to_string()),
                ("CNI_IFNAME", "eth0".into()),
                ("CNI_ARGS", format!("K8S_POD_NAMESPACE=ns;K8S_POD_NAME={container}")),
                ("CNI_PATH", "/opt/cni/bin".into()),
            ],
            input: self.config(more).to_string().into_bytes(),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some((runtime, stop, serving)) = self.agent.take() {
            stop.cancel();
            runtime.block_on(serving).unwrap();
        }
    }
}

impl Run {
    fn without(mut self, name: &str) -> Self {
        self.environment.retain(|(key, _)| *key != name);
        self
    }

    fn with(self, name: &'static str, value: &str) -> Self {
        let mut run = self.without(name);
        run.environment.push((name, value.into()));
        run
    }

    fn input(mut self, input: &[u8]) -> Self {
        self.input = input.to_vec();
        self
    }

    fn output(&self) -> Output {
        self.output_of(env!("CARGO_BIN_EXE_caracal"))
    }

    fn output_of(&self, program: &str) -> Output {
        let mut child = Command::new(program)
            .env_clear()
            .envs(self.environment.iter().map(|(key, value)| (*key, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may have refused its environment before it reads all.
        let _ = child.stdin.take().unwrap().write_all(&self.input);
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        output
    }

    /// Standard output of a run that succeeds: a JSON value, or nothing.
    #[track_caller]
    fn succeeds(&self) -> Value {
        let output = self.output();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{text}");
        if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() }
    }

    /// The error object of a run that fails with `code`.
    #[track_caller]
    fn fails(&self, code: u32) -> Value {
        let output = self.output();
        let error: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert_eq!(error["code"], code, "{error}");
        assert!(!error["msg"].as_str().unwrap().is_empty());
        error
    }
}

#[test]
fn an_attachment_is_made_checked_and_removed() {
    let node = Node::started();
    let none = json!({});
    assert_eq!(node.call("STATUS", "", &none).succeeds(), Value::Null);
    let result = node.call("ADD", "c1", &none).succeeds();
    assert_eq!(result["cniVersion"], "1.1.0");
    assert_eq!(result["interfaces"][1]["name"], "eth0");
    let netns = node.directory.path().join("netns").display().to_string();
    assert_eq!(result["interfaces"][1]["sandbox"], netns);
    assert_eq!(result["ips"][0]["address"], "10.0.0.1/32");

    let previous = json!({"prevResult": result});
    assert_eq!(node.call("CHECK", "c1", &previous).succeeds(), Value::Null);
    node.fake.0.lock().differences = vec!["no link".into()];
    let error = node.call("CHECK", "c1", &previous).fails(spec::code::CHECK_FAILED);
    assert_eq!(error["details"], "no link");
    node.call("ADD", "c1", &none).fails(spec::code::ALREADY_ATTACHED);

    for _ in 0..2 {
        assert_eq!(node.call("DEL", "c1", &none).without("CNI_NETNS").succeeds(), Value::Null);
        node.fake.assert_empty();
    }
    node.call("ADD", "c2", &none).succeeds();
    let valid = json!({"cni.dev/valid-attachments": []});
    // Nothing ends because a list came back empty, but what is really gone.
    let living = node.fake.world();
    assert_eq!(node.call("GC", "", &valid).succeeds(), Value::Null);
    assert_eq!(node.fake.world(), living);
    std::fs::remove_file(&netns).unwrap();
    assert_eq!(node.call("GC", "", &valid).succeeds(), Value::Null);
    node.fake.assert_empty();
}

#[test]
fn each_supported_version_gets_its_own_result() {
    let node = Node::started();
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let config = json!({"cniVersion": version});
        let result = node.call("ADD", "c1", &config).succeeds();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["ips"][0].get("version").is_some(), version < "1.0.0");
        assert_eq!(result["interfaces"][0].get("mtu").is_some(), version >= "1.1.0");
        node.call("DEL", "c1", &config).succeeds();
    }
    let error = node.call("ADD", "c1", &json!({"cniVersion": "9.9.9"})).fails(1);
    assert_eq!(error["cniVersion"], "9.9.9");
    node.call("STATUS", "", &json!({"cniVersion": "1.0.0"})).fails(1);
    node.call("CHECK", "c1", &json!({"cniVersion": "0.3.1"})).fails(1);
    assert_eq!(node.fake.world(), testing::World::default());
}

#[test]
fn version_needs_nothing() {
    let versions = json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    for (input, version) in
        [(&br#"{"cniVersion":"0.4.0"}"#[..], "0.4.0"), (b"", "1.1.0"), (b"garbage", "1.1.0")]
    {
        let run = Run { environment: vec![("CNI_COMMAND", "VERSION".into())], input: input.into() };
        let expected = json!({"cniVersion": version, "supportedVersions": versions});
        assert_eq!(run.succeeds(), expected);
    }
}

#[test]
fn what_the_runtime_gets_wrong_is_said_without_asking_the_agent() {
    // There is none: an answer other than 11 shows that it was not asked.
    let node = Node::new();
    let add = || node.call("ADD", "c1", &json!({}));
    let bare = Run { environment: vec![], input: b"{}".into() };
    assert_eq!(bare.fails(4)["msg"], "required env variables [CNI_COMMAND] missing");
    let error = add().without("CNI_NETNS").without("CNI_IFNAME").fails(4);
    assert_eq!(error["msg"], "required env variables [CNI_NETNS,CNI_IFNAME] missing");
    // The environment's mistakes come before the input's.
    add().without("CNI_NETNS").input(b"{").fails(4);
    add().with("CNI_COMMAND", "MEOW").fails(4);
    add().with("CNI_CONTAINERID", "../x").fails(4);
    add().with("CNI_IFNAME", "sixteen_bytes_16").fails(4);
    add().with("CNI_ARGS", "K8S_POD_NAME=a").fails(4);
    for input in [&b""[..], b"{", b"[]", b"\xff", &[b' '; protocol::MAX_MESSAGE + 1]] {
        let error = add().input(input).fails(6);
        assert_eq!(error["cniVersion"], "1.1.0");
    }
    node.call("ADD", "c1", &json!({"name": ""})).fails(7);
    node.call("ADD", "c1", &json!({"mtu": -1})).fails(7);
    node.call("ADD", "c1", &json!({"socket": "felix.sock"})).fails(7);
    node.call("CHECK", "c1", &json!({})).fails(7);
    let error = node.call("GC", "", &json!({})).fails(7);
    assert!(error["details"].as_str().unwrap().ends_with("nothing was removed"));
}

#[test]
fn without_an_agent_the_runtime_is_told_to_come_back() {
    let node = Node::new();
    let now = json!({"connectTimeoutSeconds": 0, "prevResult": {},
                     "cni.dev/valid-attachments": []});
    let stale = |path: &Path| drop(UnixListener::bind(path).unwrap());
    for left_behind in [false, true] {
        if left_behind {
            stale(&node.socket());
        }
        for command in ["ADD", "DEL", "CHECK", "GC"] {
            let error = node.call(command, "c1", &now).fails(11);
            let details = format!("{}: it is not running", node.socket().display());
            assert_eq!(error["details"], details);
        }
        let error = node.call("STATUS", "", &now).fails(50);
        assert!(error["details"].as_str().unwrap().ends_with("it is not running"));
    }
    let began = Instant::now();
    node.call("ADD", "c1", &json!({"connectTimeoutSeconds": 1})).fails(11);
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[test]
fn add_waits_for_an_agent_that_is_restarting() {
    let mut node = Node::new();
    let add = node.call("ADD", "c1", &json!({}));
    std::thread::scope(|scope| {
        let added = scope.spawn(|| add.succeeds());
        node.start();
        assert_eq!(added.join().unwrap()["ips"][0]["address"], "10.0.0.1/32");
    });
    node.call("DEL", "c1", &json!({})).succeeds();
    node.fake.assert_empty();
}

#[test]
fn an_agent_that_dies_before_it_answers_is_code_11() {
    let node = Node::new();
    let listener = UnixListener::bind(node.socket()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().unwrap();
                let _: protocol::Request = protocol::receive(&mut stream).unwrap();
            }
        });
        for (command, code) in [("DEL", 11), ("STATUS", 50)] {
            let error = node.call(command, "c1", &json!({})).fails(code);
            assert!(
                error["details"].as_str().unwrap().ends_with("it went away before it answered")
            );
        }
    });
}

#[test]
fn a_runtime_that_kills_the_plugin_leaves_nothing_behind() {
    let node = Node::started();
    node.fake.faults(&[(3, testing::Fault::HangAfter)]);
    let add = node.call("ADD", "c1", &json!({}));
    let mut child = Command::new(env!("CARGO_BIN_EXE_caracal"))
        .env_clear()
        .envs(add.environment.iter().map(|(key, value)| (*key, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&add.input).unwrap();
    let until = |what: &str, condition: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !condition() {
            assert!(Instant::now() < deadline, "{what} did not come about");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    until("the link", &|| !node.fake.world().links.is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    until("the undoing", &|| node.fake.world() == testing::World::default());
    node.call("DEL", "c1", &json!({})).succeeds();
    node.fake.assert_empty();
}

/// What `bridge`, `macvlan` and the like do with the IPAM plugin.
#[test]
fn the_ipam_plugin_gives_addresses_and_takes_them_back() {
    let node = Node::started();
    let ipam = |command: &str, more: &Value| {
        let mut config = json!({
            "cniVersion": "1.0.0", "name": "lan", "type": "macvlan", "master": "eth1",
            "ipam": {"type": "caracal-ipam", "socket": node.socket(), "gateways": ["10.0.0.1"]},
        });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        let run = node.call(command, "c1", &json!({})).with("CNI_IFNAME", "net1");
        let output =
            run.input(config.to_string().as_bytes()).output_of(env!("CARGO_BIN_EXE_caracal-ipam"));
        let value: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.success(), value)
    };
    let (_, versions) = ipam("VERSION", &json!({}));
    assert_eq!(versions["supportedVersions"][3], "1.1.0");
    let (added, result) = ipam("ADD", &json!({}));
    assert!(added, "{result}");
    assert_eq!(result["ips"][0], json!({"address": "10.0.0.2/16", "gateway": "10.0.0.1"}));
    assert_eq!(result.get("interfaces"), None);
    assert_eq!(node.fake.world().assigned.keys().collect::<Vec<_>>(), ["lan.c1.net1"]);
    assert!(node.fake.world().links.is_empty());
    assert_eq!(ipam("CHECK", &json!({"prevResult": result})), (true, Value::Null));
    let (checked, error) = ipam("CHECK", &json!({"prevResult": {}}));
    assert!(!checked && error["code"] == 103, "{error}");
    assert_eq!(ipam("STATUS", &json!({"cniVersion": "1.1.0"})), (true, Value::Null));
    let (_, error) = ipam("ADD", &json!({"ipam": {"socket": node.socket(), "routes": [{}]}}));
    assert_eq!(error["code"], 7);
    assert_eq!(error["details"], "ipam.routes[0]: missing field `dst`");
    for _ in 0..2 {
        assert_eq!(ipam("DEL", &json!({})), (true, Value::Null));
    }
    node.fake.assert_empty();
    // Without an agent: to be tried again, and STATUS says that there is none.
    let away = json!({"cniVersion": "1.1.0", "ipam": {"socket": "/nonexistent/felix.sock"}});
    assert_eq!(ipam("DEL", &away).1["code"], 11);
    assert_eq!(ipam("STATUS", &away).1["code"], 50);
}

/// The real `host-local`: what it gives is the endpoint's, and goes with DEL and with an ADD that
/// fails.
#[test]
fn host_local_gives_the_addresses_of_the_main_plugin() {
    if !Path::new("/usr/lib/cni/host-local").is_file() {
        // Debian's containernetworking-plugins; `cargo lab` demands it.
        return;
    }
    let node = Node::started();
    let given: Vec<std::net::IpAddr> =
        vec!["10.9.0.2".parse().unwrap(), "fd09::2".parse().unwrap()];
    node.fake.0.lock().delegated.clone_from(&given);
    let data = node.directory.path().join("host-local");
    let ipam = json!({"cniVersion": "1.0.0", "ipam": {
        "type": "host-local", "dataDir": data,
        "ranges": [[{"subnet": "10.9.0.0/29"}], [{"subnet": "fd09::/64"}]],
    }});
    let call = |command: &str, id: &str, more: &Value| {
        // host-local refuses arguments that it does not know, unless it is told not to mind.
        let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME={id}");
        let run = node.call(command, id, more).with("CNI_ARGS", &args);
        run.with("CNI_PATH", "/nonexistent:/usr/lib/cni")
    };
    let held = || {
        let files = std::fs::read_dir(data.join("net")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("10.") || name.starts_with("fd")).count()
    };
    let result = call("ADD", "c1", &ipam).succeeds();
    assert_eq!(result["ips"][0]["address"], "10.9.0.2/32");
    assert_eq!(result["ips"][1]["address"], "fd09::2/128");
    assert_eq!((held(), node.fake.world().links.len()), (2, 1));
    assert!(node.fake.world().assigned.is_empty());
    let mut check = ipam.clone();
    check["prevResult"] = result;
    assert_eq!(call("CHECK", "c1", &check).succeeds(), Value::Null);
    // Its own error, with its own code.
    let mut wrong = ipam.clone();
    wrong["ipam"]["ranges"] = json!([[{"subnet": "10.9.0.0/33"}]]);
    let error = call("ADD", "c2", &wrong).fails(999);
    assert!(error["msg"].as_str().unwrap().starts_with("the IPAM plugin host-local failed in ADD"));
    // An ADD that fails later gives back what it was given.
    node.fake.failing(&["link"]);
    call("ADD", "c2", &ipam).fails(11);
    assert_eq!(held(), 2);
    node.fake.failing(&[]);
    for _ in 0..2 {
        assert_eq!(call("DEL", "c1", &ipam).succeeds(), Value::Null);
        assert_eq!(held(), 0);
    }
    node.fake.assert_empty();
    let mut unknown = ipam;
    for (kind, reason) in [("no-such", "is not in CNI_PATH"), ("../host-local", "not a plugin's")] {
        unknown["ipam"]["type"] = kind.into();
        let error = call("ADD", "c1", &unknown).fails(7);
        let details = error["details"].as_str().unwrap();
        assert!(details.starts_with("ipam.type ") && details.contains(reason), "{details}");
    }
}

/// The real `host-local` with the node's networks: what ADD told it DEL and CHECK tell it as well,
/// whatever the node has by then.
#[test]
fn host_local_takes_addresses_from_the_nodes_networks() {
    if !Path::new("/usr/lib/cni/host-local").is_file() {
        // Debian's containernetworking-plugins; `cargo lab` demands it.
        return;
    }
    let node = Node::started();
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    node.fake.0.lock().delegated = vec!["10.8.3.2".parse().unwrap(), "fd08:3::2".parse().unwrap()];
    let data = node.directory.path().join("host-local");
    let ipam = json!({"cniVersion": "1.0.0", "ipam": {
        "type": "host-local", "dataDir": data,
        "ranges": [[{"subnet": "usePodCidr"}], [{"subnet": "usePodCidrIPv6"}]],
    }});
    let call = |command: &str, id: &str, more: &Value| {
        let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME={id}");
        let run = node.call(command, id, more).with("CNI_ARGS", &args);
        run.with("CNI_PATH", "/usr/lib/cni")
    };
    let held = || {
        let files = std::fs::read_dir(data.join("net")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("10.") || name.starts_with("fd")).count()
    };
    node.fake.0.lock().pod_cidrs = Some(nets(&["10.8.3.0/24"]));
    let error = call("ADD", "c1", &ipam).fails(7);
    let details = error["details"].as_str().unwrap();
    assert_eq!(
        details,
        "ipam.ranges[1][0].subnet asks for the node's network, and Node node1 has no IPv6 network \
         in spec.podCIDRs"
    );

    node.fake.0.lock().pod_cidrs = Some(nets(&["10.8.3.0/24", "fd08:3::/64"]));
    let result = call("ADD", "c1", &ipam).succeeds();
    assert_eq!(result["ips"][0]["address"], "10.8.3.2/32");
    assert_eq!(result["ips"][1]["address"], "fd08:3::2/128");
    assert_eq!(held(), 2);
    // The source is away: nothing of this needs it.
    node.fake.0.lock().pod_cidrs = None;
    let mut check = ipam.clone();
    check["prevResult"] = result;
    assert_eq!(call("CHECK", "c1", &check).succeeds(), Value::Null);
    for _ in 0..2 {
        assert_eq!(call("DEL", "c1", &ipam).succeeds(), Value::Null);
        assert_eq!(held(), 0);
    }
    node.fake.assert_empty();
}
