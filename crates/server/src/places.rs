//! Orgs, projects and environments.

use api::{CreateEnvironment, CreateOrg, CreateProject, EnvironmentPage, OrgPage, ProjectPage, Rename};
use control::places;
use model::{Environment, Org, Project};

use crate::answer::Reply;
use crate::call::{Call, name};
use crate::pages;
use crate::refusal::Refusal;

pub(crate) fn org_list(call: &Call) -> Result<Reply, Refusal> {
    let all = places::orgs(call.control(), call.actor()?)?;
    let (page, next_page) = pages::cut(call, all, |org| org.row.id.to_string())?;
    Reply::ok(&OrgPage {
        items: page.iter().map(|org| wire_org(&org.row)).collect(),
        next_page,
    })
}

pub(crate) fn org_create(call: &Call) -> Result<Reply, Refusal> {
    let body: CreateOrg = call.needed_body()?;
    let name = name(&body.name, "/name")?;
    let made = places::create_org(call.control(), call.actor()?, &name)?;
    Reply::tagged(201, &wire_org(&made.row), made.generation)
}

pub(crate) fn org_view(call: &Call) -> Result<Reply, Refusal> {
    let found = places::org(call.control(), call.actor()?, call.parameter("org")?)?;
    Reply::tagged(200, &wire_org(&found.row), found.generation)
}

pub(crate) fn org_update(call: &Call) -> Result<Reply, Refusal> {
    let body: Rename = call.needed_body()?;
    let name = name(&body.name, "/name")?;
    let org = call.parameter("org")?;
    let found = places::rename_org(call.control(), call.actor()?, org, &name, call.expected)?;
    Reply::tagged(200, &wire_org(&found.row), found.generation)
}

pub(crate) fn org_delete(call: &Call) -> Result<Reply, Refusal> {
    places::delete_org(
        call.control(),
        call.actor()?,
        call.parameter("org")?,
        call.expected,
    )?;
    Ok(Reply::Empty)
}

pub(crate) fn project_list(call: &Call) -> Result<Reply, Refusal> {
    let all = places::projects(call.control(), call.actor()?, call.parameter("org")?)?;
    let (page, next_page) = pages::cut(call, all, |project| project.row.id.to_string())?;
    Reply::ok(&ProjectPage {
        items: page.iter().map(|project| wire_project(&project.row)).collect(),
        next_page,
    })
}

pub(crate) fn project_create(call: &Call) -> Result<Reply, Refusal> {
    let body: CreateProject = call.needed_body()?;
    let name = name(&body.name, "/name")?;
    let made = places::create_project(call.control(), call.actor()?, call.parameter("org")?, &name)?;
    Reply::tagged(201, &wire_project(&made.row), made.generation)
}

pub(crate) fn project_view(call: &Call) -> Result<Reply, Refusal> {
    let (org, project) = (call.parameter("org")?, call.parameter("project")?);
    let found = places::project(call.control(), call.actor()?, org, project)?;
    Reply::tagged(200, &wire_project(&found.row), found.generation)
}

pub(crate) fn project_update(call: &Call) -> Result<Reply, Refusal> {
    let body: Rename = call.needed_body()?;
    let name = name(&body.name, "/name")?;
    let (org, project) = (call.parameter("org")?, call.parameter("project")?);
    let found = places::rename_project(call.control(), call.actor()?, org, project, &name, call.expected)?;
    Reply::tagged(200, &wire_project(&found.row), found.generation)
}

pub(crate) fn project_delete(call: &Call) -> Result<Reply, Refusal> {
    let (org, project) = (call.parameter("org")?, call.parameter("project")?);
    places::delete_project(call.control(), call.actor()?, org, project, call.expected)?;
    Ok(Reply::Empty)
}

pub(crate) fn environment_list(call: &Call) -> Result<Reply, Refusal> {
    let (org, project) = (call.parameter("org")?, call.parameter("project")?);
    let all = places::environments(call.control(), call.actor()?, org, project)?;
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
    let made = places::create_environment(call.control(), call.actor()?, org, project, &name)?;
    Reply::json(201, &wire_environment(&made.row))
}

pub(crate) fn environment_view(call: &Call) -> Result<Reply, Refusal> {
    let found = places::environment(call.control(), call.actor()?, &call.place()?)?;
    Reply::tagged(200, &wire_environment(&found.row), found.generation)
}

pub(crate) fn environment_delete(call: &Call) -> Result<Reply, Refusal> {
    places::delete_environment(call.control(), call.actor()?, &call.place()?, call.expected)?;
    Ok(Reply::Empty)
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
