//! Neighbors: all of them in short, or one with all that is known of it.

use comfy_table::Cell;
use serde_json::Value;

use super::{duration, fields, items, new, number, text};

/// All of them, and how many are up, which one sees without scrolling.
pub(super) fn all(answer: &Value) -> String {
    let mut table = new(&[
        "NAME",
        "ADDRESS",
        "AS",
        "STATE",
        "SINCE",
        "BFD",
        "RECEIVED",
        "ACCEPTED",
        "SENT",
        "DROPS",
        "NOTES",
        "LAST PROBLEM",
    ]);
    let (mut total, mut down) = (0, Vec::new());
    for neighbor in items(answer) {
        total += 1;
        if neighbor["state"] != "established" {
            down.push(text(&neighbor["name"]));
        }
        let sum = |field: &str| -> u64 {
            items(&neighbor["families"]).filter_map(|f| f[field].as_u64()).sum()
        };
        table.add_row(vec![
            Cell::new(text(&neighbor["name"])),
            Cell::new(address(neighbor)),
            number(&asn(neighbor)),
            Cell::new(text(&neighbor["state"])),
            number(&duration(&neighbor["since"])),
            Cell::new(bfd(&neighbor["bfd"])),
            number(&sum("received")),
            number(&sum("accepted")),
            number(&sum("advertised")),
            number(&text(&neighbor["counters"]["dropped"])),
            Cell::new(or_none(&notes(neighbor).join(", "))),
            Cell::new(problem(neighbor)),
        ]);
    }
    let up = total - down.len();
    let end = match &down[..] {
        [] => String::new(),
        down => format!("; not: {}", down.join(", ")),
    };
    format!("{}\n\n{total} neighbors, {up} established{end}", table.trim_fmt())
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// The address, with the interface that it is on if it is known by that.
fn address(neighbor: &Value) -> String {
    let address = text(&neighbor["address"]);
    let unknown = address.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_unspecified());
    match (neighbor["interface"].as_str(), unknown) {
        (Some(interface), true) => format!("?%{interface}"),
        (Some(interface), false) => format!("{address}%{interface}"),
        (None, _) => address,
    }
}

/// The AS number; `?` as long as it is not known.
fn asn(neighbor: &Value) -> String {
    match neighbor["asn"].as_u64() {
        Some(asn) if asn > 0 => asn.to_string(),
        _ => "?".to_owned(),
    }
}

fn failure(failure: &Value) -> String {
    format!("{} ago: {}", duration(&failure["ago"]), text(&failure["reason"]))
}

/// What went wrong last, and, of one that is still down, since when it is and what began it.
fn problem(neighbor: &Value) -> String {
    let (error, down) = (&neighbor["last_error"], &neighbor["last_down"]);
    match (error.is_null(), down.is_null()) {
        (true, true) => "-".to_owned(),
        (true, false) => failure(down),
        (false, true) => failure(error),
        (false, false) => format!("{}; down since {}", failure(error), failure(down)),
    }
}

/// What is not as it should be, or cannot be seen from the numbers.
fn notes(neighbor: &Value) -> Vec<String> {
    let is = |value: &Value| value.as_bool().unwrap_or(false);
    let mut notes = Vec::new();
    let states = [
        ("shutdown", "shut down"),
        ("halted", "too many prefixes"),
        ("waits_for_bfd", "waits for BFD"),
        ("graceful_shutdown", "drained"),
    ];
    notes
        .extend(states.iter().filter(|(key, _)| is(&neighbor[*key])).map(|(_, n)| (*n).to_owned()));
    if !neighbor["next_attempt"].is_null() {
        notes.push(format!("next attempt in {}", duration(&neighbor["next_attempt"])));
    }
    let up = neighbor["state"] == "established";
    for family in items(&neighbor["families"]) {
        let name = text(&family["family"]);
        let name = name.strip_suffix("-unicast").unwrap_or(&name);
        if is(&family["disabled"]) {
            notes.push(format!("{name} disabled"));
        } else if up && !is(&family["negotiated"]) {
            notes.push(format!("no {name}"));
        } else if up && family["next_hop"].is_null() {
            notes.push(format!("no {name} next hop"));
        }
        let received = family["received"].as_u64().unwrap_or(0);
        if let Some(limit) = family["limit"].as_u64().filter(|limit| received * 4 >= limit * 3) {
            notes.push(format!("{name} {received} of {limit}"));
        }
        if let Some(stale @ 1..) = family["stale_paths"].as_u64() {
            let long = if is(&family["long_lived"]) { " (long-lived)" } else { "" };
            notes.push(format!("{name} {stale} stale{long}"));
        }
    }
    if let Some(queued @ QUEUE..) = neighbor["queued_octets"].as_u64() {
        notes.push(format!("{} KiB queued", queued / 1024));
    }
    notes
}

/// Octets that wait for a neighbor and are worth a note: it may not keep up.
const QUEUE: u64 = 256 * 1024;

/// A neighbor's BFD session: its state, and while Up within which time a failure is noticed.
fn bfd(session: &Value) -> String {
    if !session["error"].is_null() {
        return "error".to_owned();
    }
    let state = text(&session["state"]);
    match session["detection_time"].as_f64() {
        Some(detection) if state == "up" => format!("{state} {:.0}ms", detection * 1000.0),
        _ => state,
    }
}

/// What one looks for first; what else there is follows.
const FIRST: [&str; 14] = [
    "name",
    "description",
    "address",
    "interface",
    "asn",
    "peer_type",
    "state",
    "since",
    "next_attempt",
    "shutdown",
    "halted",
    "waits_for_bfd",
    "last_down",
    "last_error",
];

/// What has a section or a table of its own.
const SECTIONS: [&str; 8] = [
    "counters",
    "notifications",
    "session",
    "bfd",
    "families",
    "open_sent",
    "open_received",
    "messages",
];

/// One neighbor in full.
pub(super) fn one(answer: &Value) -> String {
    let rest = answer.as_object().into_iter().flat_map(|object| object.keys());
    let rest = rest.map(String::as_str).filter(|key| !FIRST.contains(key));
    let rest = rest.filter(|key| !SECTIONS.contains(key));
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    for key in FIRST.into_iter().chain(rest) {
        let value = &answer[key];
        let told = match key {
            "since" | "next_attempt" if !value.is_null() => duration(value),
            "last_down" | "last_error" if !value.is_null() => failure(value),
            "asn" => asn(answer),
            _ => text(value),
        };
        table.add_row([key.replace('_', " "), told]);
    }
    let notes = notes(answer).join(", ");
    table.add_row(["notes", or_none(&notes)]);
    let mut out = table.trim_fmt();
    out.push_str(&format!("\n\n{}", families(items(&answer["families"]))));
    for (title, key) in [
        ("Session (times in seconds)", "session"),
        ("BFD (times in seconds)", "bfd"),
        ("Counters", "counters"),
    ] {
        if answer[key].is_object() {
            out.push_str(&format!("\n\n{title}\n{}", fields(&answer[key])));
        }
    }
    let codes = items(&answer["notifications"]).map(|it| {
        let direction = if it["received"] == true { "received" } else { "sent" };
        format!("{direction} code {}: {}", text(&it["code"]), text(&it["count"]))
    });
    let codes: Vec<String> = codes.collect();
    if !codes.is_empty() {
        out.push_str(&format!("\n\nNOTIFICATIONs\n {}", codes.join(", ")));
    }
    for (title, key) in [("OPEN sent", "open_sent"), ("OPEN received", "open_received")] {
        let open = &answer[key];
        if open.is_object() {
            let capabilities: Vec<String> = items(&open["capabilities"]).map(text).collect();
            out.push_str(&format!(
                "\n\n{title}: AS {}, hold time {} s, {}\n  {}",
                text(&open["asn"]),
                text(&open["hold_time"]),
                text(&open["router_id"]),
                capabilities.join("\n  ")
            ));
        }
    }
    format!("{out}\n\n{}", messages(items(&answer["messages"])))
}

fn families<'a>(families: impl Iterator<Item = &'a Value>) -> String {
    let mut table = new(&[
        "FAMILY",
        "STATE",
        "RECEIVED",
        "ACCEPTED",
        "LIMIT",
        "STALE",
        "SENT",
        "OUR NEXT HOP",
        "END-OF-RIB",
        "REFRESHING",
        "LONG-LIVED",
    ]);
    for family in families {
        let is = |key: &str| family[key].as_bool().unwrap_or(false);
        let state = match (is("disabled"), is("negotiated")) {
            (true, _) => "disabled",
            (false, true) => "up",
            (false, false) => "not negotiated",
        };
        let end = match (is("end_of_rib_received"), is("end_of_rib_sent")) {
            (true, true) => "received, sent",
            (true, false) => "received",
            (false, true) => "sent",
            (false, false) => "-",
        };
        let long = match (is("long_lived"), family["long_lived_time"].as_u64()) {
            (true, _) => "kept now".to_owned(),
            (false, Some(time)) => format!("for {time}s"),
            (false, None) => "-".to_owned(),
        };
        table.add_row(vec![
            Cell::new(text(&family["family"])),
            Cell::new(state),
            number(&text(&family["received"])),
            number(&text(&family["accepted"])),
            number(&text(&family["limit"])),
            number(&text(&family["stale_paths"])),
            number(&text(&family["advertised"])),
            Cell::new(text(&family["next_hop"])),
            Cell::new(end),
            Cell::new(text(&family["refreshing"])),
            Cell::new(long),
        ]);
    }
    table.trim_fmt()
}

fn messages<'a>(messages: impl Iterator<Item = &'a Value>) -> String {
    let mut table = new(&["AGO", "", "MESSAGE", "COUNT", "OCTETS", "WHAT", "FIRST OCTETS"]);
    for message in messages {
        let received = message["received"].as_bool().unwrap_or(false);
        let head: String = text(&message["head"]).chars().take(32).collect();
        table.add_row(vec![
            number(&duration(&message["ago"])),
            Cell::new(if received { "in" } else { "out" }),
            Cell::new(text(&message["kind"])),
            number(&text(&message["messages"])),
            number(&text(&message["octets"])),
            Cell::new(text(&message["summary"])),
            Cell::new(head),
        ]);
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn neighbor(name: &str, state: &str) -> Value {
        json!({
            "name": name, "address": "2001:db8:1234:5678:9abc:def0:1234:5678", "asn": 4_200_000_001_u32,
            "state": state, "since": 61.5, "bfd": null, "counters": {"dropped": 3},
            "families": [{"family": "ipv6-unicast", "negotiated": true, "received": 80,
                "accepted": 79, "limit": 100, "advertised": 5, "stale_paths": 2, "long_lived": true,
                "next_hop": "2001:db8::1"}],
            "last_down": {"ago": 3700.0, "reason": "received Cease/Administrative Reset (6/4)"},
            "last_error": null, "queued_octets": 0, "next_attempt": null,
        })
    }

    /// Where the words of a line begin whose column has a heading.
    fn column(table: &str, line: usize, heading: &str) -> String {
        let at = table.lines().next().unwrap().find(heading).unwrap();
        table.lines().nth(line).unwrap().get(at..).unwrap().to_owned()
    }

    #[test]
    fn two_hundred_neighbors_stand_in_columns_and_who_is_down_is_named_at_the_end() {
        let mut all_up: Vec<Value> =
            (0..200).map(|n| neighbor(&format!("node-{n}"), "established")).collect();
        all_up[7] = neighbor("a-very-long-name.of-a-node.in-some-zone.example.net", "idle");
        all_up[7]["halted"] = true.into();
        all_up[7]["next_attempt"] = 299.2.into();
        let shown = all(&Value::Array(all_up));
        assert_eq!(shown.lines().count(), 1 + 200 + 2);
        for line in 1..=200 {
            assert!(column(&shown, line, "ADDRESS").starts_with("2001:db8:1234:"), "{shown}");
            let problem = column(&shown, line, "LAST PROBLEM");
            assert_eq!(problem, "1h1m ago: received Cease/Administrative Reset (6/4)");
        }
        let notes =
            "too many prefixes, next attempt in 4m59s, ipv6 80 of 100, ipv6 2 stale (long-lived)";
        assert!(column(&shown, 8, "NOTES").starts_with(notes), "{shown}");
        let end = "200 neighbors, 199 established; not: a-very-long-name.of-a-node.in-some-zone.example.net";
        assert_eq!(shown.lines().last().unwrap(), end);
    }

    #[test]
    fn two_neighbors_of_which_one_is_not_known_yet() {
        let mut one = neighbor("eth0", "connect");
        one["address"] = "::".into();
        one["interface"] = "eth0".into();
        one["asn"] = 0.into();
        one["families"][0]["negotiated"] = false.into();
        one["last_error"] = json!({"ago": 1, "reason": "connection: refused"});
        let mut two = neighbor("peer", "established");
        two["families"] = json!([{"family": "ipv4-unicast", "negotiated": false}]);
        let shown = all(&json!([one, two]));
        assert!(column(&shown, 1, "ADDRESS").starts_with("?%eth0"), "{shown}");
        let problem = "1s ago: connection: refused; down since 1h1m ago: received Cease";
        assert!(column(&shown, 1, "LAST PROBLEM").starts_with(problem), "{shown}");
        assert!(column(&shown, 2, "NOTES").starts_with("no ipv4"), "{shown}");
        assert!(shown.ends_with("2 neighbors, 1 established; not: eth0"), "{shown}");
    }

    /// Whatever the daemon says of a neighbor is in its table.
    #[test]
    fn nothing_is_left_out_of_one_neighbor() {
        let mut answer = neighbor("peer", "established");
        answer["something_new"] = "is shown".into();
        answer["notifications"] = json!([{"received": true, "code": 6, "count": 2}]);
        answer["session"] = json!({"hold_time": 9, "send_paths": ["ipv4-unicast", "ipv6-unicast"]});
        let shown = one(&answer);
        for part in [
            "something new",
            "is shown",
            "received code 6: 2",
            "ipv4-unicast, ipv6-unicast",
            "1m1s",
            "kept now",
            "2001:db8::1",
            "1h1m ago: received Cease",
        ] {
            assert!(shown.contains(part), "no {part} in\n{shown}");
        }
    }
}
