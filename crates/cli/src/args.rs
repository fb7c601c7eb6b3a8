//! What can be typed.
//!
//! Invariant: no secret is an argument (`login --claim` and `--invitation` excepted: they work once); every prompt has a flag.

mod app;
mod config;
mod db;
mod image;
mod local;
mod places;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use model::Millis;

pub use app::{
    AppsCommand, EventsArgs, ExecArgs, ExportArgs, InitArgs, LinesArgs, LogsArgs, RunArgs, ScaleArgs,
};
pub use config::{EnvCommand, SecretsCommand};
pub use db::{BranchArguments, BranchFrom, Choice, DbCommand, Engine, UpdateArguments, UpgradeArguments};
pub use image::{BaseCommand, ImageCommand};
pub use local::{Color, ContextCommand, ManArgs};
pub use places::{EnvironmentsCommand, OrgsCommand, ProjectsCommand};

pub use crate::host_args::{
    BackupKeyCommand, BackupTargetCommand, Command, DoctorArgs, DownArgs, RotateKeyArgs, ServerCommand,
    UpArgs, UpgradeArgs,
};
pub use crate::people_args::{
    AuditCommand, IdentitiesCommand, LoginArgs, LoginCommand, MembersCommand, ProvidersCommand,
    SessionsCommand, TokensCommand, UsersCommand,
};
pub use crate::release_args::{DeployArgs, MoveArgs, RollbackArgs};

/// Your own cloud in one binary.
///
/// Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 sign in, 5 not allowed, 6 conflict,
/// 7 release rejected, 8 still running, 130 interrupted.
#[derive(Debug, Parser)]
#[command(
    name = "stoa",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// Which server, which place, which form.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Arguments that every command takes.
#[derive(Debug, Clone, Default, Args)]
pub struct Globals {
    /// The server: http://HOST:PORT, https://HOST or unix:/PATH.
    #[arg(
        long,
        global = true,
        env = "STOA_API",
        hide_env_values = true,
        value_name = "URL",
        help_heading = "Global options"
    )]
    pub api: Option<String>,
    /// The context to use, as made by `stoa login`.
    #[arg(
        long,
        global = true,
        env = "STOA_CONTEXT",
        hide_env_values = true,
        value_name = "NAME",
        help_heading = "Global options"
    )]
    pub context: Option<String>,
    /// Certificates to trust when the server speaks https.
    #[arg(
        long,
        global = true,
        env = "STOA_CA_FILE",
        hide_env_values = true,
        value_name = "FILE",
        help_heading = "Global options"
    )]
    pub ca_file: Option<PathBuf>,
    /// The org.
    #[arg(
        long,
        global = true,
        env = "STOA_ORG",
        hide_env_values = true,
        value_name = "NAME",
        help_heading = "Global options"
    )]
    pub org: Option<String>,
    /// The project.
    #[arg(
        long,
        global = true,
        env = "STOA_PROJECT",
        hide_env_values = true,
        value_name = "NAME",
        help_heading = "Global options"
    )]
    pub project: Option<String>,
    /// The environment.
    #[arg(
        long = "env",
        global = true,
        env = "STOA_ENV",
        hide_env_values = true,
        value_name = "NAME",
        help_heading = "Global options"
    )]
    pub environment: Option<String>,
    /// Print the API's own objects as JSON.
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// When to colour help and errors. NO_COLOR and TERM=dumb are obeyed.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "WHEN",
        help_heading = "Global options"
    )]
    pub color: Color,
}

/// Commands that ask a server.
#[derive(Debug, Clone, Subcommand)]
pub enum Remote {
    /// Sign in and remember it as a context.
    Login(LoginArgs),
    /// Forget the context.
    Logout,
    /// Servers you know: contexts, as made by `stoa login`.
    Context {
        /// What to do.
        #[command(subcommand)]
        command: ContextCommand,
    },
    /// Say who you are to the server.
    Whoami,
    /// Show the server, its apps and databases on one page.
    Status,
    /// Write a stoa.toml for a directory.
    Init(InitArgs),
    /// Make a release of a directory or an image and move the app to it.
    Deploy(DeployArgs),
    /// Print what stoa.toml says in another form: compose.yaml or Kubernetes objects.
    Export(ExportArgs),
    /// List the releases of an app.
    Releases(OfApp),
    /// Move an app back to a release that has served.
    Rollback(RollbackArgs),
    /// Print the address of an app, and open it where there is a desktop.
    Open(OfApp),
    /// List, make and remove apps.
    Apps {
        /// What to do.
        #[command(subcommand)]
        command: AppsCommand,
    },
    /// List the instances of an app, or of all apps.
    Ps(OfApp),
    /// Set how many instances run: stoa scale web=3.
    Scale(ScaleArgs),
    /// Replace all instances of an app by fresh ones, without a gap.
    Restart(MoveArgs),
    /// Run a program inside a running instance.
    Exec(ExecArgs),
    /// Run one command in an instance of its own.
    Run(RunArgs),
    /// Show the logs of an app, of all its releases.
    Logs(LogsArgs),
    /// Show what changed: apps, releases, instances, databases, operations.
    Events(EventsArgs),
    /// Show how many requests an app had, by release, and what its instances use.
    Metrics(OfApp),
    /// Plain configuration of an app.
    Env {
        /// What to do.
        #[command(subcommand)]
        command: EnvCommand,
    },
    /// Secrets of an app: sealed, never shown.
    Secrets {
        /// What to do.
        #[command(subcommand)]
        command: SecretsCommand,
    },
    /// Managed PostgreSQL databases.
    Db {
        /// What to do.
        #[command(subcommand)]
        command: DbCommand,
    },
    /// Images in the store.
    Image {
        /// What to do.
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Operations: what takes time.
    Op {
        /// What to do.
        #[command(subcommand)]
        command: OpCommand,
    },
    /// Orgs: who owns projects.
    Orgs {
        /// What to do.
        #[command(subcommand)]
        command: OrgsCommand,
    },
    /// Projects of an org.
    Projects {
        /// What to do.
        #[command(subcommand)]
        command: ProjectsCommand,
    },
    /// Environments of a project.
    Environments {
        /// What to do.
        #[command(subcommand)]
        command: EnvironmentsCommand,
    },
    /// Who is in an org or a project, and invitations to it.
    Members {
        /// What to do.
        #[command(subcommand)]
        command: MembersCommand,
    },
    /// Users of the whole installation.
    Users {
        /// What to do.
        #[command(subcommand)]
        command: UsersCommand,
    },
    /// Where users may sign in instead of with a password here (OpenID Connect).
    Providers {
        /// What to do.
        #[command(subcommand)]
        command: ProvidersCommand,
    },
    /// Your accounts at identity providers that sign you in here.
    Identities {
        /// What to do.
        #[command(subcommand)]
        command: IdentitiesCommand,
    },
    /// Where you are signed in with a browser.
    Sessions {
        /// What to do.
        #[command(subcommand)]
        command: SessionsCommand,
    },
    /// Access tokens.
    Tokens {
        /// What to do.
        #[command(subcommand)]
        command: TokensCommand,
    },
    /// Who asked for what, and what came of it.
    Audit {
        /// What to do.
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// Send any request to the API: stoa api GET /v1/server.
    Api(ApiArgs),
    /// Print the man page of a command, or write all of them: stoa man --dir /usr/local/share/man/man1.
    Man(ManArgs),
    /// Print a completion script: stoa completion bash > /etc/bash_completion.d/stoa.
    Completion {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// Which app.
#[derive(Debug, Clone, Default, Args)]
pub struct OfApp {
    /// The app; without it, the one of ./stoa.toml.
    #[arg(long, short, value_name = "NAME")]
    pub app: Option<String>,
}

/// How to follow what takes time.
#[derive(Debug, Clone, Args)]
pub struct Patience {
    /// Do not wait: print the operation and return.
    #[arg(long, short)]
    pub detach: bool,
    /// Wait at most that long (then exit code 8); it goes on.
    #[arg(long, default_value = "30m", value_name = "TIME")]
    pub timeout: Millis,
}

/// What `stoa op` does.
#[derive(Debug, Clone, Subcommand)]
pub enum OpCommand {
    /// List operations, newest first.
    Ls {
        /// How many at most.
        #[arg(long, short = 'n', default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=500))]
        limit: u16,
    },
    /// Show an operation.
    Show {
        /// Its id.
        operation: String,
    },
    /// Follow an operation to its end.
    Follow {
        /// Its id.
        operation: String,
        /// Wait at most that long (then exit code 8); it goes on.
        #[arg(long, default_value = "30m", value_name = "TIME")]
        timeout: Millis,
    },
    /// Give an operation up.
    Cancel {
        /// Its id.
        operation: String,
    },
}

/// Arguments of `stoa api`.
#[derive(Debug, Clone, Args)]
pub struct ApiArgs {
    /// GET, POST, PUT, PATCH or DELETE.
    pub method: String,
    /// The path, for example /v1/server.
    pub path: String,
    /// The body; @FILE reads it from a file, - from standard input.
    #[arg(long, short, value_name = "JSON")]
    pub data: Option<String>,
}
