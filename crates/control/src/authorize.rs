//! The one gate: who may do what to which object. Objects are loaded through it or not at all.
//!
//! Lives here: the rule, and the loaders that apply it. Does not live here: who the actor is (`people`).
//! Invariant: default deny; a foreign object and an absent one give the same answer; what somebody may do is read in the
//! transaction that does it, so that a right that was taken away ends with that commit.

use model::{
    Action, Actor, App, Bounds, Database, Environment, EnvironmentId, Membership, Org, OrgId, Project, Realm,
    Release, Role,
};
use store::{ReadTx, Versioned};

use crate::error::ControlError;
use crate::people;
use crate::planted::{self, Defect};

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
pub struct Scope {
    /// Its org.
    pub org: Org,
    /// Its project.
    pub project: Project,
    /// The environment.
    pub environment: Environment,
    _gate: Passed,
}

/// Proof that the gate was passed: nobody else can make one.
#[derive(Debug, Clone)]
struct Passed;

/// What an actor may do where, as it is in one snapshot.
#[derive(Debug, Clone)]
pub struct Rights {
    /// What the actor is, and where.
    grants: Vec<(Realm, Role)>,
    /// What the token in use lets pass of it.
    bounds: Option<Bounds>,
}

impl Rights {
    /// The rights that count now.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn of(tx: &ReadTx, actor: &Actor) -> Result<Self, ControlError> {
        let (grants, bounds) = match actor {
            Actor::HostRoot { .. } | Actor::System => (vec![(Realm::Installation, Role::Owner)], None),
            Actor::User { user, session } => {
                people::refuse_ended(tx, *session)?;
                (grants_of(tx, *user)?, None)
            }
            Actor::Token { token, user, .. } => {
                let bounds = people::bounds(tx, *token)?;
                let grants = match user {
                    Some(user) if !planted::is(Defect::TrustsTokens) => grants_of(tx, *user)?,
                    Some(_) | None => vec![(bounds.realm, bounds.role)],
                };
                (grants, Some(bounds))
            }
        };
        Ok(Self { grants, bounds })
    }

    /// The rights that count now of who made something that waits. Whether he is still signed in is no matter; what he is,
    /// and that his token was not revoked, is.
    ///
    /// # Errors
    /// `SignIn` for a token that was revoked; when the store cannot be read.
    pub(crate) fn of_maker(tx: &ReadTx, maker: &Actor) -> Result<Self, ControlError> {
        match maker {
            Actor::User { user, .. } => Ok(Self {
                grants: grants_of(tx, *user)?,
                bounds: None,
            }),
            Actor::HostRoot { .. } | Actor::System | Actor::Token { .. } => Self::of(tx, maker),
        }
    }

    /// Whether an action may be done in a realm.
    #[must_use]
    pub fn allow(&self, action: Action, realm: Realm) -> bool {
        if action == Action::See {
            return self.sees(realm);
        }
        let counts = |granted: Realm| granted.covers(realm) || planted::is(Defect::ForgetsRealm);
        let is_granted = self.grants.iter().any(|(granted, role)| {
            counts(*granted) && (role.allows(action) || planted::is(Defect::ForgetsRole))
        });
        let is_let_pass = |bounds: &Bounds| {
            counts(bounds.realm) && (bounds.allow(action) || planted::is(Defect::ForgetsScopes))
        };
        is_granted && self.bounds.as_ref().is_none_or(is_let_pass)
    }

    /// Whether it may be known that something of this realm is there.
    fn sees(&self, realm: Realm) -> bool {
        let is_near =
            |own: Realm| own.covers(realm) || realm.covers(own) || planted::is(Defect::ForgetsRealm);
        realm == Realm::Installation
            || self.grants.iter().any(|(granted, _)| is_near(*granted))
                && self.bounds.as_ref().is_none_or(|bounds| is_near(bounds.realm))
    }

    /// The strongest role in a realm, as far as the token in use lets it pass.
    #[must_use]
    pub fn role(&self, realm: Realm) -> Option<Role> {
        let own = self.grants.iter().filter(|(granted, _)| granted.covers(realm));
        let strongest = own.map(|(_, role)| *role).max()?;
        match &self.bounds {
            None => Some(strongest),
            Some(bounds) if bounds.realm.covers(realm) => Some(strongest.min(bounds.role)),
            Some(_) => None,
        }
    }

    /// Whether the actor may give a role there: he has it, and the token in use lets pass all that is in it.
    #[must_use]
    pub fn may_give(&self, role: Role, realm: Realm) -> bool {
        let mut within = Action::ALL.into_iter().filter(|action| role.allows(*action));
        self.role(realm) >= Some(role) && within.all(|action| self.allow(action, realm))
    }

    /// Whether the account of the user who acts is his to manage by what he shows: its sessions, tokens and memberships. A
    /// token that was made for something else must not become its maker.
    #[must_use]
    pub fn manage_account(&self) -> bool {
        let is_whole = |bounds: &Bounds| {
            bounds.realm == Realm::Installation
                && (bounds.allow(Action::Administer) || planted::is(Defect::ForgetsScopes))
        };
        self.bounds.as_ref().is_none_or(is_whole)
    }

    /// Where the actor has a right, each with the role there.
    pub fn everywhere(&self) -> impl Iterator<Item = (Realm, Role)> + '_ {
        let realms = self.grants.iter().map(|(realm, _)| *realm);
        let inner = self.bounds.iter().map(|bounds| bounds.realm);
        let mut all: Vec<Realm> = realms.chain(inner).collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter()
            .filter_map(|realm| Some((realm, self.role(realm)?)))
    }

    /// What the token in use lets pass; `None`: everything.
    #[must_use]
    pub fn bounds(&self) -> Option<&Bounds> {
        self.bounds.as_ref()
    }

    /// Refuses what may not be done.
    ///
    /// # Errors
    /// `NotFound` for what the actor may not know of, `Denied` for what it may see but not do.
    pub fn demand(
        &self,
        action: Action,
        realm: Realm,
        kind: &'static str,
        name: &str,
    ) -> Result<(), ControlError> {
        if self.allow(action, realm) {
            Ok(())
        } else if self.sees(realm) {
            Err(ControlError::Denied { action })
        } else {
            Err(missing(kind, name))
        }
    }

    /// Refuses an action for which there is no right anywhere: for what belongs to the installation and is shown to
    /// whoever works on it.
    ///
    /// # Errors
    /// `Denied`.
    pub fn demand_somewhere(&self, action: Action) -> Result<(), ControlError> {
        if self.everywhere().any(|(realm, _)| self.allow(action, realm)) {
            Ok(())
        } else {
            Err(ControlError::Denied { action })
        }
    }

    /// The org by name or id.
    ///
    /// # Errors
    /// As [`Rights::demand`].
    pub fn org(&self, tx: &ReadTx, action: Action, name: &str) -> Result<Versioned<Org>, ControlError> {
        let found = match name.parse::<OrgId>() {
            Ok(_) => tx.get::<Org>(name)?,
            Err(_) => tx.find::<Org>("", name)?,
        };
        let found = found.ok_or_else(|| missing("org", name))?;
        self.demand(action, Realm::Org { org: found.row.id }, "org", name)?;
        Ok(found)
    }

    /// The project by name or id.
    ///
    /// # Errors
    /// As [`Rights::demand`].
    pub fn project(
        &self,
        tx: &ReadTx,
        action: Action,
        org: &str,
        name: &str,
    ) -> Result<(Versioned<Org>, Versioned<Project>), ControlError> {
        let org = self.org(tx, Action::See, org)?;
        let found = match tx.find::<Project>(&org.row.id.to_string(), name)? {
            Some(found) => Some(found),
            None => tx
                .get::<Project>(name)?
                .filter(|found| found.row.org == org.row.id),
        };
        let found = found.ok_or_else(|| missing("project", name))?;
        self.demand(action, realm_of(&found.row), "project", name)?;
        Ok((org, found))
    }

    /// The environment at `path`.
    ///
    /// # Errors
    /// As [`Rights::demand`].
    pub fn environment(&self, tx: &ReadTx, action: Action, path: &EnvPath) -> Result<Scope, ControlError> {
        // What is not there is not there, whatever one may do where it would be.
        let (org, project) = self.project(tx, Action::See, &path.org, &path.project)?;
        let found = match tx.find::<Environment>(&project.row.id.to_string(), &path.environment)? {
            Some(found) => Some(found),
            None => tx
                .get::<Environment>(&path.environment)?
                .filter(|found| found.row.project == project.row.id),
        };
        let found = found.ok_or_else(|| missing("environment", &path.environment))?;
        self.demand(action, realm_of(&project.row), "environment", &path.environment)?;
        Ok(Scope {
            org: org.row,
            project: project.row,
            environment: found.row,
            _gate: Passed,
        })
    }

    /// The environment with this id.
    ///
    /// # Errors
    /// As [`Rights::demand`].
    pub fn environment_by_id(
        &self,
        tx: &ReadTx,
        action: Action,
        id: EnvironmentId,
    ) -> Result<Scope, ControlError> {
        let name = id.to_string();
        let environment = tx
            .get::<Environment>(&name)?
            .ok_or_else(|| missing("environment", &name))?
            .row;
        let project = tx.need::<Project>(&environment.project.to_string())?.row;
        let org = tx.need::<Org>(&project.org.to_string())?.row;
        self.demand(action, realm_of(&project), "environment", &name)?;
        Ok(Scope {
            org,
            project,
            environment,
            _gate: Passed,
        })
    }
}

fn grants_of(tx: &ReadTx, user: model::UserId) -> Result<Vec<(Realm, Role)>, ControlError> {
    let own = tx.list::<Membership>(&user.to_string())?.into_iter();
    Ok(own.map(|found| (found.row.realm, found.row.role)).collect())
}

/// Where the rights to a project's objects count.
#[must_use]
pub fn realm_of(project: &Project) -> Realm {
    Realm::Project {
        org: project.org,
        project: project.id,
    }
}

/// Whether `actor` may do `action` to something of `realm`.
///
/// # Errors
/// `NotFound` for what the actor may not know of, `Denied` for what it may see but not do.
pub fn authorize(
    tx: &ReadTx,
    actor: &Actor,
    action: Action,
    realm: Realm,
    kind: &'static str,
    name: &str,
) -> Result<(), ControlError> {
    Rights::of(tx, actor)?.demand(action, realm, kind, name)
}

/// The same for what belongs to the installation.
///
/// # Errors
/// `Denied`.
pub fn installation(tx: &ReadTx, actor: &Actor, action: Action) -> Result<(), ControlError> {
    authorize(tx, actor, action, Realm::Installation, "installation", "")
}

/// The org by name or id.
///
/// # Errors
/// As [`authorize`].
pub fn org(tx: &ReadTx, actor: &Actor, action: Action, name: &str) -> Result<Versioned<Org>, ControlError> {
    Rights::of(tx, actor)?.org(tx, action, name)
}

/// The project by name or id.
///
/// # Errors
/// As [`authorize`].
pub fn project(
    tx: &ReadTx,
    actor: &Actor,
    action: Action,
    org: &str,
    name: &str,
) -> Result<(Versioned<Org>, Versioned<Project>), ControlError> {
    Rights::of(tx, actor)?.project(tx, action, org, name)
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
    Rights::of(tx, actor)?.environment(tx, action, path)
}

/// The environment with this id, if `actor` may do `action` there.
///
/// # Errors
/// As [`authorize`].
pub fn environment_by_id(
    tx: &ReadTx,
    actor: &Actor,
    action: Action,
    id: EnvironmentId,
) -> Result<Scope, ControlError> {
    Rights::of(tx, actor)?.environment_by_id(tx, action, id)
}

/// What the path of a request names.
#[derive(Debug, Clone, Copy, Default)]
pub struct Named<'n> {
    /// Its org.
    pub org: Option<&'n str>,
    /// Its project.
    pub project: Option<&'n str>,
    /// Its environment.
    pub environment: Option<&'n str>,
    /// Its app.
    pub app: Option<&'n str>,
    /// Its database.
    pub database: Option<&'n str>,
}

/// Where a request needs its right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// For what its path names; somewhere, when it names no org.
    Named,
    /// In the whole installation.
    Installation,
}

/// The gate in the door, for what the path names, before anything of the request's content counts. The use case asks
/// again, for the thing itself.
///
/// # Errors
/// As [`authorize`]: first whether it may be known of at all. Absent and foreign are told apart from forbidden, never from
/// each other.
pub fn admit(
    control: &crate::Control,
    actor: &Actor,
    action: Action,
    reach: Reach,
    named: &Named<'_>,
) -> Result<(), ControlError> {
    control.read(|tx| {
        let rights = Rights::of(tx, actor)?;
        let path = match (named.org, named.project, named.environment) {
            (Some(org), Some(project), Some(environment)) => Some(EnvPath {
                org: org.to_owned(),
                project: project.to_owned(),
                environment: environment.to_owned(),
            }),
            _less => None,
        };
        if reach == Reach::Installation {
            match (&path, named.org) {
                (Some(path), _) => rights.environment(tx, Action::Read, path).map(drop)?,
                (None, Some(org)) => rights.org(tx, Action::See, org).map(drop)?,
                (None, None) => {}
            }
            return rights.demand(action, Realm::Installation, "installation", "");
        }
        match (named.org, named.project, path) {
            (Some(_), Some(_), Some(path)) => {
                let scope = rights.environment(tx, Action::Read, &path)?;
                named.app.map(|app| scope.app(tx, app)).transpose()?;
                named.database.map(|name| scope.database(tx, name)).transpose()?;
                rights.environment(tx, action, &path).map(drop)
            }
            (Some(org), Some(project), None) => rights.project(tx, action, org, project).map(drop),
            (Some(org), None, _) => rights.org(tx, action, org).map(drop),
            (None, _, _) => rights.demand_somewhere(action),
        }
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
