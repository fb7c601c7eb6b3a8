//! What can be typed for the machine itself: `up`, `down`, `doctor`, `server`; and all commands.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};

use crate::args::{Patience, Remote};

/// All commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start Stoa on this machine, in the foreground.
    Up(UpArgs),
    /// End Stoa and everything it runs on this machine. Data stays.
    Down(DownArgs),
    /// Look after the Stoa that runs on this machine.
    Server {
        /// What to do.
        #[command(subcommand)]
        command: ServerCommand,
    },
    /// Check what this machine offers and say how to mend what is missing.
    Doctor(DoctorArgs),
    /// A command that asks a server.
    #[command(flatten)]
    Remote(Remote),
}

/// What `stoa server` does.
#[derive(Debug, Clone, Subcommand)]
pub enum ServerCommand {
    /// Have the running Stoa become another binary, without a gap. One that does not work is not kept.
    Upgrade(UpgradeArgs),
    /// Seal all secrets with another master key and retire the one before; nothing stops meanwhile.
    RotateKey(RotateKeyArgs),
    /// Where backups of all databases are also written to, sealed: another disk, a share, an S3 bucket.
    BackupTarget {
        /// What to do.
        #[command(subcommand)]
        command: BackupTargetCommand,
    },
    /// The key that backups elsewhere are sealed with.
    BackupKey {
        /// What to do.
        #[command(subcommand)]
        command: BackupKeyCommand,
    },
}

/// What `stoa server backup-target` does.
#[derive(Debug, Clone, Subcommand)]
pub enum BackupTargetCommand {
    /// Write backups there from now on. It is proven first; the key is printed once, when it is made.
    #[command(group = ArgGroup::new("place").required(true).args(["directory", "s3"]))]
    Set {
        /// A directory that is there: another disk, a share.
        #[arg(long, value_name = "PATH")]
        directory: Option<PathBuf>,
        /// A server that speaks S3: https://HOST or https://HOST:PORT. Its secret key comes from AWS_SECRET_ACCESS_KEY or
        /// standard input.
        #[arg(long, value_name = "ENDPOINT")]
        s3: Option<String>,
        /// The bucket. It must be there.
        #[arg(long, value_name = "NAME", conflicts_with = "directory")]
        bucket: Option<String>,
        /// Its region.
        #[arg(long, value_name = "REGION", default_value = "us-east-1")]
        region: String,
        /// Under which everything lies in the bucket.
        #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
        prefix: String,
        /// The access key of the bucket: its public name.
        #[arg(long, value_name = "ID", env = "AWS_ACCESS_KEY_ID", hide_env_values = true)]
        access_key: Option<String>,
        /// The backup key of what is there already, to restore from it on this server; - reads it from standard input.
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
        /// Where everything is kept.
        #[arg(
            long,
            env = "STOA_DATA_DIR",
            hide_env_values = true,
            default_value = "/var/lib/stoa",
            value_name = "DIR"
        )]
        data_dir: PathBuf,
    },
    /// Show it.
    View {
        /// Where everything is kept.
        #[arg(
            long,
            env = "STOA_DATA_DIR",
            hide_env_values = true,
            default_value = "/var/lib/stoa",
            value_name = "DIR"
        )]
        data_dir: PathBuf,
    },
    /// Read everything there that the key opens, and name what is damaged or missing. Nothing is changed.
    Verify {
        /// Where everything is kept.
        #[arg(
            long,
            env = "STOA_DATA_DIR",
            hide_env_values = true,
            default_value = "/var/lib/stoa",
            value_name = "DIR"
        )]
        data_dir: PathBuf,
        /// How to follow it.
        #[command(flatten)]
        patience: Patience,
    },
    /// Write backups there no more. What is there stays there.
    Remove {
        /// Repeat the fingerprint of the key instead of being asked.
        #[arg(long, value_name = "FINGERPRINT")]
        confirm: Option<String>,
        /// Where everything is kept.
        #[arg(
            long,
            env = "STOA_DATA_DIR",
            hide_env_values = true,
            default_value = "/var/lib/stoa",
            value_name = "DIR"
        )]
        data_dir: PathBuf,
    },
}

/// What `stoa server backup-key` does.
#[derive(Debug, Clone, Subcommand)]
pub enum BackupKeyCommand {
    /// Show that you have the key: it is read from a terminal, a file or standard input, and compared.
    Check {
        /// Where it is; without it, it is asked for or read from standard input.
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
        /// Where everything is kept.
        #[arg(
            long,
            env = "STOA_DATA_DIR",
            hide_env_values = true,
            default_value = "/var/lib/stoa",
            value_name = "DIR"
        )]
        data_dir: PathBuf,
    },
}

/// Arguments of `stoa server rotate-key`.
#[derive(Debug, Clone, Args)]
pub struct RotateKeyArgs {
    /// Where everything is kept.
    #[arg(
        long,
        env = "STOA_DATA_DIR",
        hide_env_values = true,
        default_value = "/var/lib/stoa",
        value_name = "DIR"
    )]
    pub data_dir: PathBuf,
    /// How to follow it.
    #[command(flatten)]
    pub patience: Patience,
}

/// Arguments of `stoa server upgrade`.
#[derive(Debug, Clone, Args)]
pub struct UpgradeArgs {
    /// The binary to go over to.
    #[arg(long, value_name = "BINARY")]
    pub to: PathBuf,
    /// Where everything is kept.
    #[arg(
        long,
        env = "STOA_DATA_DIR",
        hide_env_values = true,
        default_value = "/var/lib/stoa",
        value_name = "DIR"
    )]
    pub data_dir: PathBuf,
}

/// Arguments of `stoa up`.
#[derive(Debug, Clone, Args)]
pub struct UpArgs {
    /// Where everything is kept.
    #[arg(
        long,
        env = "STOA_DATA_DIR",
        hide_env_values = true,
        default_value = "/var/lib/stoa",
        value_name = "DIR"
    )]
    pub data_dir: PathBuf,
    /// Where the API listens.
    // A text, because it stands in the place of the global option of that name.
    #[arg(long, default_value = "127.0.0.1:7070", value_name = "ADDRESS", value_parser = listen_address)]
    pub api: String,
    /// Where apps answer HTTP; without it port 80, or 8080 when that is taken.
    #[arg(long, value_name = "ADDRESS")]
    pub http: Option<SocketAddr>,
    /// Where apps answer HTTPS; without it port 443, or 8443 when that is taken.
    #[arg(long, value_name = "ADDRESS")]
    pub https: Option<SocketAddr>,
    /// Apps without a host of their own answer at APP.DOMAIN.
    #[arg(long, default_value = "localhost", value_name = "DOMAIN", value_parser = domain)]
    pub domain: String,
    /// Requests to the API that one credential may send in a minute; 0: as many as it likes.
    #[arg(long, default_value_t = api::REQUESTS_PER_MINUTE, value_name = "N")]
    pub api_rate: u32,
    /// Threads of the edge; without it, one for each processor.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

impl UpArgs {
    /// Where the API listens.
    #[must_use]
    pub fn api_listen(&self) -> SocketAddr {
        self.api.parse().expect("listen_address let it pass")
    }
}

fn listen_address(text: &str) -> Result<String, String> {
    match text.parse::<SocketAddr>() {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("write ADDRESS:PORT, for example 127.0.0.1:7070".to_owned()),
    }
}

/// Apps stand before it as labels of their own: `APP-ENVIRONMENT.DOMAIN` must still be a host name.
pub(crate) fn domain(text: &str) -> Result<String, String> {
    const LABEL_AND_DOT: usize = 64;
    let text = text.to_ascii_lowercase();
    if !model::is_host_name(&text) || text.len() + LABEL_AND_DOT > 253 {
        return Err(
            "write a host name without scheme, port and path, for example apps.example.org".to_owned(),
        );
    }
    Ok(text)
}

/// Arguments of `stoa down`.
#[derive(Debug, Clone, Args)]
pub struct DownArgs {
    /// Where everything is kept.
    #[arg(
        long,
        env = "STOA_DATA_DIR",
        hide_env_values = true,
        default_value = "/var/lib/stoa",
        value_name = "DIR"
    )]
    pub data_dir: PathBuf,
}

/// Arguments of `stoa doctor`.
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// Where everything is or shall be kept.
    #[arg(
        long,
        env = "STOA_DATA_DIR",
        hide_env_values = true,
        default_value = "/var/lib/stoa",
        value_name = "DIR"
    )]
    pub data_dir: PathBuf,
    /// Restore damaged rows of the store from its log, after copying it; Stoa must not be running.
    #[arg(long)]
    pub repair: bool,
}
