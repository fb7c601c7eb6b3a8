//! The one gate: who may do what to which object. Objects are loaded through it or not at all.
//!
//! Lives here: the rule, and the loaders that apply it. Does not live here: who the actor is (`people`).
//! Invariant: default deny; a foreign object and an absent one give the same answer.

use model::{Action, Actor, App, Database, Environment, Org, OrgId, Project, Release};
use store::{ReadTx, Versioned};

use crate::error::ControlError;

/// Where an environment is, by names or ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvPath {
    /// Org.
    pub org: String,
    /// Project.
    pub project: String,
    /// Environment.
    pub environment: String,
}

impl Default for EnvPath {
    /// What exists from the start.
    fn default() -> Self {
        Self {
            org: "default".to_owned(),
            project: "default".to_owned(),
            environment: "production".to_owned(),
        }
    }
}

/// An environment that the actor may see, with what it lies in. Only this module makes one.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Scope {
    /// Its org.
    pub org: Org,
    /// Its project.
    pub project: Project,
    /// The environment.
    pub environment: Environment,
}

/// Whether `actor` may do `action` to something of `org` (`None`: of the installation).
///
/// # Errors
/// `NotFound` for what the actor may not know of, `Denied` for what it may see but not do.
pub fn authorize(
    actor: &Actor,
    action: Action,
    org: Option<OrgId>,
    kind: &'static str,
    name: &str,
) -> Result<(), ControlError> {
    match actor {
        Actor::HostRoot { .. } | Actor::System => Ok(()),
        Actor::Token { role, org: bound, .. } => {
            if bound.is_some() && *bound != org {
                // What belongs to the installation is known to exist, so that is a plain refusal.
                return Err(match org {
                    Some(_) => missing(kind, name),
                    None => ControlError::Denied { action },
                });
            }
            if role.allows(action) {
                Ok(())
            } else {
                Err(ControlError::Denied { action })
            }
        }
    }
}

/// The org by name or id.
///
/// # Errors
/// As [`authorize`].
pub fn org(tx: &ReadTx, actor: &Actor, action: Action, name: &str) -> Result<Versioned<Org>, ControlError> {
    let found = match name.parse::<OrgId>() {
        Ok(_) => tx.get::<Org>(name)?,
        Err(_) => tx.find::<Org>("", name)?,
    };
    let found = found.ok_or_else(|| missing("org", name))?;
    authorize(actor, action, Some(found.row.id), "org", name)?;
    Ok(found)
}

/// The project by name or id.
///
/// # Errors
/// As [`authorize`].
pub fn project(
    tx: &ReadTx,
    actor: &Actor,
    action: Action,
    org_name: &str,
    name: &str,
) -> Result<(Versioned<Org>, Versioned<Project>), ControlError> {
    let org = self::org(tx, actor, action, org_name)?;
    let parent = org.row.id.to_string();
    let found = match tx.find::<Project>(&parent, name)? {
        Some(found) => Some(found),
        None => tx
            .get::<Project>(name)?
            .filter(|found| found.row.org == org.row.id),
    };
    Ok((org, found.ok_or_else(|| missing("project", name))?))
}

/// The environment at `path`, if `actor` may do `action` there.
///
/// # Errors
/// As [`authorize`].
pub fn environment(
    tx: &ReadTx,
    actor: &Actor,
    action: Action,
    path: &EnvPath,
) -> Result<Scope, ControlError> {
    let (org, project) = project(tx, actor, action, &path.org, &path.project)?;
    let parent = project.row.id.to_string();
    let found = match tx.find::<Environment>(&parent, &path.environment)? {
        Some(found) => Some(found),
        None => tx
            .get::<Environment>(&path.environment)?
            .filter(|found| found.row.project == project.row.id),
    };
    let found = found.ok_or_else(|| missing("environment", &path.environment))?;
    Ok(Scope {
        org: org.row,
        project: project.row,
        environment: found.row,
    })
}

/// The environment with this id, if `actor` may do `action` there.
///
/// # Errors
/// As [`authorize`].
pub fn environment_by_id(
    tx: &ReadTx,
    actor: &Actor,
    action: Action,
    id: model::EnvironmentId,
) -> Result<Scope, ControlError> {
    let name = id.to_string();
    let environment = tx
        .get::<Environment>(&name)?
        .ok_or_else(|| missing("environment", &name))?
        .row;
    let project = tx.need::<Project>(&environment.project.to_string())?.row;
    let org = tx.need::<Org>(&project.org.to_string())?.row;
    authorize(actor, action, Some(org.id), "environment", &name)?;
    Ok(Scope {
        org,
        project,
        environment,
    })
}

impl Scope {
    /// The environment's id as the parent of its objects.
    #[must_use]
    pub fn parent(&self) -> String {
        self.environment.id.to_string()
    }

    /// An app by name or id.
    ///
    /// # Errors
    /// When it is not in this environment.
    pub fn app(&self, tx: &ReadTx, name: &str) -> Result<Versioned<App>, ControlError> {
        let found = match tx.find::<App>(&self.parent(), name)? {
            Some(found) => Some(found),
            None => tx
                .get::<App>(name)?
                .filter(|found| found.row.environment == self.environment.id),
        };
        found.ok_or_else(|| missing("app", name))
    }

    /// A database by name or id, unless it was destroyed.
    ///
    /// # Errors
    /// When it is not in this environment.
    pub fn database(&self, tx: &ReadTx, name: &str) -> Result<Versioned<Database>, ControlError> {
        let found = match tx.find::<Database>(&self.parent(), name)? {
            Some(found) => Some(found),
            None => tx
                .get::<Database>(name)?
                .filter(|found| found.row.environment == self.environment.id),
        };
        found.ok_or_else(|| missing("database", name))
    }

    /// A release of an app by number (`v3` or `3`) or id.
    ///
    /// # Errors
    /// When the app has none such.
    pub fn release(&self, tx: &ReadTx, app: &App, name: &str) -> Result<Versioned<Release>, ControlError> {
        let number = name.strip_prefix('v').unwrap_or(name).parse::<u64>();
        let found = match number {
            Ok(number) => tx.find::<Release>(&app.id.to_string(), &store::rows::release_name(number))?,
            Err(_) => tx.get::<Release>(name)?.filter(|found| found.row.app == app.id),
        };
        found.ok_or_else(|| missing("release", name))
    }
}

/// The answer for what is absent or foreign.
#[must_use]
pub fn missing(kind: &'static str, name: &str) -> ControlError {
    ControlError::NotFound {
        kind,
        name: name.chars().take(80).collect(),
    }
}
