//! What is asked of Stoa in a trial, and what may be there afterwards.
//!
//! Lives here: choosing, asking, and the states that keep the promise. Does not live here: killing, comparing (`kill`).
//! Invariant: what was acknowledged is in every acceptable state, and nothing is in any of them twice.

use std::fmt;

use anyhow::Result;
use serde_json::{Value, json};

use super::state::{App, Release, State};
use super::{BAD, Chance, manifest};
use crate::api::Reply;
use crate::{Api, ENVIRONMENT};

/// The app that is under traffic.
pub(super) const SERVED: &str = "probe";
/// Most instances asked for.
const SCALE_MAX: u64 = 3;
/// Rollbacks go to one of so many: older ones may have lost their image.
const ROLLBACK_TARGETS: usize = 5;
/// Long enough to be hit, in seconds.
const BUILD_TAKES_S: &str = "0.7";

/// One thing to ask for.
#[derive(Debug, Clone)]
pub(super) enum Operation {
    Deploy {
        app: String,
        version: String,
    },
    /// With a build step that nothing can have cached.
    Build {
        app: String,
        version: String,
    },
    DeployBad {
        app: String,
        version: String,
        how: &'static str,
    },
    Rollback {
        app: String,
        to: u64,
    },
    Scale {
        app: String,
        count: u64,
    },
    SetSecret {
        app: String,
        key: String,
    },
    SetEnv {
        app: String,
        key: String,
        value: String,
    },
    CreateApp {
        app: String,
    },
    DestroyApp {
        app: String,
    },
    CreateDatabase {
        name: String,
    },
    DestroyDatabase {
        name: String,
    },
}

/// How it was answered.
#[derive(Debug)]
pub(super) enum Answer {
    /// With success, and the operation that brings it about, if there is one.
    Acknowledged { operation: Option<String> },
    /// The connection broke, or the platform said that it could not tell: it may have been heard or not.
    Unknown,
    /// Refused; in these trials nothing should be.
    Refused { why: String },
}

impl Operation {
    /// One that makes sense in that state.
    pub(super) fn choose(chance: &mut Chance, trial: u64, state: &State, databases: bool) -> Self {
        let others: Vec<&String> = state.apps.keys().filter(|name| *name != SERVED).collect();
        let app = match chance.one(&others) {
            Some(other) if chance.below(4) == 0 => (*other).clone(),
            Some(_) | None => SERVED.to_owned(),
        };
        let known = state.apps.get(&app).cloned().unwrap_or_default();
        let version = format!("{app}-{trial}");
        let deploy = Self::Deploy {
            app: app.clone(),
            version: version.clone(),
        };
        let serves = known.serving.is_some();
        match chance.below(if databases { 104 } else { 100 }) {
            24..36 => Self::Build { app, version },
            36..48 => Self::DeployBad {
                app,
                version,
                how: chance.one(&BAD).copied().unwrap_or_default(),
            },
            48..60 => rollback_target(chance, &known).map_or(deploy, |to| Self::Rollback { app, to }),
            60..72 if serves => Self::Scale {
                app,
                count: 1 + chance.below(SCALE_MAX),
            },
            72..82 => Self::SetSecret {
                app,
                key: format!("SECRET_{}", chance.below(3)),
            },
            82..92 => Self::SetEnv {
                app,
                key: format!("KEY_{}", chance.below(3)),
                value: format!("{trial}"),
            },
            92..96 => Self::CreateApp {
                app: format!("side-{trial}"),
            },
            96..100 => match others.first() {
                Some(other) => Self::DestroyApp {
                    app: (*other).clone(),
                },
                None => Self::CreateApp {
                    app: format!("side-{trial}"),
                },
            },
            100.. => match state.databases.iter().find(|(_, state)| *state == "active") {
                Some((name, _)) => Self::DestroyDatabase { name: name.clone() },
                None => Self::CreateDatabase {
                    name: format!("data-{trial}"),
                },
            },
            0..24 | 60..72 => deploy,
        }
    }

    /// A movement of the app under traffic.
    pub(super) fn movement(chance: &mut Chance, trial: u64, state: &State) -> Self {
        let app = SERVED.to_owned();
        let known = state.apps.get(SERVED).cloned().unwrap_or_default();
        match rollback_target(chance, &known).filter(|_| chance.below(2) == 0) {
            Some(to) => Self::Rollback { app, to },
            None => Self::Deploy {
                version: format!("{app}-{trial}"),
                app,
            },
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Deploy { .. } => "deploy good",
            Self::Build { .. } => "deploy with a build",
            Self::DeployBad { .. } => "deploy bad",
            Self::Rollback { .. } => "rollback",
            Self::Scale { .. } => "scale",
            Self::SetSecret { .. } => "secrets set",
            Self::SetEnv { .. } => "env set",
            Self::CreateApp { .. } => "apps create",
            Self::DestroyApp { .. } => "apps destroy",
            Self::CreateDatabase { .. } => "db create",
            Self::DestroyDatabase { .. } => "db destroy",
        }
    }

    /// The version that may begin to answer for the app under traffic.
    pub(super) fn may_answer(&self, before: &State) -> Option<String> {
        match self {
            Self::Deploy { app, version } | Self::Build { app, version } if app == SERVED => {
                Some(version.clone())
            }
            Self::Rollback { app, to } if app == SERVED => {
                let release = before.apps.get(app)?.releases.get(to)?;
                Some(release.version.clone())
            }
            Self::Deploy { .. }
            | Self::Build { .. }
            | Self::Rollback { .. }
            | Self::DeployBad { .. }
            | Self::Scale { .. }
            | Self::SetSecret { .. }
            | Self::SetEnv { .. }
            | Self::CreateApp { .. }
            | Self::DestroyApp { .. }
            | Self::CreateDatabase { .. }
            | Self::DestroyDatabase { .. } => None,
        }
    }

    /// The app of which instances may end because of it.
    pub(super) fn replaces(&self) -> Option<&str> {
        match self {
            Self::Deploy { app, .. }
            | Self::Build { app, .. }
            | Self::Rollback { app, .. }
            | Self::Scale { app, .. }
            | Self::SetSecret { app, .. }
            | Self::SetEnv { app, .. }
            | Self::DestroyApp { app } => Some(app),
            Self::DeployBad { .. }
            | Self::CreateApp { .. }
            | Self::CreateDatabase { .. }
            | Self::DestroyDatabase { .. } => None,
        }
    }

    /// Whether it was to move the app under traffic to another version, and did not.
    pub(super) fn went_back(&self, before: &State, after: &State) -> bool {
        let version = |state: &State| Some(state.apps.get(SERVED)?.version()?.to_owned());
        self.may_answer(before)
            .is_some_and(|wanted| version(after) != Some(wanted))
    }

    /// Whether it must end in success when nothing but the platform's own processes dies.
    pub(super) fn must_succeed(&self) -> bool {
        !matches!(self, Self::DeployBad { .. })
    }

    /// Asks for it.
    pub(super) fn ask(&self, api: &Api, upload: &str) -> Answer {
        match self.send(api, upload) {
            Err(_) => Answer::Unknown,
            Ok(reply) if reply.status >= 500 => Answer::Unknown,
            Ok(reply) if reply.status >= 300 => Answer::Refused {
                why: format!("{}: {}", reply.status, reply.body),
            },
            Ok(reply) => {
                // 202 is an operation; others name the one that follows, if any.
                let key = if reply.status == 202 { "id" } else { "operation" };
                Answer::Acknowledged {
                    operation: reply.body[key].as_str().map(str::to_owned),
                }
            }
        }
    }

    fn send(&self, api: &Api, upload: &str) -> Result<Reply> {
        let apps = format!("{ENVIRONMENT}/apps");
        let databases = format!("{ENVIRONMENT}/databases");
        let release = |app: &str, version: &str, bad: Option<&str>, build: &str| {
            let source = json!({ "kind": "upload", "upload": upload });
            let body = json!({ "source": source, "manifest": manifest(app, version, bad, build) });
            api.call("POST", &format!("{apps}/{app}/releases"), Some(&body))
        };
        let put = |path: String, body: Value| api.call("PUT", &path, Some(&body));
        match self {
            Self::Deploy { app, version } => release(app, version, None, ""),
            Self::Build { app, version } => {
                let step = format!(
                    "import time; time.sleep({BUILD_TAKES_S}); open('built', 'w').write('{version}')"
                );
                let build = format!("[build]\ncommand = [\"python3\", \"-c\", \"{step}\"]\n\n");
                release(app, version, None, &build)
            }
            Self::DeployBad { app, version, how } => release(app, version, Some(how), ""),
            Self::Rollback { app, to } => {
                let body = json!({ "to": format!("v{to}") });
                api.call("POST", &format!("{apps}/{app}/rollback"), Some(&body))
            }
            Self::Scale { app, count } => put(
                format!("{apps}/{app}/scale"),
                json!({ "services": { "web": count } }),
            ),
            Self::SetSecret { app, key } => put(
                format!("{apps}/{app}/secrets/{key}"),
                json!({ "value": "hidden" }),
            ),
            Self::SetEnv { app, key, value } => {
                let body = json!({ "set": { key: value } });
                api.call("PATCH", &format!("{apps}/{app}/env"), Some(&body))
            }
            Self::CreateApp { app } => api.call("POST", &apps, Some(&json!({ "name": app }))),
            Self::DestroyApp { app } => api.call("DELETE", &format!("{apps}/{app}"), None),
            Self::CreateDatabase { name } => api.call("POST", &databases, Some(&json!({ "name": name }))),
            Self::DestroyDatabase { name } => api.call("DELETE", &format!("{databases}/{name}"), None),
        }
    }

    /// What may be there once it was heard: all that is acceptable, the wished one first.
    /// `may_fail`: something died that it needed, so it may also have ended without its effect on what serves.
    pub(super) fn heard(&self, before: &State, may_fail: bool) -> Vec<State> {
        let mut acceptable = Vec::new();
        let mut change = |app: &str, change: &dyn Fn(&mut App)| {
            let mut after = before.clone();
            if let Some(known) = after.apps.get_mut(app) {
                change(known);
            }
            acceptable.push(after);
        };
        match self {
            Self::Deploy { app, version } | Self::Build { app, version } => {
                change(app, &|app| app.release(version, Fate::Serves));
                if may_fail {
                    change(app, &|app| app.release(version, Fate::Rejected));
                    change(app, &|_| {});
                }
            }
            Self::DeployBad { app, version, .. } => {
                change(app, &|app| app.release(version, Fate::Rejected));
                if may_fail {
                    change(app, &|_| {});
                }
            }
            Self::Rollback { app, to } => {
                change(app, &|app| app.serving = Some(*to));
                if may_fail {
                    change(app, &|_| {});
                }
            }
            Self::Scale { app, count } => change(app, &|app| app.scale = Some(*count)),
            Self::SetSecret { app, key } => {
                for fate in Fate::after_a_setting(may_fail) {
                    change(app, &|app| {
                        *app.secrets.entry(key.clone()).or_default() += 1;
                        app.follow(fate);
                    });
                }
            }
            Self::SetEnv { app, key, value } => {
                for fate in Fate::after_a_setting(may_fail) {
                    change(app, &|app| {
                        app.env.insert(key.clone(), value.clone());
                        app.follow(fate);
                    });
                }
            }
            Self::CreateApp { app } => {
                let mut after = before.clone();
                after.apps.insert(app.clone(), App::default());
                acceptable.push(after);
            }
            Self::DestroyApp { app } => {
                let mut after = before.clone();
                after.apps.remove(app);
                acceptable.push(after);
            }
            Self::CreateDatabase { name } => {
                for state in if may_fail {
                    &["active", "failed"][..]
                } else {
                    &["active"]
                } {
                    let mut after = before.clone();
                    after.databases.insert(name.clone(), (*state).to_owned());
                    acceptable.push(after);
                }
            }
            Self::DestroyDatabase { name } => {
                let mut after = before.clone();
                after.databases.remove(name);
                after.destroyed += 1;
                acceptable.push(after);
            }
        }
        acceptable
    }
}

/// What becomes of a new release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Serves,
    Rejected,
    NeverMade,
}

impl Fate {
    fn after_a_setting(may_fail: bool) -> &'static [Self] {
        if may_fail {
            &[Self::Serves, Self::Rejected, Self::NeverMade]
        } else {
            &[Self::Serves]
        }
    }
}

impl App {
    /// Gets its next release.
    fn release(&mut self, version: &str, fate: Fate) {
        let number = self.newest() + 1;
        let state = match fate {
            Fate::Serves => "proven",
            Fate::Rejected => "rejected",
            Fate::NeverMade => return,
        };
        let release = Release {
            version: version.to_owned(),
            state: state.to_owned(),
        };
        self.releases.insert(number, release);
        if fate == Fate::Serves {
            self.serving = Some(number);
            self.scale = self.scale.or(Some(1));
        }
    }

    /// Gets the release that follows a change of configuration, when one serves.
    fn follow(&mut self, fate: &Fate) {
        if let Some(version) = self.version().map(str::to_owned) {
            self.release(&version, *fate);
        }
    }
}

/// A release that served before, not too old.
fn rollback_target(chance: &mut Chance, app: &App) -> Option<u64> {
    let proven = app.releases.iter().rev();
    let proven: Vec<u64> = proven
        .filter(|(number, release)| release.state == "proven" && Some(**number) != app.serving)
        .map(|(number, _)| *number)
        .take(ROLLBACK_TARGETS)
        .collect();
    chance.one(&proven).copied()
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deploy { app, version } | Self::Build { app, version } => {
                write!(f, "{} of {app}, {version}", self.name())
            }
            Self::DeployBad { app, version, how } => {
                write!(f, "deploy bad of {app}, {version}: {how}")
            }
            Self::Rollback { app, to } => write!(f, "rollback of {app} to v{to}"),
            Self::Scale { app, count } => write!(f, "scale {app} to {count}"),
            Self::SetSecret { app, key } => write!(f, "secrets set {key} of {app}"),
            Self::SetEnv { app, key, value } => write!(f, "env set {key}={value} of {app}"),
            Self::CreateApp { app } | Self::DestroyApp { app } => write!(f, "{} {app}", self.name()),
            Self::CreateDatabase { name } | Self::DestroyDatabase { name } => {
                write!(f, "{} {name}", self.name())
            }
        }
    }
}
