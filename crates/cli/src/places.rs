//! `stoa orgs`, `stoa projects` and `stoa environments`.

use api::{CreateEnvironment, CreateOrg, CreateProject, Rename};
use serde_json::json;

use crate::args::{EnvironmentsCommand, OrgsCommand, ProjectsCommand};
use crate::failure::Failure;
use crate::output::{self, say};
use crate::session::Session;

/// `stoa orgs`.
pub(crate) fn orgs(session: &Session, command: &OrgsCommand) -> Result<u8, Failure> {
    match command {
        OrgsCommand::Ls => {
            let all = session.client.orgs()?;
            let rows = all.iter().map(|org| vec![org.name.clone(), org.id.clone()]);
            show_list(session, &all, "ORG", &rows.collect::<Vec<_>>())
        }
        OrgsCommand::Create { name } => {
            let made = session.client.org_create(&CreateOrg {
                name: name.to_string(),
            })?;
            let next = format!("made the org {name}; next: stoa projects create NAME --org {name}");
            show(session, &made, &next)
        }
        OrgsCommand::Rename { org, name } => {
            let body = Rename {
                name: name.to_string(),
            };
            let renamed = session.client.org_update(org, &body)?;
            show(session, &renamed, &format!("{org} is now called {name}"))
        }
        OrgsCommand::Rm { org } => {
            session.client.org_delete(org)?;
            show(
                session,
                &json!({"org": org, "removed": true}),
                &format!("removed the org {org}"),
            )
        }
    }
}

/// `stoa projects`.
pub(crate) fn projects(session: &Session, command: &ProjectsCommand) -> Result<u8, Failure> {
    let org = &session.place.org;
    match command {
        ProjectsCommand::Ls => {
            let all = session.client.projects(org)?;
            let rows = all.iter().map(|one| vec![one.name.clone(), one.id.clone()]);
            show_list(session, &all, "PROJECT", &rows.collect::<Vec<_>>())
        }
        ProjectsCommand::Create { name } => {
            let body = CreateProject {
                name: name.to_string(),
            };
            let made = session.client.project_create(org, &body)?;
            let next = format!(
                "made the project {name}; next: stoa environments create production --org {org} --project {name}"
            );
            show(session, &made, &next)
        }
        ProjectsCommand::Rename { project, name } => {
            let body = Rename {
                name: name.to_string(),
            };
            let renamed = session.client.project_update(org, project, &body)?;
            show(session, &renamed, &format!("{project} is now called {name}"))
        }
        ProjectsCommand::Rm { project } => {
            session.client.project_delete(org, project)?;
            let said = format!("removed the project {project}");
            show(session, &json!({"project": project, "removed": true}), &said)
        }
    }
}

/// `stoa environments`.
pub(crate) fn environments(session: &Session, command: &EnvironmentsCommand) -> Result<u8, Failure> {
    let (org, project) = (&session.place.org, &session.place.project);
    match command {
        EnvironmentsCommand::Ls => {
            let all = session.client.environments(org, project)?;
            let rows = all.iter().map(|one| vec![one.name.clone(), one.id.clone()]);
            show_list(session, &all, "ENVIRONMENT", &rows.collect::<Vec<_>>())
        }
        EnvironmentsCommand::Create { name } => {
            let body = CreateEnvironment {
                name: name.to_string(),
            };
            let made = session.client.environment_create(org, project, &body)?;
            show(
                session,
                &made,
                &format!("made the environment {name}; use it with --env {name}"),
            )
        }
        EnvironmentsCommand::Rm { environment } => {
            let mut place = session.place.clone();
            place.environment.clone_from(environment);
            session.client.environment_delete(&place)?;
            let said = format!("removed the environment {environment}");
            show(
                session,
                &json!({"environment": environment, "removed": true}),
                &said,
            )
        }
    }
}

fn show_list(
    session: &Session,
    all: &impl serde::Serialize,
    title: &str,
    rows: &[Vec<String>],
) -> Result<u8, Failure> {
    if session.json {
        output::json(all)?;
    } else {
        output::data(&output::table(&[title, "ID"], rows))?;
    }
    Ok(0)
}

/// The object for programs, a sentence for people.
pub(crate) fn show(session: &Session, made: &impl serde::Serialize, said: &str) -> Result<u8, Failure> {
    if session.json {
        output::json(made)?;
    } else {
        say(said);
    }
    Ok(0)
}
