//! Who may do what: the claim, tokens, roles, foreign orgs, and what the audit says of it.

use std::collections::BTreeMap;
use std::time::Duration;

use control::people::Wish;
use control::{
    AuditVerdict, Control, ControlError, EnvPath, apps, audit, databases, events, images, keys, logs,
    operations, people, places, releases, secrets, uploads,
};
use model::operation::{ImageSource, Source};
use model::{Action, Actor, Millis, Org, OrgId, Realm, Role, Token, TokenId};
use store::{AuditBody, Now, Secret};

use crate::world::{ROOT, World, branch_wish, name};

#[test]
fn founding_is_idempotent() {
    let world = World::new();
    places::found(world.control()).expect("again");
    assert_eq!(world.all::<Org>().len(), 1);
    assert_eq!(world.all::<model::Environment>().len(), 1);
}

#[test]
fn a_claim_works_once() {
    let mut world = World::new();
    let first = people::offer_claim(world.control())
        .expect("offered")
        .expect("nobody claimed it");
    // Another start ends the earlier one.
    world.crash();
    let text = people::offer_claim(world.control())
        .expect("offered")
        .expect("nobody claimed it");
    let path = people::claim_path(world.control());
    assert_eq!(std::fs::read_to_string(&path).expect("for root"), text);
    for wrong in [first.as_str(), "", "stoa_claim_00"] {
        assert!(matches!(
            people::claim(world.control(), wrong, None),
            Err(ControlError::SignIn)
        ));
    }
    let (token, secret) = people::claim(world.control(), &text, None).expect("claimed");
    assert_eq!((token.role, token.org), (Role::Owner, None));
    assert!(!path.exists());
    assert!(matches!(
        people::claim(world.control(), &text, None),
        Err(ControlError::SignIn)
    ));
    assert_eq!(people::offer_claim(world.control()).expect("asked"), None);
    let actor = people::authenticate(world.control(), secret.expose_str().expect("text")).expect("it works");
    assert!(matches!(actor, Actor::Token { user: None, .. }));
    let standing = people::standing(world.control(), &actor).expect("rights");
    assert_eq!(standing.roles, [(Realm::Installation, Role::Owner)]);
}

#[test]
fn a_revoked_token_ends_at_once() {
    let world = World::new();
    let (token, secret) =
        people::create_token(world.control(), &ROOT, &Wish::of("ci", Role::Admin), None).expect("made");
    let text = secret.expose_str().expect("text").to_owned();
    let actor = people::authenticate(world.control(), &text).expect("it works");
    for wrong in ["", "stoa_pat_", &text[..text.len() - 1], &format!("{text}0")] {
        assert!(matches!(
            people::authenticate(world.control(), wrong),
            Err(ControlError::SignIn)
        ));
    }
    let more = people::create_token(world.control(), &actor, &Wish::of("boss", Role::Owner), None);
    assert!(
        matches!(more, Err(ControlError::Denied { .. })),
        "more rights than its maker"
    );
    people::revoke_token(world.control(), &ROOT, &token.id.to_string()).expect("revoked");
    assert!(matches!(
        people::authenticate(world.control(), &text),
        Err(ControlError::SignIn)
    ));
    let stored = serde_json::to_string(&world.all::<model::Token>()).expect("text");
    assert!(!stored.contains(&text), "only its hash is kept");
    let short = Wish {
        life: Some(Millis::new(1)),
        ..Wish::of("x", Role::Admin)
    };
    let short = people::create_token(world.control(), &ROOT, &short, None);
    assert!(matches!(short, Err(ControlError::Invalid(_))));
}

type Case = (
    &'static str,
    Action,
    bool,
    fn(&Control, &Actor) -> Result<(), ControlError>,
);

fn exec() -> engine::Exec {
    engine::Exec {
        argv: vec!["true".to_owned()],
        env: Vec::new(),
        user: None,
        workdir: None,
        terminal: None,
    }
}

/// Every use case, the right it needs, and whether it is about the installation.
fn cases() -> Vec<Case> {
    fn p() -> EnvPath {
        EnvPath::default()
    }
    fn image() -> Source {
        Source::Image {
            image: "good:1".to_owned(),
        }
    }
    vec![
        ("apps::list", Action::Read, false, |c, a| {
            apps::list(c, a, &p(), "", 100).map(drop)
        }),
        ("apps::view", Action::Read, false, |c, a| {
            apps::view(c, a, &p(), "shop").map(drop)
        }),
        ("apps::instances", Action::Read, false, |c, a| {
            apps::instances(c, a, &p(), "shop").map(drop)
        }),
        ("apps::create", Action::Manage, false, |c, a| {
            apps::create(c, a, &p(), &name("new")).map(drop)
        }),
        ("apps::configure", Action::Configure, false, |c, a| {
            apps::configure(c, a, &p(), "shop", &BTreeMap::new(), None).map(drop)
        }),
        ("apps::scale", Action::Deploy, false, |c, a| {
            apps::scale(c, a, &p(), "shop", &BTreeMap::new(), None).map(drop)
        }),
        ("releases::list", Action::Read, false, |c, a| {
            releases::list(c, a, &p(), "shop", "", 10).map(drop)
        }),
        ("releases::view", Action::Read, false, |c, a| {
            releases::view(c, a, &p(), "shop", "v1").map(drop)
        }),
        ("releases::deploy", Action::Deploy, false, |c, a| {
            releases::deploy(c, a, &p(), "shop", &image(), None).map(drop)
        }),
        ("releases::preview", Action::Deploy, false, |c, a| {
            releases::preview(c, a, &p(), "shop", None, None).map(drop)
        }),
        ("releases::rollback", Action::Deploy, false, |c, a| {
            releases::rollback(c, a, &p(), "shop", Some("v1")).map(drop)
        }),
        ("releases::restart", Action::Deploy, false, |c, a| {
            releases::restart(c, a, &p(), "shop").map(drop)
        }),
        ("releases::run", Action::Deploy, false, |c, a| {
            releases::run(c, a, &p(), "shop", &["x".to_owned()]).map(drop)
        }),
        ("releases::enter", Action::Deploy, false, |c, a| {
            releases::enter(c, a, &p(), "shop", None, &exec()).map(drop)
        }),
        ("secrets::list", Action::Read, false, |c, a| {
            secrets::list(c, a, &p(), "shop").map(drop)
        }),
        ("secrets::set", Action::Configure, false, |c, a| {
            let value = Secret::from("x".to_owned());
            secrets::set(c, a, &p(), "shop", &"K".parse().expect("a key"), &value).map(drop)
        }),
        ("secrets::change", Action::Configure, false, |c, a| {
            let changes = [("K".parse().expect("a key"), Some(Secret::from("x".to_owned())))];
            secrets::change(c, a, &p(), "shop", &changes.into()).map(drop)
        }),
        ("secrets::unset", Action::Configure, false, |c, a| {
            secrets::unset(c, a, &p(), "shop", &"K".parse().expect("a key")).map(drop)
        }),
        ("logs::of_app", Action::Read, false, |c, a| {
            logs::of_app(c, a, &p(), "shop", &logs::Wanted::default()).map(drop)
        }),
        ("logs::of_database", Action::ReadSecrets, false, |c, a| {
            logs::of_database(c, a, &p(), "main", &logs::Wanted::default()).map(drop)
        }),
        ("operations::list", Action::Read, false, |c, a| {
            operations::list(c, a, &p(), "", 10).map(drop)
        }),
        ("databases::list", Action::Read, false, |c, a| {
            databases::list(c, a, &p()).map(drop)
        }),
        ("databases::view", Action::Read, false, |c, a| {
            databases::view(c, a, &p(), "main").map(drop)
        }),
        ("databases::create", Action::Manage, false, |c, a| {
            databases::create(c, a, &p(), &name("more"), &databases::Wish::default()).map(drop)
        }),
        ("databases::update", Action::Manage, false, |c, a| {
            let change = databases::Change {
                level: Some(model::Level::Sync),
                pooled: Some(true),
            };
            databases::update(c, a, &p(), "main", change, None).map(drop)
        }),
        ("databases::restart", Action::Configure, false, |c, a| {
            databases::restart(c, a, &p(), "main").map(drop)
        }),
        ("databases::rotate", Action::Configure, false, |c, a| {
            databases::rotate(c, a, &p(), "main").map(drop)
        }),
        ("databases::branch", Action::Manage, false, |c, a| {
            databases::branch(c, a, &p(), "main", &branch_wish("try")).map(drop)
        }),
        ("databases::reset", Action::Manage, false, |c, a| {
            databases::reset(c, a, &p(), "main").map(drop)
        }),
        ("databases::connection", Action::ReadSecrets, false, |c, a| {
            databases::connection(c, a, &p(), "main").map(drop)
        }),
        ("databases::enter", Action::ReadSecrets, false, |c, a| {
            databases::enter(c, a, &p(), "main", &[], None).map(drop)
        }),
        ("databases::tunnel", Action::ReadSecrets, false, |c, a| {
            databases::tunnel(c, a, &p(), "main").map(drop)
        }),
        ("databases::activity", Action::ReadSecrets, false, |c, a| {
            databases::activity(c, a, &p(), "main").map(drop)
        }),
        ("databases::statements", Action::ReadSecrets, false, |c, a| {
            databases::statements(c, a, &p(), "main").map(drop)
        }),
        ("databases::settings", Action::ReadSecrets, false, |c, a| {
            databases::settings(c, a, &p(), "main").map(drop)
        }),
        ("databases::destroy", Action::Manage, false, |c, a| {
            databases::destroy(c, a, &p(), "main", None).map(drop)
        }),
        ("uploads::receive", Action::Deploy, false, |c, a| {
            uploads::receive(c, a, &p(), &mut b"x".as_slice()).map(drop)
        }),
        ("places::projects", Action::See, false, |c, a| {
            places::projects(c, a, "default").map(drop)
        }),
        ("places::environments", Action::Read, false, |c, a| {
            places::environments(c, a, "default", "default").map(drop)
        }),
        ("places::org", Action::See, false, |c, a| {
            places::org(c, a, "default").map(drop)
        }),
        ("places::rename_org", Action::Administer, false, |c, a| {
            places::rename_org(c, a, "default", &name("default"), None).map(drop)
        }),
        ("places::project", Action::See, false, |c, a| {
            places::project(c, a, "default", "default").map(drop)
        }),
        ("places::rename_project", Action::Administer, false, |c, a| {
            places::rename_project(c, a, "default", "default", &name("default"), None).map(drop)
        }),
        ("places::create_project", Action::Administer, false, |c, a| {
            places::create_project(c, a, "default", &name("new")).map(drop)
        }),
        ("places::delete_project", Action::Administer, false, |c, a| {
            places::delete_project(c, a, "default", "default", None)
        }),
        ("places::environment", Action::Read, false, |c, a| {
            places::environment(c, a, &p()).map(drop)
        }),
        ("places::delete_environment", Action::Administer, false, |c, a| {
            places::delete_environment(c, a, &p(), None)
        }),
        ("places::create_org", Action::Administer, true, |c, a| {
            places::create_org(c, a, &name("new")).map(drop)
        }),
        ("places::create_environment", Action::Administer, false, |c, a| {
            places::create_environment(c, a, "default", "default", &name("staging")).map(drop)
        }),
        ("people::tokens", Action::Administer, true, |c, a| {
            people::tokens(c, a).map(drop)
        }),
        ("people::create_token", Action::Administer, true, |c, a| {
            people::create_token(c, a, &Wish::of("x", Role::Viewer), None).map(drop)
        }),
        ("people::revoke_token", Action::Administer, true, |c, a| {
            people::revoke_token(c, a, &TokenId::fresh().to_string())
        }),
        ("audit::list", Action::Administer, true, |c, a| {
            audit::list(c, a, None, 1).map(drop)
        }),
        ("audit::verify", Action::Administer, true, |c, a| {
            audit::verify(c, a).map(drop)
        }),
        ("keys::view", Action::Administer, true, |c, a| {
            keys::view(c, a).map(drop)
        }),
        ("keys::rotate", Action::Administer, true, |c, a| {
            keys::rotate(c, a).map(drop)
        }),
        ("images::fetch", Action::Administer, true, |c, a| {
            images::fetch(c, a, &ImageSource::Host, "host", None).map(drop)
        }),
        ("images::remove", Action::Administer, true, |c, a| {
            images::remove(c, a, "nothing")
        }),
        // Last: it ends the others' object.
        ("apps::delete", Action::Manage, false, |c, a| {
            apps::delete(c, a, &p(), "shop", None).map(drop)
        }),
    ]
}

/// A token that is nobody's, as the host makes them.
pub fn token(world: &World, role: Role, org: Option<OrgId>) -> Actor {
    let now = Now::at(world.now.as_ms());
    let id = TokenId::fresh();
    let row = Token {
        id,
        name: "t".to_owned(),
        hash: id.to_string(),
        role,
        org,
        project: None,
        scopes: None,
        user: None,
        created_at: world.now,
        expires_at: world.now.plus(Millis::seconds(3600)),
        last_used_at: None,
        revoked: false,
        revoked_at: None,
        parent: None,
    };
    let stored: Result<_, store::StoreError> = world.parts().store.write(now, |tx| tx.insert(&row));
    stored.expect("a token");
    Actor::Token {
        token: id,
        name: "t".to_owned(),
        user: None,
    }
}

fn foreign_org(world: &World) -> OrgId {
    let org = Org {
        id: OrgId::fresh(),
        name: name("other"),
    };
    let now = Now::at(world.now.as_ms());
    let stored: Result<_, store::StoreError> = world.parts().store.write(now, |tx| tx.insert(&org));
    stored.expect("an org");
    org.id
}

#[test]
fn every_use_case_obeys_role_and_org() {
    let mut world = World::with_shop();
    world.must_serve = false;
    let home = world.all::<Org>()[0].id;
    let foreign = foreign_org(&world);
    let wish = databases::Wish::default();
    databases::create(world.control(), &ROOT, &EnvPath::default(), &name("main"), &wish).expect("asked");
    for (case, action, is_global, call) in cases() {
        for role in [Role::Viewer, Role::Developer, Role::Admin, Role::Owner] {
            for (org, where_from) in [(None, "all"), (Some(home), "own"), (Some(foreign), "foreign")] {
                let result = call(world.control(), &token(&world, role, org));
                let is_denied = matches!(result, Err(ControlError::Denied { .. }));
                let is_missing = matches!(&result, Err(ControlError::NotFound { kind: "org", .. }));
                let at = format!("{case} as {role:?} of {where_from}: {result:?}");
                match (is_global, where_from) {
                    (false, "foreign") => assert!(is_missing, "{at}"),
                    (true, "own" | "foreign") => assert!(is_denied, "{at}"),
                    _ => assert_eq!(is_denied, !role.allows(action), "{at}"),
                }
            }
        }
    }
}

#[test]
fn foreign_and_absent_are_the_same() {
    let world = World::with_shop();
    let foreign = token(&world, Role::Owner, Some(foreign_org(&world)));
    let operation = world.operations()[0].id.to_string();
    let absent = model::OperationId::fresh().to_string();
    let ask = |id: &str| {
        let answer = operations::view(world.control(), &foreign, id, Duration::ZERO);
        answer.expect_err("not to be seen").to_string().replace(id, "ID")
    };
    assert_eq!(ask(&operation), ask(&absent));
    let cancel = |id: &str| {
        let answer = operations::cancel(world.control(), &foreign, id);
        answer.expect_err("not to be seen").to_string().replace(id, "ID")
    };
    assert_eq!(cancel(&operation), cancel(&absent));
    let image = images::fetch(world.control(), &ROOT, &ImageSource::Host, "host", None).expect("accepted");
    assert_eq!(ask(&image.operation.id.to_string()), ask(&absent));
}

#[test]
fn watchers_see_their_own_and_never_keys() {
    let world = World::with_shop();
    people::create_token(world.control(), &ROOT, &Wish::of("ci", Role::Viewer), None).expect("made");
    people::offer_claim(world.control()).expect("offered");
    let home = world.all::<Org>()[0].id;
    let foreign = foreign_org(&world);
    let kinds = |actor: &Actor| -> Vec<String> {
        let (changes, _) = events::watch(world.control(), actor, Some(0), Duration::ZERO).expect("changes");
        changes.into_iter().map(|change| change.kind).collect()
    };
    let own = kinds(&token(&world, Role::Viewer, Some(home)));
    assert!(own.contains(&"app".to_owned()) && own.contains(&"instance".to_owned()));
    for kinds in [own, kinds(&token(&world, Role::Owner, None))] {
        let secret = ["token", "claim", "secret", "upload"];
        assert!(
            kinds.iter().all(|kind| !secret.contains(&kind.as_str())),
            "{kinds:?}"
        );
    }
    let others = kinds(&token(&world, Role::Owner, Some(foreign)));
    assert!(others.iter().all(|kind| kind == "org"), "{others:?}");
}

#[test]
fn refusals_are_recorded() {
    let world = World::with_shop();
    let viewer = token(&world, Role::Viewer, None);
    let control = world.control();
    let path = EnvPath::default();
    let newest = || {
        let records = audit::list(control, &ROOT, None, 2).expect("the audit");
        let AuditBody::Complete { outcome, .. } = &records[0].body else {
            panic!("{records:?}")
        };
        let AuditBody::Begin(entry) = &records[1].body else {
            panic!("{records:?}")
        };
        (entry.action.clone(), entry.decision.clone(), outcome.clone())
    };
    let told = |action: &str, decision: &str, outcome: &str| {
        (action.to_owned(), decision.to_owned(), outcome.to_owned())
    };
    apps::create(control, &viewer, &path, &name("x")).expect_err("no right");
    assert_eq!(newest(), told("app.create", "refused", "denied"));
    world
        .try_deploy("shop", "good:1", Some("nonsense"))
        .expect_err("not a manifest");
    assert_eq!(newest(), told("release.create", "refused", "invalid"));
    people::create_token(
        control,
        &token(&world, Role::Admin, None),
        &Wish::of("x", Role::Owner),
        None,
    )
    .expect_err("more");
    assert_eq!(newest(), told("token.create", "refused", "denied"));
    uploads::receive(control, &viewer, &path, &mut b"x".as_slice()).expect_err("no right");
    assert_eq!(newest(), told("upload.create", "refused", "denied"));
    images::remove(control, &ROOT, "nothing").expect_err("not there");
    assert_eq!(newest(), told("image.delete", "refused", "not_found"));
    // But not those of strangers, who could fill the disk with them.
    people::claim(control, "stoa_claim_0", None).expect_err("wrong");
    // The newest is our own reading.
    assert_eq!(newest(), told("audit.read", "allowed", "committed"));
    apps::create(control, &ROOT, &path, &name("x")).expect("made");
    assert_eq!(newest(), told("app.create", "allowed", "committed"));
    apps::create(control, &ROOT, &path, &name("x")).expect_err("taken");
    assert_eq!(newest(), told("app.create", "refused", "name_taken"));
}

#[test]
fn a_stale_change_is_refused() {
    let world = World::with_shop();
    let path = EnvPath::default();
    let stale = apps::configure(world.control(), &ROOT, &path, "shop", &BTreeMap::new(), Some(99));
    assert!(matches!(stale, Err(ControlError::Stale { expected: 99, .. })));
    let stale = apps::delete(world.control(), &ROOT, &path, "shop", Some(99));
    assert!(matches!(stale, Err(ControlError::Stale { expected: 99, .. })));
}

/// A variable that Stoa sets in each instance would be passed over in silence if somebody else could set it too.
#[test]
fn what_stoa_sets_is_nobody_elses() {
    let world = World::with_shop();
    let (control, path) = (world.control(), EnvPath::default());
    for key in ["PORT", "STOA_APP"] {
        let key: model::EnvKey = key.parse().expect("a key");
        let set = BTreeMap::from([(key.clone(), Some("1".to_owned()))]);
        let refused = apps::configure(control, &ROOT, &path, "shop", &set, None);
        assert!(matches!(refused, Err(ControlError::Invalid(_))), "{key}");
        let secret = Secret::from("1".to_owned());
        let refused = secrets::set(control, &ROOT, &path, "shop", &key, &secret);
        assert!(matches!(refused, Err(ControlError::Invalid(_))), "{key}");
        // Taking away what an earlier version let pass is no harm.
        let unset = BTreeMap::from([(key.clone(), None)]);
        apps::configure(control, &ROOT, &path, "shop", &unset, None).expect("nothing to take");
    }
}

/// The end of the log is kept beside the store a minute after the start: a log that was cut together with the store's
/// own idea of its end is found by it.
#[test]
fn the_end_of_the_audit_log_is_sealed_beside_the_store() {
    let mut world = World::with_shop();
    let head = audit::head_file(&world.control().settings);
    world.pass();
    assert!(!head.exists(), "sealed before an upgrade can be taken back");
    world.until(Millis::seconds(120), "a sealed head", |_| head.exists());
    let whole = |world: &World| match audit::verify(world.control(), &ROOT).expect("a verdict") {
        AuditVerdict::Whole { records } => Some(records),
        AuditVerdict::FirstBad { .. } => None,
    };
    let before = whole(&world).expect("whole");
    assert!(whole(&world).expect("whole") > before, "a check is a row too");
    let sealed = std::fs::read_to_string(&head).expect("a head");
    std::fs::write(&head, sealed.replace('1', "2")).expect("altered");
    assert_eq!(whole(&world), None, "an altered head is not believed");
}
