//! Users, members, invitations, sessions and tokens: what each lets somebody do, and that it ends at once.
//!
//! Every guard has a control: with its switch of `planted` off, the same check must fail.

use std::net::IpAddr;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use control::people::{self, Accepted, Source, Wish, device};
use control::planted::{Defect, plant};
use control::{Control, ControlError, EnvPath, apps, databases, places, secrets};
use model::{Action, Actor, Email, Millis, Realm, Role};
use store::Secret;

use crate::world::{ROOT, World, name};

pub const PASSWORD: &str = "correct horse battery";

pub fn secret(text: &str) -> Secret {
    Secret::from(text.to_owned())
}

pub fn email(user: &str) -> Email {
    format!("{user}@example.org").parse().expect("an address")
}

pub fn from(last: u8) -> Source {
    Source::of(IpAddr::from([192, 0, 2, last]))
}

/// A user who took an invitation to an org or a project, signed in.
pub fn member(control: &Control, user: &str, org: &str, project: Option<&str>, role: Role) -> Actor {
    let (_, text) =
        people::invite(control, &ROOT, Some(org), project, &email(user), role).expect("an invitation");
    take(control, user, text.expose_str().expect("text")).expect("taken")
}

pub fn take(control: &Control, user: &str, text: &str) -> Result<Actor, ControlError> {
    let accepted = Accepted {
        text: text.to_owned(),
        name: Some(user.to_owned()),
        password: secret(PASSWORD),
    };
    let found = people::accept(control, &accepted, &from(1), "a test")?;
    Ok(Actor::User {
        user: found.account.user.id,
        session: found.session.id,
    })
}

/// Ada, with her password.
pub fn signed_in(control: &Control, source: &Source) -> people::SignedIn {
    let found = people::sign_in(control, &email("ada"), &secret(PASSWORD), source, "").expect("in");
    found.expect("no rehearsal")
}

fn place() -> EnvPath {
    EnvPath::default()
}

pub fn denied<T>(result: Result<T, ControlError>) -> bool {
    matches!(result.err(), Some(ControlError::Denied { .. }))
}

pub fn sign_in_first<T>(result: Result<T, ControlError>) -> bool {
    matches!(result.err(), Some(ControlError::SignIn))
}

/// Says whether a check holds, and that it does not when its guard is off.
fn guarded(defect: Defect, holds: impl Fn() -> bool) {
    plant(Some(defect));
    let without = holds();
    plant(None);
    assert!(!without, "{defect:?}: the check holds without its guard");
    assert!(holds(), "{defect:?}: the check does not hold");
}

#[test]
fn an_invitation_is_for_one_address_and_works_once() {
    let world = World::new();
    let control = world.control();
    let (invitation, text) = people::invite(
        control,
        &ROOT,
        Some("default"),
        None,
        &email("ada"),
        Role::Developer,
    )
    .expect("made");
    let text = text.expose_str().expect("text").to_owned();
    let stored = serde_json::to_string(&world.all::<model::Invitation>()).expect("rows");
    assert!(!stored.contains(&text), "only its hash is kept");
    for wrong in ["", "stoa_inv_00", &text[..text.len() - 1]] {
        assert!(sign_in_first(take(control, "eve", wrong)), "{wrong}");
    }
    let weak = Accepted {
        text: text.clone(),
        name: Some("Ada".to_owned()),
        password: secret("short"),
    };
    let weak = people::accept(control, &weak, &from(1), "");
    assert!(matches!(weak, Err(ControlError::Invalid(_))), "{weak:?}");
    let ada = take(control, "whatever the name", &text).expect("taken");
    let account = people::own(control, &ada).expect("read").expect("a user");
    assert_eq!(
        account.user.email,
        email("ada"),
        "the invited address, whoever took it"
    );
    assert!(sign_in_first(take(control, "eve", &text)), "works once");
    assert_eq!(world.all::<model::User>().len(), 1);
    assert!(
        people::invitations(control, &ROOT, Some("default"))
            .expect("a list")
            .is_empty()
    );
    // Another one to the same place makes the earlier one end; one that was ended does not work.
    let again =
        || people::invite(control, &ROOT, Some("default"), None, &email("bob"), Role::Viewer).expect("made");
    let (first, second) = (again(), again());
    assert!(sign_in_first(take(
        control,
        "bob",
        first.1.expose_str().expect("text")
    )));
    people::revoke_invitation(control, &ROOT, Some("default"), &second.0.id.to_string()).expect("ended");
    assert!(sign_in_first(take(
        control,
        "bob",
        second.1.expose_str().expect("text")
    )));
    let taken = people::invite(control, &ROOT, Some("default"), None, &email("ada"), Role::Admin);
    assert!(matches!(taken, Err(ControlError::Taken { kind: "member", .. })));
    assert_eq!(invitation.role, Some(Role::Developer));
}

#[test]
fn invitations_and_sessions_end() {
    let world = World::alone();
    let control = world.control();
    let past = |hours: u64| {
        let ms = model::Timestamp::now().as_ms() - hours * 3_600_000;
        store::Now::at(ms)
    };
    guarded(Defect::InvitesForEver, || {
        let user = format!("u{}", model::UserId::fresh().short(6));
        let (_, text) =
            people::invite(control, &ROOT, Some("default"), None, &email(&user), Role::Viewer).expect("made");
        let mut row = world
            .all::<model::Invitation>()
            .into_iter()
            .find(|row| row.email == email(&user))
            .expect("there");
        row.expires_at = model::Timestamp::from_ms(past(1).wall_ms);
        let aged: Result<_, store::StoreError> = world
            .parts()
            .store
            .write(past(0), |tx| tx.update(&row, store::Expect::Any));
        aged.expect("aged");
        sign_in_first(take(control, &user, text.expose_str().expect("text")))
    });
    let (_, text) =
        people::invite(control, &ROOT, Some("default"), None, &email("ada"), Role::Viewer).expect("made");
    take(control, "ada", text.expose_str().expect("text")).expect("taken");
    for (hours_used, hours_begun, counts) in [(11, 11, true), (13, 13, false), (1, 15 * 24, false)] {
        let ends = || {
            let signed = signed_in(control, &from(1));
            let mut row = signed.session.clone();
            row.last_used_at = model::Timestamp::from_ms(past(hours_used).wall_ms);
            row.expires_at =
                model::Timestamp::from_ms(past(hours_begun).wall_ms).plus(Millis::seconds(14 * 24 * 3600));
            let aged: Result<_, store::StoreError> = world
                .parts()
                .store
                .write(past(0), |tx| tx.update(&row, store::Expect::Any));
            aged.expect("aged");
            sign_in_first(people::authenticate_session(
                control,
                signed.text.expose_str().expect("text"),
            ))
        };
        match counts {
            true => assert!(!ends(), "{hours_used} {hours_begun}"),
            false => guarded(Defect::KeepsSessions, ends),
        }
    }
}

#[test]
fn roles_count_where_they_were_given() {
    let world = World::alone_with_shop();
    let control = world.control();
    places::create_org(control, &ROOT, &name("other")).expect("an org");
    places::create_project(control, &ROOT, "default", &name("side")).expect("a project");
    places::create_environment(control, &ROOT, "default", "side", &name("live")).expect("an environment");
    let side = EnvPath {
        project: "side".to_owned(),
        environment: "live".to_owned(),
        ..place()
    };
    let viewer = member(control, "viewer", "default", None, Role::Viewer);
    let stranger = member(control, "stranger", "other", None, Role::Owner);
    let only = member(control, "only", "default", Some("side"), Role::Developer);
    assert!(apps::view(control, &viewer, &place(), "shop").is_ok());
    assert!(denied(apps::create(control, &viewer, &place(), &name("x"))));
    let refused = apps::view(control, &stranger, &place(), "shop");
    assert!(matches!(refused, Err(ControlError::NotFound { kind: "org", .. })));
    // A member of one project knows its org's name and nothing else in it.
    assert!(apps::create(control, &only, &side, &name("x")).is_ok());
    let refused = apps::view(control, &only, &place(), "shop");
    assert!(matches!(
        refused,
        Err(ControlError::NotFound { kind: "project", .. })
    ));
    let seen = places::projects(control, &only, "default").expect("projects");
    assert_eq!(seen.len(), 1);
    assert!(places::org(control, &only, "default").is_ok());
    assert!(denied(people::members(control, &only, "default", None)));
    // A role in a project only adds.
    people::grant_member(
        control,
        &ROOT,
        "default",
        Some("side"),
        "viewer@example.org",
        Role::Admin,
    )
    .expect("given");
    assert!(apps::create(control, &viewer, &side, &name("y")).is_ok());
    assert!(denied(apps::create(control, &viewer, &place(), &name("y"))));
    guarded(Defect::ForgetsRealm, || {
        apps::view(control, &stranger, &place(), "shop").is_err()
    });
    guarded(Defect::ForgetsRole, || {
        let fresh = name(&format!("z{}", model::AppId::fresh().short(6)));
        denied(apps::create(control, &viewer, &place(), &fresh))
    });
}

#[test]
fn nobody_gives_more_than_he_has_and_an_org_keeps_an_owner() {
    let world = World::alone();
    let control = world.control();
    let owner = member(control, "owner", "default", None, Role::Owner);
    let admin = member(control, "admin", "default", None, Role::Admin);
    let developer = member(control, "developer", "default", None, Role::Developer);
    let give = |actor: &Actor, user: &str, role| {
        people::grant_member(
            control,
            actor,
            "default",
            None,
            &format!("{user}@example.org"),
            role,
        )
    };
    assert!(denied(give(&developer, "developer", Role::Admin)));
    guarded(Defect::GivesMoreThanItHas, || {
        give(&ROOT, "admin", Role::Admin).expect("as it was");
        denied(give(&admin, "admin", Role::Owner))
    });
    give(&ROOT, "admin", Role::Admin).expect("as it was");
    assert!(denied(people::invite(
        control,
        &admin,
        Some("default"),
        None,
        &email("x"),
        Role::Owner
    )));
    assert!(
        denied(give(&admin, "owner", Role::Viewer)),
        "an admin takes no owner's role"
    );
    assert!(denied(people::remove_member(
        control,
        &admin,
        "default",
        None,
        "owner@example.org"
    )));
    assert!(give(&admin, "developer", Role::Viewer).is_ok());
    let is_state = |result: Result<(), ControlError>| matches!(result, Err(ControlError::State { .. }));
    assert!(is_state(give(&owner, "owner", Role::Admin).map(drop)));
    guarded(Defect::ForgetsLastOwner, || {
        give(&ROOT, "owner", Role::Owner).expect("as it was");
        is_state(people::remove_member(
            control,
            &owner,
            "default",
            None,
            "owner@example.org",
        ))
    });
    // An owner of an org administers no installation; who does takes no org its last owner by removing him.
    assert!(denied(people::delete_user(control, &owner, "owner@example.org")));
    let (_, chief) =
        people::invite(control, &ROOT, None, None, &email("chief"), Role::Owner).expect("an invitation");
    let chief = take(control, "chief", chief.expose_str().expect("text")).expect("taken");
    assert!(is_state(people::delete_user(
        control,
        &chief,
        "owner@example.org"
    )));
    give(&owner, "admin", Role::Owner).expect("a second one");
    people::remove_member(control, &owner, "default", None, "owner@example.org").expect("left");
    assert!(matches!(
        places::org(control, &owner, "default"),
        Err(ControlError::NotFound { .. })
    ));
}

/// N38: who is removed is out at once: sessions, tokens, deploy tokens.
#[test]
fn who_is_removed_is_out_at_once() {
    let world = World::alone_with_shop();
    let control = world.control();
    let admin = member(control, "admin", "default", None, Role::Admin);
    let (_, pat) =
        people::create_token(control, &admin, &Wish::of("laptop", Role::Owner), None).expect("a token");
    let (_, dpl) = people::create_deploy_token(
        control,
        &admin,
        "default",
        "default",
        &Wish::of("ci", Role::Developer),
    )
    .expect("a token");
    let actors = || -> Vec<Result<Actor, ControlError>> {
        [&pat, &dpl]
            .map(|text| people::authenticate(control, text.expose_str().expect("text")))
            .into()
    };
    let held: Vec<Actor> = actors()
        .into_iter()
        .map(|actor| actor.expect("live"))
        .chain([admin.clone()])
        .collect();
    for actor in &held {
        assert!(apps::view(control, actor, &place(), "shop").is_ok());
    }
    // A role that was taken down takes the tokens down too, without a word to them.
    let admin_of = "admin@example.org";
    people::grant_member(control, &ROOT, "default", None, admin_of, Role::Viewer).expect("changed");
    guarded(Defect::TrustsTokens, || {
        let fresh = name(&format!("t{}", model::AppId::fresh().short(6)));
        denied(apps::create(control, &held[0], &place(), &fresh))
    });
    assert!(denied(apps::create(control, &held[1], &place(), &name("ci"))));
    people::remove_member(control, &ROOT, "default", None, admin_of).expect("removed");
    for actor in &held {
        assert!(apps::view(control, actor, &place(), "shop").is_err(), "{actor:?}");
    }
    people::delete_user(control, &ROOT, admin_of).expect("removed");
    guarded(Defect::TrustsTokens, || actors().into_iter().all(sign_in_first));
    for actor in &held {
        assert!(
            sign_in_first(apps::view(control, actor, &place(), "shop")),
            "{actor:?}"
        );
    }
}

#[test]
fn tokens_are_limited_and_make_none_that_is_not() {
    let world = World::alone_with_shop();
    let control = world.control();
    databases::create(
        control,
        &ROOT,
        &place(),
        &name("main"),
        &databases::Wish::default(),
    )
    .expect("asked");
    let admin = member(control, "admin", "default", None, Role::Admin);
    let made = |actor: &Actor, wish: &Wish, org: Option<&str>| {
        let (_, text) = people::create_token(control, actor, wish, org)?;
        people::authenticate(control, text.expose_str().expect("text"))
    };
    // `secret:read` is apart from `app:read`: a token can do everything but read them.
    let no_secrets = Wish {
        scopes: Some([Action::Read, Action::Deploy, Action::Configure, Action::Manage].into()),
        ..Wish::of("no secrets", Role::Developer)
    };
    let no_secrets = made(&admin, &no_secrets, None).expect("a token");
    assert!(apps::view(control, &no_secrets, &place(), "shop").is_ok());
    let key = "K".parse().expect("a key");
    assert!(secrets::set(control, &no_secrets, &place(), "shop", &key, &secret("v")).is_ok());
    guarded(Defect::ForgetsScopes, || {
        denied(databases::connection(control, &no_secrets, &place(), "main"))
    });
    assert!(denied(made(&no_secrets, &Wish::of("more", Role::Viewer), None)));
    let ci = made(&admin, &Wish::of("ci", Role::Admin), Some("default")).expect("a token");
    assert!(made(&ci, &Wish::of("less", Role::Developer), None).is_ok());
    assert!(denied(made(&ci, &Wish::of("more", Role::Owner), None)));
    // What a token of one org makes stays in it, and so does what a deploy token of a project reaches.
    places::create_org(control, &ROOT, &name("other")).expect("an org");
    people::grant_member(control, &ROOT, "other", None, "admin@example.org", Role::Admin).expect("given");
    assert!(matches!(
        made(&ci, &Wish::of("x", Role::Viewer), Some("other")),
        Err(ControlError::NotFound { .. })
    ));
    let inherited = made(&ci, &Wish::of("x", Role::Viewer), None).expect("a token");
    assert_eq!(places::orgs(control, &inherited).expect("orgs").len(), 1);
    assert_eq!(places::orgs(control, &admin).expect("orgs").len(), 2);
    places::create_project(control, &ROOT, "default", &name("side")).expect("a project");
    let (token, text) = people::create_deploy_token(
        control,
        &admin,
        "default",
        "side",
        &Wish::of("ci", Role::Developer),
    )
    .expect("a token");
    let text = text.expose_str().expect("text").to_owned();
    assert!(text.starts_with("stoa_dpl_"));
    let deploy = people::authenticate(control, &text).expect("live");
    assert_eq!(
        places::projects(control, &deploy, "default")
            .expect("projects")
            .len(),
        1
    );
    assert!(apps::view(control, &deploy, &place(), "shop").is_err());
    assert!(denied(made(&deploy, &Wish::of("x", Role::Viewer), None)));
    let strong =
        people::create_deploy_token(control, &admin, "default", "side", &Wish::of("ci", Role::Owner));
    assert!(denied(strong));
    // Members know of their own tokens only.
    let developer = member(control, "developer", "default", None, Role::Developer);
    assert!(people::tokens(control, &developer).expect("a list").is_empty());
    assert!(people::tokens(control, &admin).expect("a list").len() >= 4);
    let id = token.id.to_string();
    assert!(matches!(
        people::revoke_token(control, &developer, &id),
        Err(ControlError::NotFound { .. })
    ));
    assert!(denied(people::revoke_deploy_token(
        control, &developer, "default", "side", &id
    )));
    people::revoke_deploy_token(control, &admin, "default", "side", &id).expect("revoked");
    assert!(sign_in_first(people::authenticate(control, &text)));
}

/// N40: guessing is slowed, the owner is not locked out.
#[test]
fn guessing_is_slowed_and_the_owner_gets_in() {
    let world = World::alone();
    let control = world.control();
    member(control, "ada", "default", None, Role::Owner);
    let ada = email("ada");
    let try_from =
        |source: &Source, password: &str| people::sign_in(control, &ada, &secret(password), source, "");
    let is_slowed = |result: Result<_, ControlError>| -> bool {
        matches!(
            result.map(|_: Option<people::SignedIn>| ()),
            Err(ControlError::Guessed { .. })
        )
    };
    guarded(Defect::NeverSlowsDown, || {
        (0..8).any(|_| is_slowed(try_from(&from(66), "wrong password")))
    });
    assert!(
        is_slowed(try_from(&from(66), PASSWORD)),
        "even the right one waits there"
    );
    assert!(try_from(&from(67), PASSWORD).is_ok(), "another source");
    // From a hundred sources at once: strangers wait, the owner's own place does not.
    world.parts().door.throttle.forget_all();
    guarded(Defect::LocksOwnersOut, || {
        world.parts().door.throttle.forget_all();
        for last in 100..200 {
            // As if it were just now, however long the machine takes.
            world
                .parts()
                .door
                .throttle
                .count_wrong(&ada, &from(last), 3_600_000);
        }
        try_from(&from(1), PASSWORD).is_ok()
    });
    assert!(is_slowed(try_from(&from(201), PASSWORD)));
}

/// An account that is not there takes as long as a wrong password.
#[test]
fn who_is_there_cannot_be_told_by_the_clock() {
    let world = World::alone();
    let control = world.control();
    member(control, "ada", "default", None, Role::Viewer);
    let took = |account: &Email| {
        world.parts().door.throttle.forget_all();
        let began = Instant::now();
        let refused = people::sign_in(control, account, &secret("wrong password"), &from(9), "");
        assert!(sign_in_first(refused));
        began.elapsed()
    };
    let median = |account: &Email| {
        let mut all: Vec<Duration> = (0..9).map(|_| took(account)).collect();
        all.sort_unstable();
        all[4]
    };
    guarded(Defect::AnswersStrangersAtOnce, || {
        let (there, absent) = (median(&email("ada")), median(&email("nobody")));
        eprintln!("wrong password {there:?}, no such account {absent:?}");
        absent * 4 > there
    });
}

/// Many who sign in at once share a few seats: memory stays bounded.
#[test]
fn passwords_are_hashed_a_few_at_once() {
    let world = World::alone();
    let control = world.control();
    member(control, "ada", "default", None, Role::Viewer);
    guarded(Defect::HashesWithoutBound, || {
        let barrier = Barrier::new(13);
        let most = std::thread::scope(|scope| {
            let all: Vec<_> = (0..12_u8)
                .map(|number| {
                    let barrier = &barrier;
                    scope.spawn(move || {
                        barrier.wait();
                        let account = email(&format!("u{number}"));
                        drop(people::sign_in(
                            control,
                            &account,
                            &secret("wrong password"),
                            &from(number),
                            "",
                        ));
                    })
                })
                .collect();
            barrier.wait();
            let mut most = 0;
            while !all.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                most = most.max(world.parts().door.hasher.under_way());
                std::thread::yield_now();
            }
            most
        });
        most <= 2
    });
}

#[test]
fn a_password_is_changed_by_its_user_only() {
    let world = World::new();
    let control = world.control();
    let ada = member(control, "ada", "default", None, Role::Admin);
    let other = signed_in(control, &from(2));
    let change = |actor: &Actor, current: &str, new: &str| {
        people::change_password(control, actor, &from(1), &secret(current), &secret(new))
    };
    assert!(matches!(
        change(&ada, "wrong password", "another horse entirely"),
        Err(ControlError::Invalid(_))
    ));
    assert!(matches!(
        change(&ada, PASSWORD, "short"),
        Err(ControlError::Invalid(_))
    ));
    let (_, text) = people::create_token(control, &ada, &Wish::of("t", Role::Admin), None).expect("a token");
    let token = people::authenticate(control, text.expose_str().expect("text")).expect("live");
    assert!(denied(change(&token, PASSWORD, "another horse entirely")));
    change(&ada, PASSWORD, "another horse entirely").expect("changed");
    assert!(sign_in_first(people::authenticate_session(
        control,
        other.text.expose_str().expect("text")
    )));
    assert!(people::own(control, &ada).is_ok(), "his own session stays");
    assert!(sign_in_first(people::sign_in(
        control,
        &email("ada"),
        &secret(PASSWORD),
        &from(2),
        ""
    )));
    // Lost: the host lets him choose another one, and who is above an administrator is not his to reset.
    let (_, reset) = people::invite_reset(control, &ROOT, "ada@example.org").expect("made");
    let reset = take(control, "", reset.expose_str().expect("text")).expect("taken");
    assert_eq!(reset.user(), ada.user());
    assert!(people::sign_in(control, &email("ada"), &secret(PASSWORD), &from(3), "").is_ok());
    assert!(
        sign_in_first(places::org(control, &ada, "default")),
        "his sessions ended"
    );
    let (_, boss) = people::invite(control, &ROOT, None, None, &email("boss"), Role::Owner).expect("made");
    take(control, "boss", boss.expose_str().expect("text")).expect("taken");
    people::set_role(control, &ROOT, "ada@example.org", Some(Role::Admin)).expect("given");
    assert!(denied(people::invite_reset(control, &reset, "boss@example.org")));
    let standing = people::standing(control, &reset).expect("rights");
    assert_eq!(standing.strongest, Role::Admin);
    assert!(standing.roles.contains(&(Realm::Installation, Role::Admin)));
}

/// RFC 8628: a machine without a browser is signed in by a code.
#[test]
fn a_machine_is_signed_in_by_its_code() {
    let world = World::with_shop();
    let control = world.control();
    let wish = Wish::of("laptop", Role::Owner);
    let nobody = device::begin(control, &wish, &from(1));
    assert!(
        matches!(nobody, Err(ControlError::State { .. })),
        "without users nobody can approve"
    );
    let ada = member(control, "ada", "default", None, Role::Developer);
    let begin = |source: u8| device::begin(control, &wish, &from(source)).expect("a code");
    let poll = |begun: &device::Begun| device::poll(control, begun.device_code.expose_str().expect("text"));
    let not_yet = |result: Result<(model::Token, Secret), ControlError>| match result {
        Err(ControlError::Device(why)) => why.code(),
        other => panic!("{other:?}"),
    };
    let begun = begin(1);
    assert_eq!(begun.user_code.len(), 9);
    assert_eq!(not_yet(poll(&begun)), "authorization_pending");
    assert_eq!(not_yet(poll(&begun)), "slow_down");
    assert_eq!(not_yet(device::poll(control, "stoa_dev_00")), "expired_token");
    let asked =
        device::asked(control, &ada, &begun.user_code.to_lowercase().replace('-', " ")).expect("found");
    assert_eq!((asked.wish.name.as_str(), asked.source), ("laptop", from(1)));
    assert!(
        denied(device::approve(control, &ROOT, &begun.user_code)),
        "the host is no user"
    );
    let begun = begin(1);
    device::approve(control, &ada, &begun.user_code).expect("approved");
    let again = device::approve(control, &ada, &begun.user_code);
    assert!(matches!(again, Err(ControlError::State { .. })));
    let (token, text) = poll(&begun).expect("a token");
    assert_eq!(token.user, ada.user());
    let laptop = people::authenticate(control, text.expose_str().expect("text")).expect("live");
    assert!(apps::view(control, &laptop, &place(), "shop").is_ok());
    assert!(
        denied(places::create_project(control, &laptop, "default", &name("x"))),
        "no more than Ada"
    );
    assert_eq!(not_yet(poll(&begun)), "expired_token", "works once");
    let begun = begin(2);
    device::deny(control, &ada, &begun.user_code).expect("refused");
    assert_eq!(not_yet(poll(&begun)), "access_denied");
    assert_eq!(not_yet(poll(&begun)), "expired_token");
    // A token with less lets nothing stronger in.
    let weak = Wish::of("weak", Role::Viewer);
    let (_, weak) = people::create_token(control, &ada, &weak, None).expect("a token");
    let weak = people::authenticate(control, weak.expose_str().expect("text")).expect("live");
    let begun = begin(2);
    assert!(denied(device::approve(control, &weak, &begun.user_code)));
    // Who is removed between the approval and the asking lets nobody in.
    device::approve(control, &ada, &begun.user_code).expect("approved");
    people::delete_user(control, &ROOT, "ada@example.org").expect("removed");
    assert_eq!(not_yet(poll(&begun)), "expired_token");
}

#[test]
fn codes_are_few_and_cannot_be_guessed() {
    let world = World::new();
    let control = world.control();
    let ada = member(control, "ada", "default", None, Role::Developer);
    let wish = Wish::of("laptop", Role::Owner);
    let made = (0..20)
        .filter(|_| device::begin(control, &wish, &from(1)).is_ok())
        .count();
    assert_eq!(made, 10, "of one source");
    let begun = device::begin(control, &wish, &from(2)).expect("another source");
    let wrong: Vec<bool> = (0..12)
        .map(|_| {
            matches!(
                device::asked(control, &ada, "BBBB-BBBB"),
                Err(ControlError::Guessed { .. })
            )
        })
        .collect();
    assert_eq!(wrong.iter().filter(|slowed| **slowed).count(), 2, "ten guesses");
    let slowed = device::asked(control, &ada, &begun.user_code);
    assert!(
        matches!(slowed, Err(ControlError::Guessed { .. })),
        "then even the right one waits"
    );
    let bob = member(control, "bob", "default", None, Role::Developer);
    assert!(
        device::asked(control, &bob, &begun.user_code).is_ok(),
        "of one user"
    );
}
