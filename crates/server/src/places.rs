//! Orgs, projects and environments.

use api::{CreateEnvironment, EnvironmentPage, OrgPage, ProjectPage};
use control::{authorize, people};
use model::{Environment, Org, Project};

use crate::answer::Reply;
use crate::call::{Call, name};
use crate::pages;
use crate::refusal::Refusal;

pub(crate) fn org_list(call: &Call) -> Result<Reply, Refusal> {
    let all = people::orgs(call.control(), call.actor()?)?;
    let (page, next_page) = pages::cut(call, all, |org| org.row.id.to_string())?;
    Reply::ok(&OrgPage {
        items: page.iter().map(|org| wire_org(&org.row)).collect(),
        next_page,
    })
}

pub(crate) fn org_view(call: &Call) -> Result<Reply, Refusal> {
    let wanted = call.parameter("org")?;
    let all = people::orgs(call.control(), call.actor()?)?;
    let found = all
        .iter()
        .find(|org| is(wanted, org.row.name.as_str(), &org.row.id.to_string()));
    Reply::ok(&wire_org(
        &found.ok_or_else(|| authorize::missing("org", wanted))?.row,
    ))
}

pub(crate) fn project_list(call: &Call) -> Result<Reply, Refusal> {
    let all = people::projects(call.control(), call.actor()?, call.parameter("org")?)?;
    let (page, next_page) = pages::cut(call, all, |project| project.row.id.to_string())?;
    Reply::ok(&ProjectPage {
        items: page.iter().map(|project| wire_project(&project.row)).collect(),
        next_page,
    })
}

pub(crate) fn project_view(call: &Call) -> Result<Reply, Refusal> {
    let wanted = call.parameter("project")?;
    let all = people::projects(call.control(), call.actor()?, call.parameter("org")?)?;
    let found = all
        .iter()
        .find(|project| is(wanted, project.row.name.as_str(), &project.row.id.to_string()));
    Reply::ok(&wire_project(
        &found.ok_or_else(|| authorize::missing("project", wanted))?.row,
    ))
}

pub(crate) fn environment_list(call: &Call) -> Result<Reply, Refusal> {
    let (org, project) = (call.parameter("org")?, call.parameter("project")?);
    let all = people::environments(call.control(), call.actor()?, org, project)?;
    let (page, next_page) = pages::cut(call, all, |environment| environment.row.id.to_string())?;
    Reply::ok(&EnvironmentPage {
        items: page.iter().map(|found| wire_environment(&found.row)).collect(),
        next_page,
    })
}

pub(crate) fn environment_create(call: &Call) -> Result<Reply, Refusal> {
    let body: CreateEnvironment = call.needed_body()?;
    let name = name(&body.name, "/name")?;
    let (org, project) = (call.parameter("org")?, call.parameter("project")?);
    let made = people::create_environment(call.control(), call.actor()?, org, project, &name)?;
    Reply::json(201, &wire_environment(&made.row))
}

pub(crate) fn environment_view(call: &Call) -> Result<Reply, Refusal> {
    let (org, project) = (call.parameter("org")?, call.parameter("project")?);
    let wanted = call.parameter("environment")?;
    let all = people::environments(call.control(), call.actor()?, org, project)?;
    let found = all
        .iter()
        .find(|found| is(wanted, found.row.name.as_str(), &found.row.id.to_string()));
    Reply::ok(&wire_environment(
        &found
            .ok_or_else(|| authorize::missing("environment", wanted))?
            .row,
    ))
}

fn is(wanted: &str, name: &str, id: &str) -> bool {
    wanted == name || wanted == id
}

fn wire_org(org: &Org) -> api::Org {
    api::Org {
        id: org.id.to_string(),
        name: org.name.to_string(),
    }
}

fn wire_project(project: &Project) -> api::Project {
    api::Project {
        id: project.id.to_string(),
        name: project.name.to_string(),
    }
}

fn wire_environment(environment: &Environment) -> api::Environment {
    api::Environment {
        id: environment.id.to_string(),
        name: environment.name.to_string(),
    }
}
