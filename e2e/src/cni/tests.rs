//! The runtime against small plugins written in shell: real processes, real exit codes.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;

/// A folder with plugins that append what they were asked to `log`, and a list of them.
struct Bed {
    folder: tempfile::TempDir,
    runtime: Runtime,
    netns: Netns,
}

impl Bed {
    async fn new(name: &str, plugins: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (plugin, body) in plugins {
            let path = folder.path().join(plugin);
            let log = folder.path().join("log");
            let text = format!(
                "#!/bin/sh\nconfig=$(cat)\necho \"{plugin} $CNI_COMMAND $CNI_IFNAME $config\" >> {}\n{body}\n",
                log.display()
            );
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let netns = Netns::named(format!("cnitest-{}-{name}", std::process::id()));
        netns.create().await.unwrap();
        let runtime = Runtime {
            plugin_dirs: vec![folder.path().to_path_buf()],
            cache: Cache::at(&folder.path().join("cache")),
            netns: netns.clone(),
            timeout: Duration::from_secs(5),
        };
        Self { folder, runtime, netns }
    }

    fn list(&self, plugins: &[&str]) -> NetworkList {
        let plugins: Vec<_> =
            plugins.iter().map(|p| json!({ "type": p, "capabilities": { "x": true } })).collect();
        let list = json!({ "cniVersion": "1.1.0", "name": "net", "plugins": plugins });
        NetworkList::parse(&list.to_string()).unwrap()
    }

    fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    async fn end(self) {
        self.netns.delete().await.unwrap();
    }
}

fn attachment(id: &str) -> Attachment {
    Attachment {
        container_id: id.into(),
        netns: Some("/run/netns/x".into()),
        ifname: "eth0".into(),
        args: vec![("K8S_POD_NAME".into(), "p".into())],
    }
}

const ADDS: &str =
    r#"if [ $CNI_COMMAND = ADD ]; then echo '{"cniVersion":"1.1.0","by":"'$(basename $0)'"}'; fi"#;

#[tokio::test]
async fn add_chains_results_and_del_goes_back_with_the_last_one() {
    let bed = Bed::new("chain", &[("a", ADDS), ("b", ADDS)]).await;
    let (list, pod) = (bed.list(&["a", "b"]), attachment("c1"));
    let result = bed.runtime.add(&list, &pod).await.unwrap();
    assert_eq!(result["by"], "b");
    bed.runtime.check(&list, &pod).await.unwrap();
    bed.runtime.delete(&list, &pod).await.unwrap();
    bed.runtime.delete(&list, &pod).await.unwrap();
    let log = bed.log();
    let verbs: Vec<String> =
        log.iter().map(|l| l.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(verbs, ["a ADD", "b ADD", "a CHECK", "b CHECK", "b DEL", "a DEL", "b DEL", "a DEL"]);
    assert!(!log[0].contains("prevResult") && !log[0].contains("capabilities"), "{}", log[0]);
    assert!(log[1].contains(r#""prevResult":{"cniVersion":"1.1.0","by":"a"}"#), "{}", log[1]);
    assert!(log[4].contains(r#""by":"b""#) && log[5].contains(r#""by":"b""#));
    assert!(!log[6].contains("prevResult"), "the cache forgot it");
    let missing = bed.runtime.check(&list, &pod).await.unwrap_err();
    assert_eq!(missing.code, 999);
    bed.end().await;
}

#[tokio::test]
async fn gc_deletes_what_is_not_valid_and_reports_every_error() {
    let failing = r#"if [ $CNI_COMMAND = GC ]; then echo '{"code":100,"msg":"no"}'; exit 1; fi
        if [ $CNI_COMMAND = ADD ]; then echo '{}'; fi"#;
    let bed = Bed::new("gc", &[("a", failing), ("b", ADDS)]).await;
    let list = bed.list(&["a", "b"]);
    for id in ["keep", "stale1", "stale2"] {
        bed.runtime.add(&list, &attachment(id)).await.unwrap();
    }
    let errors = bed.runtime.gc(&list, &[attachment("keep")]).await.unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].code, 100);
    let left = bed.runtime.cache.attachments(&list).unwrap();
    assert_eq!(left, [attachment("keep")]);
    let log = bed.log();
    assert_eq!(log.iter().filter(|line| line.contains(" DEL ")).count(), 4);
    let gc = log.iter().find(|line| line.starts_with("b GC")).unwrap();
    assert!(gc.contains(r#""cni.dev/valid-attachments":[{"containerID":"keep","ifname":"eth0"}]"#));
    bed.end().await;
}

#[tokio::test]
async fn what_a_plugin_does_wrong_is_an_error_that_says_so() {
    let bed = Bed::new(
        "wrong",
        &[
            ("says", r#"echo '{"code":11,"msg":"etcd is away","details":"later"}'; exit 1"#),
            ("dies", "echo oops >&2; kill -9 $$"),
            ("hangs", "exec sleep 60"),
            ("babbles", "echo 'hello'"),
            ("silent", "true"),
        ],
    )
    .await;
    let runtime = Runtime { timeout: Duration::from_millis(500), ..bed.runtime.clone() };
    for (plugin, code, text) in [
        ("says", 11, "etcd is away"),
        ("dies", 999, "signal: 9"),
        ("hangs", 999, "not done within 500 ms"),
        ("babbles", 999, "not JSON"),
        ("silent", 999, "without a result"),
        ("absent", 999, "no plugin absent"),
        ("../says", 999, "not the type of a plugin"),
    ] {
        let error = runtime.add(&bed.list(&[plugin]), &attachment("c")).await.unwrap_err();
        assert_eq!(error.code, code, "{plugin}: {error}");
        assert!(error.to_string().contains(text), "{plugin}: {error}");
    }
    assert!(!Path::new(&bed.folder.path().join("cache")).exists());
    bed.end().await;
}

#[tokio::test]
async fn names_are_checked_before_any_plugin_runs() {
    let bed = Bed::new("names", &[("a", ADDS)]).await;
    let list = bed.list(&["a"]);
    for (id, ifname) in [
        ("", "eth0"),
        ("-x", "eth0"),
        ("a/b", "eth0"),
        ("c", ""),
        ("c", "a-name-too-long-"),
        ("c", ".."),
        ("c", "a/b"),
        ("c", "a b"),
        ("c", "a:b"),
    ] {
        let bad = Attachment { ifname: ifname.into(), ..attachment(id) };
        assert_eq!(bed.runtime.add(&list, &bad).await.unwrap_err().code, 999, "{id} {ifname}");
    }
    assert!(bed.log().is_empty());
    bed.end().await;
}

#[test]
fn a_list_is_refused_with_the_key_that_is_wrong() {
    for (text, key) in [
        ("{", "not JSON"),
        (r#"{"plugins":[{"type":"a"}]}"#, "name"),
        (r#"{"name":"n"}"#, "plugins"),
        (r#"{"name":"n","plugins":[]}"#, "plugins"),
        (r#"{"name":"n","plugins":[{}]}"#, "plugins[0].type"),
        (r#"{"name":"n","disableGC":3,"plugins":[{"type":"a"}]}"#, "disableGC"),
    ] {
        let error = NetworkList::parse(text).unwrap_err();
        assert!(format!("{error:#}").contains(key), "{text}: {error:#}");
    }
}
