//! Arguments of what is about places: orgs, projects, environments.

use clap::Subcommand;
use model::Name;

/// What `stoa orgs` does.
#[derive(Debug, Clone, Subcommand)]
pub enum OrgsCommand {
    /// List the orgs that you may see.
    Ls,
    /// Make an org.
    Create {
        /// Its name.
        name: Name,
    },
    /// Give an org another name; its id stays, and so does what is in it.
    Rename {
        /// The org.
        org: String,
        /// Its new name.
        name: Name,
    },
    /// Remove an org in which nothing is.
    Rm {
        /// The org.
        org: String,
    },
}

/// What `stoa projects` does.
#[derive(Debug, Clone, Subcommand)]
pub enum ProjectsCommand {
    /// List the projects that you may see.
    Ls,
    /// Make a project.
    Create {
        /// Its name.
        name: Name,
    },
    /// Give a project another name; its id stays, and so does what is in it.
    Rename {
        /// The project.
        project: String,
        /// Its new name.
        name: Name,
    },
    /// Remove a project in which nothing is.
    Rm {
        /// The project.
        project: String,
    },
}

/// What `stoa environments` does.
#[derive(Debug, Clone, Subcommand)]
pub enum EnvironmentsCommand {
    /// List environments.
    Ls,
    /// Make an environment with a private network of its own.
    Create {
        /// Its name.
        name: Name,
    },
    /// Remove an environment in which nothing is.
    Rm {
        /// The environment.
        environment: String,
    },
}
