//! The matrix: every operation, asked by everybody, about what is theirs, what is others', and what is not there.
//!
//! What is expected stands in [`ROWS`], written by hand and apart from the endpoint list. An operation without a row does
//! not compile. Requests carry a query that no endpoint knows: who passes the gate in the door is told so (422) and nothing
//! happens. That use cases ask again, for the thing itself, is tried in `control`'s own tests.

use std::time::{Duration, Instant};

use api::endpoints::ALL;
use api::{CreateInvitation, CreateProject, CreateUserInvitation, Role};
use control::people::{Wish, create_token};
use control::planted::{Defect, plant};
use model::Actor;
use serde_json::{Value, json};

use super::{World, app, operations, place};

/// Where an operation needs its right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    /// Nowhere: it is for everybody.
    Open,
    /// Anywhere: any credential that counts. What is not one's own is not there.
    Anybody,
    /// In the project that the path names.
    Project,
    /// In the org that the path names.
    Org,
    /// In some project, org or the installation.
    Somewhere,
    /// In the whole installation.
    Installation,
    /// In the whole installation, and its path names a project.
    Both,
}
use At::{Anybody, Both, Installation, Open, Org, Project, Somewhere};

/// The least role. Knowing of an org or project needs any role in it or below it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Least {
    Any,
    Viewer,
    Developer,
    Admin,
}
use Least::{Admin, Any, Developer, Viewer};

const ROWS: &[(&str, At, Least)] = &[
    ("installation_claim", Open, Any),
    ("caller_view", Anybody, Any),
    ("session_create", Open, Any),
    ("session_list", Anybody, Any),
    ("session_delete", Anybody, Any),
    ("password_put", Anybody, Any),
    ("device_create", Open, Any),
    ("device_token", Open, Any),
    ("device_view", Anybody, Any),
    ("device_approve", Anybody, Any),
    ("device_deny", Anybody, Any),
    ("device_page_view", Open, Any),
    ("device_page_sign_in", Open, Any),
    ("device_page_decide", Anybody, Any),
    ("identity_provider_list", Installation, Admin),
    ("identity_provider_view", Installation, Admin),
    ("identity_provider_put", Installation, Admin),
    ("identity_provider_delete", Installation, Admin),
    ("oidc_begin", Open, Any),
    ("oidc_finish", Open, Any),
    ("oidc_session_create", Open, Any),
    ("identity_list", Anybody, Any),
    ("identity_create", Anybody, Any),
    ("identity_delete", Anybody, Any),
    ("token_list", Anybody, Any),
    ("token_create", Anybody, Any),
    ("token_delete", Anybody, Any),
    ("user_list", Installation, Admin),
    ("user_view", Installation, Admin),
    ("user_delete", Installation, Admin),
    ("user_role_put", Installation, Admin),
    ("user_role_delete", Installation, Admin),
    ("user_reset", Installation, Admin),
    ("user_invitation_list", Installation, Admin),
    ("user_invitation_create", Installation, Admin),
    ("user_invitation_delete", Installation, Admin),
    ("invitation_accept", Open, Any),
    ("member_list", Org, Viewer),
    ("member_put", Org, Admin),
    ("member_delete", Org, Any),
    ("invitation_list", Org, Admin),
    ("invitation_create", Org, Any),
    ("invitation_delete", Org, Admin),
    ("project_member_list", Project, Viewer),
    ("project_member_put", Project, Admin),
    ("project_member_delete", Project, Any),
    ("deploy_token_list", Project, Admin),
    ("deploy_token_create", Project, Admin),
    ("deploy_token_delete", Project, Admin),
    ("audit_list", Installation, Admin),
    ("audit_verify", Installation, Admin),
    ("org_list", Anybody, Any),
    ("org_create", Installation, Admin),
    ("org_view", Org, Any),
    ("org_update", Org, Admin),
    ("org_delete", Installation, Admin),
    ("project_list", Org, Any),
    ("project_create", Org, Admin),
    ("project_view", Project, Any),
    ("project_update", Project, Admin),
    ("project_delete", Project, Admin),
    ("environment_list", Project, Viewer),
    ("environment_create", Project, Admin),
    ("environment_view", Project, Viewer),
    ("environment_delete", Project, Admin),
    ("upload_create", Project, Developer),
    ("app_list", Project, Viewer),
    ("app_create", Project, Developer),
    ("app_view", Project, Viewer),
    ("app_delete", Project, Developer),
    ("app_env_view", Project, Viewer),
    ("app_env_update", Project, Developer),
    ("secret_list", Project, Viewer),
    ("secret_update", Project, Developer),
    ("secret_put", Project, Developer),
    ("secret_delete", Project, Developer),
    ("app_scale", Project, Developer),
    ("app_restart", Project, Developer),
    ("app_run", Project, Developer),
    ("instance_list", Project, Viewer),
    ("instance_exec", Project, Developer),
    ("instance_view", Project, Viewer),
    ("app_metrics", Project, Viewer),
    ("secret_view", Project, Viewer),
    ("app_logs", Project, Viewer),
    ("release_list", Project, Viewer),
    ("release_create", Project, Developer),
    ("release_view", Project, Viewer),
    ("rollout_view", Project, Viewer),
    ("app_rollback", Project, Developer),
    ("database_list", Project, Viewer),
    ("database_create", Project, Developer),
    ("database_view", Project, Viewer),
    ("database_update", Project, Developer),
    ("database_delete", Project, Developer),
    ("database_rotate", Project, Developer),
    ("database_restart", Project, Developer),
    ("database_branch", Project, Developer),
    ("database_reset", Project, Developer),
    ("database_backups_view", Project, Viewer),
    ("database_backup", Project, Developer),
    ("database_drill_list", Project, Viewer),
    ("database_drill", Project, Developer),
    ("database_drill_view", Project, Viewer),
    ("database_restore", Project, Developer),
    ("database_promote", Project, Developer),
    ("database_upgrade", Project, Developer),
    ("database_engine_list", Somewhere, Viewer),
    ("database_restore_from_target", Both, Admin),
    ("database_activity_view", Project, Developer),
    ("database_statements_view", Project, Developer),
    ("database_logs", Project, Developer),
    ("database_settings_view", Project, Developer),
    ("database_credentials_view", Project, Developer),
    ("database_exec", Project, Developer),
    ("database_tunnel", Project, Developer),
    ("volume_list", Project, Viewer),
    ("volume_view", Project, Viewer),
    ("image_list", Somewhere, Viewer),
    ("image_create", Installation, Admin),
    ("image_view", Somewhere, Viewer),
    ("image_delete", Installation, Admin),
    ("operation_list", Project, Viewer),
    ("operation_list_all", Anybody, Any),
    ("operation_view", Somewhere, Viewer),
    ("operation_cancel", Somewhere, Developer),
    ("operation_log", Somewhere, Viewer),
    ("event_watch", Anybody, Any),
    ("node_list", Somewhere, Viewer),
    ("node_view", Somewhere, Viewer),
    ("server_view", Somewhere, Viewer),
    ("backup_target_view", Installation, Admin),
    ("backup_target_put", Installation, Admin),
    ("backup_target_delete", Installation, Admin),
    ("backup_target_verify", Installation, Admin),
    ("backup_key_check", Installation, Admin),
    ("target_database_list", Installation, Admin),
    ("master_key_view", Installation, Admin),
    ("master_key_rotate", Installation, Admin),
    ("health_view", Open, Any),
    ("readiness_view", Open, Any),
    ("metrics_view", Installation, Viewer),
    ("reference_view", Open, Any),
    ("reference_style_view", Open, Any),
    ("document_view", Open, Any),
    ("manifest_schema_view", Open, Any),
];

const fn is_same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    if one.len() != other.len() {
        return false;
    }
    let mut index = 0;
    while index < one.len() {
        if one[index] != other[index] {
            return false;
        }
        index += 1;
    }
    true
}

const fn has_row(id: &str) -> bool {
    let mut index = 0;
    while index < ROWS.len() {
        if is_same(ROWS[index].0, id) {
            return true;
        }
        index += 1;
    }
    false
}

const _: () = {
    let mut index = 0;
    while index < ALL.len() {
        assert!(
            has_row(ALL[index].id),
            "an operation has no row in ROWS: say who may do it"
        );
        index += 1;
    }
    assert!(
        ALL.len() == ROWS.len(),
        "a row of ROWS is of no operation, or of one twice"
    );
};

/// Somebody who asks.
struct Who {
    name: &'static str,
    /// Headers that say who it is.
    shows: String,
    /// What it is in the org `default`.
    org: Option<Least>,
    /// What it is in the project `side` of it, beside that.
    side: Option<Least>,
    /// What it is in the whole installation.
    whole: Option<Least>,
    /// Whether its credential counts.
    counts: bool,
    /// What it is in an org of its own.
    elsewhere: Option<Least>,
}

impl Who {
    fn of(name: &'static str, shows: String) -> Self {
        Self {
            name,
            shows,
            org: None,
            side: None,
            whole: None,
            counts: true,
            elsewhere: None,
        }
    }
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}\r\n")
}

/// A user who took an invitation, with an access token.
fn user(world: &World, name: &str, org: Option<&str>, project: Option<&str>, role: Role) -> String {
    let email = format!("{name}@example.org");
    let project = project.map(str::to_owned);
    let invitation = match org {
        Some(org) => world
            .root()
            .invite(org, &CreateInvitation { email, role, project }),
        None => world.root().user_invite(&CreateUserInvitation { email, role }),
    };
    let invitation = invitation.expect("an invitation");
    let signed_in = super::people::take(world, &invitation.token, name);
    super::people::token_of(world, &signed_in)
}

/// Everybody.
fn everybody(world: &World) -> Vec<Who> {
    let root = world.root();
    let org = |name: &'static str, role, least| Who {
        org: Some(least),
        ..Who::of(name, bearer(&user(world, name, Some("default"), None, role)))
    };
    let host = |name: &str, life: u64| {
        let wish = Wish {
            life: Some(model::Millis::seconds(life)),
            ..Wish::of(name, model::Role::Owner)
        };
        let (token, text) = create_token(&world.control, &Actor::System, &wish, None).expect("a token");
        (token, text.expose_str().expect("text").to_owned())
    };
    let (mut late, late_text) = host("late", 3600);
    late.expires_at = model::Timestamp::from_ms(model::Timestamp::now().as_ms() - 1);
    let now = store::Now::at(model::Timestamp::now().as_ms());
    let aged: Result<_, store::StoreError> = world
        .parts
        .store
        .write(now, |tx| tx.update(&late, store::Expect::Any));
    aged.expect("aged");
    let (revoked, revoked_text) = host("revoked", 3600);
    root.token_delete(&revoked.id.to_string()).expect("revoked");
    let out = user(world, "removed", Some("default"), None, Role::Owner);
    root.user_delete("removed@example.org").expect("removed");
    let ended = super::people::sign_in(world, "viewer");
    let gone = |name, shows| Who {
        counts: false,
        ..Who::of(name, shows)
    };
    let mut all = vec![
        org("developer", Role::Developer, Developer),
        org("admin", Role::Admin, Admin),
        org("owner", Role::Owner, Admin),
        gone("nobody", String::new()),
        gone("rubbish", bearer(&format!("stoa_pat_{}", "0".repeat(64)))),
        gone("expired", bearer(&late_text)),
        gone("revoked", bearer(&revoked_text)),
        gone("removed user", bearer(&out)),
        Who {
            elsewhere: Some(Admin),
            ..Who::of(
                "other org",
                bearer(&user(world, "stranger", Some("other"), None, Role::Owner)),
            )
        },
        Who {
            side: Some(Developer),
            ..Who::of(
                "project only",
                bearer(&user(
                    world,
                    "only",
                    Some("default"),
                    Some("side"),
                    Role::Developer,
                )),
            )
        },
        Who {
            whole: Some(Admin),
            ..Who::of(
                "installation owner",
                bearer(&user(world, "chief", None, None, Role::Owner)),
            )
        },
    ];
    if let Some((session, text)) = ended {
        let client = world.with(&text);
        client.session_delete(&session).expect("ended");
        let cookie = format!("cookie: __Host-stoa={text}\r\nsec-fetch-site: same-origin\r\n");
        all.push(gone("ended session", cookie));
    }
    all
}

/// What is asked about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Target {
    /// Things of `default/default/production`.
    Own,
    /// The project `side` of the same org.
    Side,
    /// An org that is not there.
    Absent,
}

/// The status that says it, and 422 for "passed".
fn expected(who: &Who, at: At, least: Least, target: Target, has_org: bool) -> u16 {
    let passes = |role: Option<Least>| match role {
        Some(role) if role >= least => 422,
        Some(_) | None => 403,
    };
    if at == Open {
        return 422;
    }
    if !who.counts {
        return 401;
    }
    let strongest = [who.org, who.side, who.whole, who.elsewhere]
        .into_iter()
        .flatten()
        .max();
    let in_org = who.org.max(who.whole);
    let is_near = in_org.is_some() || who.side.is_some();
    if has_org && (target == Target::Absent || !is_near) {
        return 404;
    }
    let in_project = match target {
        Target::Side => in_org.max(who.side),
        Target::Own | Target::Absent => in_org,
    };
    match at {
        Open | Anybody => 422,
        Somewhere => passes(strongest),
        Installation => passes(who.whole),
        Both if in_project.is_none() => 404,
        Both => passes(who.whole),
        Org if least == Any => 422,
        Org => passes(in_org),
        Project => match in_project {
            None => 404,
            role => passes(role),
        },
    }
}

fn furnished(world: World) -> World {
    let root = world.root();
    root.org_create(&api::CreateOrg {
        name: "other".to_owned(),
    })
    .expect("an org");
    let project = |name: &str| CreateProject {
        name: name.to_owned(),
    };
    root.project_create("default", &project("side"))
        .expect("a project");
    root.project_create("other", &project("default"))
        .expect("a project");
    for (org, project) in [("default", "side"), ("other", "default")] {
        let body = api::CreateEnvironment {
            name: "production".to_owned(),
        };
        root.environment_create(org, project, &body)
            .expect("an environment");
    }
    for project in ["default", "side"] {
        let place = client::Place {
            project: project.to_owned(),
            ..place()
        };
        root.app_create(&place, &app("shop")).expect("an app");
        let body: api::CreateDatabase = serde_json::from_value(json!({"name": "main"})).expect("a body");
        root.database_create(&place, &body).expect("a database");
    }
    world
}

/// The value of a path's parameter.
fn value(name: &str, target: Target) -> String {
    match (name, target) {
        ("org", Target::Absent) => "nothere",
        ("project", Target::Side) => "side",
        ("environment", _) => "production",
        ("app", _) => "shop",
        ("database", _) => "main",
        ("user", _) => "viewer@example.org",
        _ => "default",
    }
    .to_owned()
}

fn body_of(answer: &str) -> Value {
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    let mut value: Value = serde_json::from_str(body).unwrap_or_default();
    value["request_id"] = json!("");
    value
}

/// Everything that is not as the table says.
fn wrong(world: &World, everybody: &[Who]) -> (usize, Vec<String>) {
    let (mut tried, mut wrong) = (0, Vec::new());
    for target in [Target::Own, Target::Side, Target::Absent] {
        for (method, path, operation) in operations(|name| value(name, target)) {
            let id = operation["operationId"].as_str().expect("an id");
            let (_, at, least) = ROWS.iter().find(|row| row.0 == id).expect("a row");
            let has_org = path.starts_with("/v1/orgs/");
            let form = "application/x-www-form-urlencoded";
            let media_type = match operation["requestBody"]["content"].get(form) {
                Some(_) => form,
                None => "application/json",
            };
            for who in everybody {
                let headers = format!("content-type: {media_type}\r\n{}", who.shows);
                let (status, answer) = world.call(&method, &format!("{path}?nonsense=1"), &headers, "");
                let wanted = expected(who, *at, *least, target, has_org);
                tried += 1;
                // Of what is open, a body is looked at before the query is; of exec, the wish for a stream.
                let passed = match status {
                    422 => true,
                    400 | 415 => *at == Open,
                    426 => id.ends_with("_exec") || id == "database_tunnel",
                    // It takes any query, and knows nobody by this one, whoever asks.
                    401 => id == "oidc_finish",
                    _other => false,
                };
                if !(status == wanted || wanted == 422 && passed) {
                    let line = answer.lines().last().unwrap_or_default();
                    wrong.push(format!(
                        "{id} of {target:?} by {}: {status}, not {wanted}: {line}",
                        who.name
                    ));
                }
            }
        }
    }
    (tried, wrong)
}

#[test]
fn every_operation_is_for_whom_the_table_says() {
    let world = furnished(World::alone());
    let viewer = Who {
        org: Some(Viewer),
        ..Who::of(
            "viewer",
            bearer(&user(&world, "viewer", Some("default"), None, Role::Viewer)),
        )
    };
    let mut everybody = everybody(&world);
    everybody.push(viewer);
    assert!(everybody.iter().any(|who| who.name == "viewer"));
    let (tried, found) = wrong(&world, &everybody);
    assert!(
        found.is_empty(),
        "{} of {tried}:\n{}",
        found.len(),
        found.join("\n")
    );
    println!(
        "{tried} requests: {} operations by {} callers",
        ALL.len(),
        everybody.len()
    );
    for defect in [Defect::ForgetsRealm, Defect::ForgetsRole, Defect::TrustsTokens] {
        plant(Some(defect));
        let (_, found) = wrong(&world, &everybody);
        plant(None);
        println!("{defect:?}: {} answers are not as the table says", found.len());
        assert!(
            !found.is_empty(),
            "{defect:?}: nothing is found without this guard"
        );
    }
}

/// N32: what is others' and what is not there are the same answer. How long each takes is printed, not judged.
#[test]
fn what_is_others_looks_like_what_is_not_there() {
    let world = furnished(World::with_rate(0));
    let stranger = bearer(&user(&world, "stranger", Some("other"), None, Role::Owner));
    let only = bearer(&user(
        &world,
        "only",
        Some("default"),
        Some("side"),
        Role::Developer,
    ));
    let mut took: [Vec<Duration>; 2] = Default::default();
    for (shows, swapped, real, absent) in [
        (&stranger, "org", "default", "nothere"),
        (&only, "project", "default", "nothere"),
    ] {
        for (method, path, _) in operations(|name| match name {
            name if name == swapped => "SWAPPED".to_owned(),
            name => value(name, Target::Own),
        }) {
            if !path.contains("SWAPPED") {
                continue;
            }
            let headers = format!("content-type: application/json\r\n{shows}");
            let mut ask = |name: &str, kind: usize| {
                let began = Instant::now();
                let answer = world.call(&method, &path.replace("SWAPPED", name), &headers, "");
                took[kind].push(began.elapsed());
                (answer.0, body_of(&answer.1).to_string().replace(name, "NAME"))
            };
            let (foreign, missing) = (ask(real, 0), ask(absent, 1));
            assert_eq!(foreign.0, 404, "{method} {path}: {}", foreign.1);
            assert_eq!(foreign, missing, "{method} {path}");
        }
    }
    let [foreign, absent] = took.map(|mut all| {
        all.sort_unstable();
        (all.len(), all[all.len() / 2])
    });
    println!(
        "median of {} answers: foreign {:?}, absent {:?}",
        foreign.0, foreign.1, absent.1
    );
}
