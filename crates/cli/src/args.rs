//! What can be typed.
//!
//! Invariant: no secret is an argument (`login --claim` excepted: it works once); every prompt has a flag.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use model::{Bytes, Millis, Name};

pub use crate::host_args::{Command, DoctorArgs, DownArgs, ServerCommand, UpArgs, UpgradeArgs};
pub use crate::people_args::{AuditCommand, LoginArgs, TokensCommand};
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
}

/// Commands that ask a server.
#[derive(Debug, Clone, Subcommand)]
pub enum Remote {
    /// Sign in and remember it as a context.
    Login(LoginArgs),
    /// Forget the context.
    Logout,
    /// Say who you are to the server.
    Whoami,
    /// Show the server, its apps and databases on one page.
    Status,
    /// Write a stoa.toml for a directory.
    Init(InitArgs),
    /// Make a release of a directory or an image and move the app to it.
    Deploy(DeployArgs),
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
    /// Environments of a project.
    Environments {
        /// What to do.
        #[command(subcommand)]
        command: EnvironmentsCommand,
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

/// Arguments of `stoa init`.
#[derive(Debug, Clone, Args)]
pub struct InitArgs {
    /// The directory.
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// Name of the app; without it, the directory's.
    #[arg(long, short, value_name = "NAME")]
    pub app: Option<Name>,
}

/// What `stoa apps` does.
#[derive(Debug, Clone, Subcommand)]
pub enum AppsCommand {
    /// List apps.
    Ls,
    /// Make an app. `stoa deploy` does it by itself.
    Create {
        /// Its name.
        name: Name,
    },
    /// End an app with its releases and secrets. Databases stay.
    Destroy {
        /// Its name.
        name: String,
        /// Repeat the name instead of being asked.
        #[arg(long, value_name = "NAME")]
        confirm: Option<String>,
        /// How to follow it.
        #[command(flatten)]
        patience: Patience,
    },
}

/// Arguments of `stoa scale`.
#[derive(Debug, Clone, Args)]
pub struct ScaleArgs {
    /// Service and count.
    #[arg(required = true, value_name = "SERVICE=COUNT", value_parser = count_of_service)]
    pub counts: Vec<(String, u16)>,
    /// Which app.
    #[command(flatten)]
    pub of: OfApp,
    /// How to follow it.
    #[command(flatten)]
    pub patience: Patience,
}

fn count_of_service(text: &str) -> Result<(String, u16), String> {
    let refuse = || "write SERVICE=COUNT, for example web=3".to_owned();
    let (service, count) = text.split_once('=').ok_or_else(refuse)?;
    Ok((service.to_owned(), count.parse().map_err(|_| refuse())?))
}

/// Arguments of `stoa exec`.
#[derive(Debug, Clone, Args)]
pub struct ExecArgs {
    /// The program and its arguments; without them a shell.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// Which app.
    #[command(flatten)]
    pub of: OfApp,
    /// An instance of this service; without it the first that is ready.
    #[arg(long, short, value_name = "NAME")]
    pub service: Option<String>,
    /// This instance.
    #[arg(long, short, value_name = "ID")]
    pub instance: Option<String>,
    /// Give it no terminal, even from one.
    #[arg(long, short = 'T')]
    pub no_terminal: bool,
}

/// Arguments of `stoa run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// The program and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// Which app.
    #[command(flatten)]
    pub of: OfApp,
    /// How to follow it.
    #[command(flatten)]
    pub patience: Patience,
}

/// Arguments of `stoa logs`.
#[derive(Debug, Clone, Args)]
pub struct LogsArgs {
    /// Only this service or job.
    pub service: Option<String>,
    /// Which app.
    #[command(flatten)]
    pub of: OfApp,
    /// Keep showing new lines.
    #[arg(long, short)]
    pub follow: bool,
    /// Only lines since then: a span like 1h, or a time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only that many of the last lines.
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub tail: Option<u32>,
    /// Only lines that contain this text.
    #[arg(long, value_name = "TEXT")]
    pub grep: Option<String>,
    /// Only of this release, for example v3.
    #[arg(long, value_name = "RELEASE")]
    pub release: Option<String>,
    /// Only of this instance.
    #[arg(long, value_name = "ID")]
    pub instance: Option<String>,
}

/// What `stoa env` does.
#[derive(Debug, Clone, Subcommand)]
pub enum EnvCommand {
    /// Set variables; a release with them follows when one serves.
    Set {
        /// Variables and values.
        #[arg(required = true, value_name = "KEY=VALUE", value_parser = variable)]
        variables: Vec<(String, String)>,
        /// Which app.
        #[command(flatten)]
        of: OfApp,
        /// How to follow it.
        #[command(flatten)]
        patience: Patience,
    },
    /// Remove variables.
    Unset {
        /// Variables.
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
        /// Which app.
        #[command(flatten)]
        of: OfApp,
        /// How to follow it.
        #[command(flatten)]
        patience: Patience,
    },
    /// List the variables set by hand.
    Ls(OfApp),
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| "write KEY=VALUE, for example LOG_LEVEL=debug".to_owned())?;
    Ok((key.to_owned(), value.to_owned()))
}

/// What `stoa secrets` does.
#[derive(Debug, Clone, Subcommand)]
pub enum SecretsCommand {
    /// Set a secret; its value comes from standard input or is asked for.
    Set {
        /// The variable it is delivered as.
        key: String,
        /// Which app.
        #[command(flatten)]
        of: OfApp,
        /// How to follow it.
        #[command(flatten)]
        patience: Patience,
    },
    /// Remove a secret.
    Unset {
        /// The variable.
        key: String,
        /// Which app.
        #[command(flatten)]
        of: OfApp,
        /// How to follow it.
        #[command(flatten)]
        patience: Patience,
    },
    /// List names and versions.
    Ls(OfApp),
    /// Set many from lines KEY=VALUE, as in a .env file.
    Import {
        /// The file; without it or with -, standard input.
        file: Option<PathBuf>,
        /// Which app.
        #[command(flatten)]
        of: OfApp,
        /// How to follow it.
        #[command(flatten)]
        patience: Patience,
    },
}

/// What `stoa db` does.
#[derive(Debug, Clone, Subcommand)]
pub enum DbCommand {
    /// Make a database.
    Create {
        /// Its name.
        name: Name,
        /// Major version of PostgreSQL; without it, what is there.
        #[arg(long, value_name = "N")]
        version: Option<String>,
        /// Budget of its volume, for example 10Gi.
        #[arg(long, value_name = "SIZE")]
        size: Option<Bytes>,
        /// Memory limit, for example 512Mi.
        #[arg(long, value_name = "SIZE")]
        memory: Option<Bytes>,
        /// How to follow it.
        #[command(flatten)]
        patience: Patience,
    },
    /// Open psql inside the database's instance.
    Connect {
        /// Its name.
        name: String,
        /// Give it no terminal, even from one.
        #[arg(long, short = 'T')]
        no_terminal: bool,
        /// Arguments for psql.
        #[arg(last = true, value_name = "ARGUMENTS")]
        arguments: Vec<String>,
    },
    /// List databases.
    Ls,
    /// Show a database.
    Info {
        /// Its name.
        name: String,
    },
    /// Print how to sign in: DATABASE_URL and its kin.
    Url {
        /// Its name.
        name: String,
    },
    /// Give it a new password, without a failed query.
    Rotate {
        /// Its name.
        name: String,
        /// How to follow it.
        #[command(flatten)]
        patience: Patience,
    },
    /// End a database. Its volume is kept for a grace period.
    Destroy {
        /// Its name.
        name: String,
        /// Repeat the name instead of being asked.
        #[arg(long, value_name = "NAME")]
        confirm: Option<String>,
        /// How to follow it.
        #[command(flatten)]
        patience: Patience,
    },
}

/// What `stoa image` does.
#[derive(Debug, Clone, Subcommand)]
pub enum ImageCommand {
    /// List images.
    Ls,
    /// Import an OCI or `docker save` archive.
    Import {
        /// The archive.
        file: PathBuf,
        /// The name it gets; without it, the file's.
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// How to follow it.
        #[command(flatten)]
        patience: Patience,
    },
    /// Get an image from a registry.
    Pull {
        /// registry/repository:tag, or @sha256:... for an exact one.
        reference: String,
        /// The name it gets; without it, the reference.
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Allow plain HTTP to that registry.
        #[arg(long)]
        insecure: bool,
        /// How to follow it.
        #[command(flatten)]
        patience: Patience,
    },
    /// Base images, without a registry.
    Base {
        /// What to do.
        #[command(subcommand)]
        command: BaseCommand,
    },
    /// Show what an image says about itself.
    Inspect {
        /// Name or digest.
        image: String,
    },
    /// Remove an image.
    Rm {
        /// Name or digest.
        image: String,
    },
}

/// What `stoa image base` does.
#[derive(Debug, Clone, Subcommand)]
pub enum BaseCommand {
    /// Make a base image: from Debian packages, or from this host's /usr.
    Create {
        /// The name it gets, for example debian:12.
        name: String,
        /// Debian packages, separated by commas.
        #[arg(long, value_delimiter = ',', value_name = "NAMES")]
        packages: Vec<String>,
        /// Debian suite; without it, after the name (debian:12 is bookworm).
        #[arg(long, value_name = "SUITE")]
        suite: Option<String>,
        /// Use the toolchains of the server's host instead: its /usr, read-only.
        #[arg(long, conflicts_with_all = ["packages", "suite"])]
        host: bool,
        /// How to follow it.
        #[command(flatten)]
        patience: Patience,
    },
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

/// What `stoa environments` does.
#[derive(Debug, Clone, Subcommand)]
pub enum EnvironmentsCommand {
    /// List environments.
    Ls,
    /// Make an environment with a private network of its own.
    Create {
        /// Its name.
        name: Name,
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
