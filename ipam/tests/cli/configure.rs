//! What changes the configuration and the pools.

use super::*;

#[test]
fn configures_and_splits() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ipam.redb");
    let open = || EmbeddedStore::open(&file).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let pool = r#"{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"p","uid":"u","creationTimestamp":"2026-08-22T13:33:20Z"},"spec":{"cidr":"10.0.0.0/24","blockSize":26,"natOutgoing":true,"nodeSelector":"all()"}}"#;
    let pools = "/calico/resources/v3/projectcalico.org/ippools/";
    runtime.block_on(open().txn(Txn::default().put(format!("{pools}p"), pool.into()))).unwrap();
    let run =
        |arguments: &[&str]| ipam(&[&["--embedded", file.to_str().unwrap()], arguments].concat());
    let (code, out, err) = run(&[
        "configure",
        "--strictaffinity=true",
        "--max-blocks-per-host=4",
        "--kubevirt-ip-persistence=Disabled",
        "--ip-cooldown-seconds=30",
    ]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(
        out,
        "\
Successfully set StrictAffinity to: true
Successfully set MaxBlocksPerHost to: 4
Successfully set KubeVirtVMAddressPersistence to: Disabled
Successfully set IPCooldownSeconds to: 30
Agents take it unless they find an IPAMConfiguration named default (see --pools)
"
    );
    let stored = runtime.block_on(open().read(&[model::CONFIG.to_owned()])).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&stored.entries[0].value),
        r#"{"strict_affinity":true,"auto_allocate_blocks":true,"maxBlocksPerHost":4,"kubeVirtVMAddressPersistence":"Disabled","ipCooldownSeconds":30}"#
    );
    // What contradicts the rest is refused, and the rest stays.
    let (code, _, err) = run(&["configure", "--strictaffinity", "false"]);
    assert!(code == 2 && err.contains("maxBlocksPerHost: may be set only with"), "{err}");
    assert_eq!(run(&["configure", "--ip-cooldown-seconds", "1201"]).0, 2);
    assert_eq!(run(&["configure"]).0, 2);
    let (code, out, _) = run(&["-o", "json", "configure", "--ip-cooldown-seconds", "60"]);
    let config: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &config["ipCooldownSeconds"]), (0, &Value::from(60)));
    assert_eq!(config["strict_affinity"], true);
    assert_eq!(config.get("overriddenBy"), None);

    // Agents take the resource instead of what is set here.
    let resource = directory.path().join("configuration.yaml");
    let write = |name: &str, spec: &str| {
        let head = "kind: IPAMConfiguration\napiVersion: projectcalico.org/v3\n";
        let text = format!("{head}metadata: {{name: {name}}}\nspec: {{{spec}}}\n");
        std::fs::write(&resource, text).unwrap();
    };
    let resource = resource.to_str().unwrap();
    let set =
        ["--pools", resource, "configure", "--ip-cooldown-seconds=60", "--strictaffinity=true"];
    write("default", "strictAffinity: false, ipCooldownSeconds: 60");
    let (code, out, err) = run(&set);
    let last = "Not in force: agents take the IPAMConfiguration default instead, which sets \
                StrictAffinity to: false";
    assert!(code == 1 && out.lines().last() == Some(last), "{out}{err}");
    assert_eq!(out.matches("Not in force").count(), 1, "{out}");
    let (code, out, _) = run(&[&set[..], &["-o", "json"]].concat());
    let config: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &config["overriddenBy"]["ipCooldownSeconds"]), (1, &Value::from(60)));
    let (_, shown, _) = run(&["--pools", resource, "show", "--show-configuration"]);
    assert!(shown.contains("| StrictAffinity               | false   |"), "{shown}");
    write("default", "strictAffinity: true, ipCooldownSeconds: 60");
    let (code, out, _) = run(&set);
    assert!(code == 0 && !out.contains("Not in force") && !out.contains("unless"), "{out}");
    write("another", "strictAffinity: false");
    let (code, out, _) = run(&set);
    assert!(code == 0 && out.contains("unless they find"), "{out}");
    write("default", "maxBlocksPerHost: 3");
    let (code, _, err) = run(&set);
    assert!(code == 2 && err.contains("IPAMConfiguration: maxBlocksPerHost"), "{err}");

    for (arguments, reason) in [
        (vec!["split", "4", "--name", "p"], "the datastore is not locked"),
        (vec!["split", "3", "--name", "p", "--force"], "3 is not a power of two"),
        (vec!["split", "8", "--name", "p", "--force"], "smaller than its blocks (/26)"),
        (vec!["split", "2", "--name", "q", "--force"], "no IPPool q"),
    ] {
        let (code, _, err) = run(&arguments);
        assert!(code == 2 && err.contains(reason), "{err}");
    }
    let locked =
        r#"{"kind":"ClusterInformation","spec":{"clusterGUID":"g","datastoreReady":false}}"#;
    let key = "/calico/resources/v3/projectcalico.org/clusterinformations/default";
    runtime.block_on(open().txn(Txn::default().put(key, locked.into()))).unwrap();
    let (code, out, err) = run(&["split", "4", "--cidr", "10.0.0.0/24"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.ends_with("Successfully split pool p into 4 parts\n"), "{out}");
    let after = runtime.block_on(open().list(pools, None)).unwrap();
    let names: Vec<_> = after.entries.iter().map(|entry| &entry.key[pools.len()..]).collect();
    assert_eq!(names, ["split-p-0", "split-p-1", "split-p-2", "split-p-3"]);
    let part: Value = serde_json::from_slice(&after.entries[3].value).unwrap();
    assert_eq!(part["spec"]["cidr"], "10.0.0.192/26");
    assert_eq!(
        (&part["spec"]["blockSize"], &part["spec"]["natOutgoing"]),
        (&26.into(), &true.into())
    );
    assert_eq!(part["metadata"]["name"], "split-p-3");
    let (code, out, _) = run(&["show"]);
    assert!(code == 0 && out.matches("IP Pool").count() == 4, "{out}");
    // A report of another cluster is refused.
    let report = directory.path().join("report.json");
    std::fs::write(&report, r#"{"clusterGUID":"other","allocations":{}}"#).unwrap();
    let (code, _, err) = run(&["release", "--from-report", report.to_str().unwrap()]);
    assert!(code == 2 && err.contains("of cluster \"other\", but this is \"g\""), "{err}");
    let (code, _, err) = run(&["release", "--from-report", report.to_str().unwrap(), "--force"]);
    assert_eq!(code, 0, "{err}");
}
