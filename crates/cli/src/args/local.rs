//! What can be typed about this program itself: contexts, man pages, colours.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// When to colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// At a terminal that can, unless NO_COLOR is set.
    #[default]
    Auto,
    /// In any case.
    Always,
    /// Not at all.
    Never,
}

/// What `stoa context` does.
#[derive(Debug, Clone, Subcommand)]
pub enum ContextCommand {
    /// List contexts; never their tokens.
    Ls,
    /// Use a context from now on.
    Use {
        /// Its name.
        name: String,
    },
    /// Forget a context and its token. The token itself lives on: stoa tokens revoke.
    Rm {
        /// Its name.
        name: String,
    },
}

/// Arguments of `stoa man`.
#[derive(Debug, Clone, Args)]
pub struct ManArgs {
    /// The command whose page it is, for example: db create.
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    pub command: Vec<String>,
    /// Write the pages of all commands into this directory and list them.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}
