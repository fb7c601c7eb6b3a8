//! What can be typed about databases: `stoa db`.
//!
//! Lives here: arguments and help texts.

use clap::Subcommand;
use model::{Bytes, Millis, Name};

use super::Patience;

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
    /// Make a branch: a copy of it as it runs, with logins of its own, to try things out on.
    Branch {
        /// Of which database.
        name: String,
        /// The name of the branch.
        #[arg(long = "as", value_name = "NAME")]
        branch: Name,
        /// End it after that time, for example 7d.
        #[arg(long, value_name = "TIME")]
        ttl: Option<Millis>,
        /// How to follow it.
        #[command(flatten)]
        patience: Patience,
    },
    /// Give a branch the data its parent has now. What it has is lost; its logins stay.
    Reset {
        /// Its name.
        name: String,
        /// Repeat the name instead of being asked.
        #[arg(long, value_name = "NAME")]
        confirm: Option<String>,
        /// How to follow it.
        #[command(flatten)]
        patience: Patience,
    },
    /// End a database. Its volume is kept for a grace period; a branch is gone at once.
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
