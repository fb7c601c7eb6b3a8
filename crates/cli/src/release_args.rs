//! Arguments of what makes a release or moves an app to one.
//!
//! Lives here: their flags and help texts. Does not live here: the list of commands (`args`).

use std::path::PathBuf;

use clap::Args;

use crate::args::{OfApp, Patience};

/// Arguments of `stoa deploy`.
#[derive(Debug, Clone, Args)]
pub struct DeployArgs {
    /// The directory; with --image, where stoa.toml is looked for.
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// Which app.
    #[command(flatten)]
    pub of: OfApp,
    /// Deploy this image instead of building the directory.
    #[arg(long, value_name = "NAME")]
    pub image: Option<String>,
    /// Only say what it would do.
    #[arg(long)]
    pub plan: bool,
    /// How to follow it.
    #[command(flatten)]
    pub patience: Patience,
}

/// Arguments of `stoa rollback`.
#[derive(Debug, Clone, Args)]
pub struct RollbackArgs {
    /// The release, for example v3; without it, the one that served before.
    pub to: Option<String>,
    /// Which app.
    #[command(flatten)]
    pub of: OfApp,
    /// How to follow it.
    #[command(flatten)]
    pub patience: Patience,
}

/// Arguments of commands that set an app in motion.
#[derive(Debug, Clone, Args)]
pub struct MoveArgs {
    /// Which app.
    #[command(flatten)]
    pub of: OfApp,
    /// How to follow it.
    #[command(flatten)]
    pub patience: Patience,
}
