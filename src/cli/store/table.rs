//! What people read of an answer: columns, sizes, times; and what scripts read: the JSON as it came.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::SystemTime;

use bytesize::ByteSize;
use serde_json::Value;

use crate::cli::print;
use crate::cli::remote::Remote;

pub(super) fn size(value: &Value) -> String {
    ByteSize(value.as_u64().unwrap_or_default()).display().iec().to_string()
}

pub(super) fn ago(value: &Value) -> String {
    let Some(then) = value.as_u64().filter(|then| *then > 0) else { return "-".to_owned() };
    let now = crate::clock::seconds(SystemTime::now());
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

/// Whether a column holds sizes, ages or numbers under its head. A name comes first, whatever it begins with.
fn is_figures(rows: &[Vec<String>], at: usize) -> bool {
    let is_figure = |cell: &String| cell == "-" || cell.starts_with(|first: char| first.is_ascii_digit());
    let mut cells = rows.iter().filter_map(|row| row.get(at));
    at > 0 && cells.next().is_some_and(|head| !is_figure(head)) && rows.len() > 1 && cells.all(is_figure)
}

/// Columns of equal width; the first row is the head. Figures stand to the right.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns)
        .map(|at| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let right: Vec<bool> = (0..columns).map(|at| is_figures(rows, at)).collect();
    rows.iter().fold(String::new(), |mut text, row| {
        let cells: Vec<String> = (row.iter().zip(&widths).zip(&right))
            .map(|((cell, width), right)| if *right { format!("{cell:>width$}") } else { format!("{cell:width$}") })
            .collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_to_the_left_figures_to_the_right() {
        let text = table(&[
            row(["IMAGE", "SIZE", "KIND", ""]),
            row(["127.0.0.1:5000/a:v1", "900 B", "blob", "pinned"]),
            row(["docker.io/b:v1", "-", "blob", ""]),
        ]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            ["IMAGE                 SIZE  KIND", "127.0.0.1:5000/a:v1  900 B  blob  pinned", "docker.io/b:v1           -  blob"]
        );
        // Without a head there are no columns of figures.
        assert_eq!(table(&[row(["removed", "1.9 KiB"]), row(["evicted", "0"])]), "removed  1.9 KiB\nevicted  0\n");
        assert_eq!(table(&[row(["IMAGE", "SIZE"])]), "IMAGE  SIZE\n");
    }
}
