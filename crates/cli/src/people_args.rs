//! Arguments of what is about people: signing in, tokens, the audit log.
//!
//! Lives here: their flags and help texts. Does not live here: the list of commands (`args`).

use std::path::PathBuf;

use clap::{Args, Subcommand};
use model::Millis;

/// Arguments of `stoa login`.
#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("how").required(true))]
pub struct LoginArgs {
    /// Trade the one-time token that `stoa up` printed for an access token.
    #[arg(long, group = "how", value_name = "TOKEN")]
    pub claim: Option<String>,
    /// As root on the machine that runs Stoa.
    #[arg(long, group = "how")]
    pub local: bool,
    /// Read an access token from standard input.
    #[arg(long, group = "how")]
    pub token: bool,
    /// With --local: where the server keeps its data.
    #[arg(
        long,
        env = "STOA_DATA_DIR",
        hide_env_values = true,
        default_value = "/var/lib/stoa",
        value_name = "DIR"
    )]
    pub data_dir: PathBuf,
}

/// What `stoa tokens` does.
#[derive(Debug, Clone, Subcommand)]
pub enum TokensCommand {
    /// List tokens; never their texts.
    Ls,
    /// Make a token and print it, this once.
    Create {
        /// Name for people.
        name: String,
        /// viewer, developer, admin or owner.
        #[arg(long, default_value = "developer", value_name = "ROLE", value_parser = role)]
        role: api::Role,
        /// Bind it to the org given with --org.
        #[arg(long)]
        bound: bool,
        /// How long it lives.
        #[arg(long, default_value = "90d", value_name = "TIME")]
        expires: Millis,
    },
    /// End a token at once.
    Revoke {
        /// Its id.
        token: String,
    },
}

fn role(text: &str) -> Result<api::Role, String> {
    serde_json::from_value(serde_json::Value::from(text))
        .map_err(|_| "there are viewer, developer, admin and owner".to_owned())
}

/// What `stoa audit` does.
#[derive(Debug, Clone, Subcommand)]
pub enum AuditCommand {
    /// List the newest rows, refusals too.
    Ls {
        /// How many.
        #[arg(long, short = 'n', default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=500))]
        limit: u16,
    },
    /// Check that no row was altered, moved or removed.
    Verify,
    /// Print all rows, newest first, a JSON object a line.
    Export,
}
