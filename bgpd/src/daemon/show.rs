//! Answers as tables.

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde_json::Value;

use super::control::Question;

/// The answer to a question, for people.
pub(crate) fn table(question: &Question, answer: &Value) -> String {
    match question {
        Question::Neighbors => neighbors(answer),
        Question::Routes(_) => routes(answer),
        Question::Status => status(answer),
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

fn routes(answer: &Value) -> String {
    let mut table =
        new(&["", "PREFIX", "NEXT HOP", "NEIGHBOR", "LOCPREF", "MED", "AS PATH", "WHY"]);
    for route in items(answer) {
        let mut prefix = text(&route["prefix"]);
        for path in items(&route["paths"]) {
            let is = |field: &str| path[field].as_bool().unwrap_or(false);
            let mut mark = String::new();
            mark.push(if is("best") {
                '*'
            } else if is("used") {
                '+'
            } else {
                ' '
            });
            if is("stale") {
                mark.push('S');
            }
            table.add_row(vec![
                Cell::new(mark),
                Cell::new(std::mem::take(&mut prefix)),
                Cell::new(text(&path["next_hop"])),
                Cell::new(text(&path["neighbor"])),
                number(&text(&path["local_pref"])),
                number(&text(&path["med"])),
                Cell::new(text(&path["as_path"])),
                Cell::new(text(&path["reason"])),
            ]);
        }
    }
    let count = items(answer).count();
    format!("{}\n\n{count} prefixes; * best, + used beside it, S stale", table.trim_fmt())
}

fn status(answer: &Value) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for (key, value) in answer.as_object().into_iter().flatten() {
        table.add_row([key.replace('_', " "), text(value)]);
    }
    table.trim_fmt()
}
