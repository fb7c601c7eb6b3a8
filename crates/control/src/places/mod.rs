//! Orgs, projects and environments: where everything lives.
//!
//! Lives here: making, renaming and removing them. Does not live here: who is a member of them (`people`).
//! Invariant: what has something in it is not removed, and the refusal says what that is.

use model::{
    Action, Actor, App, Database, DatabaseState, Environment, EnvironmentId, Invitation, Membership, Name,
    Org, OrgId, Project, ProjectId, Realm, Token,
};
use store::{ReadTx, Versioned, WriteTx};

use crate::authorize::{self, EnvPath, Rights, realm_of};
use crate::transact::Current as _;
use crate::{Control, ControlError, operations};

/// Makes what exists from the start: org and project `default`, environment `production`. Idempotent.
///
/// # Errors
/// When the store does not take it.
pub fn found(control: &Control) -> Result<(), ControlError> {
    control.write(|tx| {
        let defaults = EnvPath::default();
        // Not by name: who renamed or removed them does not want them back with the next start.
        if !tx.list::<Org>("")?.is_empty() {
            return Ok(());
        }
        let name = |text: &str| {
            text.parse::<Name>()
                .map_err(|e| ControlError::invalid("/name", e.to_string()))
        };
        let org = Org {
            id: OrgId::fresh(),
            name: name(&defaults.org)?,
        };
        let project = Project {
            id: ProjectId::fresh(),
            org: org.id,
            name: name(&defaults.project)?,
        };
        let environment = Environment {
            id: EnvironmentId::fresh(),
            project: project.id,
            name: name(&defaults.environment)?,
        };
        tx.insert(&org)?;
        tx.insert(&project)?;
        tx.insert(&environment)?;
        Ok(())
    })
}

/// Orgs the actor may know of.
///
/// # Errors
/// When the store cannot be read.
pub fn orgs(control: &Control, actor: &Actor) -> Result<Vec<Versioned<Org>>, ControlError> {
    control.read(|tx| {
        let rights = Rights::of(tx, actor)?;
        let mut all = tx.list::<Org>("")?;
        all.retain(|org| rights.allow(Action::See, Realm::Org { org: org.row.id }));
        Ok(all)
    })
}

/// One org.
///
/// # Errors
/// As the gate's.
pub fn org(control: &Control, actor: &Actor, name: &str) -> Result<Versioned<Org>, ControlError> {
    control.read(|tx| authorize::org(tx, actor, Action::See, name))
}

/// A new org, without a project.
///
/// # Errors
/// As the gate's; `Taken` when the name is.
pub fn create_org(control: &Control, actor: &Actor, name: &Name) -> Result<Versioned<Org>, ControlError> {
    control.mutate(actor, "org.create", name.as_str(), |tx| {
        authorize::installation(tx, actor, Action::Administer)?;
        refuse_taken::<Org>(tx, "org", "", name)?;
        let org = Org {
            id: OrgId::fresh(),
            name: name.clone(),
        };
        tx.insert(&org)?;
        Ok(tx.need::<Org>(&org.id.to_string())?)
    })
}

/// Another name for an org.
///
/// # Errors
/// As the gate's; `Taken` when the name is.
pub fn rename_org(
    control: &Control,
    actor: &Actor,
    org: &str,
    name: &Name,
    expected: Option<u64>,
) -> Result<Versioned<Org>, ControlError> {
    control.mutate(actor, "org.update", org, |tx| {
        let mut found = authorize::org(tx, actor, Action::Administer, org)?.current(expected)?;
        if found.row.name != *name {
            refuse_taken::<Org>(tx, "org", "", name)?;
            found.row.name = name.clone();
            tx.update(&found.row, store::Expect::Generation(found.generation))?;
        }
        Ok(tx.need::<Org>(&found.row.id.to_string())?)
    })
}

/// Removes an org in which nothing is. Who was a member is no longer; tokens for it end.
///
/// # Errors
/// As the gate's; `State` with what is in it.
pub fn delete_org(
    control: &Control,
    actor: &Actor,
    name: &str,
    expected: Option<u64>,
) -> Result<(), ControlError> {
    control.mutate(actor, "org.delete", name, |tx| {
        authorize::installation(tx, actor, Action::Administer).or_else(|refused| {
            // Who may not know of it is not told that there is something to refuse.
            authorize::org(tx, actor, Action::See, name).and(Err(refused))
        })?;
        let found = authorize::org(tx, actor, Action::Administer, name)?.current(expected)?;
        let projects = tx.list::<Project>(&found.row.id.to_string())?;
        let inside = projects
            .iter()
            .map(|project| format!("the project {}", project.row.name));
        refuse_full(
            "org",
            name,
            inside.collect(),
            remove_first(&format!("stoa projects ls --org {name}")),
        )?;
        forget_people(tx, |realm| realm.org() == Some(found.row.id))?;
        tx.delete::<Org>(
            &found.row.id.to_string(),
            store::Expect::Generation(found.generation),
        )?;
        Ok(())
    })
}

/// Projects of an org that the actor may know of.
///
/// # Errors
/// As the gate's.
pub fn projects(
    control: &Control,
    actor: &Actor,
    org: &str,
) -> Result<Vec<Versioned<Project>>, ControlError> {
    control.read(|tx| {
        let rights = Rights::of(tx, actor)?;
        let org = rights.org(tx, Action::See, org)?;
        let mut all = tx.list::<Project>(&org.row.id.to_string())?;
        all.retain(|project| rights.allow(Action::See, realm_of(&project.row)));
        Ok(all)
    })
}

/// One project.
///
/// # Errors
/// As the gate's.
pub fn project(
    control: &Control,
    actor: &Actor,
    org: &str,
    name: &str,
) -> Result<Versioned<Project>, ControlError> {
    control.read(|tx| Ok(authorize::project(tx, actor, Action::See, org, name)?.1))
}

/// A new project, without an environment.
///
/// # Errors
/// As the gate's; `Taken` when the name is.
pub fn create_project(
    control: &Control,
    actor: &Actor,
    org: &str,
    name: &Name,
) -> Result<Versioned<Project>, ControlError> {
    control.mutate(actor, "project.create", &format!("{org}/{name}"), |tx| {
        let org = authorize::org(tx, actor, Action::Administer, org)?;
        refuse_taken::<Project>(tx, "project", &org.row.id.to_string(), name)?;
        let project = Project {
            id: ProjectId::fresh(),
            org: org.row.id,
            name: name.clone(),
        };
        tx.insert(&project)?;
        Ok(tx.need::<Project>(&project.id.to_string())?)
    })
}

/// Another name for a project.
///
/// # Errors
/// As the gate's; `Taken` when the name is.
pub fn rename_project(
    control: &Control,
    actor: &Actor,
    org: &str,
    project: &str,
    name: &Name,
    expected: Option<u64>,
) -> Result<Versioned<Project>, ControlError> {
    control.mutate(actor, "project.update", &format!("{org}/{project}"), |tx| {
        let (_, found) = authorize::project(tx, actor, Action::Administer, org, project)?;
        let mut found = found.current(expected)?;
        if found.row.name != *name {
            refuse_taken::<Project>(tx, "project", &found.row.org.to_string(), name)?;
            found.row.name = name.clone();
            tx.update(&found.row, store::Expect::Generation(found.generation))?;
        }
        Ok(tx.need::<Project>(&found.row.id.to_string())?)
    })
}

/// Removes a project in which nothing is.
///
/// # Errors
/// As the gate's; `State` with what is in it.
pub fn delete_project(
    control: &Control,
    actor: &Actor,
    org: &str,
    name: &str,
    expected: Option<u64>,
) -> Result<(), ControlError> {
    control.mutate(actor, "project.delete", &format!("{org}/{name}"), |tx| {
        // It is the org's: who administers only the project does not end it.
        let (_, found) = authorize::project(tx, actor, Action::See, org, name)?;
        authorize::org(tx, actor, Action::Administer, org)?;
        let found = found.current(expected)?;
        let environments = tx.list::<Environment>(&found.row.id.to_string())?;
        let inside = environments
            .iter()
            .map(|environment| format!("the environment {}", environment.row.name));
        let see = format!("stoa environments ls --org {org} --project {name}");
        refuse_full("project", name, inside.collect(), remove_first(&see))?;
        let id = found.row.id;
        forget_people(
            tx,
            |realm| matches!(realm, Realm::Project { project, .. } if project == id),
        )?;
        tx.delete::<Project>(&id.to_string(), store::Expect::Generation(found.generation))?;
        Ok(())
    })
}

/// Environments of a project.
///
/// # Errors
/// As the gate's.
pub fn environments(
    control: &Control,
    actor: &Actor,
    org: &str,
    project: &str,
) -> Result<Vec<Versioned<Environment>>, ControlError> {
    control.read(|tx| {
        let (_, project) = authorize::project(tx, actor, Action::Read, org, project)?;
        Ok(tx.list::<Environment>(&project.row.id.to_string())?)
    })
}

/// One environment.
///
/// # Errors
/// As the gate's.
pub fn environment(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
) -> Result<Versioned<Environment>, ControlError> {
    control.read(|tx| {
        let scope = authorize::environment(tx, actor, Action::Read, path)?;
        Ok(tx.need::<Environment>(&scope.parent())?)
    })
}

/// A new environment of a project, with a network of its own.
///
/// # Errors
/// As the gate's; `Taken` when the name is.
pub fn create_environment(
    control: &Control,
    actor: &Actor,
    org: &str,
    project: &str,
    name: &Name,
) -> Result<Versioned<Environment>, ControlError> {
    control.mutate(actor, "environment.create", name.as_str(), |tx| {
        let (_, project) = authorize::project(tx, actor, Action::Administer, org, project)?;
        refuse_taken::<Environment>(tx, "environment", &project.row.id.to_string(), name)?;
        let environment = Environment {
            id: EnvironmentId::fresh(),
            project: project.row.id,
            name: name.clone(),
        };
        tx.insert(&environment)?;
        Ok(tx.need::<Environment>(&environment.id.to_string())?)
    })
}

/// Removes an environment in which nothing is. What was done in it stays in the audit log.
///
/// # Errors
/// As the gate's; `State` with what is in it.
pub fn delete_environment(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    expected: Option<u64>,
) -> Result<(), ControlError> {
    let object = format!("{}/{}/{}", path.org, path.project, path.environment);
    control.mutate(actor, "environment.delete", &object, |tx| {
        let scope = authorize::environment(tx, actor, Action::Administer, path)?;
        let parent = scope.parent();
        let found = tx.need::<Environment>(&parent)?.current(expected)?;
        let see = format!(
            "stoa status --org {} --project {} --env {}",
            path.org, path.project, path.environment
        );
        let (inside, next_step) = contents(control, tx, &parent, &see)?;
        refuse_full("environment", &path.environment, inside, next_step)?;
        tx.delete::<Environment>(&parent, store::Expect::Generation(found.generation))?;
        Ok(())
    })
}

/// What is in an environment, for people, and what leads to its being empty.
fn contents(
    control: &Control,
    tx: &ReadTx,
    environment: &str,
    see: &str,
) -> Result<(Vec<String>, String), ControlError> {
    let (mut inside, mut kept) = (Vec::new(), Vec::new());
    for app in tx.list::<App>(environment)? {
        inside.push(format!("the app {}", app.row.name));
    }
    for database in tx.list::<Database>(environment)? {
        match &database.row.state {
            DatabaseState::Destroyed { purge_at, .. } => kept.push(*purge_at),
            _other => inside.push(format!("the database {}", database.row.name)),
        }
    }
    for operation in operations::unsettled(control, tx, environment)? {
        inside.push(format!("the operation {} under way", operation.id));
    }
    // That goes by itself; nobody can remove or move it.
    let next_step = match kept.iter().max() {
        None => remove_first(see),
        Some(last) if inside.is_empty() => {
            format!("kept data goes by itself; after {last}: stoa environments rm")
        }
        Some(last) => format!(
            "{}; kept data goes by itself, the last at {last}",
            remove_first(see)
        ),
    };
    inside.extend(
        kept.iter()
            .map(|purge_at| format!("the data of a database that was ended, kept until {purge_at}")),
    );
    Ok((inside, next_step))
}

fn remove_first(see: &str) -> String {
    format!("remove or move them first: {see}")
}

/// Most things that a refusal names.
const NAMED: usize = 10;

fn refuse_full(
    kind: &str,
    name: &str,
    mut inside: Vec<String>,
    next_step: String,
) -> Result<(), ControlError> {
    if inside.is_empty() {
        return Ok(());
    }
    let more = inside.len().saturating_sub(NAMED);
    inside.truncate(NAMED);
    let mut list = inside.join(", ");
    if more > 0 {
        list.push_str(&format!(" and {more} more"));
    }
    Err(ControlError::State {
        message: format!("the {kind} {name} is not empty: in it are {list}"),
        next_step,
    })
}

fn refuse_taken<R: store::Row>(
    tx: &ReadTx,
    kind: &'static str,
    parent: &str,
    name: &Name,
) -> Result<(), ControlError> {
    if tx.find::<R>(parent, name.as_str())?.is_none() {
        return Ok(());
    }
    Err(ControlError::Taken {
        kind,
        name: name.to_string(),
    })
}

/// Ends what people had in a place that goes.
fn forget_people(tx: &WriteTx, is_in: impl Fn(Realm) -> bool) -> Result<(), ControlError> {
    for found in tx.list_all::<Membership>()? {
        if is_in(found.row.realm) {
            tx.delete::<Membership>(&found.row.id.to_string(), store::Expect::Any)?;
        }
    }
    for found in tx.list::<Invitation>("")? {
        if is_in(found.row.realm) {
            tx.delete::<Invitation>(&found.row.id.to_string(), store::Expect::Any)?;
        }
    }
    for mut found in tx.list::<Token>("")? {
        if !found.row.revoked && is_in(found.row.bounds().realm) {
            found.row.revoked = true;
            tx.update(&found.row, store::Expect::Generation(found.generation))?;
        }
    }
    Ok(())
}
