use super::*;

fn load_with(yaml: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("felix.yaml");
    std::fs::write(&file, yaml).unwrap();
    let environment =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load(Some(&file), environment)
        .map_err(|error| error.to_string().replace(file.to_str().unwrap(), "felix.yaml"))
}

fn load(yaml: &str) -> Result<Config, String> {
    load_with(yaml, &[])
}

const ETCD: &str = "nodeName: n1\nipam: {endpoints: ['http://10.0.0.1:2379']}\n";

#[test]
fn the_defaults_are_those_of_a_cluster() {
    let config = load(ETCD).unwrap();
    assert_eq!(config.node_name, "n1");
    assert_eq!(config.socket(), Path::new("/run/caracal/felix.sock"));
    assert_eq!(config.state_dir, Path::new("/var/lib/caracal"));
    assert_eq!(config.source, SourceConfig::Kubernetes(KubernetesConfig::default()));
    assert_eq!(config.http.address.to_string(), "127.0.0.1:9099");
    assert_eq!(config.log, LogConfig { level: None, format: LogFormat::Text });
    assert_eq!(config.cni.deadline, Duration::from_secs(30));
    assert_eq!(config.bgp, BgpConfig::default());
    let IpamConfig::Etcd(etcd) = config.ipam else { panic!("etcd is the default in a cluster") };
    assert_eq!(etcd.endpoints, ["http://10.0.0.1:2379"]);
    assert!(etcd.local_first);
}

#[test]
fn the_node_name_defaults_to_the_host_name() {
    let config = load("ipam: {store: embedded}").unwrap();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(config.node_name, host.trim().to_lowercase());
}

#[test]
fn every_field_can_be_set_and_the_environment_wins() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, "hunter2\n").unwrap();
        path.display().to_string()
    };
    let (ca, cert, key, password) = (file("ca"), file("cert"), file("key"), file("password"));
    let yaml = format!(
        "nodeName: n1
runDir: /run/c
stateDir: /var/c
source: {{kind: kubernetes, kubeconfig: {ca}, secretNamespace: caracal-system, streamingLists: true}}
ipam:
  store: etcd
  endpoints: [https://a:2379, 'https://[fd00::1]:2379']
  caFile: {ca}
  certFile: {cert}
  keyFile: {key}
  username: root
  passwordFile: {password}
  localFirst: false
http: {{address: '[::1]:9100'}}
log: {{level: 'info,felix=debug', format: json}}
cni: {{deadlineSeconds: 60}}
flowRecords: {{file: {key}, maxMegabytes: 2}}
bgp: {{port: 1790, routerId: 10.0.0.7, drain: never}}
"
    );
    let config = load_with(
        &yaml,
        &[
            ("CARACAL_NODE_NAME", "n2"),
            ("CARACAL_IPAM_ENDPOINTS", "https://b:2379, https://c:2379"),
            ("CARACAL_BGP_PORT", "1791"),
            ("CARACAL_LOG_FORMAT", ""),
            ("HOME", "/root"),
        ],
    )
    .unwrap();
    assert_eq!(config.node_name, "n2");
    assert_eq!(
        config.bgp,
        BgpConfig {
            port: Some(1791),
            router_id: Some(Ipv4Addr::new(10, 0, 0, 7)),
            drain: Drain::Never,
        }
    );
    let records = FlowRecordsConfig { file: key.clone().into(), max_bytes: 2 << 20 };
    assert_eq!(config.flow_records, Some(records));
    assert_eq!(config.log.format, LogFormat::Json, "an empty variable is not a setting");
    assert_eq!(config.log.level.as_deref(), Some("info,felix=debug"));
    assert_eq!(
        config.source,
        SourceConfig::Kubernetes(KubernetesConfig {
            kubeconfig: Some(ca.into()),
            secret_namespace: Some("caracal-system".into()),
            streaming_lists: true,
        })
    );
    let IpamConfig::Etcd(etcd) = &config.ipam else { panic!("etcd was asked for") };
    assert_eq!(etcd.endpoints, ["https://b:2379", "https://c:2379"]);
    assert_eq!(etcd.password_file.as_deref(), Some(password.as_ref()));
    assert!(!etcd.local_first);
    assert!(!format!("{config:?}").contains("hunter2"));
}

/// Each mistake, and all of the one line that it gives.
#[test]
fn mistakes_name_origin_field_and_reason() {
    let cases = [
        (
            "nodeNam: n1",
            "felix.yaml:1: nodeNam: unknown field; known here: nodeName, runDir, stateDir, source, ipam, http, log, cni, flowRecords, bgp",
        ),
        (
            "nodeName: n1\nipam:\n  endpoint: x",
            "felix.yaml:3: ipam.endpoint: unknown field; known here: store, endpoints, caFile, certFile, keyFile, username, passwordFile, localFirst",
        ),
        (
            "ipam: etcd",
            "felix.yaml:1: ipam: expected a section with the fields store, endpoints, caFile, certFile, keyFile, username, passwordFile, localFirst",
        ),
        ("- a", "felix.yaml:1: expected a mapping of fields"),
        ("nodeName: {a: b}", "felix.yaml:1: nodeName: expected a value, not a section"),
        ("nodeName: [a]", "felix.yaml:1: nodeName: expected one value, not a list"),
        ("nodeName: ''", "felix.yaml:1: nodeName: must not be empty"),
        (
            "nodeName: Node_1",
            "felix.yaml:1: nodeName: \"Node_1\" is not a DNS subdomain name (RFC 1123)",
        ),
        ("runDir: run", "felix.yaml:1: runDir: \"run\" is not an absolute path"),
        (
            "nodeName: n1\nsource:\n  kind: kube",
            "felix.yaml:3: source.kind: must be kubernetes or directory, not \"kube\"",
        ),
        ("source: {kind: directory}", "source.path: required for source.kind directory"),
        (
            "source: {kind: directory, path: /nonexistent}",
            "felix.yaml:1: source.path: /nonexistent is not a directory",
        ),
        ("source: {path: /tmp}", "felix.yaml:1: source.path: only for source.kind directory"),
        (
            "source: {kind: directory, path: /tmp, kubeconfig: /tmp/k}",
            "felix.yaml:1: source.kubeconfig: only for source.kind kubernetes",
        ),
        (
            "source: {kubeconfig: /nonexistent}",
            "felix.yaml:1: source.kubeconfig: /nonexistent: No such file or directory (os error 2)",
        ),
        (
            "source: {streamingLists: maybe}",
            "felix.yaml:1: source.streamingLists: expected true or false, not \"maybe\"",
        ),
        ("nodeName: n1", "ipam.endpoints: required for ipam.store etcd"),
        (
            "ipam: {store: embedded, endpoints: [a]}",
            "felix.yaml:1: ipam.endpoints: only for ipam.store etcd",
        ),
        (
            "ipam:\n  endpoints: ['10.0.0.1:2379']",
            "felix.yaml:2: ipam.endpoints: each must begin with http:// or https://",
        ),
        (
            "ipam: {endpoints: ['http://u:p@h:1']}",
            "felix.yaml:1: ipam.endpoints: must not hold credentials; use username and passwordFile",
        ),
        (
            "ipam: {endpoints: ['http://h']}",
            "felix.yaml:1: ipam.endpoints: \"http://h\" is not of the form https://HOST:PORT",
        ),
        ("ipam: {endpoints: ['https://h:1']}", "ipam.caFile: required for https endpoints"),
        (
            "ipam: {endpoints: ['http://h:1'], username: u}",
            "ipam.passwordFile: required with ipam.username",
        ),
        (
            "ipam: {endpoints: ['http://h:1'], passwordFile: /etc}",
            "felix.yaml:1: ipam.passwordFile: /etc is not a file",
        ),
        (
            "ipam: {store: embedded}\nhttp: {address: localhost}",
            "felix.yaml:2: http.address: expected an address and a port such as 127.0.0.1:9099, not \"localhost\"",
        ),
        (
            "ipam: {store: embedded}\nlog: {format: xml}",
            "felix.yaml:2: log.format: must be text or json, not \"xml\"",
        ),
        (
            "ipam: {store: embedded}\nlog: {level: loud}",
            "felix.yaml:2: log.level: \"loud\" is not trace, debug, info, warn, error, off or a list of target=level",
        ),
        (
            "ipam: {store: embedded}\ncni: {deadlineSeconds: 0}",
            "felix.yaml:2: cni.deadlineSeconds: expected a number from 1 to 240, not 0",
        ),
        (
            "ipam: {store: embedded}\nbgp: {port: 70000}",
            "felix.yaml:2: bgp.port: expected a number from 1 to 65535, not 70000",
        ),
        (
            "ipam: {store: embedded}\nbgp: {routerId: 0.0.0.0}",
            "felix.yaml:2: bgp.routerId: must not be 0.0.0.0 (RFC 6286)",
        ),
        (
            "ipam: {store: embedded}\nbgp: {drain: always}",
            "felix.yaml:2: bgp.drain: must be cordoned or never, not \"always\"",
        ),
        (
            "ipam: {store: embedded}\nflowRecords: {maxMegabytes: 3}",
            "flowRecords.file: required with flowRecords.maxMegabytes",
        ),
        (
            "ipam: {store: embedded}\nflowRecords: {file: /none/such/flows}",
            "felix.yaml:2: flowRecords.file: /none/such/flows is no file in a directory that exists",
        ),
    ];
    for (yaml, wanted) in cases {
        assert_eq!(load(yaml).unwrap_err(), wanted, "for {yaml}");
    }
}

#[test]
fn broken_yaml_is_one_line_with_its_place() {
    for yaml in ["nodeName: n1\nsource: {kind: [", "nodeName: a\nnodeName: b", "a: *unknown"] {
        let error = load(yaml).unwrap_err();
        assert!(error.starts_with("felix.yaml:"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn a_mistake_in_the_environment_names_the_variable() {
    let error = load_with(ETCD, &[("CARACAL_BGP_PORT", "bgp")]).unwrap_err();
    assert_eq!(error, "CARACAL_BGP_PORT: bgp.port: expected a number from 1 to 65535, not \"bgp\"");
}

#[test]
fn a_file_that_is_asked_for_must_exist() {
    let error = Config::load(Some(Path::new("/nonexistent/felix.yaml")), []).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/nonexistent/felix.yaml: No such file or directory (os error 2)"
    );
}

#[test]
fn a_run_directory_too_long_for_a_socket_is_refused() {
    let error = load(&format!("runDir: /{}", "x".repeat(100))).unwrap_err();
    assert!(
        error.starts_with("felix.yaml:1: runDir: the socket in it would have a path of 112 bytes"),
        "{error}"
    );
}

#[test]
fn an_empty_file_and_empty_sections_are_no_settings() {
    for yaml in ["", "# nothing\n", "source:\nlog:\n  level:\n"] {
        let error = load(yaml).unwrap_err();
        assert_eq!(error, "ipam.endpoints: required for ipam.store etcd", "for {yaml:?}");
    }
}

#[test]
fn a_directory_source_keeps_addresses_on_this_machine_unless_told() {
    let dir = tempfile::tempdir().unwrap();
    let yaml = format!("source: {{kind: directory, path: {}}}", dir.path().display());
    assert_eq!(load(&yaml).unwrap().ipam, IpamConfig::Embedded);
    let with_etcd =
        load_with(&yaml, &[("CARACAL_IPAM_ENDPOINTS", "http://127.0.0.1:2379")]).unwrap();
    assert!(matches!(with_etcd.ipam, IpamConfig::Etcd(_)));
}

#[test]
fn misspelt_variables_are_found_and_those_of_services_left_out() {
    let environment = [
        "CARACAL_NODENAME",
        "CARACAL_NODE_NAME",
        "CARACAL_SERVICE_HOST",
        "CARACAL_PORT_9099_TCP_ADDR",
        "PATH",
    ]
    .map(|name| (name.to_owned(), "x".to_owned()));
    assert_eq!(unknown_variables(environment), ["CARACAL_NODENAME"]);
}
