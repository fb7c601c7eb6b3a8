//! Tables, JSON, and words for times and sizes.

use std::io::Write as _;

use model::{Bytes, Timestamp};
use serde::Serialize;

use crate::failure::Failure;

/// Prints data. A reader that went away (`| head`) is no failure.
///
/// # Errors
/// When it could not be written.
pub fn data(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(gone) if gone.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(cause) => Err(Failure::local("could not write to standard output", &cause)),
    }
}

/// Prints objects of the API as they are.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    data(&text)
}

/// Prints one object of a stream on a line of its own.
pub(crate) fn json_line(value: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string(value).unwrap_or_default();
    text.push('\n');
    data(&text)
}

/// Talks to the person at the terminal.
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}

/// Columns as wide as their widest cell.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let width = |column: usize| {
        std::iter::once(&head)
            .chain(rows)
            .map(|row| row.get(column).map_or(0, |cell| cell.chars().count()))
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for row in std::iter::once(&head).chain(rows) {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Values of the API as words.
pub(crate) fn words(all: &[impl Serialize]) -> String {
    let words = all.iter().filter_map(|one| serde_json::to_value(one).ok());
    let words: Vec<String> = words
        .filter_map(|word| word.as_str().map(str::to_owned))
        .collect();
    words.join(", ")
}

/// "3m ago".
pub(crate) fn ago(at: Timestamp) -> String {
    ago_from(at, Timestamp::now())
}

fn ago_from(at: Timestamp, now: Timestamp) -> String {
    let s = now.since(at).as_ms() / 1000;
    match s {
        0..=59 => format!("{s}s ago"),
        60..=3599 => format!("{}m ago", s / 60),
        3600..=86_399 => format!("{}h ago", s / 3600),
        _ => format!("{}d ago", s / 86_400),
    }
}

/// "12.5 MiB".
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let exact = Bytes::new(bytes).to_string();
    if exact.len() <= 6 && exact.ends_with('i') {
        return exact
            .replace("Ki", " KiB")
            .replace("Mi", " MiB")
            .replace("Gi", " GiB")
            .replace("Ti", " TiB");
    }
    #[allow(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

/// A dash for what is absent.
pub(crate) fn or_dash(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["web".to_owned(), "ready".to_owned()],
            vec!["worker".to_owned(), "-".to_owned()],
        ];
        assert_eq!(
            table(&["NAME", "STATE"], &rows),
            "NAME    STATE\nweb     ready\nworker  -\n"
        );
    }

    #[test]
    fn sizes_and_times_are_short() {
        for (bytes, text) in [
            (5, "5 B"),
            (1024, "1 KiB"),
            (10 << 30, "10 GiB"),
            (1_500_000, "1.4 MiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        let now = Timestamp::from_ms(10_000_000_000);
        for (ms, text) in [
            (9_999_999_000, "1s ago"),
            (9_999_000_000, "16m ago"),
            (0, "115d ago"),
        ] {
            assert_eq!(ago_from(Timestamp::from_ms(ms), now), text);
        }
    }
}
