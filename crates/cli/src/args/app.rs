//! What can be typed about an app: make, end, scale, enter, run, read its logs.
//!
//! Lives here: arguments and help texts. Does not live here: the list of commands (`args`).

use std::path::PathBuf;

use clap::{Args, Subcommand};
use model::Name;

use super::{OfApp, Patience};

/// Arguments of `stoa init`.
#[derive(Debug, Clone, Args)]
pub struct InitArgs {
    /// The directory.
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// Name of the app; without it, the directory's.
    #[arg(long, short, value_name = "NAME")]
    pub app: Option<Name>,
    /// Make it of another platform's file: compose.yaml, Procfile, app.json, fly.toml or .env. What is not taken over is
    /// listed.
    #[arg(long, value_name = "FILE", conflicts_with = "schema")]
    pub from: Option<PathBuf>,
    /// Print the JSON Schema of stoa.toml for editors, and write nothing.
    #[arg(long, conflicts_with = "app")]
    pub schema: bool,
}

/// Arguments of `stoa export`.
#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("form").required(true))]
pub struct ExportArgs {
    /// The directory with stoa.toml.
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// As a compose.yaml.
    #[arg(long, group = "form")]
    pub compose: bool,
    /// As Kubernetes objects.
    #[arg(long, group = "form")]
    pub kubernetes: bool,
    /// The image of services that have none of their own; without it, one of the app's name.
    #[arg(long, value_name = "REFERENCE")]
    pub image: Option<String>,
    /// Where apps without a host of their own answer: APP.DOMAIN, and beside production APP-ENVIRONMENT.DOMAIN.
    #[arg(long, default_value = "example.org", value_name = "DOMAIN", value_parser = crate::host_args::domain)]
    pub domain: String,
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
    /// Which lines.
    #[command(flatten)]
    pub lines: LinesArgs,
    /// Only of this release, for example v3.
    #[arg(long, value_name = "RELEASE")]
    pub release: Option<String>,
}

/// Which lines of a log, whatever it is of.
#[derive(Debug, Clone, Args)]
pub struct LinesArgs {
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
    /// Only of this instance.
    #[arg(long, value_name = "ID")]
    pub instance: Option<String>,
}

/// Arguments of `stoa events`.
#[derive(Debug, Clone, Args)]
pub struct EventsArgs {
    /// Keep showing what happens. Without --since, from now on.
    #[arg(long, short)]
    pub follow: bool,
    /// Only what happened after this revision; without it, all that is kept.
    #[arg(long, value_name = "REVISION")]
    pub since: Option<u64>,
    /// Only about things of that kind, for example app.
    #[arg(long, value_name = "KIND")]
    pub kind: Option<String>,
}
