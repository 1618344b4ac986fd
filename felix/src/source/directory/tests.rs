use std::os::unix::fs::symlink;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::config::SourceConfig;
use crate::observe::Metrics;
use crate::source::Source;

const PATIENCE: Duration = Duration::from_secs(20);

struct Fixture {
    dir: TempDir,
    source: Source,
}

/// A folder with these files, and its source.
async fn open(files: &[(&str, &str)]) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let source = source(dir.path()).await;
    Fixture { dir, source }
}

async fn source(path: &Path) -> Source {
    Source::open(&SourceConfig::Directory { path: path.to_owned() }, Metrics::new().source)
        .await
        .unwrap()
}

impl Fixture {
    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn next<const N: usize>(&mut self) -> [String; N] {
        next(&mut self.source).await
    }

    /// Waits until this is what is wrong with the file, None: nothing.
    async fn problem(&mut self, name: &str, wanted: Option<&str>) {
        let path = self.path(name).display().to_string();
        let mut status = self.source.status();
        let met = timeout(
            PATIENCE,
            status.wait_for(|s| s.problems.get(&path).map(String::as_str) == wanted),
        )
        .await;
        assert!(
            met.is_ok_and(|r| r.is_ok()),
            "wanted {wanted:?} of {path}: {:?}",
            status.borrow().problems
        );
    }

    /// Another file's change, to see that nothing else came before it.
    async fn nothing_until(&mut self, marker: &str) {
        self.write(&format!("{marker}.yaml"), &namespace(marker, ""));
        assert_eq!(self.next().await, [format!("set Namespace {marker}")]);
    }
}

async fn next<const N: usize>(source: &mut Source) -> [String; N] {
    let mut briefs: Vec<String> = Vec::new();
    while briefs.len() < N {
        let update = timeout(PATIENCE, source.recv()).await;
        let Ok(update) = update else { panic!("only {briefs:?}; {:?}", *source.status().borrow()) };
        briefs.push(match update.expect("the source has ended") {
            Update::Set(object) => format!("set {} {}", object.kind(), object.key()),
            Update::Remove(kind, key) => format!("remove {kind} {key}"),
            Update::InSync => "in sync".into(),
        });
    }
    briefs.try_into().unwrap()
}

fn namespace(name: &str, label: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels: {{l: '{label}'}}\n---\n"
    )
}

const POOL: &str = "apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pool-a}
spec: {cidr: 10.244.0.0/16}
";

#[tokio::test]
async fn every_kind_is_read_in_an_order_that_helps() {
    let web = "apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec: {nodeName: n1, containers: [{name: c, ports: [{name: http, containerPort: 80}]}]}
status: {podIPs: [{ip: 10.244.0.5}]}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: sa, namespace: shop}
---
apiVersion: v1
kind: Secret
metadata: {name: bgp, namespace: shop}
stringData: {password: hunter2}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: shop}
spec: {podSelector: {}}
";
    let json =
        "{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"shop\"}}";
    let mut f = open(&[
        ("web.yaml", web),
        ("pool.yml", POOL),
        ("ns.json", json),
        ("notes.txt", "x"),
        (".x.yaml", "x"),
    ])
    .await;
    assert_eq!(
        f.next().await,
        [
            "set IPPool pool-a",
            "set Namespace shop",
            "set ServiceAccount shop/sa",
            "set Node n1",
            "set KubernetesNetworkPolicy shop/deny",
            "set Secret shop/bgp",
            "set Pod shop/web",
            "in sync",
        ]
    );
    let status = f.source.status();
    wait_ready(&mut f.source.status()).await;
    assert_eq!(status.borrow().connected(), Ok(()));
    assert!(status.borrow().problems.is_empty(), "{:?}", status.borrow().problems);
}

async fn wait_ready(status: &mut watch::Receiver<SourceStatus>) {
    timeout(PATIENCE, status.wait_for(|s| s.in_sync)).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_change_of_a_file_is_the_difference_of_its_objects() {
    let text = |c: &str| namespace("a", "1") + &namespace("b", "1") + c;
    let mut f = open(&[("x.yaml", &text(""))]).await;
    assert_eq!(f.next().await, ["set Namespace a", "set Namespace b", "in sync"]);
    f.write("x.yaml", &text(&namespace("c", "1")));
    assert_eq!(f.next().await, ["set Namespace c"]);
    f.write("x.yaml", &(namespace("a", "1") + &namespace("b", "2")));
    assert_eq!(f.next().await, ["remove Namespace c", "set Namespace b"]);
    f.write("x.yaml", "# nothing\n");
    assert_eq!(f.next().await, ["remove Namespace a", "remove Namespace b"]);
    f.write("x.yaml", &namespace("a", "1"));
    assert_eq!(f.next().await, ["set Namespace a"]);
    std::fs::remove_file(f.path("x.yaml")).unwrap();
    assert_eq!(f.next().await, ["remove Namespace a"]);
}

#[tokio::test]
async fn files_renamed_and_linked_into_place() {
    let mut f = open(&[("x.yaml", &namespace("a", "1"))]).await;
    assert_eq!(f.next().await, ["set Namespace a", "in sync"]);
    f.write(".x.yaml.tmp", &namespace("a", "2"));
    std::fs::rename(f.path(".x.yaml.tmp"), f.path("x.yaml")).unwrap();
    assert_eq!(f.next().await, ["set Namespace a"]);
    std::fs::rename(f.path("x.yaml"), f.path("y.yaml")).unwrap();
    f.nothing_until("marker-1").await;
    std::fs::rename(f.path("y.yaml"), f.path("y.yaml.off")).unwrap();
    assert_eq!(f.next().await, ["remove Namespace a"]);
    symlink(f.path("y.yaml.off"), f.path("z.yaml")).unwrap();
    assert_eq!(f.next().await, ["set Namespace a"]);
    std::fs::remove_file(f.path("z.yaml")).unwrap();
    assert_eq!(f.next().await, ["remove Namespace a"]);
    std::fs::hard_link(f.path("y.yaml.off"), f.path("z.yaml")).unwrap();
    assert_eq!(f.next().await, ["set Namespace a"]);
}

/// What a writer has not finished does not count, though its first half is good YAML.
#[tokio::test]
async fn a_file_counts_when_its_writer_closes_it() {
    use std::io::Write;
    let mut f = open(&[("x.yaml", &(namespace("a", "1") + &namespace("b", "1")))]).await;
    assert_eq!(f.next().await, ["set Namespace a", "set Namespace b", "in sync"]);
    let mut file = std::fs::File::create(f.path("x.yaml")).unwrap();
    file.write_all(namespace("a", "2").as_bytes()).unwrap();
    file.flush().unwrap();
    f.nothing_until("marker").await;
    file.write_all(namespace("b", "1").as_bytes()).unwrap();
    drop(file);
    assert_eq!(f.next().await, ["set Namespace a"]);
}

#[tokio::test]
async fn a_malformed_file_keeps_its_last_good_content() {
    let good = namespace("a", "1") + POOL;
    let mut f = open(&[("x.yaml", &good), ("y.yaml", &namespace("other", "1"))]).await;
    assert_eq!(
        f.next().await,
        ["set IPPool pool-a", "set Namespace a", "set Namespace other", "in sync"]
    );
    f.write(
        "x.yaml",
        &(namespace("a", "2") + &POOL.replace("spec: {cidr: 10.244.0.0/16}", "spec: {cidr: [7]}")),
    );
    let mut status = f.source.status();
    let path = f.path("x.yaml").display().to_string();
    let problem = timeout(PATIENCE, status.wait_for(|s| s.problems.contains_key(&path)))
        .await
        .unwrap()
        .unwrap()
        .problems[&path]
        .clone();
    assert!(problem.starts_with("line 7: IPPool pool-a: "), "{problem}");
    assert!(
        problem.contains("expected a string")
            && problem.ends_with("; the file's last good content stays in force"),
        "{problem}"
    );
    f.nothing_until("marker").await;
    f.write("x.yaml", &(namespace("a", "3") + POOL));
    assert_eq!(f.next().await, ["set Namespace a"]);
    f.problem("x.yaml", None).await;
    // Malformed and then deleted: deletion is meant.
    f.write("x.yaml", "a: [");
    timeout(PATIENCE, status.wait_for(|s| s.problems.contains_key(&path))).await.unwrap().unwrap();
    std::fs::remove_file(f.path("x.yaml")).unwrap();
    assert_eq!(f.next().await, ["remove Namespace a", "remove IPPool pool-a"]);
    f.problem("x.yaml", None).await;
}

#[tokio::test]
async fn of_a_file_malformed_from_the_start_the_good_documents_count() {
    let text = namespace("a", "1")
        + "apiVersion: v1\nkind: Deployment\nmetadata: {name: d}\n---\n"
        + &namespace("b", "1");
    let mut f = open(&[("x.yaml", &text)]).await;
    assert_eq!(f.next().await, ["set Namespace a", "set Namespace b", "in sync"]);
    let path = f.path("x.yaml").display().to_string();
    let problem = f.source.status().borrow().problems[&path].clone();
    assert!(problem.starts_with("line 7: ") && problem.contains("Deployment"), "{problem}");
}

#[tokio::test]
async fn an_object_in_two_files_counts_in_the_first() {
    let mut f = open(&[("b.yaml", &namespace("a", "b"))]).await;
    assert_eq!(f.next().await, ["set Namespace a", "in sync"]);
    f.write("c.yaml", &(namespace("x", "1") + &namespace("a", "c")));
    assert_eq!(f.next().await, ["set Namespace x"]);
    f.problem("c.yaml", Some("line 7: Namespace a is already in b.yaml:1, which counts")).await;
    std::fs::remove_file(f.path("b.yaml")).unwrap();
    assert_eq!(f.next().await, ["set Namespace a"], "the other takes its place");
    f.problem("c.yaml", None).await;
    f.write("d.yaml", &(namespace("w", "1") + &namespace("w", "2")));
    assert_eq!(f.next().await, ["set Namespace w"]);
    f.problem("d.yaml", Some("line 7: Namespace w is in the file twice; the one of line 1 counts"))
        .await;
}

/// As the kubelet exchanges the files of a ConfigMap.
#[tokio::test]
async fn a_mounted_config_map() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let version = |name: &str, label: &str| {
        std::fs::create_dir(at(name)).unwrap();
        std::fs::write(at(name).join("x.yaml"), namespace("a", label)).unwrap();
    };
    version("..1", "1");
    symlink("..1", at("..data")).unwrap();
    symlink("..data/x.yaml", at("x.yaml")).unwrap();
    let mut source = source(dir.path()).await;
    assert_eq!(next(&mut source).await, ["set Namespace a", "in sync"]);
    version("..2", "2");
    symlink("..2", at("..data_tmp")).unwrap();
    std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
    loop {
        match next::<1>(&mut source).await[0].as_str() {
            // Each change of the links is a reading of the whole folder.
            "in sync" => {}
            "set Namespace a" => break,
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_folder_that_goes_and_comes_again() {
    let mut f = open(&[("x.yaml", &namespace("a", "1")), ("y.yaml", &namespace("b", "1"))]).await;
    assert_eq!(f.next().await, ["set Namespace a", "set Namespace b", "in sync"]);
    let away = f.dir.path().with_extension("away");
    std::fs::rename(f.dir.path(), &away).unwrap();
    let mut status = f.source.status();
    timeout(PATIENCE, status.wait_for(|s| s.connected().is_err())).await.unwrap().unwrap();
    assert_eq!(status.borrow().ready(), Ok(()), "what is known stays in force");
    std::fs::remove_file(away.join("y.yaml")).unwrap();
    std::fs::rename(&away, f.dir.path()).unwrap();
    assert_eq!(f.next().await, ["remove Namespace b", "in sync"]);
    timeout(PATIENCE, status.wait_for(|s| s.connected().is_ok())).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_no_file_is_said_and_holds_nothing_up() {
    let mut f = open(&[("x.yaml", &namespace("a", "1"))]).await;
    assert_eq!(f.next().await, ["set Namespace a", "in sync"]);
    nix::unistd::mkfifo(&f.path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::fs::rename(f.path("pipe"), f.path("pipe.yaml")).unwrap();
    f.problem("pipe.yaml", Some("not a regular file")).await;
    std::fs::remove_file(f.path("pipe.yaml")).unwrap();
    f.problem("pipe.yaml", None).await;
    f.write("binary.yaml", "");
    std::fs::write(f.path("binary.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    f.problem("binary.yaml", Some("stream did not contain valid UTF-8")).await;
    f.nothing_until("marker").await;
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_a_mistake() {
    let config = SourceConfig::Directory { path: "/nonexistent".into() };
    let Err(error) = Source::open(&config, Metrics::new().source).await else {
        panic!("it opened")
    };
    assert_eq!(error.to_string(), "source.path: /nonexistent is not a directory");
}
