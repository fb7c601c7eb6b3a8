//! `stoa exec` and `stoa db connect`: a program elsewhere with our terminal.

use std::io::{IsTerminal as _, Read as _};
use std::sync::mpsc;
use std::time::Duration;

use api::{Exec, Instance, TerminalSize};
use client::{Input, Output};

use crate::args::ExecArgs;
use crate::failure::{Code, Failure};
use crate::output;
use crate::project;
use crate::session::Session;
use crate::terminal::{self, Modes};

/// How often the terminal's size is looked at while a program runs.
const SIZE_GLANCE: Duration = Duration::from_millis(500);
/// 128 + SIGPIPE.
const PIPE_CLOSED: u8 = 141;

pub(crate) fn exec(session: &Session, args: &ExecArgs) -> Result<u8, Failure> {
    let app = project::app(&args.of)?;
    let instance = match &args.instance {
        Some(instance) => instance.clone(),
        None => choose(
            &session.client.instances(&session.place, &app)?,
            args.service.as_deref(),
        )?
        .id
        .clone(),
    };
    let request = request(&args.command, args.no_terminal || session.json);
    let started = session
        .client
        .instance_exec(&session.place, &app, &instance, &request)?;
    carry(started, request.terminal.is_some(), session.json)
}

pub(crate) fn psql(
    session: &Session,
    name: &str,
    arguments: &[String],
    no_terminal: bool,
) -> Result<u8, Failure> {
    let request = request(arguments, no_terminal || session.json);
    let started = session.client.database_exec(&session.place, name, &request)?;
    carry(started, request.terminal.is_some(), session.json)
}

/// The instance to enter: ready ones first.
fn choose<'i>(all: &'i [Instance], service: Option<&str>) -> Result<&'i Instance, Failure> {
    let fits = |i: &&Instance| i.purpose == "service" && service.is_none_or(|service| i.name == service);
    let by = |condition: &str| all.iter().filter(fits).find(|i| i.condition == condition);
    by("ready")
        .or_else(|| by("unready"))
        .or_else(|| by("starting"))
        .ok_or_else(|| {
            let what = service.map_or_else(
                || "no instance".to_owned(),
                |service| format!("no instance of {service}"),
            );
            Failure::new(Code::NotFound, format!("{what} runs"), "see what runs: stoa ps")
        })
}

fn request(command: &[String], no_terminal: bool) -> Exec {
    let wants = !no_terminal && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let terminal = wants
        .then(terminal::size)
        .flatten()
        .map(|(rows, columns)| TerminalSize { rows, columns });
    Exec {
        command: command.to_vec(),
        terminal,
    }
}

/// What the program says goes where it would, or each piece as an object with the exit code as the last one.
fn carry(session: client::Session<'_>, has_terminal: bool, as_json: bool) -> Result<u8, Failure> {
    let raw = has_terminal.then(Modes::raw);
    let (sender, receiver) = mpsc::channel();
    let keys = sender.clone();
    // Both threads end with the process: a blocking read of a terminal can not be called back.
    std::thread::spawn(move || read_input(&keys));
    if has_terminal {
        std::thread::spawn(move || watch_size(&sender));
    } else {
        drop(sender);
    }
    let mut cut = (Vec::new(), Vec::new());
    let result = session.carry(receiver, |output| match output {
        Output::Stdout(bytes) if as_json => write_piece("stdout", &mut cut.0, bytes),
        Output::Stderr(bytes) if as_json => write_piece("stderr", &mut cut.1, bytes),
        Output::Stdout(bytes) => write(&mut std::io::stdout(), bytes),
        Output::Stderr(bytes) => write(&mut std::io::stderr(), bytes),
    });
    drop(raw);
    match result {
        // Codes are 0 to 255 on every Unix.
        Ok(code) => {
            if as_json {
                // What never became a letter is told as far as text can.
                for (stream, rest) in [("stdout", cut.0), ("stderr", cut.1)] {
                    write_text(stream, &String::from_utf8_lossy(&rest))
                        .map_err(|cause| Failure::local("could not write", &cause))?;
                }
                output::json_line(&serde_json::json!({"exit_code": code}))?;
            }
            Ok(u8::try_from(code).unwrap_or(1))
        }
        // Whoever read us went away (`| head`): as quiet, and with the same code, as any program a broken pipe ends.
        Err(client::Error::Local { cause, .. }) if cause.kind() == std::io::ErrorKind::BrokenPipe => {
            Ok(PIPE_CLOSED)
        }
        Err(other) => Err(other.into()),
    }
}

/// One object for what came. A letter of several bytes may come in two pieces: its beginning waits in `cut`.
fn write_piece(stream: &str, cut: &mut Vec<u8>, bytes: &[u8]) -> std::io::Result<()> {
    cut.extend_from_slice(bytes);
    let text = whole_letters(cut);
    write_text(stream, &text)
}

fn write_text(stream: &str, text: &str) -> std::io::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let piece = serde_json::json!({"stream": stream, "text": text});
    write(&mut std::io::stdout(), format!("{piece}\n").as_bytes())
}

/// Takes all but the beginning of a last letter. What is no text at all is replaced, as everywhere.
fn whole_letters(bytes: &mut Vec<u8>) -> String {
    let last = bytes.utf8_chunks().last();
    let unfinished = last.map_or(&[][..], |chunk| chunk.invalid());
    // A letter has four bytes at most; what is wrong in itself will not become one by waiting.
    let waits = std::str::from_utf8(unfinished).is_err_and(|why| why.error_len().is_none());
    let end = bytes.len() - if waits { unfinished.len() } else { 0 };
    let rest = bytes.split_off(end);
    let text = String::from_utf8_lossy(bytes).into_owned();
    *bytes = rest;
    text
}

fn write(to: &mut impl std::io::Write, bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

fn read_input(sender: &mpsc::Sender<Input>) {
    let mut buffer = [0; 16 << 10];
    loop {
        let next = match std::io::stdin().read(&mut buffer) {
            Ok(0) => Input::End,
            Ok(count) => Input::Bytes(buffer[..count].to_vec()),
            Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => Input::End,
        };
        let is_end = matches!(next, Input::End);
        if sender.send(next).is_err() || is_end {
            return;
        }
    }
}

fn watch_size(sender: &mpsc::Sender<Input>) {
    let mut known = terminal::size();
    loop {
        std::thread::sleep(SIZE_GLANCE);
        let now = terminal::size();
        if now != known
            && let Some((rows, columns)) = now
            && sender.send(Input::Resize { rows, columns }).is_err()
        {
            return;
        }
        known = now;
    }
}

#[cfg(test)]
mod tests {
    use super::whole_letters;

    #[test]
    fn a_letter_that_comes_in_pieces_is_told_whole() {
        for (pieces, told, left) in [
            (
                &[&b"a\xe2"[..], b"\x82", b"\xac!"][..],
                &["a", "", "\u{20ac}!"][..],
                0,
            ),
            (&[b"ok"], &["ok"], 0),
            // No letter begins so, and waiting would not help.
            (&[b"\xff\xfe", b"x"], &["\u{fffd}\u{fffd}", "x"], 0),
            (&[b"\xf0\x9f", b"\x98"], &["", ""], 3),
            (&[b"\xe2\x82", b"a"], &["", "\u{fffd}a"], 0),
        ] {
            let mut cut = Vec::new();
            for (piece, text) in pieces.iter().zip(told) {
                cut.extend_from_slice(piece);
                assert_eq!(whole_letters(&mut cut), *text, "{pieces:?}");
            }
            assert_eq!(cut.len(), left, "{pieces:?}");
        }
    }
}
