//! A run with FRR and BIRD on record, replayed when the daemon is dead.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;

use crate::kit::{Bird, Daemon, Frr, LIMIT, Lab, Result, eventually, pair};

const SECRET: &str = "not-for-the-recording";

/// `bgpd replay` of a file, and what it ends with.
fn replay(file: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bgpd"));
    command.arg("replay").arg(file).args(words).output().unwrap()
}

/// What the replayed daemon answers; it did the same as the live one.
fn answer(file: &Path, words: &[&str]) -> Result<Value> {
    let output = replay(file, &[words, &["-o", "json"]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(0) && said.contains("the same"), "{words:?}: {said}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// All of a neighbor but how long ago things were.
fn timeless(neighbors: &Value) -> Value {
    let mut neighbors = neighbors.clone();
    for neighbor in neighbors.as_array_mut().unwrap() {
        let fields = neighbor.as_object_mut().unwrap();
        fields.retain(|key, _| !["since", "last_down", "last_error"].contains(&key.as_str()));
    }
    neighbors
}

/// UPDATEs sent to each neighbor.
fn sent(neighbors: &Value) -> Vec<u64> {
    let all = neighbors.as_array().unwrap().iter();
    all.map(|n| n["counters"]["updates_sent"].as_u64().unwrap()).collect()
}

#[test]
fn the_replayed_daemon_says_what_the_live_one_said() {
    let lab = Lab::new();
    let (us, one, two) = (lab.node("us"), lab.node("frr"), lab.node("bird"));
    lab.link(&us, &one);
    lab.link(&us, &two);
    let password =
        " neighbor 10.0.1.1 password not-for-the-recording\n address-family ipv4 unicast";
    let with_password = pair::FRR.replacen(" address-family ipv4 unicast", password, 1);
    let frr = Frr::start(&one, &with_password);
    let elsewhere = pair::bird("").replace("10.0.1.", "10.0.2.").replace("fd00:1:", "fd00:2:");
    let elsewhere = elsewhere.replace("65002", "65003").replace("10.2.0.", "10.3.0.");
    let bird = Bird::start(&two, &elsewhere.replace("fd00:a:2:", "fd00:a:3:"));
    let yaml = pair::ours(&format!("password: {SECRET}"));
    let more = "
  - {name: bird, address: 10.0.2.2, asn: 65003, next-hop-v6: 'fd00:2::1', connect-retry-time: 1}
";
    let file = us.folder().join("run.record");
    let record = ["--record", file.to_str().unwrap()];
    let mut daemon = Daemon::start_with(&us, &[&yaml, more].concat(), &record);
    for name in ["peer", "bird"] {
        daemon.established(name);
    }
    for prefix in ["10.2.0.0/24", "10.3.0.0/24", "fd00:a:2::/64", "fd00:a:3::/64"] {
        daemon.until_route(prefix);
    }
    frr.until_path("10.3.0.0/24");
    bird.until_route("10.2.0.0/24");
    let before = sent(&daemon.ask(&["neighbors"]).unwrap());
    daemon.reload(&[&yaml, more].concat().replace("10.1.0.0/24", "10.1.1.0/24"));
    frr.until_path("10.1.1.0/24");
    bird.until_route("10.1.1.0/24");

    // The daemon is quiet and is not asked, either of which would have it look after its records:
    // what it sent last is on its way to the file by itself.
    eventually("a recording of what was sent", Duration::from_secs(20), || {
        let now = sent(&answer(&file, &["neighbors"])?);
        ensure!(now.iter().zip(&before).all(|(now, before)| now > before), "{before:?} {now:?}");
        Ok(())
    });

    // KEEPALIVEs may fall between two questions.
    let live = eventually("a recording of all there is", LIMIT, || {
        let ask =
            || Ok::<_, anyhow::Error>([daemon.ask(&["routes"])?, daemon.ask(&["neighbors"])?]);
        let live = ask()?;
        let replayed = [answer(&file, &["routes"])?, answer(&file, &["neighbors"])?];
        ensure!(replayed[0] == live[0], "{:#}\nlive: {:#}", replayed[0], live[0]);
        let [then, now] = [&replayed[1], &live[1]].map(timeless);
        ensure!(then == now, "{then:#}\nlive: {now:#}");
        Ok(live)
    });
    daemon.process_mut().kill();
    drop(daemon);

    assert_eq!(answer(&file, &["routes"]).unwrap(), live[0]);
    let neighbors = answer(&file, &["neighbors"]).unwrap();
    let states = |all: &Value| {
        let all = all.as_array().unwrap().iter();
        all.map(|n| (n["name"].clone(), n["state"].clone(), n["families"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(states(&neighbors), states(&live[1]));
    let routes = live[0].as_array().unwrap().len();
    assert!(routes >= 6, "{:#}", live[0]);
    let explained = answer(&file, &["explain", "10.2.0.7"]).unwrap();
    assert_eq!(explained["prefix"], "10.2.0.0/24", "{explained:#}");
    // Another moment: nothing had come yet.
    let before = answer(&file, &["--until", "1", "routes"]).unwrap();
    assert_eq!(before.as_array().unwrap().len(), 2, "{before:#}");

    // Without what it must not hold.
    let recording = std::fs::read(&file).unwrap();
    let find = |octets: &[u8]| recording.windows(octets.len()).position(|part| part == octets);
    assert!(find(SECRET.as_bytes()).is_none() && find(b"10.0.2.2").is_some());
    let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

    // An octet of what FRR announced is another: 10.6.0.0/24 it was not.
    let mut altered = recording.clone();
    let at = find(&[24, 10, 2, 0]).unwrap();
    altered[at + 2] = 6;
    std::fs::write(&file, &altered).unwrap();
    let output = replay(&file, &["routes", "10.6.0.0/24"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("DIFFERS at event ") && said.contains("recorded: "), "{said}");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("10.6.0.0/24") && shown.contains("1 prefixes"), "{shown}");

    // Cut, it goes as far as it is whole; with something else in it, it is refused.
    std::fs::write(&file, &recording[..recording.len() - 1]).unwrap();
    let output = replay(&file, &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(0) && said.contains("no whole record"), "{said}");
    std::fs::write(&file, [&recording[..], b"\xff\x00"].concat()).unwrap();
    let output = replay(&file, &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    let place = format!("at octet {}: a record of kind 255", recording.len());
    assert!(output.status.code() == Some(2) && said.contains(&place), "{said}");

    // What says nothing of the recording has codes of its own.
    assert_eq!(replay(&file, &["--until", "soon"]).status.code(), Some(64));
    let mut command = Command::new(env!("CARGO_BIN_EXE_bgpd"));
    let (reader, closed) = std::io::pipe().unwrap();
    drop(reader);
    let status = command.arg("replay").arg(&file).stderr(closed).status().unwrap();
    assert_eq!(status.code(), Some(4), "{status}");
}
