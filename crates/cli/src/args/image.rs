//! What can be typed about images: `stoa image`.
//!
//! Lives here: arguments and help texts.

use std::path::PathBuf;

use clap::Subcommand;

use super::Patience;

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
    /// Make an image of another one, with a directory of this machine laid over it.
    Add {
        /// The name it gets, for example postgres:18.
        name: String,
        /// The directory. All its files and links are taken, as root's.
        directory: PathBuf,
        /// The image below.
        #[arg(long, value_name = "IMAGE")]
        over: String,
        /// Where in the image the directory appears.
        #[arg(long, value_name = "PATH", default_value = "/")]
        at: String,
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
