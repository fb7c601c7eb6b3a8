//! `stoa secrets`: values come from standard input or a hidden prompt, never from the command line.

use std::collections::BTreeMap;

use api::{PatchSecrets, PutSecret};

use crate::args::SecretsCommand;
use crate::failure::{Code, Failure};
use crate::input;
use crate::output::{self, say};
use crate::project;
use crate::session::Session;
use crate::settings::follow_change;
use crate::terminal;

/// What is read, for who cannot be read.
const VALUES: &str = "the values";

pub(crate) fn secrets(session: &Session, command: &SecretsCommand) -> Result<u8, Failure> {
    match command {
        SecretsCommand::Set { key, of, patience } => {
            let app = project::app(of)?;
            let value = value(key)?;
            let change = session
                .client
                .secret_put(&session.place, &app, key, &PutSecret { value })?;
            follow_change(session, change.operation.as_deref(), patience)?;
            print(session, &change)?;
        }
        SecretsCommand::Unset { key, of, patience } => {
            let app = project::app(of)?;
            let change = session.client.secret_delete(&session.place, &app, key)?;
            follow_change(session, change.operation.as_deref(), patience)?;
            print(session, &change)?;
        }
        SecretsCommand::Ls(of) => {
            let secrets = session.client.secrets(&session.place, &project::app(of)?)?;
            if session.json {
                output::json(&secrets)?;
            } else if secrets.is_empty() {
                say("no secrets; set one: stoa secrets set KEY");
            } else {
                let rows: Vec<Vec<String>> = secrets
                    .iter()
                    .map(|s| vec![s.key.clone(), s.version.to_string(), output::ago(s.updated_at)])
                    .collect();
                output::data(&output::table(&["SECRET", "VERSION", "SET"], &rows))?;
            }
        }
        SecretsCommand::Import { file, of, patience } => {
            let app = project::app(of)?;
            let pairs = parse(&input::text(file.as_deref(), VALUES)?)?;
            let body = PatchSecrets {
                set: pairs,
                unset: Vec::new(),
            };
            let change = session.client.secret_update(&session.place, &app, &body)?;
            say(&format!("set {} secrets", change.keys.len()));
            follow_change(session, change.operation.as_deref(), patience)?;
            print(session, &change)?;
        }
    }
    Ok(0)
}

fn print(session: &Session, change: &impl serde::Serialize) -> Result<(), Failure> {
    if session.json {
        output::json(change)
    } else {
        Ok(())
    }
}

fn value(key: &str) -> Result<String, Failure> {
    if terminal::is_typed() {
        return terminal::ask_hidden(&format!("Value of {key} (not shown): "));
    }
    let text = input::text(None, VALUES)?;
    // `echo value | stoa secrets set KEY` ends with a line end that nobody means.
    Ok(text
        .strip_suffix('\n')
        .map(|t| t.strip_suffix('\r').unwrap_or(t))
        .unwrap_or(&text)
        .to_owned())
}

/// The lines of a `.env` file. No line is half understood, and no value is changed: a dollar sign stays one.
fn parse(text: &str) -> Result<BTreeMap<String, String>, Failure> {
    let wrong = |line: u32, what: &str| {
        Failure::new(
            Code::Failed,
            format!("line {line}: {what}"),
            "write lines KEY=VALUE; nothing was set",
        )
    };
    let mut pairs: BTreeMap<String, (String, u32)> = BTreeMap::new();
    let mut literal = Vec::new();
    for line in foreign::lines(text).map_err(|why| wrong(why.at.line, &why.message))? {
        let number = line.at.line;
        if line.key.parse::<model::EnvKey>().is_err() {
            return Err(wrong(number, "what stands before = is no variable name"));
        }
        if let Some((_, first)) = pairs.get(&line.key) {
            return Err(wrong(
                number,
                &format!("{} is set in line {first} already", line.key),
            ));
        }
        if line.is_replaced_elsewhere() {
            literal.push(line.key.clone());
        }
        pairs.insert(line.key, (line.value, number));
    }
    if pairs.is_empty() {
        return Err(Failure::new(
            Code::Failed,
            "there is nothing to set",
            "write lines KEY=VALUE",
        ));
    }
    if !literal.is_empty() {
        say(&format!(
            "nothing is replaced in values: the $ in {} stays as it is",
            literal.join(", ")
        ));
    }
    Ok(pairs.into_iter().map(|(key, (value, _))| (key, value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dotenv_files_are_read() {
        let text = "# comment\n\nA=1\nexport B = two words \nC=\"a\\nb \\\"c\\\"\"\nD='x#y'\nE=\nF=\"1\n2\"\nG=$X$$ # c\n";
        let pairs = parse(text).expect("pairs");
        let expected = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "a\nb \"c\""),
            ("D", "x#y"),
            ("E", ""),
            ("F", "1\n2"),
            ("G", "$X$$"),
        ];
        assert_eq!(pairs, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    }

    #[test]
    fn rubbish_is_refused_by_line() {
        for (text, line) in [
            ("A=1\nnonsense", "line 2"),
            ("1A=x", "line 1"),
            ("A=\"open", "line 1"),
            ("A=1\nB=2\nA=3", "line 3: A is set in line 1 already"),
            ("A='x' y", "line 1"),
            ("", "nothing"),
        ] {
            assert!(
                parse(text).is_err_and(|failure| failure.message.contains(line)),
                "{text}"
            );
        }
    }
}
