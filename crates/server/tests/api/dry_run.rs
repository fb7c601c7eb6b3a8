//! `dry_run`: whatever changes something takes it, checks as much as without it, and leaves all as it was.

use std::collections::BTreeMap;

use model::app::Serving;
use model::operation::Work;
use model::{
    App, AppId, Condition, Credential, Database, DatabaseId, DatabaseState, Environment, Instance,
    InstanceId, Operation, OperationId, OperationState, Origin, Purpose, Release, ReleaseId, ReleaseState,
    Resources, Service, Timestamp,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use store::Row;
use store::rows::Claim;

use super::{World, now};

/// What a mutation is asked for so that it would be done: its body, and the kind of the change that its plan tells.
/// A mutation without a row here fails the test.
fn requests() -> BTreeMap<&'static str, (Value, &'static str)> {
    let command = json!({"command": ["/bin/true"]});
    let invitation = json!({"email": "eve@example.org", "role": "viewer"});
    [
        ("installation_claim", json!({"token": CLAIM}), "token"),
        ("token_create", json!({"name": "ci", "role": "viewer"}), "token"),
        ("token_delete", Value::Null, "token"),
        ("audit_verify", Value::Null, ""),
        ("org_create", json!({"name": "acme"}), "org"),
        ("org_update", json!({"name": "renamed"}), "org"),
        ("org_delete", Value::Null, "org"),
        ("project_create", json!({"name": "web"}), "project"),
        ("project_update", json!({"name": "renamed"}), "project"),
        ("project_delete", Value::Null, "project"),
        ("environment_create", json!({"name": "staging"}), "environment"),
        ("environment_delete", Value::Null, "environment"),
        ("device_create", json!({"name": "laptop"}), "device"),
        ("device_token", json!({"device_code": "DEVICE"}), "token"),
        ("device_approve", Value::Null, "device"),
        ("device_deny", Value::Null, "device"),
        (
            "device_page_sign_in",
            json!({"email": ADA, "password": PASSWORD}),
            "session",
        ),
        (
            "device_page_decide",
            json!({"user_code": "USER-CODE", "decision": "approve"}),
            "device",
        ),
        (
            "identity_provider_put",
            json!({"issuer": super::oidc::shared(), "client_id": "stoa", "client_secret": "s",
                "origin": "https://stoa.example.org"}),
            "identity_provider",
        ),
        ("identity_provider_delete", Value::Null, "identity_provider"),
        (
            "oidc_session_create",
            json!({"code": "PROVEN", "verifier": super::oidc::VERIFIER}),
            "session",
        ),
        (
            "identity_create",
            json!({"code": "UNLINKED", "verifier": super::oidc::VERIFIER, "password": PASSWORD}),
            "identity",
        ),
        ("identity_delete", Value::Null, "identity"),
        (
            "session_create",
            json!({"email": ADA, "password": PASSWORD}),
            "session",
        ),
        ("session_delete", Value::Null, "session"),
        (
            "password_put",
            json!({"current": PASSWORD, "new": "another horse entirely"}),
            "user",
        ),
        ("user_delete", Value::Null, "user"),
        ("user_role_put", json!({"role": "admin"}), "membership"),
        ("user_role_delete", Value::Null, "membership"),
        ("user_reset", Value::Null, "invitation"),
        ("user_invitation_create", invitation.clone(), "invitation"),
        ("user_invitation_delete", Value::Null, "invitation"),
        (
            "invitation_accept",
            json!({"token": INVITATION, "name": "Bob", "password": PASSWORD}),
            "user",
        ),
        ("invitation_create", invitation, "invitation"),
        ("invitation_delete", Value::Null, "invitation"),
        ("member_put", json!({"role": "admin"}), "membership"),
        ("member_delete", Value::Null, "membership"),
        ("project_member_put", json!({"role": "admin"}), "membership"),
        ("project_member_delete", Value::Null, "membership"),
        (
            "deploy_token_create",
            json!({"name": "ci", "role": "viewer"}),
            "token",
        ),
        ("deploy_token_delete", Value::Null, "token"),
        ("upload_create", Value::Null, "upload"),
        ("app_create", json!({"name": "blog"}), "app"),
        ("app_delete", Value::Null, "operation"),
        ("app_env_update", json!({"set": {"A": "1"}}), "app"),
        ("secret_update", json!({"set": {"K": "v"}}), "secret"),
        ("secret_put", json!({"value": "v"}), "secret"),
        ("secret_delete", Value::Null, "secret"),
        ("app_scale", json!({"services": {"web": 2}}), "operation"),
        ("app_restart", Value::Null, "operation"),
        ("app_run", command.clone(), "operation"),
        ("instance_exec", command.clone(), "session"),
        ("release_create", json!({"source": {"kind": "configuration"}}), ""),
        ("app_rollback", json!({"to": "v1"}), "operation"),
        ("database_create", json!({"name": "other"}), "database"),
        ("database_update", json!({"backup_level": "sync"}), "database"),
        ("database_delete", Value::Null, "operation"),
        ("database_rotate", Value::Null, "operation"),
        ("database_restart", Value::Null, "operation"),
        ("database_branch", json!({"name": "copy"}), "database"),
        ("database_reset", Value::Null, "operation"),
        ("database_backup", Value::Null, "operation"),
        ("database_drill", json!({"copy": "target"}), "operation"),
        (
            "database_restore",
            json!({"name": "before", "to": {"kind": "latest"}}),
            "database",
        ),
        ("database_promote", json!({"name": "restored"}), "operation"),
        ("database_upgrade", json!({"version": "18"}), "database"),
        ("database_exec", command, "session"),
        ("database_tunnel", Value::Null, "session"),
        (
            "image_create",
            json!({"name": "base:1", "source": {"kind": "host"}}),
            "operation",
        ),
        ("image_delete", Value::Null, "image"),
        ("operation_cancel", Value::Null, "operation"),
        (
            "database_restore_from_target",
            json!({"database": "main", "name": "back", "to": {"kind": "latest"}}),
            "database",
        ),
        (
            "backup_target_put",
            json!({"place": {"kind": "directory", "path": "ELSEWHERE"}}),
            "backup_target",
        ),
        ("backup_target_delete", Value::Null, "backup_target"),
        ("backup_target_verify", Value::Null, "operation"),
        (
            "backup_key_check",
            json!({"backup_key": BACKUP_KEY}),
            "backup_target",
        ),
        ("master_key_rotate", Value::Null, "operation"),
    ]
    .into_iter()
    .map(|(id, body, kind)| (id, (body, kind)))
    .collect()
}

/// Seven in each byte, and its check sum.
const BACKUP_KEY: &str =
    "stoa-backup-key:0707070707070707070707070707070707070707070707070707070707070707:04dea595";
const CLAIM: &str = "stoa_claim_0";
const INVITATION: &str = "stoa_inv_0";
const ADA: &str = "ada@example.org";
const PASSWORD: &str = "correct horse battery";
const IMAGE: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// A world in which each of these requests makes sense, and the parameters of their paths.
pub(super) fn furnished() -> (World, BTreeMap<&'static str, String>) {
    let world = World::new();
    let at = Timestamp::now();
    let environments = world.parts.store.read(store::ReadTx::list_all::<Environment>);
    let environment = environments.expect("environments").remove(0).row.id;
    let (app, release, database, branch) = (
        AppId::fresh(),
        ReleaseId::fresh(),
        DatabaseId::fresh(),
        DatabaseId::fresh(),
    );
    let (restored, instance, operation) = (DatabaseId::fresh(), InstanceId::fresh(), OperationId::fresh());
    let serving = Serving { release, epoch: 1 };
    world.put(&App {
        id: app,
        environment,
        name: name("shop"),
        env: BTreeMap::new(),
        scale: BTreeMap::new(),
        serving: Some(serving),
        served_before: vec![release],
        rollout: None,
        deleting: false,
    });
    world.put(&release_of(app, release, operation, at));
    let place = |purpose: Purpose, id: InstanceId| Instance {
        id,
        purpose,
        attempt: 0,
        created_at: at,
        address: Some(std::net::Ipv4Addr::new(10, 91, 0, 2)),
        uid_range: 1,
        excused: false,
        condition: Condition::Ready { since: at },
    };
    let web = Purpose::Service {
        app,
        release,
        epoch: 1,
        service: name("web"),
        index: 0,
    };
    world.put(&place(web, instance));
    world.put(&place(
        Purpose::Database { database: branch },
        InstanceId::fresh(),
    ));
    world.put(&place(
        Purpose::Database { database: restored },
        InstanceId::fresh(),
    ));
    world.put(&database_of(database, environment, "main", None, at));
    let mut before = database_of(restored, environment, "restored", None, at);
    before.restored = Some(model::Restored {
        of: database,
        name: name("main"),
        server: None,
        target: model::Target::Latest,
        upgraded: None,
        reached: None,
    });
    world.put(&before);
    world.put(&database_of(branch, environment, "branch", Some(database), at));
    world.put(&Operation {
        id: operation,
        environment: Some(environment),
        work: Work::Restart { app },
        actor: "test".to_owned(),
        created_at: at,
        deadline: at,
        state: OperationState::Pending,
        step: String::new(),
        cancel: false,
        release: None,
        outcome: None,
        exit_code: None,
    });
    let sealed = world.parts.store.write(store::Now::at(at.as_ms()), |tx| {
        let key = store::Secret::new(BACKUP_KEY.as_bytes().to_vec());
        tx.seal(store::rows::BACKUP_TARGET, store::rows::BACKUP_KEY, 1, &key)
            .map_err(store::StoreError::from)
    });
    world.put(&model::BackupTarget {
        place: model::TargetPlace::Directory {
            path: world.elsewhere.path().to_string_lossy().into_owned(),
        },
        server: "0".repeat(32),
        fingerprint: "428ef498cd619056".to_owned(),
        version: 1,
        key: sealed.expect("sealed").0,
        secret: Vec::new(),
        escrowed_at: None,
        since: at,
    });
    put_backup(world.elsewhere.path(), database, at);
    let hash = Sha256::digest(CLAIM.as_bytes());
    world.put(&Claim {
        hash: hash.iter().map(|byte| format!("{byte:02x}")).collect(),
        expires_at: at.plus(model::Millis::seconds(600)),
    });
    std::fs::write(world.dir.path().join("run/claim-token"), CLAIM).expect("a claim");
    for image in ["base:0", "postgres:18"] {
        world.engine.add_image(
            image,
            &IMAGE.parse().expect("a digest"),
            engine::simulated::Behaviour::default(),
        );
    }
    world.token(api::Role::Viewer);
    let token = world.root().tokens().expect("tokens").remove(0).id;
    let secret = api::PutSecret {
        value: "old".to_owned(),
    };
    world
        .root()
        .secret_put(&super::place(), "shop", "KEY", &secret)
        .expect("a secret");
    let (session, people) = people(&world);
    let elsewhere = world.elsewhere.path().to_string_lossy().into_owned();
    let known = [
        ("org", "default".to_owned()),
        ("project", "default".to_owned()),
        ("environment", "production".to_owned()),
        ("app", "shop".to_owned()),
        ("key", "KEY".to_owned()),
        ("instance", instance.to_string()),
        ("database", "branch".to_owned()),
        ("main", "main".to_owned()),
        ("drill", model::DrillId::fresh().to_string()),
        ("image", "base:0".to_owned()),
        ("operation", operation.to_string()),
        ("token", token),
        ("user", ADA.to_owned()),
        ("empty", "empty".to_owned()),
        ("cookie", session),
        ("elsewhere", elsewhere),
    ];
    (world, known.into_iter().chain(people).collect())
}

/// The backup of a database on the target, as another server of the same key would find it: a base and one segment.
fn put_backup(elsewhere: &std::path::Path, id: DatabaseId, at: Timestamp) {
    use backup::{Catalogue, KeptBase, KeptFile, KeptStretch, Key, Manifest, Mark, Names, Target};
    let target = Target::Directory(elsewhere.to_owned());
    let key: Key = BACKUP_KEY.parse().expect("a key");
    let server = "0".repeat(32);
    let names = Names::of(&server);
    let mark = Mark {
        server,
        key: key.fingerprint(),
        since: at,
    };
    mark.write(&target, &names.mark()).expect("marked");
    let last = model::Segment {
        timeline: 1,
        number: 3,
    };
    let sealed = backup::seal(&key, &names.segment(id, 1, last), &mut &b"log"[..]).expect("sealed");
    let put = target.put(&names.segment(id, 1, last), &sealed);
    put.expect("put");
    let parts = Manifest { parts: Vec::new() };
    let put = target.put_document(&key, &names.manifest(id, 1), &parts);
    put.expect("put");
    let catalogue = Catalogue {
        database: id,
        name: name("main"),
        place: "default/default/production".to_owned(),
        size: model::Bytes::mi(128),
        memory: model::Bytes::mi(128),
        written_at: at,
        stretches: vec![KeptStretch {
            number: 1,
            complete: Some((at, last.end())),
            files: vec![KeptFile {
                segment: last,
                written: at,
                bytes: sealed.len() as u64,
                open_at: None,
            }],
        }],
        bases: vec![KeptBase {
            number: 1,
            stretch: 1,
            at,
            lsn: last.begin(),
            last,
            version: "15".to_owned(),
            image: IMAGE.parse().expect("a digest"),
            files: None,
            bytes: 0,
        }],
    };
    let put = target.put_document(&key, &names.catalogue(id), &catalogue);
    put.expect("put");
}

/// Ada, who is something everywhere, what waits for others, and places in which nothing is: her session's text, and ids.
fn people(world: &World) -> (String, Vec<(&'static str, String)>) {
    let root = world.root();
    let invite = |email: &str, org: Option<&str>| {
        let (email, role) = (email.to_owned(), api::Role::Developer);
        let issued = match org {
            Some(org) => root.invite(
                org,
                &api::CreateInvitation {
                    email,
                    role,
                    project: None,
                },
            ),
            None => root.user_invite(&api::CreateUserInvitation { email, role }),
        };
        issued.expect("an invitation")
    };
    let taken = invite(ADA, Some("default"));
    let cookie = super::people::take(world, &taken.token, "Ada");
    let project = root.member_put("default", Some("default"), ADA, api::Role::Viewer);
    project.expect("a member of the project");
    root.user_role_put(ADA, api::Role::Viewer).expect("a role");
    let session = world.with(&cookie).sessions().expect("sessions").remove(0).id;
    let hash = Sha256::digest(INVITATION.as_bytes());
    let at = Timestamp::now();
    world.put(&model::Invitation {
        id: model::InvitationId::fresh(),
        hash: hash.iter().map(|byte| format!("{byte:02x}")).collect(),
        email: "bob@example.org".parse().expect("an address"),
        realm: model::Realm::Installation,
        role: Some(model::Role::Viewer),
        by: "test".to_owned(),
        maker: None,
        created_at: at,
        expires_at: at.plus(model::Millis::seconds(600)),
    });
    let deploy = api::CreateDeployToken {
        name: "ci".to_owned(),
        role: api::Role::Viewer,
        scopes: None,
        lifetime_s: None,
    };
    let deploy = root
        .deploy_token_create("default", "default", &deploy)
        .expect("a token");
    let device = || {
        let body = api::CreateDevice {
            name: "laptop".to_owned(),
            role: None,
            scopes: None,
        };
        root.device_create(&body).expect("a code")
    };
    let (waiting, approved) = (device(), device());
    let approve = world.with(&cookie).device_approve(&approved.user_code);
    approve.expect("approved");
    let user = world
        .with(&cookie)
        .whoami()
        .expect("Ada")
        .user
        .expect("a user")
        .id;
    let (identity, proven, unlinked) = at_provider(world, user.parse().expect("an id"));
    let empty = || "empty".to_owned();
    root.org_create(&api::CreateOrg { name: empty() })
        .expect("an org");
    let body = api::CreateProject { name: empty() };
    root.project_create("default", &body).expect("a project");
    let body = api::CreateEnvironment { name: empty() };
    root.environment_create("default", "default", &body)
        .expect("an environment");
    let ids = vec![
        ("session", session),
        ("invitation", invite("zoe@example.org", Some("default")).about.id),
        ("whole_invitation", invite("zoe@example.org", None).about.id),
        ("deploy_token", deploy.about.id),
        ("code", waiting.user_code),
        ("device", approved.device_code),
        ("provider", "home".to_owned()),
        ("identity", identity),
        ("proven", proven),
        ("unlinked", unlinked),
    ];
    (cookie, ids)
}

/// A provider, an account there that is linked with a user, and what browsers brought of that and of another one.
fn at_provider(world: &World, user: model::UserId) -> (String, String, String) {
    let at = Timestamp::now();
    let provider = model::IdentityProvider {
        id: model::ProviderId::fresh(),
        name: name("home"),
        issuer: "https://id.example.org".to_owned(),
        client_id: "stoa".to_owned(),
        secret: None,
        version: 1,
        redirect: "https://stoa.example.org/v1/oidc/home/callback".to_owned(),
        created_at: at,
    };
    world.put(&provider);
    let identity = model::Identity {
        id: model::IdentityId::fresh(),
        provider: provider.id,
        subject: "linked".to_owned(),
        user,
        created_at: at,
    };
    world.put(&identity);
    let prove = |subject: &str| {
        let challenge = super::oidc::CHALLENGE;
        let code = control::people::oidc::prove(&world.control, &provider, subject, challenge);
        code.expect("a code")
    };
    (identity.id.to_string(), prove("linked"), prove("another"))
}

/// Which of what is known a parameter of a path stands for.
fn stands_for<'p>(id: &str, parameter: &'p str) -> &'p str {
    match (id, parameter) {
        ("user_invitation_delete", "invitation") => "whole_invitation",
        ("deploy_token_delete", "token") => "deploy_token",
        ("database_promote", "database") => "main",
        ("org_delete", "org") | ("project_delete", "project") | ("environment_delete", "environment") => {
            "empty"
        }
        (_, parameter) => parameter,
    }
}

/// Who sends it: what is only for a user comes from Ada's browser.
fn credential(id: &str, known: &BTreeMap<&'static str, String>, token: &str) -> String {
    match id {
        "session_delete" | "password_put" | "device_approve" | "device_deny" | "device_page_decide"
        | "identity_create" | "identity_delete" => {
            format!(
                "cookie: __Host-stoa={}\r\nsec-fetch-site: same-origin\r\n",
                known["cookie"]
            )
        }
        _other => format!("authorization: Bearer {token}\r\n"),
    }
}

fn name(text: &str) -> model::Name {
    text.parse().expect("a name")
}

fn release_of(app: AppId, id: ReleaseId, operation: OperationId, at: Timestamp) -> Release {
    let service = Service {
        command: vec!["/bin/true".to_owned()],
        image: None,
        port: None,
        count: 1,
        resources: Resources::default(),
        health: model::Health::default(),
        routes: Vec::new(),
        uses: std::collections::BTreeSet::new(),
        secrets: std::collections::BTreeSet::new(),
        stop_grace: model::Millis::seconds(30),
    };
    Release {
        id,
        app,
        number: 1,
        created_at: at,
        operation,
        note: String::new(),
        image: IMAGE.parse().expect("a digest"),
        images: BTreeMap::new(),
        services: [(name("web"), service)].into(),
        jobs: BTreeMap::new(),
        env: BTreeMap::new(),
        manifest_env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        strategy: model::Strategy::default(),
        state: ReleaseState::Proven,
    }
}

fn database_of(
    id: DatabaseId,
    environment: model::EnvironmentId,
    named: &str,
    of: Option<DatabaseId>,
    at: Timestamp,
) -> Database {
    Database {
        engine: model::DatabaseEngine::Postgres,
        id,
        environment,
        name: name(named),
        version: Some("15".to_owned()),
        image: None,
        size: model::Bytes::mi(128),
        resources: Resources::default(),
        created_at: at,
        credentials: vec![Credential {
            version: 1,
            sealed: Vec::new(),
            since: at,
        }],
        state: DatabaseState::Active,
        full: None,
        origin: of.map(|of| Origin {
            of,
            name: name("main"),
            at: Some(at),
            lsn: None,
            source: model::BranchSource::Live,
            shape: model::Shape::default(),
        }),
        restored: None,
        paused: None,
        promoted: None,
        replaced: None,
        level: model::Level::Stream,
        pooled: false,
        pooler: None,
        unpooled: None,
        archive: of.map(|_| model::Archive {
            stretch: 1,
            sealed: Vec::new(),
            version: 1,
            since: at,
            bases: Vec::new(),
            drilled: None,
            commits: model::Commits::Free,
            behind: None,
        }),
        expires_at: None,
        idle_stop: None,
        asleep: None,
        restarting: None,
    }
}

impl World {
    fn put<R: Row>(&self, row: &R) {
        let put = self.parts.store.write(now(), |tx| tx.insert(row).map(drop));
        put.expect("a row");
    }

    /// Everything there is: the last revision, the audit log, keys of requests, files of uploads, images, sessions begun.
    fn census(&self) -> Value {
        let uploads = std::fs::read_dir(self.dir.path().join("uploads")).map_or(0, Iterator::count);
        let audit = self
            .parts
            .store
            .read(|tx| tx.audit_list(None, 1))
            .expect("the audit log");
        let claim = self.dir.path().join("run/claim-token").exists();
        json!({
            "revision": self.parts.store.rev(),
            "audit": audit.first().map(|last| last.seq),
            "uploads": uploads,
            "claim": claim,
            "devices": self.parts.door.devices.census(),
            "browsers": self.parts.door.browsers.census(),
            "images": self.parts.engine.images().expect("images").len(),
        })
    }
}

/// A mutation of the document, as a request that would be done.
struct Mutation {
    id: String,
    method: String,
    path: String,
    body: String,
    headers: String,
    tells: &'static str,
}

/// As a browser sends it.
fn form(fields: &Value) -> String {
    let fields = fields.as_object().expect("fields").iter();
    let pairs = fields.map(|(name, value)| {
        let mut pair = format!("{name}=");
        api::endpoint::escape_into(&mut pair, value.as_str().expect("a text"));
        pair
    });
    pairs.collect::<Vec<_>>().join("&")
}

fn mutations(known: &BTreeMap<&'static str, String>) -> Vec<Mutation> {
    let mut requests = requests();
    let mut all = Vec::new();
    let paths = api::document::document()["paths"].as_object().expect("paths");
    for (path, item) in paths {
        for (method, operation) in item.as_object().expect("an item") {
            if method == "get" {
                continue;
            }
            let id = operation["operationId"].as_str().expect("an id");
            let mut path = path.clone();
            for parameter in known.keys() {
                let value = &known[stands_for(id, parameter)];
                path = path.replace(&format!("{{{parameter}}}"), &value.replace(':', "%3A"));
            }
            let takes = operation["parameters"].as_array().into_iter().flatten();
            assert!(
                takes.into_iter().any(|p| p["name"] == "dry_run"),
                "{id} takes no dry_run"
            );
            let (body, tells) = requests.remove(id).unwrap_or_else(|| panic!("no row for {id}"));
            let (body, media_type) = match (id, &body) {
                ("upload_create", _) => ("archive".to_owned(), "application/x-tar"),
                (_, Value::Null) => (String::new(), ""),
                ("device_page_sign_in" | "device_page_decide", body) => (
                    form(body).replace("USER-CODE", &known["code"]),
                    "application/x-www-form-urlencoded",
                ),
                (_, body) => (
                    body.to_string()
                        .replace("DEVICE", &known["device"])
                        .replace("PROVEN", &known["proven"])
                        .replace("UNLINKED", &known["unlinked"])
                        .replace("ELSEWHERE", &known["elsewhere"]),
                    "application/json",
                ),
            };
            let media_type = match media_type {
                "" => String::new(),
                media_type => format!("content-type: {media_type}\r\n"),
            };
            all.push(Mutation {
                id: id.to_owned(),
                method: method.to_uppercase(),
                path,
                body,
                headers: media_type,
                tells,
            });
        }
    }
    assert!(
        requests.is_empty(),
        "rows of what is no mutation: {:?}",
        requests.keys()
    );
    all
}

#[test]
fn a_dry_run_says_what_would_be_and_changes_nothing() {
    let (world, known) = furnished();
    let token = world.token(api::Role::Owner);
    // The first use of a token is written down.
    let header = format!("authorization: Bearer {token}\r\n");
    assert_eq!(world.call("GET", "/v1/whoami", &header, "").0, 200);
    let key = "idempotency-key: once\r\n";
    for mutation in mutations(&known) {
        let Mutation {
            id,
            method,
            path,
            body,
            headers,
            tells,
        } = mutation;
        let headers = format!("{}{key}{headers}", credential(&id, &known, &token));
        let before = world.census();
        let (status, answer) = world.call(&method, &format!("{path}?dry_run=true"), &headers, &body);
        assert_eq!(status, 200, "{id}: {answer}");
        assert_eq!(world.census(), before, "{id} left something behind");
        let told = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
        let texts = ["stoa_pat_", "stoa_dpl_", "stoa_ses_", "stoa_inv_"];
        assert!(
            !texts.iter().any(|text| told.contains(text)),
            "{id} tells a token"
        );
        let told: Value = serde_json::from_str(told).expect("JSON");
        let changes = told["changes"].as_array().cloned().unwrap_or_default();
        let kinds = || changes.iter().filter_map(|change| change["kind"].as_str());
        assert!(
            tells.is_empty() || kinds().any(|kind| kind == tells),
            "{id}: {told}"
        );
        // Neither is it done for somebody who may not.
        let (status, _) = world.call(&method, &format!("{path}?dry_run=true"), "", &body);
        let is_open = matches!(
            id.as_str(),
            "installation_claim"
                | "session_create"
                | "invitation_accept"
                | "device_create"
                | "device_token"
                | "oidc_session_create"
                | "device_page_sign_in"
        );
        assert!(status == 401 || is_open, "{id}: {status}");
    }
}

/// The census sees what a request changes, and a plan foretells the status: each is a control of the test above.
#[test]
fn without_dry_run_the_same_requests_change_something() {
    let (_, known) = furnished();
    for mutation in mutations(&known) {
        let Mutation {
            id,
            method,
            path,
            body,
            headers,
            ..
        } = mutation;
        // Hands the connection over, or needs an instance that is real.
        if matches!(id.as_str(), "instance_exec" | "database_exec" | "database_tunnel") {
            continue;
        }
        let (world, here) = furnished();
        let path = known.iter().fold(path, |path, (parameter, value)| {
            path.replace(value, &here[parameter])
        });
        let body = ["device", "code", "proven", "unlinked", "elsewhere"]
            .iter()
            .fold(body, |body, what| body.replace(&known[what], &here[what]));
        let token = world.token(api::Role::Owner);
        let headers = format!("{}{headers}", credential(&id, &here, &token));
        let (_, foretold) = world.call(&method, &format!("{path}?dry_run=true"), &headers, &body);
        let before = world.census();
        let (status, answer) = world.call(&method, &path, &headers, &body);
        assert!(status < 400, "{id}: {answer}");
        assert_ne!(world.census(), before, "{id} changed nothing");
        let foretold: Value =
            serde_json::from_str(foretold.split("\r\n\r\n").nth(1).unwrap_or_default()).expect("JSON");
        assert!(
            foretold["status"]
                .as_u64()
                .is_none_or(|told| told == u64::from(status)),
            "{id}: {foretold}"
        );
    }
}
