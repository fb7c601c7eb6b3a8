//! Operations: the handle of anything that takes time.

use model::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::page::pages;

/// The media type of what a dry run answers, unless the endpoint has a plan of its own.
pub const DRY_RUN_MEDIA_TYPE: &str = "application/vnd.stoa.dry-run+json";

/// Where an operation stands. The last three are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// Accepted.
    Pending,
    /// Under way.
    Running,
    /// Done.
    Succeeded,
    /// Not done; `error` says why.
    Failed,
    /// Given up on request.
    Canceled,
}

impl OperationState {
    /// Whether nothing more will happen.
    #[must_use]
    pub fn is_settled(self) -> bool {
        match self {
            Self::Pending | Self::Running => false,
            Self::Succeeded | Self::Failed | Self::Canceled => true,
        }
    }
}

/// Something under way or done. It settles before its deadline, whatever happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// Id, begins with `op_`.
    pub id: String,
    /// What it does: `deploy`, `rollback`, `restart`, `scale`, `run`, `delete_app`, `create_database`,
    /// `rotate_database`, `branch_database`, `reset_database`, `backup_database`,
    /// `drill_database`, `restore_database`, `promote_database`, `destroy_database`, `verify_target`, `rotate_key` or `image`.
    pub work: String,
    /// What it does it to: id of the app or database, name of the image.
    pub target: String,
    /// Where it stands.
    pub state: OperationState,
    /// The step under way, for people.
    pub step: String,
    /// Whether somebody asked for it to be given up.
    pub cancel_requested: bool,
    /// Id of the release it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// A sentence about the outcome, for example the address that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// For a one-off command that ended by itself: its exit code. Another than 0 fails the operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// Who asked.
    pub actor: String,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it fails by itself.
    #[schema(value_type = String, format = DateTime)]
    pub deadline: Timestamp,
    /// When it settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub settled_at: Option<Timestamp>,
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// A stable code, for example `release_rejected`.
    pub code: String,
    /// What happened, in a sentence or two.
    pub message: String,
    /// The command or link that leads on.
    pub next_step: String,
    /// The last log lines that matter, oldest first.
    pub log_tail: Vec<String>,
}

/// A line of an operation's log. What begins with `==> ` names a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationLine {
    /// The line without its end.
    pub text: String,
}

/// The log of an operation so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationLog {
    /// Its lines, oldest first.
    pub lines: Vec<OperationLine>,
    /// Where it ends now; give it back as `since` to get only what comes later.
    pub position: u64,
    /// Whether nothing more will come.
    pub settled: bool,
}

/// What a request would do, told by `dry_run`. Nothing of it was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DryRun {
    /// The HTTP status of the answer without `dry_run`.
    #[schema(minimum = 100, maximum = 399)]
    pub status: u16,
    /// What it would change at once, in order. What an operation would do after that is not in it.
    pub changes: Vec<DryRunChange>,
}

/// Something that would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DryRunChange {
    /// Kind of the thing, for example `app` or `operation`.
    pub kind: String,
    /// Its id; absent for what would only then come to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its name, for an operation what it does; empty for what has none.
    pub name: String,
    /// What would happen to it: `insert`, `update` (what is wanted), `status` (what is seen) or `delete`.
    pub change: String,
}

pages! {
    OperationPage of Operation, "operations, newest first";
}
