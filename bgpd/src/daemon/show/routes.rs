//! Routes, and why they are what they are.

use std::net::IpAddr;

use comfy_table::Cell;
use serde_json::Value;

use super::{items, new, number, text};

/// Routes with all their paths.
pub(crate) fn routes<'a>(routes: impl IntoIterator<Item = &'a Value>) -> String {
    let mut table =
        new(&["", "PREFIX", "NEXT HOP", "NEIGHBOR", "LOCPREF", "MED", "AS PATH", "WHY"]);
    for route in routes {
        let mut prefix = text(&route["prefix"]);
        for path in items(&route["paths"]) {
            table.add_row(vec![
                Cell::new(mark(path)),
                Cell::new(std::mem::take(&mut prefix)),
                Cell::new(next_hop(path)),
                Cell::new(source(&path["neighbor"], path)),
                number(&text(&path["local_pref"])),
                number(&text(&path["med"])),
                Cell::new(as_path(path)),
                Cell::new(text(&path["reason"])),
            ]);
        }
    }
    table.trim_fmt()
}

/// Routes as a neighbor was told of them.
pub(crate) fn advertised<'a>(routes: impl IntoIterator<Item = &'a Value>) -> String {
    let mut table = new(&[
        "PREFIX",
        "NEXT HOP",
        "FROM",
        "ID",
        "LOCPREF",
        "MED",
        "AS PATH",
        "COMMUNITIES",
        "REMARK",
    ]);
    for route in routes {
        let mut prefix = text(&route["prefix"]);
        for path in items(&route["advertised"]) {
            let mut row = vec![Cell::new(std::mem::take(&mut prefix))];
            row.extend(told(path));
            row.push(Cell::new(remark(path)));
            table.add_row(row);
        }
    }
    table.trim_fmt()
}

/// A path as it was told, in the columns from NEXT HOP to COMMUNITIES.
fn told(path: &Value) -> [Cell; 7] {
    [
        Cell::new(next_hop(path)),
        Cell::new(text_or(&path["from"], "own network")),
        number(&text(&path["path_id"])),
        number(&text(&path["local_pref"])),
        number(&text(&path["med"])),
        Cell::new(as_path(path)),
        Cell::new(communities(path)),
    ]
}

fn remark(path: &Value) -> String {
    if path["as_path"].is_null() {
        return "about to be sent again".to_owned();
    }
    text_or(&path["refused"], "")
}

fn text_or(value: &Value, instead: &str) -> String {
    value.as_str().unwrap_or(instead).to_owned()
}

/// A neighbor's name, with the number of the path where it sends several.
fn source(name: &Value, path: &Value) -> String {
    let name = text_or(name, "own network");
    match path["path_id"].as_u64() {
        Some(id) if id > 0 => format!("{name} #{id}"),
        _ => name,
    }
}

/// The next hop, with the link-local one beside it; `self` for our own networks.
fn next_hop(path: &Value) -> String {
    let own = |text: &str| text.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified());
    match (path["next_hop"].as_str(), path["link_local_next_hop"].as_str()) {
        (None, _) => "-".to_owned(),
        (Some(hop), _) if own(hop) => "self".to_owned(),
        (Some(hop), Some(local)) => format!("{hop} {local}"),
        (Some(hop), None) => hop.to_owned(),
    }
}

/// The AS_PATH, and ORIGIN as `i`, `e` or `?` behind it.
fn as_path(path: &Value) -> String {
    let origin = match path["origin"].as_str() {
        Some("igp") => "i",
        Some("egp") => "e",
        Some(_) => "?",
        None => return "-".to_owned(),
    };
    format!("{} {origin}", text(&path["as_path"])).trim_start().to_owned()
}

/// Communities of all kinds, and OTC.
fn communities(path: &Value) -> String {
    let kinds = ["communities", "large_communities", "extended_communities"];
    let mut all: Vec<String> =
        kinds.iter().flat_map(|kind| items(&path[*kind])).map(text).collect();
    if let Some(asn) = path["only_to_customer"].as_u64() {
        all.push(format!("OTC {asn}"));
    }
    all.join(" ")
}

/// `*` best, `+` used beside it, `S` stale.
fn mark(path: &Value) -> String {
    let is = |field: &str| path[field].as_bool().unwrap_or(false);
    let mut mark = String::from(match (is("best"), is("used")) {
        (true, _) => "*",
        (false, true) => "+",
        (false, false) => " ",
    });
    if is("stale") {
        mark.push('S');
    }
    mark
}

pub(super) fn explanation(answer: &Value) -> String {
    let mut table =
        new(&["", "NEIGHBOR", "PEER", "NEXT HOP", "AS PATH", "STEP", "WHY", "DEFINED IN"]);
    for path in items(&answer["paths"]) {
        let step = &path["step"];
        table.add_row(vec![
            Cell::new(mark(path)),
            Cell::new(source(&path["neighbor"], path)),
            Cell::new(text(&path["peer_address"])),
            Cell::new(next_hop(path)),
            Cell::new(as_path(path)),
            number(&text(&step["number"])),
            Cell::new(text(&path["why"])),
            Cell::new(text(&step["source"])),
        ]);
    }
    let hops: Vec<String> = items(&answer["next_hops"]).map(|hop| text(&hop["addr"])).collect();
    let hops = if hops.is_empty() { "-".into() } else { hops.join(", ") };
    let (told, total) =
        (items(&answer["advertised_to"]).count(), items(&answer["neighbors"]).count());
    format!(
        "{}\n\n{}\n\nforwarded to   {hops}\nadvertised to  {told} of {total} neighbors\n\n{}",
        text(&answer["prefix"]),
        table.trim_fmt(),
        advertisements(items(&answer["neighbors"]))
    )
}

/// What each neighbor was told, and what not.
fn advertisements<'a>(neighbors: impl Iterator<Item = &'a Value>) -> String {
    let mut table = new(&[
        "TO",
        "TOLD",
        "NEXT HOP",
        "FROM",
        "ID",
        "LOCPREF",
        "MED",
        "AS PATH",
        "COMMUNITIES",
        "WHY NOT, OR REMARK",
        "DEFINED IN",
    ]);
    for neighbor in neighbors {
        let mut name = text(&neighbor["neighbor"]);
        let mut row = |told: &str, path: [Cell; 7], why: String, source: String| {
            let mut row = vec![Cell::new(std::mem::take(&mut name)), Cell::new(told)];
            row.extend(path);
            row.extend([Cell::new(why), Cell::new(source)]);
            table.add_row(row);
        };
        for path in items(&neighbor["paths"]) {
            row("yes", told(path), remark(path), String::new());
        }
        for path in items(&neighbor["withheld"]) {
            let which = &path["path"];
            let from = if which.is_null() { String::new() } else { source(&which["from"], which) };
            let mut cells = [(); 7].map(|()| Cell::new(""));
            cells[1] = Cell::new(from);
            row("no", cells, text(&path["why"]), text(&path["source"]));
        }
        if let Some(what) = neighbor["waits"].as_str() {
            let why = match what {
                "turn" => "it is told at once",
                "queue" => "the neighbor does not take what is queued for it",
                "interval" => "for its advertisement-interval",
                "kernel" => "for the kernel to have the route (advertise-after-install)",
                other => other,
            };
            let source = if what == "interval" { "RFC 4271 9.2.1.1" } else { "" };
            row("waits", [(); 7].map(|()| Cell::new("")), why.to_owned(), source.to_owned());
        }
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// One line of a table, with single blanks.
    fn line(table: &str, at: usize) -> String {
        table.lines().nth(at).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_was_told_is_shown_as_it_left() {
        let told = json!([{
            "prefix": "10.1.0.0/16",
            "paths": [{"neighbor": "a", "next_hop": "192.0.2.9", "as_path": "7", "origin": "igp"}],
            "advertised": [
                {"path_id": 3, "from": "a", "next_hop": "fd00::1", "link_local_next_hop": "fe80::1",
                 "as_path": "65001 7", "origin": "incomplete", "local_pref": null, "med": 5,
                 "communities": ["no-export"], "large_communities": ["1:2:3"],
                 "only_to_customer": 9},
                {"path_id": 4, "from": null},
            ],
        }]);
        let table = advertised(items(&told));
        let first = "10.1.0.0/16 fd00::1 fe80::1 a 3 - 5 65001 7 ? no-export 1:2:3 OTC 9";
        assert_eq!(line(&table, 1), first);
        assert_eq!(line(&table, 2), "- own network 4 - - - about to be sent again");
    }

    #[test]
    fn an_explanation_has_a_line_for_what_each_neighbor_was_not_told() {
        let withheld =
            |path: Value, why: &str| json!([{"path": path, "why": why, "source": "RFC 0"}]);
        let one = json!({"from": "a", "path_id": 2});
        let answer = json!({
            "prefix": "10.1.0.0/16",
            "paths": [{"next_hop": "0.0.0.0", "as_path": "", "origin": "igp", "best": true,
                       "peer_address": null, "neighbor": null, "why": "only", "step": {"number": 1}}],
            "next_hops": [],
            "advertised_to": ["b"],
            "neighbors": [
                {"neighbor": "a", "paths": [], "withheld": withheld(one, "own")},
                {"neighbor": "b", "paths": [{"path_id": 0, "from": null, "next_hop": "192.0.2.1",
                    "as_path": "1", "origin": "egp", "refused": "loop"}],
                 "withheld": [], "waits": "kernel"},
                {"neighbor": "c", "paths": [], "withheld": withheld(Value::Null, "down")},
            ],
        });
        let shown = explanation(&answer);
        let found = |wanted: &str| (0..shown.lines().count()).any(|at| line(&shown, at) == wanted);
        for wanted in [
            "* own network - self i 1 only -",
            "advertised to 1 of 3 neighbors",
            "a no a #2 own RFC 0",
            "b yes 192.0.2.1 own network 0 - - 1 e loop",
            "waits for the kernel to have the route (advertise-after-install)",
            "c no down RFC 0",
        ] {
            assert!(found(wanted), "no {wanted:?} in\n{shown}");
        }
    }
}
