//! Command lines without a shell: how one line becomes words, and how `$NAME` in a word gets its value.
//!
//! Lives here: quoting, what is refused because only a shell would understand it, and expansion.
//! Does not live here: which variables exist (`control`), starting anything (`runtime`).
//! Invariant: values are put into words that are split already, so a value can never become another word.
//!
//! A word is a template: `$NAME`, `${NAME}` and `${NAME:-default}` are replaced when the instance starts, `$$` is a
//! dollar sign. A word that is empty after that, but was not written empty, vanishes, as it would in a shell.

use crate::name::EnvKey;

/// Why a text is not a command we can run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Nothing to run.
    #[error("the command is empty: write the program and its arguments")]
    Empty,
    /// A quote without its partner.
    #[error("the {0} quote is never closed")]
    Unclosed(char),
    /// A backslash at the end.
    #[error("the command ends in a lone backslash")]
    Dangling,
    /// Something only a shell understands.
    #[error(
        "commands run without a shell, so {0:?} has no meaning here: quote it, or put the line into a script"
    )]
    Operator(String),
    /// `NAME=value program`.
    #[error("commands run without a shell: set {0} in [env] instead of before the program")]
    Assignment(String),
    /// `${...}` of a form we do not know.
    #[error(
        "{0:?} is not understood: write $NAME, ${{NAME}} or ${{NAME:-default}}, and $$ for a dollar sign"
    )]
    Substitution(String),
    /// A NUL byte can not be handed to a program.
    #[error("the command holds a NUL character")]
    Nul,
}

/// Splits a line into words, with the quoting of a shell but none of its operators.
///
/// # Errors
/// When the line is empty, a quote stays open, or it needs a shell.
pub fn split(line: &str) -> Result<Vec<String>, CommandError> {
    let mut words = Words::default();
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\'' => words.single_quoted(&mut letters)?,
            '"' => words.double_quoted(&mut letters)?,
            '\\' => words.literal(letters.next().ok_or(CommandError::Dangling)?),
            '|' | '&' | ';' | '<' | '>' | '`' => {
                let twice = letters.peek() == Some(&letter);
                let operator = if twice {
                    format!("{letter}{letter}")
                } else {
                    letter.to_string()
                };
                return Err(CommandError::Operator(operator));
            }
            space if space.is_whitespace() => words.end_word(),
            other => words.push(other),
        }
    }
    words.end_word();
    let mut words = words.done;
    // A shell line often begins with `exec` so that the shell goes away; here there is none.
    if words.len() > 1 && words[0] == "exec" {
        words.remove(0);
    }
    check(&words)?;
    let first = words[0].split_once('=').map(|(name, _)| name);
    if let Some(name) = first.filter(|name| name.parse::<EnvKey>().is_ok()) {
        return Err(CommandError::Assignment(name.to_owned()));
    }
    Ok(words)
}

/// Checks words that were given one by one.
///
/// # Errors
/// When there is no program, or a word holds a NUL or a substitution of unknown form.
pub fn check(words: &[String]) -> Result<(), CommandError> {
    if words.first().is_none_or(String::is_empty) {
        return Err(CommandError::Empty);
    }
    for word in words {
        if word.contains('\0') {
            return Err(CommandError::Nul);
        }
        pieces(word)?;
    }
    Ok(())
}

/// The words with every substitution made. `lookup` answers with the value of a variable.
#[must_use]
pub fn expand<'v>(words: &[String], lookup: impl Fn(&str) -> Option<&'v str>) -> Vec<String> {
    let expanded = |word: &String| {
        // Words were checked at the door; one that slipped by is left as it stands rather than lost.
        let Ok(pieces) = pieces(word) else {
            return Some(word.clone());
        };
        let mut text = String::new();
        for piece in pieces {
            match piece {
                Piece::Text(literal) => text.push_str(literal),
                Piece::Variable { name, default } => {
                    let value = lookup(name).filter(|value| !value.is_empty());
                    text.push_str(value.or(default).unwrap_or_default());
                }
            }
        }
        (!text.is_empty() || word.is_empty()).then_some(text)
    };
    words.iter().filter_map(expanded).collect()
}

#[derive(Default)]
struct Words {
    done: Vec<String>,
    current: Option<String>,
}

type Letters<'a> = std::iter::Peekable<std::str::Chars<'a>>;

impl Words {
    fn push(&mut self, letter: char) {
        self.current.get_or_insert_default().push(letter);
    }

    /// A dollar sign that was quoted stays one through the later expansion.
    fn literal(&mut self, letter: char) {
        self.push(letter);
        if letter == '$' {
            self.push('$');
        }
    }

    fn end_word(&mut self) {
        self.done.extend(self.current.take());
    }

    fn single_quoted(&mut self, letters: &mut Letters<'_>) -> Result<(), CommandError> {
        self.current.get_or_insert_default();
        loop {
            match letters.next().ok_or(CommandError::Unclosed('\''))? {
                '\'' => return Ok(()),
                other => self.literal(other),
            }
        }
    }

    fn double_quoted(&mut self, letters: &mut Letters<'_>) -> Result<(), CommandError> {
        self.current.get_or_insert_default();
        loop {
            match letters.next().ok_or(CommandError::Unclosed('"'))? {
                '"' => return Ok(()),
                '`' => return Err(CommandError::Operator("`".to_owned())),
                '\\' => match letters.next().ok_or(CommandError::Unclosed('"'))? {
                    escaped @ ('"' | '\\' | '$' | '`') => self.literal(escaped),
                    other => {
                        self.push('\\');
                        self.push(other);
                    }
                },
                other => self.push(other),
            }
        }
    }
}

enum Piece<'a> {
    Text(&'a str),
    Variable { name: &'a str, default: Option<&'a str> },
}

fn pieces(word: &str) -> Result<Vec<Piece<'_>>, CommandError> {
    let mut pieces = Vec::new();
    let mut rest = word;
    while let Some(dollar) = rest.find('$') {
        pieces.push(Piece::Text(&rest[..dollar]));
        let tail = &rest[dollar + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            pieces.push(Piece::Text("$"));
            rest = after;
        } else if let Some(inside) = tail.strip_prefix('{') {
            let (inside, after) = inside.split_once('}').ok_or_else(|| refuse(&rest[dollar..]))?;
            let (name, default) = inside
                .split_once(":-")
                .map_or((inside, None), |(name, default)| (name, Some(default)));
            if name.parse::<EnvKey>().is_err() || default.is_some_and(|text| text.contains('$')) {
                return Err(refuse(&rest[dollar..rest.len() - after.len()]));
            }
            pieces.push(Piece::Variable { name, default });
            rest = after;
        } else {
            let end = tail
                .find(|letter: char| letter != '_' && !letter.is_ascii_alphanumeric())
                .unwrap_or(tail.len());
            let name = &tail[..end];
            if name.parse::<EnvKey>().is_err() {
                return Err(refuse(&rest[dollar..]));
            }
            pieces.push(Piece::Variable { name, default: None });
            rest = &tail[end..];
        }
    }
    pieces.push(Piece::Text(rest));
    Ok(pieces)
}

fn refuse(text: &str) -> CommandError {
    CommandError::Substitution(text.chars().take(40).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        split(line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    #[test]
    fn lines_become_words() {
        for (line, expected) in [
            ("bin/shop serve", &["bin/shop", "serve"][..]),
            ("  a \t b\n", &["a", "b"]),
            ("a 'b c' \"d e\" f\\ g", &["a", "b c", "d e", "f g"]),
            ("a '' \"\"", &["a", "", ""]),
            ("a'b'\"c\"", &["abc"]),
            ("a \"\\\"x\\\" \\n\"", &["a", "\"x\" \\n"]),
            ("exec gunicorn app:app", &["gunicorn", "app:app"]),
            ("a 'x|y' \"p&q\" \\;", &["a", "x|y", "p&q", ";"]),
            ("a --allow=* x=1", &["a", "--allow=*", "x=1"]),
            ("a $PORT ${PORT} \"$PORT\"", &["a", "$PORT", "${PORT}", "$PORT"]),
            (
                "a '$PORT' \\$PORT \"\\$PORT\"",
                &["a", "$$PORT", "$$PORT", "$$PORT"],
            ),
        ] {
            assert_eq!(words(line), expected, "{line}");
        }
    }

    #[test]
    fn what_needs_a_shell_is_refused() {
        let operator = |text: &str| CommandError::Operator(text.to_owned());
        for (line, expected) in [
            ("", CommandError::Empty),
            ("   ", CommandError::Empty),
            ("''", CommandError::Empty),
            ("a 'b", CommandError::Unclosed('\'')),
            ("a \"b", CommandError::Unclosed('"')),
            ("a \\", CommandError::Dangling),
            ("a && b", operator("&&")),
            ("a | b", operator("|")),
            ("a; b", operator(";")),
            ("a > b", operator(">")),
            ("a `b`", operator("`")),
            ("a \"`b`\"", operator("`")),
            (
                "RAILS_ENV=x bin/rails",
                CommandError::Assignment("RAILS_ENV".to_owned()),
            ),
            ("a $(b)", CommandError::Substitution("$(b)".to_owned())),
            ("a ${B", CommandError::Substitution("${B".to_owned())),
            ("a ${B%x}/y", CommandError::Substitution("${B%x}".to_owned())),
            ("a $1", CommandError::Substitution("$1".to_owned())),
            ("a\0b", CommandError::Nul),
        ] {
            assert_eq!(split(line), Err(expected), "{line}");
        }
    }

    #[test]
    fn variables_get_their_values_and_never_split() {
        let lookup = |name: &str| match name {
            "PORT" => Some("8080"),
            "TWO" => Some("a b; rm -rf /"),
            "EMPTY" => Some(""),
            _ => None,
        };
        for (line, expected) in [
            ("s 0.0.0.0:$PORT", &["s", "0.0.0.0:8080"][..]),
            ("s ${PORT}x $PORT_", &["s", "8080x"]),
            ("s $TWO", &["s", "a b; rm -rf /"]),
            ("s ${N:-2} ${PORT:-1} ${EMPTY:-3}", &["s", "2", "8080", "3"]),
            ("s $NONE '' --x=$NONE", &["s", "", "--x="]),
            ("s '$PORT' a\\$b", &["s", "$PORT", "a$b"]),
        ] {
            assert_eq!(expand(&words(line), lookup), expected, "{line}");
        }
    }
}
