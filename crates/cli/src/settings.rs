//! `stoa env`: plain configuration.

use api::{AppEnv, PatchEnv};

use crate::args::{EnvCommand, OfApp, Patience};
use crate::failure::Failure;
use crate::follow;
use crate::output::{self, say};
use crate::project;
use crate::session::Session;

pub(crate) fn env(session: &Session, command: &EnvCommand) -> Result<u8, Failure> {
    match command {
        EnvCommand::Set {
            variables,
            of,
            patience,
        } => {
            let patch = PatchEnv {
                set: variables.iter().cloned().collect(),
                unset: Vec::new(),
            };
            change(session, &patch, of, patience)
        }
        EnvCommand::Unset { keys, of, patience } => {
            let patch = PatchEnv {
                unset: keys.clone(),
                ..PatchEnv::default()
            };
            change(session, &patch, of, patience)
        }
        EnvCommand::Ls(of) => {
            let answer = session.client.app_env(&session.place, &project::app(of)?)?;
            if session.json {
                output::json(&answer)?;
            } else {
                print(&answer)?;
            }
            Ok(0)
        }
    }
}

fn change(session: &Session, patch: &PatchEnv, of: &OfApp, patience: &Patience) -> Result<u8, Failure> {
    let answer = session
        .client
        .app_env_update(&session.place, &project::app(of)?, patch)?;
    follow_change(session, answer.operation.as_deref(), patience)?;
    if session.json {
        output::json(&answer)?;
    }
    Ok(0)
}

/// Follows the release that a change of configuration brought about, if it did.
pub(crate) fn follow_change(
    session: &Session,
    operation: Option<&str>,
    patience: &Patience,
) -> Result<(), Failure> {
    let Some(operation) = operation else {
        say("kept for the first release; next: stoa deploy");
        return Ok(());
    };
    let accepted = session.client.operation(operation)?;
    let operation = follow::follow(session, &accepted, patience)?;
    if let Some(outcome) = &operation.outcome {
        say(outcome);
    }
    Ok(())
}

fn print(answer: &AppEnv) -> Result<(), Failure> {
    if answer.env.is_empty() {
        say("nothing set by hand; stoa.toml may set more under [env]");
    }
    let lines: String = answer
        .env
        .iter()
        .map(|(key, value)| format!("{key}={value}\n"))
        .collect();
    output::data(&lines)
}
