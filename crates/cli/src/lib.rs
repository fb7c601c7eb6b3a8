//! The commands of `stoa` and what people see of them.
//!
//! Lives here: arguments, output, exit codes, the deploy archive. Does not live here: how a call is made (`client`), and
//! what runs a server (`up`, `down`, `server`, `doctor`: only their arguments are here, so that there is one help).
//! Invariant: data goes to stdout, talk to stderr; no prompt without a terminal; every error says the next step.

mod apps;
mod archive;
mod args;
mod audit;
mod backups;
mod branches;
mod context;
mod contexts;
mod databases;
mod deploy;
mod device;
mod drills;
mod elsewhere;
mod events;
mod exec;
mod export;
mod failure;
mod follow;
mod host_args;
mod images;
mod init;
mod input;
mod keys;
mod logs;
mod looking;
mod man;
mod members;
mod metrics;
mod oidc;
mod output;
mod people;
mod people_args;
mod places;
mod pooler;
mod project;
mod release_args;
mod releases;
mod secrets;
mod session;
mod settings;
mod status;
mod stream;
mod terminal;
mod tunnel;
mod valkey;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, ValueEnum as _};

use args::Color;
pub use args::{
    BackupKeyCommand, BackupTargetCommand, Cli, Command, DoctorArgs, DownArgs, Globals, Remote,
    RotateKeyArgs, ServerCommand, UpArgs, UpgradeArgs,
};
pub use failure::{Code, Failure};
pub use output::data as print;

/// Reads the arguments. Prints help or a usage error and gives the exit code when there is nothing to do.
///
/// # Errors
/// The exit code, when help was asked for or the arguments make no sense.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, ExitCode> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // Help and usage errors are printed before there are arguments to ask, so this one is looked for by hand.
    let color = match color_of(&arguments) {
        Color::Auto => clap::ColorChoice::Auto,
        Color::Always => clap::ColorChoice::Always,
        Color::Never => clap::ColorChoice::Never,
    };
    let parsed = Cli::command()
        .color(color)
        .try_get_matches_from(&arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|error| {
        if is_json(&arguments) && error.use_stderr() {
            let failure = Failure::of_usage(&error);
            failure.report(true);
            return failure.exit_code();
        }
        // Printing fails only when nobody reads; there is nobody to tell either.
        let _ = error.print();
        if error.use_stderr() {
            Code::Usage.into()
        } else {
            ExitCode::SUCCESS
        }
    })
}

/// `--json`, before `--`: what comes after it belongs to somebody else's program.
fn is_json(arguments: &[OsString]) -> bool {
    let mut own = arguments.iter().take_while(|argument| *argument != "--");
    own.any(|argument| argument == "--json")
}

/// `--color WHEN` or `--color=WHEN`, before `--`. What is misspelt is told by the parser.
fn color_of(arguments: &[OsString]) -> Color {
    let words = arguments.iter().filter_map(|word| word.to_str());
    let mut words = words.take_while(|word| *word != "--");
    let mut color = Color::default();
    while let Some(word) = words.next() {
        let value = match word.strip_prefix("--color") {
            Some("") => words.next(),
            Some(rest) => rest.strip_prefix('='),
            None => None,
        };
        if let Some(value) = value.and_then(|value| Color::from_str(value, false).ok()) {
            color = value;
        }
    }
    color
}

/// Does a command that asks a server, and says how it went.
#[must_use]
pub fn run(globals: &Globals, command: &Remote) -> ExitCode {
    exit(globals, perform(globals, command))
}

/// Does `stoa server rotate-key`, as root on the host, and says how it went.
#[must_use]
pub fn rotate_key(globals: &Globals, args: &RotateKeyArgs) -> ExitCode {
    exit(globals, keys::rotate(globals, args))
}

/// Does `stoa server backup-target`, as root on the host, and says how it went.
#[must_use]
pub fn backup_target(globals: &Globals, command: &BackupTargetCommand) -> ExitCode {
    exit(globals, elsewhere::target(globals, command))
}

/// Does `stoa server backup-key`, as root on the host, and says how it went.
#[must_use]
pub fn backup_key(globals: &Globals, command: &BackupKeyCommand) -> ExitCode {
    exit(globals, elsewhere::key(globals, command))
}

fn exit(globals: &Globals, result: Result<u8, Failure>) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.report(globals.json);
            failure.exit_code()
        }
    }
}

/// The code is 0 but for programs run elsewhere, whose own exit code is ours.
fn perform(globals: &Globals, command: &Remote) -> Result<u8, Failure> {
    use session::Session;
    let open = || Session::open(globals);
    match command {
        Remote::Login(args) => match &args.command {
            Some(_) if args.says_how() => Err(device::stands_alone()),
            Some(command) => device::approve(&open()?, command),
            None => people::login(globals, args),
        },
        Remote::Logout => people::logout(globals),
        Remote::Whoami => people::whoami(&open()?),
        Remote::Members { command } => members::members(&open()?, command),
        Remote::Users { command } => members::users(&open()?, command),
        Remote::Providers { command } => oidc::providers(&open()?, command),
        Remote::Identities { command } => oidc::identities(&open()?, command),
        Remote::Sessions { command } => members::sessions(&open()?, command),
        Remote::Tokens { command } => people::tokens(&open()?, command),
        Remote::Audit { command } => audit::audit(&open()?, command),
        Remote::Status => status::status(&open()?),
        Remote::Init(args) => init::init(globals.json, args),
        Remote::Deploy(args) => deploy::deploy(&open()?, args),
        Remote::Export(args) => export::export(globals, args),
        Remote::Releases(args) => releases::list(&open()?, args),
        Remote::Rollback(args) => releases::rollback(&open()?, args),
        Remote::Open(args) => apps::open(&open()?, args),
        Remote::Apps { command } => apps::apps(&open()?, command),
        Remote::Ps(args) => apps::ps(&open()?, args),
        Remote::Scale(args) => apps::scale(&open()?, args),
        Remote::Restart(args) => apps::restart(&open()?, args),
        Remote::Exec(args) => exec::exec(&open()?, args),
        Remote::Run(args) => apps::run(&open()?, args),
        Remote::Logs(args) => logs::logs(&open()?, args),
        Remote::Events(args) => events::events(&open()?, args),
        Remote::Metrics(args) => metrics::metrics(&open()?, args),
        Remote::Env { command } => settings::env(&open()?, command),
        Remote::Secrets { command } => secrets::secrets(&open()?, command),
        Remote::Db { command } => databases::databases(&open()?, command),
        Remote::Image { command } => images::images(&open()?, command),
        Remote::Op { command } => follow::operations(&open()?, command),
        Remote::Orgs { command } => places::orgs(&open()?, command),
        Remote::Projects { command } => places::projects(&open()?, command),
        Remote::Environments { command } => places::environments(&open()?, command),
        Remote::Api(args) => status::api(&open()?, args),
        Remote::Context { command } => contexts::contexts(globals.json, command),
        Remote::Man(args) => man::man(globals.json, args),
        Remote::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "stoa", &mut script);
            let script = String::from_utf8_lossy(&script);
            if globals.json {
                let shell = shell.to_string();
                output::json(&serde_json::json!({"shell": shell, "script": script}))?;
            } else {
                output::data(&script)?;
            }
            Ok(0)
        }
    }
}

#[cfg(test)]
mod tests;
mod versions;
