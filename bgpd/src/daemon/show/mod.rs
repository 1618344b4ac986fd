//! Answers as tables.

mod routes;

use comfy_table::{Cell, CellAlignment, Table, presets};
pub(crate) use routes::{advertised, routes};
use serde_json::Value;

use super::control::Question;

/// The answer to a question, for people.
pub(crate) fn table(question: &Question, answer: &Value) -> String {
    match question {
        Question::Neighbors => neighbors(answer),
        Question::Neighbor(_) => neighbor(answer),
        Question::Routes(_) => routes(items(answer)),
        Question::Explain(_) | Question::ExplainAddress(_) => routes::explanation(answer),
        Question::Groups => groups(answer),
        // Nothing but scalars would be left of it in a table.
        Question::Config | Question::Clear(..) => {
            serde_json::to_string_pretty(answer).unwrap_or_else(|error| error.to_string())
        }
        Question::Status | Question::Memory | Question::MrtDump => fields(answer),
    }
}

fn new(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().map(Cell::new));
    table
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A scalar without quotes; `-` for what is not there.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn number(value: &impl ToString) -> Cell {
    Cell::new(value.to_string()).set_alignment(CellAlignment::Right)
}

/// Seconds as `45s`, `12m3s`, `5h10m`, `3d4h`.
fn duration(value: &Value) -> String {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole seconds")]
    let s = value.as_f64().unwrap_or(0.0) as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{}s", s / 60, s % 60),
        3600..86400 => format!("{}h{}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d{}h", s / 86400, s % 86400 / 3600),
    }
}

fn neighbors(answer: &Value) -> String {
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
        "LAST PROBLEM",
    ]);
    for neighbor in items(answer) {
        let sum = |field: &str| -> u64 {
            items(&neighbor["families"]).filter_map(|f| f[field].as_u64()).sum()
        };
        let problems = [&neighbor["last_error"], &neighbor["last_down"]];
        let problem = problems.into_iter().find(|p| !p.is_null());
        table.add_row(vec![
            Cell::new(text(&neighbor["name"])),
            Cell::new(text(&neighbor["address"])),
            number(&neighbor["asn"]),
            Cell::new(text(&neighbor["state"])),
            number(&duration(&neighbor["since"])),
            Cell::new(bfd(&neighbor["bfd"])),
            number(&sum("received")),
            number(&sum("accepted")),
            number(&sum("advertised")),
            Cell::new(problem.map_or_else(
                || "-".to_owned(),
                |p| format!("{} ago: {}", duration(&p["ago"]), text(&p["reason"])),
            )),
        ]);
    }
    table.trim_fmt()
}

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

fn groups(answer: &Value) -> String {
    let mut table = new(&["FAMILY", "TYPE", "MEMBERS", "ADVERTISED", "PENDING", "NAMES"]);
    for group in items(answer) {
        let names: Vec<String> = items(&group["members"]).map(text).collect();
        let client = group["client"].as_bool().unwrap_or(false);
        let sort = format!("{}{}", text(&group["peer_type"]), if client { ", client" } else { "" });
        table.add_row(vec![
            Cell::new(text(&group["family"])),
            Cell::new(sort),
            number(&names.len()),
            number(&text(&group["advertised"])),
            number(&text(&group["pending"])),
            Cell::new(names.join(" ")),
        ]);
    }
    table.trim_fmt()
}

/// One neighbor in full.
fn neighbor(answer: &Value) -> String {
    let sections =
        ["counters", "session", "bfd", "families", "open_sent", "open_received", "messages"];
    let mut own = answer.clone();
    if let Some(object) = own.as_object_mut() {
        object.retain(|key, _| !sections.contains(&key.as_str()));
        for key in ["since", "last_down", "last_error"] {
            let value = &answer[key];
            let told = match value {
                Value::Number(_) => duration(value),
                Value::Null => continue,
                failure => {
                    format!("{} ago: {}", duration(&failure["ago"]), text(&failure["reason"]))
                }
            };
            object.insert(key.to_owned(), told.into());
        }
    }
    let mut out = fields(&own);
    for (title, key) in [("Session", "session"), ("BFD", "bfd"), ("Counters", "counters")] {
        if answer[key].is_object() {
            out.push_str(&format!("\n\n{title}\n{}", fields(&answer[key])));
        }
    }
    for (title, key) in [("OPEN sent", "open_sent"), ("OPEN received", "open_received")] {
        let open = &answer[key];
        if open.is_object() {
            let capabilities: Vec<String> = items(&open["capabilities"]).map(text).collect();
            out.push_str(&format!(
                "\n\n{title}: AS {}, hold time {}, {}\n  {}",
                text(&open["asn"]),
                text(&open["hold_time"]),
                text(&open["router_id"]),
                capabilities.join("\n  ")
            ));
        }
    }
    let columns =
        ["family", "negotiated", "disabled", "received", "accepted", "advertised", "stale"];
    let mut table = new(&columns.map(str::to_uppercase).each_ref().map(String::as_str));
    for family in items(&answer["families"]) {
        table.add_row(columns.map(|column| text(&family[column])));
    }
    out.push_str(&format!("\n\n{}", table.trim_fmt()));
    let mut table = new(&["AGO", "", "MESSAGE", "COUNT", "OCTETS", "WHAT", "FIRST OCTETS"]);
    for message in items(&answer["messages"]) {
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
    format!("{out}\n\n{}", table.trim_fmt())
}

/// An object's fields, one in a line.
fn fields(answer: &Value) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for (key, value) in answer.as_object().into_iter().flatten() {
        table.add_row([key.replace('_', " "), text(value)]);
    }
    table.trim_fmt()
}
