//! The terminal: asking, hiding what is typed, raw mode, its size, and Ctrl-C.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::failure::{Code, Failure};

/// Whether somebody sits there.
pub(crate) fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Makes sure that a destructive step is meant: by flag, or by typing the name at a terminal.
pub(crate) fn confirm(what: &str, name: &str, given: Option<&str>) -> Result<(), Failure> {
    confirm_that(&format!("this ends {what} {name}"), name, given)
}

/// The same for what does something else to it.
pub(crate) fn confirm_that(effect: &str, name: &str, given: Option<&str>) -> Result<(), Failure> {
    let refuse =
        |message: String| Failure::new(Code::Usage, message, format!("repeat the name: --confirm {name}"));
    let answer = match given {
        Some(given) => given.to_owned(),
        None if is_interactive() => ask(&format!("{}. Type {name} to go on: ", sentence(effect)))?,
        None => return Err(refuse(format!("{effect}; it must be confirmed"))),
    };
    if answer == name {
        Ok(())
    } else {
        Err(refuse(format!("{answer:?} is not {name:?}; nothing was done")))
    }
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

/// Asks whether to go on.
pub(crate) fn agree(question: &str, flag: &str) -> Result<(), Failure> {
    if !is_interactive() {
        return Err(Failure::new(Code::Usage, "this must be confirmed", flag));
    }
    match ask(&format!("{question} [y/N] "))?.to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _other => Err(Failure::new(Code::Usage, "nothing was done", flag)),
    }
}

fn ask(question: &str) -> Result<String, Failure> {
    eprint!("{question}");
    // A question that can not be shown is answered wrongly at worst, which does nothing.
    let _ = std::io::stderr().flush();
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    read.map_err(|cause| Failure::local("could not read the answer", &cause))?;
    Ok(line.trim().to_owned())
}

/// Whether what is read is typed: then nobody may see it, wherever our own words go.
pub(crate) fn is_typed() -> bool {
    std::io::stdin().is_terminal()
}

/// Asks without showing what is typed.
pub(crate) fn ask_hidden(question: &str) -> Result<String, Failure> {
    let hidden = Modes::change(|modes| modes.local_modes.remove(LocalModes::ECHO));
    let answer = ask(question);
    drop(hidden);
    eprintln!();
    answer
}

/// Changed terminal modes; the former ones return when it is dropped.
pub(crate) struct Modes(Option<Termios>);

impl Modes {
    fn change(change: impl FnOnce(&mut Termios)) -> Self {
        let stdin = std::io::stdin();
        let Ok(before) = tcgetattr(&stdin) else {
            return Self(None);
        };
        let mut modes = before.clone();
        change(&mut modes);
        match tcsetattr(&stdin, OptionalActions::Flush, &modes) {
            Ok(()) => Self(Some(before)),
            Err(_) => Self(None),
        }
    }

    /// Every key goes to the program at the other end, Ctrl-C included.
    pub(crate) fn raw() -> Self {
        Self::change(Termios::make_raw)
    }
}

impl Drop for Modes {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // Nothing can be done about a terminal that is gone.
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, before);
        }
    }
}

/// Rows and columns.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C only marks that it was pressed; a second one ends us at once.
pub(crate) fn catch_interrupt() {
    std::thread::spawn(|| {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
            return;
        };
        runtime.block_on(async {
            while tokio::signal::ctrl_c().await.is_ok() {
                if INTERRUPTED.swap(true, Ordering::SeqCst) {
                    std::process::exit(i32::from(Code::Interrupted as u8));
                }
            }
        });
    });
}

/// Whether Ctrl-C was pressed.
pub(crate) fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}
