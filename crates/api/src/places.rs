//! Orgs, projects and environments: where things live.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::page::pages;

/// Who owns projects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Org {
    /// Id, begins with `org_`.
    pub id: String,
    /// Name, unique on the installation.
    pub name: String,
}

/// A group of environments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Project {
    /// Id, begins with `prj_`.
    pub id: String,
    /// Name, unique in its org.
    pub name: String,
}

/// Where apps and databases live together, on one private network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Environment {
    /// Id, begins with `env_`.
    pub id: String,
    /// Name, unique in its project.
    pub name: String,
}

/// Make an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateEnvironment {
    /// Its name.
    #[schema(pattern = "^[a-z]([a-z0-9-]{0,37}[a-z0-9])?$", max_length = 39)]
    pub name: String,
}

/// Make an org.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateOrg {
    /// Its name.
    #[schema(pattern = "^[a-z]([a-z0-9-]{0,37}[a-z0-9])?$", max_length = 39)]
    pub name: String,
}

/// Make a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateProject {
    /// Its name.
    #[schema(pattern = "^[a-z]([a-z0-9-]{0,37}[a-z0-9])?$", max_length = 39)]
    pub name: String,
}

/// Give an org or a project another name. Its id stays, and so does what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rename {
    /// The new name.
    #[schema(pattern = "^[a-z]([a-z0-9-]{0,37}[a-z0-9])?$", max_length = 39)]
    pub name: String,
}

pages! {
    OrgPage of Org, "orgs";
    ProjectPage of Project, "projects";
    EnvironmentPage of Environment, "environments";
}
