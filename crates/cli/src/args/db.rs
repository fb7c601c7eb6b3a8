//! What can be typed about databases: `stoa db`.
//!
//! Lives here: arguments and help texts.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use model::{Bytes, Level, Lsn, Millis, Name, Timestamp, ValkeyPlan};

use super::{LinesArgs, Patience};

/// What a branch is a copy of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BranchFrom {
    /// The database as it runs.
    Live,
    /// What its last passed drill left.
    Drilled,
}

/// What a database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// PostgreSQL.
    Postgres,
    /// Valkey, which speaks the protocol of Redis.
    Valkey,
}

/// What `stoa db` does.
#[derive(Debug, Clone, Subcommand)]
pub enum DbCommand {
    /// Make a database.
    Create {
        /// Its name.
        name: Name,
        /// What it is; postgres unless told.
        #[arg(long, value_name = "ENGINE")]
        engine: Option<Engine>,
        /// What a valkey does about its data: cache (nothing is on disk; what was not used for long makes room) or durable (the
        /// usual one: all is logged to disk and can be restored to a second).
        #[arg(long, value_name = "PLAN")]
        plan: Option<ValkeyPlan>,
        /// Major version of its engine; without it, what is there.
        #[arg(long, value_name = "N")]
        version: Option<String>,
        /// Budget of its volume, for example 10Gi.
        #[arg(long, value_name = "SIZE")]
        size: Option<Bytes>,
        /// Memory limit, for example 512Mi.
        #[arg(long, value_name = "SIZE")]
        memory: Option<Bytes>,
        /// How much of what it acknowledges may be missing after a restore: stream (a fraction of a second; the usual one) or
        /// sync (nothing; each commit waits until the backup has it).
        #[arg(long, value_name = "LEVEL")]
        backup_level: Option<Level>,
        /// Have its address lead to a pooler, which shares few sessions among many clients.
        #[arg(long)]
        pooled: bool,
        /// How to follow it.
        #[command(flatten)]
        patience: Patience,
    },
    /// Open psql, or valkey-cli, inside the database's instance.
    Connect {
        /// Its name.
        name: String,
        /// Give it no terminal, even from one.
        #[arg(long, short = 'T')]
        no_terminal: bool,
        /// Arguments for psql, or valkey-cli.
        #[arg(last = true, value_name = "ARGUMENTS")]
        arguments: Vec<String>,
    },
    /// Open a port of this machine that leads to the database, for psql, an editor or a migration tool here.
    Tunnel {
        /// Its name.
        name: String,
        /// Which port; without it, any free one.
        #[arg(long, value_name = "PORT", default_value_t = 0, hide_default_value = true)]
        port: u16,
        /// Print the url with its password.
        #[arg(long)]
        url: bool,
    },
    /// List databases.
    Ls,
    /// Show a database.
    Info {
        /// Its name.
        name: String,
    },
    /// Show what its server does now: who is signed in, what they do, and what they wait for.
    Top {
        /// Its name.
        name: String,
        /// Show instead which statements its server has spent most time on.
        #[arg(long)]
        statements: bool,
    },
    /// Print what its server and its pooler printed, those that ended too. It needs read_secrets, because PostgreSQL repeats
    /// statements that failed, with their values.
    Logs {
        /// Its name.
        name: String,
        /// Which lines.
        #[command(flatten)]
        lines: LinesArgs,
    },
    /// Show how its server is set, as far as that is not PostgreSQL's default, and where that comes from.
    Settings {
        /// Its name.
        name: String,
    },
    /// Change it while it runs.
    Update(UpdateArguments),
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
    /// Start its server anew, from the newest image of its version. Clients of its pooler wait meanwhile; other sessions end
    /// once.
    Restart {
        /// Its name.
        name: String,
        /// Repeat the name instead of being asked.
        #[arg(long, value_name = "NAME")]
        confirm: Option<String>,
        /// How to follow it.
        #[command(flatten)]
        patience: Patience,
    },
    /// Make a branch: a copy of it, with logins of its own, to try things out on.
    Branch(BranchArguments),
    /// Give a branch the data it was made of, taken anew. What it has is lost; its logins stay.
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
    /// Take a base now: a copy that a restore begins from. One is taken by itself each day.
    Backup {
        /// Its name.
        name: String,
        /// How to follow it.
        #[command(flatten)]
        patience: Patience,
    },
    /// Show what it can be restored to, its bases, and what is missing.
    Backups {
        /// Its name; with --target also its id there.
        #[arg(required_unless_present = "target")]
        name: Option<String>,
        /// Show what is on the target elsewhere instead: without a name, all of this server's databases and others'.
        #[arg(long)]
        target: bool,
    },
    /// Prove its backup now: restore it into a throw-away instance and look. It is done by itself each day.
    Drill {
        /// Its name.
        name: String,
        /// The copy on the target elsewhere: everything is fetched from there. Done by itself after each base there, too.
        #[arg(long)]
        from_target: bool,
        /// How to follow it.
        #[command(flatten)]
        patience: Patience,
    },
    /// Show what drills found; of one, each check.
    Drills {
        /// Its name.
        name: String,
        /// Id of one drill, or `last`.
        drill: Option<String>,
    },
    /// Restore it into a new database, as of a time, a place in its log, or the latest. It stays as it is.
    #[command(group = ArgGroup::new("moment").required(true).args(["at", "lsn", "latest"]))]
    Restore {
        /// Whose backup.
        name: String,
        /// From the target elsewhere: the name or id that `stoa db backups --target` shows.
        #[arg(long)]
        from_target: bool,
        /// The name of the new database.
        #[arg(long = "as", value_name = "NEW")]
        new: Name,
        /// Everything that was committed by then, for example 2026-03-14T15:09:26Z.
        #[arg(long, value_name = "TIME")]
        at: Option<Timestamp>,
        /// Everything that lies before this place in its log, for example 0/3000060.
        #[arg(long, value_name = "LSN")]
        lsn: Option<Lsn>,
        /// Everything there is.
        #[arg(long)]
        latest: bool,
        /// How to follow it.
        #[command(flatten)]
        patience: Patience,
    },
    /// Put a restored database in the place of the one it is of: it takes over name and logins, and no program that
    /// tries once more sees a failed query. The other one is kept for a while.
    Promote {
        /// The restored one.
        name: String,
        /// In whose place.
        #[arg(long, value_name = "NAME")]
        of: String,
        /// Keep that one for so long, for example 30d; without it, 7 days.
        #[arg(long, value_name = "TIME")]
        keep: Option<Millis>,
        /// Repeat the name of that one instead of being asked.
        #[arg(long, value_name = "NAME")]
        confirm: Option<String>,
        /// How to follow it.
        #[command(flatten)]
        patience: Patience,
    },
    /// Put it at a later major version of PostgreSQL. Rehearsed with a copy first; then it does not answer for some seconds.
    /// The one at the former version is kept for a while.
    Upgrade(UpgradeArguments),
    /// List the versions of PostgreSQL that databases can have here.
    Engines,
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

/// What `stoa db branch` takes.
#[derive(Debug, Clone, Args)]
pub struct BranchArguments {
    /// Of which database.
    pub name: String,
    /// The name of the branch.
    #[arg(long = "as", value_name = "NAME")]
    pub branch: Name,
    /// End it after that time, for example 7d.
    #[arg(long, value_name = "TIME")]
    pub ttl: Option<Millis>,
    /// Stop its server when nobody has used it for so long, for example 30m, until somebody connects; never lets it run.
    #[arg(long, value_name = "TIME", default_value = "5m")]
    pub idle_stop: IdleStop,
    /// Copy it as it runs, or what its last passed drill left: that is as old as the drill, there in a moment, and leaves
    /// the database alone.
    #[arg(long, value_name = "WHAT", default_value = "live", conflicts_with = "at")]
    pub from: BranchFrom,
    /// Copy what it had at that time, out of its backup, for example 2026-03-14T15:09:26Z.
    #[arg(long, value_name = "TIME")]
    pub at: Option<Timestamp>,
    /// Run this SQL on the copy before anybody can sign in, as the owner of its data; - reads it from standard input.
    /// What it changed is nowhere in the copy any more.
    #[arg(long, value_name = "FILE")]
    pub mask: Option<PathBuf>,
    /// Leave every table without rows.
    #[arg(long)]
    pub schema_only: bool,
    /// Upgrade the copy to that later major version of PostgreSQL: the rehearsal of an upgrade.
    #[arg(long, value_name = "N")]
    pub version: Option<String>,
    /// How to follow it.
    #[command(flatten)]
    pub patience: Patience,
}

/// After which time without anybody a server stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleStop(Millis);

impl IdleStop {
    /// In seconds; 0 lets it run.
    #[must_use]
    pub fn as_seconds(self) -> u64 {
        // Rounded up: a span below a second is short, not never.
        self.0.as_ms().div_ceil(1000)
    }
}

impl FromStr for IdleStop {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "never" {
            return Ok(Self(Millis::new(0)));
        }
        let span: Millis = text.parse().map_err(|cause| format!("{cause}, or: never"))?;
        if span == Millis::new(0) {
            return Err("to let it run, say: never".to_owned());
        }
        Ok(Self(span))
    }
}

/// Yes or no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// It is to be so.
    Yes,
    /// It is not.
    No,
}

/// What `stoa db update` takes.
#[derive(Debug, Clone, Args)]
#[command(group = ArgGroup::new("change").required(true).multiple(true))]
pub struct UpdateArguments {
    /// Its name.
    pub name: String,
    /// How much of what it acknowledges may be missing after a restore: stream or sync.
    #[arg(long, value_name = "LEVEL", group = "change")]
    pub backup_level: Option<Level>,
    /// Whether its address leads to a pooler, which shares few sessions among many clients.
    #[arg(long, value_name = "CHOICE", group = "change")]
    pub pooled: Option<Choice>,
}

/// What `stoa db upgrade` takes.
#[derive(Debug, Clone, Args)]
pub struct UpgradeArguments {
    /// Its name.
    pub name: String,
    /// Which version.
    #[arg(long, value_name = "N")]
    pub to: String,
    /// How long it may not answer, for example 20s; when the rehearsal says that it would be longer, nothing is changed.
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub max_pause: Millis,
    /// Keep the one at the former version for so long, for example 30d; without it, 7 days.
    #[arg(long, value_name = "TIME")]
    pub keep: Option<Millis>,
    /// Repeat the name instead of being asked.
    #[arg(long, value_name = "NAME")]
    pub confirm: Option<String>,
    /// How to follow it.
    #[command(flatten)]
    pub patience: Patience,
}
