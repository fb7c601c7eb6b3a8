//! `.env`: `KEY=VALUE` lines into `[env]` and names of secrets.

use model::Name;
use model::manifest::Manifest;

use crate::draft::{Draft, Kept, bare_service};
use crate::remark::{At, Report, Unreadable};

/// A file beyond this is not one that somebody wrote.
const TEXT_MAX: usize = 256 << 10;

/// A line that sets something.
pub(crate) struct Line {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) at: At,
}

pub(crate) fn import(text: &str, app: &Name, report: &Report) -> Result<Option<Manifest>, Unreadable> {
    let mut draft = Draft::new(app.clone(), report);
    let mut secrets = std::collections::BTreeSet::new();
    for line in lines(text)? {
        if line.value.contains('$') && !line.value.contains("$$") {
            let message = "nothing is replaced in values here: it stays as it is";
            report.changed(line.at, &line.key, message);
        }
        match draft.variable(line.at, &line.key, &line.key, Some(&line.value)) {
            Kept::Secret(key) => {
                secrets.insert(key);
            }
            Kept::Plain | Kept::Not => {}
        }
    }
    if !secrets.is_empty()
        && let Ok(web) = "web".parse::<Name>()
    {
        let mut service = bare_service();
        service.secrets = secrets;
        draft.manifest.services.insert(web, service);
    }
    Ok(draft.finish())
}

/// The lines that set something. `export` before the key, quotes around the value and comments behind it are allowed.
pub(crate) fn lines(text: &str) -> Result<Vec<Line>, Unreadable> {
    if text.len() > TEXT_MAX {
        let message = format!("is longer than {} KiB", TEXT_MAX >> 10);
        return Err(Unreadable::new(At::new(1, 1), message));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = Vec::new();
    let mut rest = text;
    let mut number = 1;
    while !rest.is_empty() {
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let at = At::new(number, 1);
        number += 1;
        let bare = line.trim();
        if bare.is_empty() || bare.starts_with('#') {
            rest = after;
            continue;
        }
        let bare = bare.strip_prefix("export ").map_or(bare, str::trim_start);
        let Some((key, value)) = bare.split_once('=') else {
            let shown: String = bare.chars().take(40).collect();
            return Err(Unreadable::new(at, format!("{shown:?} is not KEY=VALUE")));
        };
        let value = value.trim_start();
        let quote = value.chars().next().filter(|first| matches!(first, '"' | '\''));
        let value = match quote {
            // A quoted value may go on over lines: it begins in this line, so look in all that is left.
            Some(quote) => {
                let begin = line.len() - value.len() - (line.len() - line.trim_end().len());
                let inside = &rest[begin + 1..];
                let (value, used) = quoted(inside, quote)
                    .ok_or_else(|| Unreadable::new(at, format!("the {quote} quote is never closed")))?;
                let end = begin + 1 + used;
                number += rest[..end].matches('\n').count();
                rest = rest[end..].split_once('\n').map_or("", |(_, after)| after);
                value
            }
            None => {
                rest = after;
                let comment = value
                    .match_indices('#')
                    .map(|(index, _)| index)
                    .find(|index| *index == 0 || value[..*index].ends_with([' ', '\t']));
                value[..comment.unwrap_or(value.len())].trim_end().to_owned()
            }
        };
        lines.push(Line {
            key: key.trim().to_owned(),
            value,
            at,
        });
    }
    Ok(lines)
}

/// The value up to the closing quote, and how many bytes it took with it.
fn quoted(text: &str, quote: char) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        if letter == quote {
            return Some((value, at + 1));
        }
        if letter == '\\' && quote == '"' {
            match letters.next()?.1 {
                'n' => value.push('\n'),
                't' => value.push('\t'),
                'r' => value.push('\r'),
                other => value.push(other),
            }
        } else {
            value.push(letter);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_everybody_writes_them() {
        let text = "# c\nexport A=1\nB = \"two \\\"words\\\"\\n\" # c\nC='$x # y'\nD=plain # c\nE=#none\nF=a#b\n\nG=\"1\n2\"\nH=\n";
        let read = lines(text).expect("good");
        let read: Vec<String> = read
            .iter()
            .map(|line| format!("{} {}={:?}", line.at.line, line.key, line.value))
            .collect();
        assert_eq!(
            read,
            [
                "2 A=\"1\"",
                "3 B=\"two \\\"words\\\"\\n\"",
                "4 C=\"$x # y\"",
                "5 D=\"plain\"",
                "6 E=\"\"",
                "7 F=\"a#b\"",
                "9 G=\"1\\n2\"",
                "11 H=\"\"",
            ]
        );
        assert!(lines("A").is_err() && lines("A=\"x").is_err());
    }
}
