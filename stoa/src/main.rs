//! Reads arguments, wires the rooms, holds no logic.
//!
//! One binary, several processes: `stoa up` is the warden and runs this same file again as `stoa __edge` and
//! `stoa __control`; every other command asks a server (`cli`).

mod about;
mod control_process;
mod doctor;
mod down;
mod edge_link;
mod edge_process;
mod logging;
mod places;
mod store_care;
mod takeover;
mod up;
mod upgrade;

use std::ffi::OsString;
use std::process::ExitCode;

use cli::{Command, ServerCommand};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next();
    let rest: Vec<OsString> = arguments.collect();
    let mut as_json = false;
    // The warden's children are not commands for people, so they are not in the help.
    let result = match rest.first().and_then(|word| word.to_str()) {
        Some("__edge") => without_core_files().and_then(|()| edge_process::run(&rest[1..])),
        Some("__control") => without_core_files().and_then(|()| control_process::run(&rest[1..])),
        Some("__about") => about::say(),
        Some("__check-store") => about::check_store(&rest[1..]),
        _ => {
            let parsed = match cli::parse(program.into_iter().chain(rest)) {
                Ok(parsed) => parsed,
                Err(code) => return code,
            };
            as_json = parsed.globals.json;
            match &parsed.command {
                Command::Up(args) => up::run(args, as_json),
                Command::Down(args) => down::run(args, parsed.globals.json),
                Command::Server {
                    command: ServerCommand::Upgrade(args),
                } => upgrade::run(args, parsed.globals.json),
                Command::Server {
                    command: ServerCommand::RotateKey(args),
                } => return cli::rotate_key(&parsed.globals, args),
                Command::Server {
                    command: ServerCommand::BackupTarget { command },
                } => return cli::backup_target(&parsed.globals, command),
                Command::Server {
                    command: ServerCommand::BackupKey { command },
                } => return cli::backup_key(&parsed.globals, command),
                Command::Doctor(args) => doctor::run(args, parsed.globals.json),
                Command::Remote(command) => return cli::run(&parsed.globals, command),
            }
        }
    };
    match result {
        Ok(code) => code,
        Err(failure) => {
            failure.report(as_json);
            ExitCode::from(failure.code)
        }
    }
}

/// Both hold keys in their memory, which must not reach the disk when they die.
fn without_core_files() -> Result<(), Failure> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none).map_err(|cause| {
        let message = format!("core files could not be turned off: {cause}");
        Failure::new(message, "check what limits the service manager sets: ulimit -c")
    })
}

/// Why a process of ours could not go on, with the next step.
struct Failure {
    message: String,
    next_step: String,
    code: u8,
}

impl Failure {
    fn new(message: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            next_step: next_step.into(),
            code: 1,
        }
    }

    /// A failure that a restart would only repeat.
    fn lasting(message: impl Into<String>, next_step: impl Into<String>) -> Self {
        let code = u8::try_from(warden::NO_RESTART).unwrap_or(1);
        Self {
            code,
            ..Self::new(message, next_step)
        }
    }

    fn report(&self, as_json: bool) {
        if as_json {
            let told = serde_json::json!({"title": "stoa", "detail": self.message, "code": "failed",
                "errors": [], "next_step": self.next_step});
            eprintln!("{told}");
        } else {
            eprintln!("error: {}\nnext:  {}", self.message, self.next_step);
        }
    }
}

/// Puts data on standard output.
fn print(text: &str) -> Result<(), Failure> {
    cli::print(text).map_err(|failure| Failure::new(failure.message, failure.next))
}

/// An error with its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
