//! Operations: the handle of anything that takes time.

use serde::{Deserialize, Serialize};

use crate::id::{AppId, DatabaseId, DrillId, EnvironmentId, OperationId, OrgId, ReleaseId, UploadId};
use crate::time::Timestamp;
use crate::units::Millis;

/// Something under way or done. It settles before its deadline, whatever happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Id.
    pub id: OperationId,
    /// The environment whose members may see it; `None` for work on the installation.
    pub environment: Option<EnvironmentId>,
    /// What is to be done.
    pub work: Work,
    /// Who asked.
    pub actor: String,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it fails by itself.
    pub deadline: Timestamp,
    /// Where it stands.
    pub state: OperationState,
    /// The step under way, for people.
    pub step: String,
    /// Somebody asked for it to be given up.
    pub cancel: bool,
    /// The release it made, if it makes one.
    pub release: Option<ReleaseId>,
    /// A sentence about the outcome, for example the address that answers.
    pub outcome: Option<String>,
    /// For a one-off command that ended by itself: its exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

/// What an operation does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "work", rename_all = "snake_case")]
pub enum Work {
    /// Make a release and move the app to it.
    Deploy {
        /// The app.
        app: AppId,
        /// Where the release comes from.
        source: Source,
        /// `stoa.toml` as sent, when it did not come inside the upload.
        manifest: Option<String>,
    },
    /// Move the app to a release that exists.
    Rollback {
        /// The app.
        app: AppId,
        /// Where to.
        to: ReleaseId,
    },
    /// Replace all instances by fresh ones of the same release.
    Restart {
        /// The app.
        app: AppId,
    },
    /// Bring the number of instances to what was asked.
    Scale {
        /// The app.
        app: AppId,
    },
    /// Run one command in an instance of its own.
    Run {
        /// The app.
        app: AppId,
        /// The program and its arguments.
        command: Vec<String>,
    },
    /// End an app: instances, routes, rows.
    DeleteApp {
        /// The app.
        app: AppId,
    },
    /// Create a database.
    CreateDatabase {
        /// The database.
        database: DatabaseId,
    },
    /// New password by a second login role.
    RotateDatabase {
        /// The database.
        database: DatabaseId,
    },
    /// Another instance of its server, from the newest image of its version; clients of its pooler wait meanwhile.
    RestartDatabase {
        /// The database.
        database: DatabaseId,
    },
    /// Make a database from another one that runs: its row says which.
    BranchDatabase {
        /// The new one.
        database: DatabaseId,
    },
    /// Give a branch the data its parent has now.
    ResetDatabase {
        /// The branch.
        database: DatabaseId,
    },
    /// Take a base of a database: a copy to begin a restore from.
    BackupDatabase {
        /// The database.
        database: DatabaseId,
    },
    /// Prove that the backup of a database brings it back: restore it into a throw-away instance and look.
    DrillDatabase {
        /// The database.
        database: DatabaseId,
        /// The drill.
        drill: DrillId,
    },
    /// Make a database from the backup of another: its row says of which and as of when.
    RestoreDatabase {
        /// The new one.
        database: DatabaseId,
    },
    /// Put a restored database in the place of the one it is of: it takes over its name, and with it who uses it.
    PromoteDatabase {
        /// The restored one.
        database: DatabaseId,
        /// In whose place.
        of: DatabaseId,
        /// How long that one is kept from then on.
        keep: Millis,
    },
    /// Put a copy of a database at another major version in its place.
    UpgradeDatabase {
        /// The copy: its row says at which version.
        database: DatabaseId,
        /// In whose place.
        of: DatabaseId,
        /// How long that one is kept from then on.
        keep: Millis,
        /// When a rehearsal says that it would not answer for longer than that, it is left as it is.
        most: Millis,
    },
    /// End a database; its volume stays under another name for the grace period.
    DestroyDatabase {
        /// The database.
        database: DatabaseId,
    },
    /// Read everything that is on the target elsewhere, and say what does not open.
    VerifyTarget,
    /// Seal everything with another master key, and retire the one before.
    RotateKey {
        /// The public name of the key that sealed when it was asked for: with another one, the key is there already.
        from: String,
    },
    /// Get an image into the store.
    Image {
        /// What to get, as written.
        source: ImageSource,
        /// The name it gets.
        name: String,
        /// For this org alone; `None`: for all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        org: Option<OrgId>,
    },
}

/// Where a release comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "snake_case")]
pub enum Source {
    /// An uploaded directory.
    Upload {
        /// Which.
        upload: UploadId,
    },
    /// An image by reference or name.
    Image {
        /// As written.
        image: String,
    },
    /// The image and shape of what serves, with the configuration of now.
    Configuration,
}

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "image", rename_all = "snake_case")]
pub enum ImageSource {
    /// A registry.
    Pull {
        /// `registry/repository:tag` or `@digest`.
        reference: String,
        /// Plain HTTP asked for by the user.
        insecure: bool,
    },
    /// An uploaded OCI or `docker save` archive.
    Archive {
        /// Which upload.
        upload: UploadId,
    },
    /// An uploaded directory, laid over another image.
    Directory {
        /// Which upload.
        upload: UploadId,
        /// The image below, by name or digest.
        over: String,
        /// Where in the image the directory appears: an absolute path.
        at: String,
    },
    /// Debian packages.
    Debian {
        /// For example `bookworm`.
        suite: String,
        /// Package names.
        packages: Vec<String>,
    },
    /// The toolchains of the host.
    Host,
}

/// Where an operation stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum OperationState {
    /// Accepted.
    Pending,
    /// Under way.
    Running,
    /// Done.
    Succeeded {
        /// When.
        at: Timestamp,
    },
    /// Given up or refused by what was found.
    Failed {
        /// When.
        at: Timestamp,
        /// Why and what next.
        failure: Failure,
    },
    /// Given up on request.
    Canceled {
        /// When.
        at: Timestamp,
    },
}

impl OperationState {
    /// Whether nothing more will happen.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        match self {
            Self::Pending | Self::Running => false,
            Self::Succeeded { .. } | Self::Failed { .. } | Self::Canceled { .. } => true,
        }
    }
}

/// Why something failed, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A stable code, for example `release_rejected`; its page is `docs/errors/CODE.md`.
    pub code: String,
    /// What happened, in a sentence or two.
    pub message: String,
    /// The command or link that leads on.
    pub next_step: String,
    /// The last lines of the log that matter, oldest first.
    pub log_tail: Vec<String>,
}
