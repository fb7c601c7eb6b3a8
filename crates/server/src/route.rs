//! From a method and a path to an endpoint and what does it.
//!
//! Invariant: a path is matched segment by segment, exactly: no case folding, no trailing or double slash, and an
//! escaped slash stays inside its segment. A path that is written out comes before one with a parameter in its place, for
//! every method. What matches nothing is 404, with a known path 405.

use api::{Endpoint, endpoints as e};

use crate::answer::Reply;
use crate::call::Call;
use crate::refusal::Refusal;
use crate::{
    apps, databases, device, device_page, drills, elsewhere, exec, images, installation, logs, looking,
    members, oidc, operations, people, places, releases, sessions,
};
use control::ExecStreams;

/// How an endpoint is done.
#[derive(Clone, Copy)]
pub(crate) enum Handler {
    /// One call into control.
    Act(fn(&Call) -> Result<Reply, Refusal>),
    /// Takes an archive.
    Upload,
    /// Starts a program, or connects to a server, and hands the connection over to it.
    Exec(fn(&Call) -> Result<Option<ExecStreams>, Refusal>),
}

/// Every endpoint with what does it.
pub(crate) const HANDLERS: &[(&Endpoint, Handler)] = &[
    (&e::CLAIM, Handler::Act(people::claim)),
    (&e::WHOAMI, Handler::Act(people::whoami)),
    (&e::TOKEN_LIST, Handler::Act(people::token_list)),
    (&e::TOKEN_CREATE, Handler::Act(people::token_create)),
    (&e::TOKEN_DELETE, Handler::Act(people::token_delete)),
    (&e::SESSION_CREATE, Handler::Act(sessions::create)),
    (&e::SESSION_LIST, Handler::Act(sessions::list)),
    (&e::SESSION_DELETE, Handler::Act(sessions::delete)),
    (&e::PASSWORD_PUT, Handler::Act(sessions::password_put)),
    (&e::DEVICE_CREATE, Handler::Act(device::create)),
    (&e::DEVICE_TOKEN, Handler::Act(device::token)),
    (&e::DEVICE_VIEW, Handler::Act(device::view)),
    (&e::DEVICE_APPROVE, Handler::Act(device::approve)),
    (&e::DEVICE_DENY, Handler::Act(device::deny)),
    (&e::DEVICE_PAGE, Handler::Act(device_page::view)),
    (&e::DEVICE_PAGE_SIGN_IN, Handler::Act(device_page::sign_in)),
    (&e::DEVICE_PAGE_DECIDE, Handler::Act(device_page::decide)),
    (&e::PROVIDER_LIST, Handler::Act(oidc::provider_list)),
    (&e::PROVIDER_VIEW, Handler::Act(oidc::provider_view)),
    (&e::PROVIDER_PUT, Handler::Act(oidc::provider_put)),
    (&e::PROVIDER_DELETE, Handler::Act(oidc::provider_delete)),
    (&e::OIDC_BEGIN, Handler::Act(oidc::begin)),
    (&e::OIDC_FINISH, Handler::Act(oidc::finish)),
    (&e::OIDC_SESSION_CREATE, Handler::Act(oidc::session)),
    (&e::IDENTITY_LIST, Handler::Act(oidc::identity_list)),
    (&e::IDENTITY_CREATE, Handler::Act(oidc::identity_create)),
    (&e::IDENTITY_DELETE, Handler::Act(oidc::identity_delete)),
    (&e::USER_LIST, Handler::Act(members::user_list)),
    (&e::USER_VIEW, Handler::Act(members::user_view)),
    (&e::USER_DELETE, Handler::Act(members::user_delete)),
    (&e::USER_ROLE_PUT, Handler::Act(members::user_role_put)),
    (&e::USER_ROLE_DELETE, Handler::Act(members::user_role_delete)),
    (&e::USER_RESET, Handler::Act(members::user_reset)),
    (&e::USER_INVITATION_LIST, Handler::Act(members::invitation_list)),
    (
        &e::USER_INVITATION_CREATE,
        Handler::Act(members::user_invitation_create),
    ),
    (
        &e::USER_INVITATION_DELETE,
        Handler::Act(members::invitation_delete),
    ),
    (&e::INVITATION_ACCEPT, Handler::Act(members::invitation_accept)),
    (&e::MEMBER_LIST, Handler::Act(members::member_list)),
    (&e::MEMBER_PUT, Handler::Act(members::member_put)),
    (&e::MEMBER_DELETE, Handler::Act(members::member_delete)),
    (&e::INVITATION_LIST, Handler::Act(members::invitation_list)),
    (&e::INVITATION_CREATE, Handler::Act(members::invitation_create)),
    (&e::INVITATION_DELETE, Handler::Act(members::invitation_delete)),
    (&e::PROJECT_MEMBER_LIST, Handler::Act(members::member_list)),
    (&e::PROJECT_MEMBER_PUT, Handler::Act(members::member_put)),
    (&e::PROJECT_MEMBER_DELETE, Handler::Act(members::member_delete)),
    (&e::DEPLOY_TOKEN_LIST, Handler::Act(people::deploy_token_list)),
    (&e::DEPLOY_TOKEN_CREATE, Handler::Act(people::deploy_token_create)),
    (&e::DEPLOY_TOKEN_DELETE, Handler::Act(people::deploy_token_delete)),
    (&e::AUDIT_LIST, Handler::Act(people::audit_list)),
    (&e::AUDIT_VERIFY, Handler::Act(people::audit_verify)),
    (&e::ORG_LIST, Handler::Act(places::org_list)),
    (&e::ORG_CREATE, Handler::Act(places::org_create)),
    (&e::ORG_VIEW, Handler::Act(places::org_view)),
    (&e::ORG_UPDATE, Handler::Act(places::org_update)),
    (&e::ORG_DELETE, Handler::Act(places::org_delete)),
    (&e::PROJECT_LIST, Handler::Act(places::project_list)),
    (&e::PROJECT_CREATE, Handler::Act(places::project_create)),
    (&e::PROJECT_VIEW, Handler::Act(places::project_view)),
    (&e::PROJECT_UPDATE, Handler::Act(places::project_update)),
    (&e::PROJECT_DELETE, Handler::Act(places::project_delete)),
    (&e::ENVIRONMENT_LIST, Handler::Act(places::environment_list)),
    (&e::ENVIRONMENT_CREATE, Handler::Act(places::environment_create)),
    (&e::ENVIRONMENT_VIEW, Handler::Act(places::environment_view)),
    (&e::ENVIRONMENT_DELETE, Handler::Act(places::environment_delete)),
    (&e::UPLOAD_CREATE, Handler::Upload),
    (&e::APP_LIST, Handler::Act(apps::list)),
    (&e::APP_CREATE, Handler::Act(apps::create)),
    (&e::APP_VIEW, Handler::Act(apps::view)),
    (&e::APP_DELETE, Handler::Act(apps::delete)),
    (&e::APP_ENV_VIEW, Handler::Act(apps::env_view)),
    (&e::APP_ENV_UPDATE, Handler::Act(apps::env_update)),
    (&e::SECRET_LIST, Handler::Act(apps::secret_list)),
    (&e::SECRET_UPDATE, Handler::Act(apps::secret_update)),
    (&e::SECRET_PUT, Handler::Act(apps::secret_put)),
    (&e::SECRET_DELETE, Handler::Act(apps::secret_delete)),
    (&e::APP_SCALE, Handler::Act(apps::scale)),
    (&e::APP_RESTART, Handler::Act(releases::restart)),
    (&e::APP_RUN, Handler::Act(releases::run)),
    (&e::INSTANCE_LIST, Handler::Act(apps::instance_list)),
    (&e::INSTANCE_EXEC, Handler::Exec(exec::of_instance)),
    (&e::INSTANCE_VIEW, Handler::Act(apps::instance_view)),
    (&e::APP_METRICS, Handler::Act(apps::metrics)),
    (&e::SECRET_VIEW, Handler::Act(apps::secret_view)),
    (&e::APP_LOGS, Handler::Act(logs::of_app)),
    (&e::RELEASE_LIST, Handler::Act(releases::list)),
    (&e::RELEASE_CREATE, Handler::Act(releases::create)),
    (&e::RELEASE_VIEW, Handler::Act(releases::view)),
    (&e::ROLLOUT_VIEW, Handler::Act(releases::rollout)),
    (&e::APP_ROLLBACK, Handler::Act(releases::rollback)),
    (&e::DATABASE_LIST, Handler::Act(databases::list)),
    (&e::DATABASE_CREATE, Handler::Act(databases::create)),
    (&e::DATABASE_VIEW, Handler::Act(databases::view)),
    (&e::DATABASE_UPDATE, Handler::Act(databases::update)),
    (&e::DATABASE_DELETE, Handler::Act(databases::delete)),
    (&e::DATABASE_ROTATE, Handler::Act(databases::rotate)),
    (&e::DATABASE_BRANCH, Handler::Act(databases::branch)),
    (&e::DATABASE_RESET, Handler::Act(databases::reset)),
    (&e::DATABASE_BACKUPS_VIEW, Handler::Act(databases::backups)),
    (&e::DATABASE_BACKUP, Handler::Act(databases::backup)),
    (&e::DATABASE_DRILL_LIST, Handler::Act(drills::list)),
    (&e::DATABASE_DRILL, Handler::Act(drills::create)),
    (&e::DATABASE_DRILL_VIEW, Handler::Act(drills::view)),
    (&e::DATABASE_RESTORE, Handler::Act(databases::restore)),
    (&e::DATABASE_PROMOTE, Handler::Act(databases::promote)),
    (&e::DATABASE_RESTART, Handler::Act(databases::restart)),
    (&e::DATABASE_UPGRADE, Handler::Act(databases::upgrade)),
    (&e::DATABASE_ENGINE_LIST, Handler::Act(databases::engines)),
    (&e::DATABASE_RESTORE_FROM_TARGET, Handler::Act(elsewhere::restore)),
    (&e::DATABASE_ACTIVITY_VIEW, Handler::Act(looking::activity)),
    (&e::DATABASE_STATEMENTS_VIEW, Handler::Act(looking::statements)),
    (&e::DATABASE_LOGS, Handler::Act(logs::of_database)),
    (&e::DATABASE_SETTINGS_VIEW, Handler::Act(looking::settings)),
    (&e::DATABASE_CREDENTIALS, Handler::Act(databases::credentials)),
    (&e::DATABASE_EXEC, Handler::Exec(exec::of_database)),
    (&e::DATABASE_TUNNEL, Handler::Exec(exec::tunnel)),
    (&e::VOLUME_LIST, Handler::Act(databases::volume_list)),
    (&e::VOLUME_VIEW, Handler::Act(databases::volume_view)),
    (&e::IMAGE_LIST, Handler::Act(images::list)),
    (&e::IMAGE_CREATE, Handler::Act(images::create)),
    (&e::IMAGE_VIEW, Handler::Act(images::view)),
    (&e::IMAGE_DELETE, Handler::Act(images::delete)),
    (&e::OPERATION_LIST, Handler::Act(operations::list)),
    (&e::OPERATION_LIST_ALL, Handler::Act(operations::list_all)),
    (&e::OPERATION_VIEW, Handler::Act(operations::view)),
    (&e::OPERATION_CANCEL, Handler::Act(operations::cancel)),
    (&e::OPERATION_LOG_VIEW, Handler::Act(operations::log)),
    (&e::EVENT_WATCH, Handler::Act(installation::events)),
    (&e::NODE_LIST, Handler::Act(installation::node_list)),
    (&e::NODE_VIEW, Handler::Act(installation::node_view)),
    (&e::SERVER_VIEW, Handler::Act(installation::server)),
    (&e::MASTER_KEY_VIEW, Handler::Act(installation::master_key)),
    (
        &e::MASTER_KEY_ROTATE,
        Handler::Act(installation::rotate_master_key),
    ),
    (&e::BACKUP_TARGET_VIEW, Handler::Act(elsewhere::view)),
    (&e::BACKUP_TARGET_PUT, Handler::Act(elsewhere::put)),
    (&e::BACKUP_TARGET_DELETE, Handler::Act(elsewhere::delete)),
    (&e::BACKUP_KEY_CHECK, Handler::Act(elsewhere::check_key)),
    (&e::BACKUP_TARGET_VERIFY, Handler::Act(elsewhere::verify)),
    (&e::TARGET_DATABASE_LIST, Handler::Act(elsewhere::list)),
    (&e::HEALTH, Handler::Act(installation::health)),
    (&e::READINESS, Handler::Act(installation::readiness)),
    (&e::METRICS, Handler::Act(installation::metrics)),
    (&e::DOCUMENT, Handler::Act(installation::document)),
    (&e::REFERENCE, Handler::Act(installation::reference)),
    (&e::REFERENCE_STYLE, Handler::Act(installation::reference_style)),
    (&e::MANIFEST_SCHEMA, Handler::Act(installation::manifest_schema)),
];

/// What a request is for.
pub(crate) struct Found {
    pub(crate) endpoint: &'static Endpoint,
    pub(crate) handler: Handler,
    /// The parameters of the path, decoded, in its order.
    pub(crate) parameters: Vec<(&'static str, String)>,
}

/// The endpoint of a request.
pub(crate) fn find(method: &http::Method, path: &str) -> Result<Found, Refusal> {
    let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
    let candidates: Vec<Found> = HANDLERS
        .iter()
        .filter_map(|(endpoint, handler)| {
            Some(Found {
                endpoint,
                handler: *handler,
                parameters: matched(endpoint, &segments)?,
            })
        })
        .collect();
    let fewest = candidates.iter().map(|found| found.parameters.len()).min();
    let (mut found, mut allowed) = (None, Vec::new());
    for candidate in candidates {
        if Some(candidate.parameters.len()) != fewest {
            continue;
        }
        allowed.push(candidate.endpoint.method.as_str());
        if candidate.endpoint.method.as_str() == method.as_str() {
            found = Some(candidate);
        }
    }
    match found {
        Some(found) => Ok(found),
        None if allowed.is_empty() => Err(Refusal::no_such_path()),
        None => {
            allowed.sort_unstable();
            Err(Refusal::method_not_allowed(&allowed.join(", ")))
        }
    }
}

fn matched(endpoint: &Endpoint, segments: &[&str]) -> Option<Vec<(&'static str, String)>> {
    let mut parameters = Vec::new();
    let mut known = endpoint.path.split('/').skip(1);
    for segment in segments {
        let pattern = known.next()?;
        match pattern.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            Some(name) => parameters.push((name, decode(segment).filter(|value| is_sane(value))?)),
            None if pattern == *segment => {}
            None => return None,
        }
    }
    known.next().is_none().then_some(parameters)
}

/// Longest value of a path parameter: an image reference may be long, nothing else is.
const PARAMETER_MAX: usize = 256;

fn is_sane(value: &str) -> bool {
    !value.is_empty() && value.len() <= PARAMETER_MAX && !value.chars().any(char::is_control)
}

/// Percent-decoding; `None` for what is not UTF-8 or not escaped well.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let value = digit(rest.next())? * 16 + digit(rest.next())?;
            bytes.push(u8::try_from(value).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_has_one_handler() {
        let mut listed: Vec<&str> = e::ALL.iter().map(|endpoint| endpoint.id).collect();
        let mut handled: Vec<&str> = HANDLERS.iter().map(|(endpoint, _)| endpoint.id).collect();
        listed.sort_unstable();
        handled.sort_unstable();
        assert_eq!(listed, handled);
    }

    #[test]
    fn only_exact_paths_match() {
        let find = |method: &str, path: &str| {
            find(&method.parse().expect(method), path)
                .map(|f| f.endpoint.id)
                .map_err(|r| r.status())
        };
        let base = "/v1/orgs/default/projects/default/environments/production";
        assert_eq!(find("GET", &format!("{base}/apps/shop")), Ok("app_view"));
        assert_eq!(find("GET", "/v1/images/reg%2Fx%3A1"), Ok("image_view"));
        for path in [
            "/v1/server/",
            "//v1/server",
            "/V1/server",
            "/v1//server",
            "/v1/server?",
            "/v1/images/",
            "/v1/images/%zz",
            "/v1/images/%00",
            "/v1/images/a/b",
            "/v1/../v1/server",
            "",
            "/",
            "/v2/server",
            "/v1/images/%ff",
        ] {
            assert_eq!(find("GET", path), Err(404), "{path}");
        }
        assert_eq!(find("POST", "/v1/invitations/accept"), Ok("invitation_accept"));
        // Not the invitation of that id.
        assert_eq!(find("DELETE", "/v1/invitations/accept"), Err(405));
        assert_eq!(
            find("DELETE", "/v1/invitations/inv_1"),
            Ok("user_invitation_delete")
        );
        assert_eq!(find("PUT", "/v1/server"), Err(405));
        assert_eq!(find("HEAD", "/v1/server"), Err(405));
    }
}
