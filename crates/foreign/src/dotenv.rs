//! `.env`: `KEY=VALUE` lines into `[env]` and names of secrets.

use std::collections::BTreeSet;

use model::Name;
use model::manifest::Manifest;

use crate::draft::{Draft, Kept};
use crate::remark::{At, Report, Unreadable};

/// A file beyond this is not one that somebody wrote.
const TEXT_MAX: usize = 256 << 10;

/// A line of a `.env` file that sets something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What stands before `=`; nothing is said about its letters.
    pub key: String,
    /// The value without quotes and their escapes. What it names is not replaced.
    pub value: String,
    /// Where the line begins.
    pub at: At,
    /// The value as compose replaces in it, when there is a dollar sign that is not quoted.
    pub(crate) template: Option<String>,
}

impl Line {
    /// Whether others replace something in the value.
    #[must_use]
    pub fn is_replaced_elsewhere(&self) -> bool {
        self.template.is_some()
    }
}

pub(crate) fn import(
    text: &str,
    app: &Name,
    procfile: Option<&str>,
    report: &Report,
) -> Result<Option<Manifest>, Unreadable> {
    let mut draft = Draft::new(app.clone(), report);
    let mut secrets = BTreeSet::new();
    let lines = lines(text)?;
    for (index, line) in lines.iter().enumerate() {
        let later = lines[index + 1..].iter().find(|later| later.key == line.key);
        if let Some(later) = later {
            let message = format!(
                "is there again in line {}, and the last one counts",
                later.at.line
            );
            report.changed(line.at, &line.key, message);
            continue;
        }
        if line.is_replaced_elsewhere() {
            let message = "holds a $: nothing is replaced in values here, so it stays as it is";
            report.changed(line.at, &line.key, message);
        }
        match draft.variable(line.at, &line.key, &line.key, Some(&line.value)) {
            Kept::Secret(key) => {
                secrets.insert(key);
            }
            Kept::Plain | Kept::Not => {}
        }
    }
    if !secrets.is_empty() {
        // A service must list a secret to get it, and a file with services is the whole truth about what runs.
        draft.run_processes(procfile);
        for service in draft.manifest.services.values_mut() {
            service.secrets.clone_from(&secrets);
        }
        for job in draft.manifest.jobs.values_mut() {
            job.secrets.clone_from(&secrets);
        }
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
            // What stands there is not shown: it may be the second line of a key.
            return Err(Unreadable::new(at, "this is not KEY=VALUE"));
        };
        let value = value.trim_start();
        let quote = value.chars().next().filter(|first| matches!(first, '"' | '\''));
        let (value, template) = match quote {
            // A quoted value may go on over lines: it begins in this line, so look in all that is left.
            Some(quote) => {
                let begin = line.len() - value.len() - (line.len() - line.trim_end().len());
                let inside = &rest[begin + 1..];
                let quoted = quoted(inside, quote)
                    .ok_or_else(|| Unreadable::new(at, format!("the {quote} quote is never closed")))?;
                let end = begin + 1 + quoted.bytes;
                number += rest[..end].matches('\n').count();
                let (behind, after) = rest[end..].split_once('\n').unwrap_or((&rest[end..], ""));
                let behind = behind.trim();
                if !behind.is_empty() && !behind.starts_with('#') {
                    return Err(Unreadable::new(
                        at,
                        format!("something stands behind the closing {quote} quote"),
                    ));
                }
                rest = after;
                (quoted.value, quoted.template)
            }
            None => {
                rest = after;
                let comment = value
                    .match_indices('#')
                    .map(|(index, _)| index)
                    .find(|index| *index == 0 || value[..*index].ends_with([' ', '\t']));
                let value = value[..comment.unwrap_or(value.len())].trim_end().to_owned();
                let template = value.contains('$').then(|| value.clone());
                (value, template)
            }
        };
        lines.push(Line {
            key: key.trim().to_owned(),
            value,
            at,
            template,
        });
    }
    Ok(lines)
}

struct Quoted {
    value: String,
    template: Option<String>,
    /// What it took of the text, the closing quote included.
    bytes: usize,
}

/// The value up to the closing quote. In single quotes everything is literal, in double ones what a backslash quotes.
fn quoted(text: &str, quote: char) -> Option<Quoted> {
    let (mut value, mut template) = (String::new(), String::new());
    let mut is_replaced = false;
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        if letter == quote {
            return Some(Quoted {
                value,
                template: is_replaced.then_some(template),
                bytes: at + 1,
            });
        }
        let letter = match letter {
            '\\' if quote == '"' => match letters.next()?.1 {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                '$' => {
                    template.push('$');
                    '$'
                }
                other => other,
            },
            '$' if quote == '"' => {
                is_replaced = true;
                '$'
            }
            other => other,
        };
        value.push(letter);
        template.push(letter);
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

    #[test]
    fn what_stands_behind_a_quote_is_not_passed_over() {
        assert!(lines("A=\"x\" y").is_err() && lines("A='x'y").is_err());
        assert!(lines("A=\"x\" # y").is_ok() && lines("A='x'  ").is_ok());
        let why = lines("hunter2").expect_err("no key");
        assert!(!why.to_string().contains("hunter2"));
    }

    #[test]
    fn compose_replaces_in_values_that_are_not_quoted() {
        let text =
            "A=1\nB=${A}-$A\nC='$A'\nD=\"$A \\$A\"\nE=5$$\nF=$NONE\nA=2\nG=$A\nH=$F\nI=a$\nJ=${N:-x}\n";
        let all = crate::variables(text).expect("good");
        let told: Vec<String> = all.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(
            told,
            ["A=2", "B=1-1", "C=$A", "D=1 $A", "E=5$", "G=2", "I=a$", "J=x"]
        );
    }

    #[test]
    fn an_import_tells_of_dollars_and_doubles() {
        let text = "A=$X\nB='$X'\nC=5$$\nD=\"\\$X\"\nE=1\nE=2\n";
        let app = "shop".parse().expect("a name");
        let imported = crate::import(crate::Form::Dotenv, text, &app, &crate::Beside::default());
        let imported = imported.expect("good");
        let told: Vec<String> = imported.remarks.iter().map(ToString::to_string).collect();
        let dollar = "holds a $: nothing is replaced in values here, so it stays as it is";
        assert_eq!(
            told,
            [
                format!("1:1: changed: A: {dollar}"),
                format!("3:1: changed: C: {dollar}"),
                "5:1: changed: E: is there again in line 6, and the last one counts".to_owned(),
            ]
        );
        let values: Vec<&str> = imported.manifest.env.values().map(String::as_str).collect();
        assert_eq!(values, ["$X", "$X", "5$$", "$X", "2"]);
    }

    #[test]
    fn processes_of_the_procfile_go_on_running() {
        let beside = crate::Beside {
            procfile: Some("web: bin/web\nworker: bin/work\nrelease: bin/up\n".to_owned()),
            ..crate::Beside::default()
        };
        let app = "shop".parse().expect("a name");
        let run = |form, text| {
            let imported = crate::import(form, text, &app, &beside).expect("good");
            let secrets = imported
                .manifest
                .services
                .values()
                .map(|service| service.secrets.len());
            let jobs = imported.manifest.jobs.values().map(|job| job.secrets.len());
            (imported.would_run(), secrets.chain(jobs).collect::<Vec<_>>())
        };
        let all = [
            "job release, before traffic: bin/up",
            "service web, 1 x: bin/web, port 8080, answers at APP.DOMAIN/",
            "service worker, 1 x: bin/work",
        ];
        let expected = (all.map(str::to_owned).to_vec(), vec![1, 1, 1]);
        assert_eq!(run(crate::Form::Dotenv, "API_KEY=x\n"), expected);
        let secret = "{\"env\": {\"API_KEY\": {\"generator\": \"secret\"}}}";
        assert_eq!(run(crate::Form::AppJson, secret), expected);
        let some = "{\"env\": {\"API_KEY\": \"x\"}, \"formation\": {\"web\": {\"quantity\": 1}}}";
        assert_eq!(run(crate::Form::AppJson, some), expected);
        // Without a secret nothing needs to be declared, and the source itself says what runs.
        assert!(run(crate::Form::Dotenv, "A=1\n").0.is_empty());
    }
}
