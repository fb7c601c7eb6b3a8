//! What can be typed about an app's configuration: `stoa env`, `stoa secrets`.
//!
//! Lives here: arguments and help texts. Invariant: the value of a secret is no argument.

use std::path::PathBuf;

use clap::Subcommand;

use super::{OfApp, Patience};

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
