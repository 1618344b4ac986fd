//! `ipam thaw`.

use super::*;

#[tokio::test]
async fn ends_a_freeze_when_nobody_is_waited_for_or_by_force() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("store");
    populate(&file).await;
    let run = |words: &[&str]| ipam(&[&["--embedded", file.to_str().unwrap()], words].concat());
    let freeze = async |said: &[&str]| {
        let store = EmbeddedStore::open(&file).unwrap();
        let json = r#"{"id":"f1","node":"node1","since":"2026-08-22T13:33:20Z"}"#;
        let mut txn = Txn::default().put(model::FROZEN, json.into());
        for node in said {
            txn = txn.put(model::reasserted_key(node), b"f1".to_vec());
        }
        store.txn(txn).await.unwrap();
    };
    let (code, out, _) = run(&["thaw"]);
    assert_eq!((code, out.as_str()), (0, "Blocks are claimed: nothing is frozen\n"));

    freeze(&["node1"]).await;
    let (code, out, _) = run(&["thaw"]);
    assert!(
        code == 1 && out.starts_with("Nodes that have not said what they have: node2\n"),
        "{out}"
    );
    let (code, out, _) = run(&["-o", "json", "thaw"]);
    let said: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &said["waiting_for"], &said["thawed"]),
        (1, &["node2"].into(), &false.into())
    );
    assert_eq!(run(&["thaw", "--force"]), (0, "Blocks are claimed again\n".into(), String::new()));
    assert_eq!(run(&["thaw"]).1, "Blocks are claimed: nothing is frozen\n");

    freeze(&["node1", "node2"]).await;
    assert_eq!(run(&["thaw"]), (0, "Blocks are claimed again\n".into(), String::new()));
}
