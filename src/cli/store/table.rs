//! What people read of an answer: columns, sizes, times; and what scripts read: the JSON as it came.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use bytesize::ByteSize;
use serde_json::Value;

use crate::cli::print;
use crate::cli::remote::Remote;

pub(super) fn size(value: &Value) -> String {
    ByteSize(value.as_u64().unwrap_or_default()).display().iec().to_string()
}

pub(super) fn ago(value: &Value) -> String {
    let Some(then) = value.as_u64().filter(|then| *then > 0) else { return "-".to_owned() };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds = now.saturating_sub(then);
    match seconds {
        0..60 => format!("{seconds}s ago"),
        60..3600 => format!("{}m ago", seconds / 60),
        3600..86400 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86400),
    }
}

pub(super) fn list<'a>(document: &'a Value, name: &str) -> &'a [Value] {
    document[name].as_array().map_or(&[], Vec::as_slice)
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

/// A digest that people can tell apart.
pub(super) fn short(value: &Value) -> String {
    text(value).chars().take(19).collect()
}

/// Columns of equal width; the first row is the head.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns)
        .map(|at| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    rows.iter().fold(String::new(), |mut text, row| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
        text
    })
}

pub(super) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

/// JSON, or what people read.
pub(super) fn show(remote: &Remote, document: &Value, people: impl FnOnce(&Value) -> String) -> anyhow::Result<ExitCode> {
    print(&if remote.is_for_people() { people(document) } else { format!("{document:#}\n") })?;
    Ok(ExitCode::SUCCESS)
}
