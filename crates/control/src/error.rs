//! Why a use case did not do what was asked, in its own terms.

use engine::EngineError;
use model::Action;
use store::StoreError;

/// One problem with a value that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// Where, as a JSON Pointer or a path in `stoa.toml`.
    pub at: String,
    /// What is wrong.
    pub message: String,
}

/// Why a use case did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody known asks.
    #[error("sign in first")]
    SignIn,
    /// It is not there, or the actor may not know that it is.
    #[error("there is no {kind} {name:?}")]
    NotFound {
        /// `app`, `release`...
        kind: &'static str,
        /// As asked for.
        name: String,
    },
    /// The actor may see it but not do that.
    #[error("this needs the right {}, which your role there, or the token in use, does not have", .action.as_str())]
    Denied {
        /// The right that is missing.
        action: Action,
    },
    /// The name is taken.
    #[error("there is already a {kind} {name:?}")]
    Taken {
        /// `app`, `database`...
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// Values that cannot be.
    #[error("{}", list(.0))]
    Invalid(Vec<Invalid>),
    /// The state of the object does not allow it.
    #[error("{message}")]
    State {
        /// What stands in the way.
        message: String,
        /// What leads on.
        next_step: String,
    },
    /// Somebody changed it meanwhile.
    #[error("it was changed meanwhile (generation {found}, you have {expected})")]
    Stale {
        /// What the caller had.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// Too many wrong passwords came from there.
    #[error("too many wrong passwords; the next one is looked at in {} s", wait.as_ms().div_ceil(1000))]
    Guessed {
        /// For how long no other is looked at.
        wait: model::Millis,
    },
    /// A machine that waits to be signed in gets no token (yet).
    #[error(transparent)]
    Device(#[from] crate::people::device::NotYet),
    /// An identity provider cannot be used, or signed nobody in.
    #[error(transparent)]
    Provider(oidc::OidcError),
    /// Whoever signed in at a provider is nobody here.
    #[error(
        "nobody here is linked with that account, and its address was not invited, or not verified by the provider"
    )]
    NotLinked,
    /// Too many ask for what is expensive.
    #[error("too many {what} at once")]
    Busy {
        /// Who.
        what: &'static str,
    },
    /// Too many from one place are under way already.
    #[error("too many {what} from there; the next place is free in {} s", wait.as_ms().div_ceil(1000))]
    Crowded {
        /// Who.
        what: &'static str,
        /// Until one of them is over by itself.
        wait: model::Millis,
    },
    /// It is not the content that the caller has seen.
    #[error("it is another one meanwhile ({found}, you have {expected})")]
    Replaced {
        /// Digest that the caller had.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A source could not be built.
    #[error("{message}")]
    Build {
        /// Why.
        message: String,
        /// What leads on.
        next_step: String,
    },
    /// The store refused or broke.
    #[error("the store did not take it")]
    Store(#[source] StoreError),
    /// The engine refused or broke.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A file of ours could not be written or read.
    #[error("{what}")]
    File {
        /// What was being done.
        what: String,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
}

fn list(problems: &[Invalid]) -> String {
    let lines: Vec<String> = problems
        .iter()
        .map(|p| format!("{}: {}", p.at, p.message))
        .collect();
    lines.join("; ")
}

impl ControlError {
    /// One invalid value.
    #[must_use]
    pub fn invalid(at: &str, message: impl Into<String>) -> Self {
        Self::Invalid(vec![Invalid {
            at: at.to_owned(),
            message: message.into(),
        }])
    }

    /// The stable code; its page is `docs/errors/CODE.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::SignIn => "sign_in",
            Self::NotFound { .. } => "not_found",
            Self::Denied { .. } => "denied",
            Self::Taken { .. } => "name_taken",
            Self::Invalid(_) => "invalid",
            Self::State { .. } => "state",
            Self::Stale { .. } | Self::Replaced { .. } => "stale",
            Self::Guessed { .. } => "too_many_attempts",
            Self::Busy { .. } => "busy",
            Self::Crowded { .. } => "too_many_waiting",
            Self::Device(why) => why.code(),
            Self::Provider(_) => "identity_provider",
            Self::NotLinked => "not_linked",
            Self::Build { .. } => "build_failed",
            Self::Store(StoreError::Full { .. }) | Self::Engine(EngineError::Full(_)) => "no_room",
            Self::Store(StoreError::Io { .. }) => "disk",
            Self::Store(_) => "store",
            Self::Engine(EngineError::Image { .. }) => "image",
            Self::Engine(EngineError::Source(_)) => "source",
            Self::Engine(EngineError::Step { .. }) => "build_failed",
            Self::Engine(EngineError::NotRunning(_)) => "not_running",
            Self::Engine(EngineError::NotExecuted { .. }) => "not_executed",
            Self::Engine(EngineError::Unsupported(_)) => "unsupported",
            Self::Engine(
                EngineError::NotStarted { .. } | EngineError::Volume { .. } | EngineError::Host { .. },
            ) => "engine",
            Self::File { .. } => "file",
        }
    }

    /// Whether an object of the store is not what was written: that is the trouble of this object, not of the store.
    #[must_use]
    pub fn is_corrupt(&self) -> bool {
        matches!(
            self,
            Self::Store(StoreError::Corrupt { .. } | StoreError::Unreadable { .. })
        )
    }

    /// What to do next.
    #[must_use]
    pub fn next(&self) -> String {
        match self {
            Self::SignIn => {
                "stoa login --email ADDRESS, or as root on the host: stoa login --local; a new installation: stoa login --claim TOKEN"
                    .to_owned()
            }
            Self::NotFound { kind, .. } => match *kind {
                "app" => "see what is there: stoa status, or create it: stoa deploy".to_owned(),
                "release" => "see what is there: stoa releases".to_owned(),
                "database" => "see what is there: stoa db ls".to_owned(),
                "image" => "see what is there: stoa image ls".to_owned(),
                "code" => "read it again from the other machine, or begin there anew: stoa login".to_owned(),
                "identity provider" => "an administrator sees what is there: stoa providers ls".to_owned(),
                "identity" => "see what is there: stoa identities ls".to_owned(),
                "user" | "member" => "see who is there: stoa members ls".to_owned(),
                "org" | "project" | "environment" => "see what is there: stoa orgs ls".to_owned(),
                "backup target" => {
                    "set one: stoa server backup-target set --directory PATH, or --s3 ENDPOINT --bucket NAME".to_owned()
                }
                "instance" => "see what runs: stoa ps".to_owned(),
                _ => "see what is there: stoa status".to_owned(),
            },
            Self::Denied { .. } => {
                "with a token: use one that has it (stoa tokens create NAME --scope RIGHT); else ask an admin for a role that has it: stoa members set EMAIL --role ROLE"
                    .to_owned()
            }
            Self::Taken { .. } => "choose another name, or use the one that is there".to_owned(),
            Self::Invalid(_) => "mend the values named above and try again".to_owned(),
            Self::State { next_step, .. } | Self::Build { next_step, .. } => next_step.clone(),
            Self::Guessed { .. } => {
                "wait, or use a session or a token that you have; lost it? root on the host: stoa users reset EMAIL"
                    .to_owned()
            }
            Self::Busy { .. } => "try again in a few seconds".to_owned(),
            Self::Crowded { .. } => "finish one of those that were begun, or wait".to_owned(),
            Self::Stale { .. } | Self::Replaced { .. } => "read it again and repeat the change".to_owned(),
            Self::Device(why) => why.next(),
            Self::Provider(_) => {
                "begin again; an administrator compares how it is set: stoa providers ls".to_owned()
            }
            Self::NotLinked => {
                "ask for an invitation of that address; if you have a password here: stoa identities link PROVIDER"
                    .to_owned()
            }
            Self::Store(cause) => cause.next(),
            Self::Engine(cause) => cause.next(),
            Self::File { .. } => "check the data directory's disk: stoa doctor".to_owned(),
        }
    }
}

impl From<StoreError> for ControlError {
    fn from(cause: StoreError) -> Self {
        Self::Store(cause)
    }
}
