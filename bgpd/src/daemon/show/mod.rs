//! Answers as tables.

mod neighbors;
mod routes;

use comfy_table::{Cell, CellAlignment, Table, presets};
pub(crate) use routes::{advertised, routes};
use serde_json::Value;

use super::control::Question;

/// The answer to a question, for people.
pub(crate) fn table(question: &Question, answer: &Value) -> String {
    match question {
        Question::Neighbors => neighbors::all(answer),
        Question::Neighbor(_) => neighbors::one(answer),
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

/// A scalar without quotes, `yes` or `no`; `-` for what is not there.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
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

/// An object's fields, one in a line.
fn fields(answer: &Value) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let mut lines = Vec::new();
    flatten("", answer, &mut lines);
    for (key, value) in lines {
        table.add_row([key, value]);
    }
    table.trim_fmt()
}

/// The scalars of a value, each with the names of the objects that it is in. Elements of a list are
/// called by their names, if they have any.
fn flatten(name: &str, value: &Value, lines: &mut Vec<(String, String)>) {
    let inner = |key: &str| format!("{name} {key}").trim().replace('_', " ");
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                flatten(&inner(key), value, lines);
            }
        }
        Value::Array(all) if all.iter().any(Value::is_object) => {
            for (at, value) in all.iter().enumerate() {
                let own =
                    value["name"].as_str().map_or_else(|| (at + 1).to_string(), str::to_owned);
                flatten(&format!("{name} {own}"), value, lines);
            }
        }
        Value::Array(all) if name == "prefixes" && all.len() == 2 => {
            let told = format!("IPv4 {}, IPv6 {}", text(&all[0]), text(&all[1]));
            lines.push((name.to_owned(), told));
        }
        Value::Array(all) => {
            let all: Vec<String> = all.iter().map(text).collect();
            lines.push((name.to_owned(), if all.is_empty() { "-".into() } else { all.join(", ") }));
        }
        scalar => lines.push((name.to_owned(), text(scalar))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_nested_is_told_line_by_line() {
        let shown = fields(&json!({
            "prefixes": [3, 4],
            "progress": {"restarting": false, "converged": true},
            "listen_ranges": [{"name": "pods", "limit": 7}],
            "send_paths": [],
            "bfd_discarded": null,
        }));
        let lines: Vec<String> =
            shown.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        for line in [
            "prefixes IPv4 3, IPv6 4",
            "progress restarting no",
            "progress converged yes",
            "listen ranges pods limit 7",
            "send paths -",
            "bfd discarded -",
        ] {
            assert!(lines.iter().any(|l| l == line), "no {line:?} in\n{shown}");
        }
    }
}
