//! Which app a host and path belong to.
//!
//! Lives here: the hosts of an app's routes, and refusing what another app has.
//! Does not live here: the table the edge gets (`routes`).
//! Invariant: a host and path lead to one app; a host is never shared between orgs.

use std::collections::BTreeMap;

use model::{App, Environment, Name, Project, Release, Service};
use store::ReadTx;

use crate::ControlError;
use crate::authorize::EnvPath;
use crate::transact::unless_corrupt;

/// Where an app answers that names no host: `APP.DOMAIN`, and `APP-ENVIRONMENT.DOMAIN` beside the first environment.
pub(crate) fn own(app: &Name, environment: &Name, domain: &str) -> String {
    match environment.as_str() == EnvPath::default().environment {
        true => format!("{app}.{domain}"),
        false => format!("{app}-{environment}.{domain}"),
    }
}

/// Longest label of a host name (RFC 1035, section 2.3.4).
const LABEL_MAX: usize = 63;

/// Refuses an app whose own host could not be one: `APP-ENVIRONMENT` is a single label.
///
/// # Errors
/// `Invalid`, saying how long the name may be.
pub(crate) fn refuse_long(app: &Name, environment: &Name) -> Result<(), ControlError> {
    let host = own(app, environment, "");
    let label = host.trim_end_matches('.').len();
    if label <= LABEL_MAX {
        return Ok(());
    }
    let most = LABEL_MAX - (label - app.as_str().len());
    Err(ControlError::invalid(
        "/name",
        format!(
            "{app}-{environment} would be its host and has {label} characters, but a host's label has at most {LABEL_MAX}: \
             choose a name of at most {most} characters, or another environment"
        ),
    ))
}

/// Host and path of each route, with the service it leads to.
pub(crate) fn of<'s>(
    services: &'s BTreeMap<Name, Service>,
    own: &'s str,
) -> impl Iterator<Item = (&'s str, &'s str, &'s Name)> {
    services.iter().flat_map(move |(name, service)| {
        let routes = service.routes.iter();
        routes.map(move |route| (route.host.as_deref().unwrap_or(own), plain(&route.path), name))
    })
}

/// The edge takes `/api/` and `/api` for the same.
fn plain(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" => "/",
        plain => plain,
    }
}

/// Refuses services whose routes would take what another app has, or is about to have.
///
/// # Errors
/// `State`, naming the other app when it is of the same project: who deploys there may know of it.
pub(crate) fn refuse_taken(
    tx: &ReadTx,
    domain: &str,
    app: &App,
    services: &BTreeMap<Name, Service>,
) -> Result<(), ControlError> {
    let (environment, project) = home(tx, app)?;
    let (org, project) = (project.org, project.id);
    let host = own(&app.name, &environment.name, domain);
    let mine: Vec<(&str, &str, &Name)> = of(services, &host).collect();
    if mine.is_empty() {
        return Ok(());
    }
    for other in crate::transact::all::<App>(tx)?.0 {
        if other.id == app.id || other.deleting {
            continue;
        }
        let rollout = other.rollout.as_ref().map(|rollout| rollout.to.release);
        let serving = other.serving.map(|serving| serving.release);
        for release in serving.into_iter().chain(rollout) {
            // Of a release that is corrupt nothing is routed to anybody new either.
            let release = tx
                .need::<Release>(&release.to_string())
                .map_err(ControlError::from);
            let Some(release) = unless_corrupt(release)?.map(|found| found.row) else {
                continue;
            };
            let (its_environment, its_project) = home(tx, &other)?;
            let its_org = its_project.org;
            let its_host = own(&other.name, &its_environment.name, domain);
            let taken = of(&release.services, &its_host).find_map(|(host, path, _)| {
                mine.iter()
                    .find(|(my_host, my_path, _)| *my_host == host && (*my_path == path || its_org != org))
            });
            if let Some((host, path, service)) = taken {
                let whose = match its_project.id == project {
                    true => format!("{} of environment {}", other.name, its_environment.name),
                    false => "somebody else".to_owned(),
                };
                return Err(ControlError::State {
                    message: format!("{host}{path} already leads to {whose}"),
                    next_step: format!(
                        "give {service} another host or path (routes in stoa.toml), then: stoa deploy"
                    ),
                });
            }
        }
    }
    Ok(())
}

fn home(tx: &ReadTx, app: &App) -> Result<(Environment, Project), ControlError> {
    let environment = tx.need::<Environment>(&app.environment.to_string())?.row;
    let project = tx.need::<Project>(&environment.project.to_string())?.row;
    Ok((environment, project))
}

/// The environment of an app, for its own host.
pub(crate) fn environment(tx: &ReadTx, app: &App) -> Result<Name, ControlError> {
    Ok(tx.need::<Environment>(&app.environment.to_string())?.row.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_host_fits_a_label() {
        let name = |length: usize| "a".repeat(length).parse::<Name>().expect("a name");
        let first: Name = EnvPath::default().environment.parse().expect("a name");
        for (app, environment, fits) in [
            (name(39), first, true),
            (name(39), name(23), true),
            (name(39), name(24), false),
            (name(24), name(39), false),
        ] {
            let answer = refuse_long(&app, &environment);
            assert_eq!(answer.is_ok(), fits, "{app} {environment}");
            let label = own(&app, &environment, "localhost");
            assert_eq!(model::is_host_name(&label), fits, "{label}");
        }
    }
}
