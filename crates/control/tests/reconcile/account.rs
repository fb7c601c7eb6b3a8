//! What a token is for and what it is not, invitations that would undo something, and what may not be found out.

use control::people::{self, Accepted, Wish};
use control::{Control, ControlError, EnvPath, places, rehearsal, releases};
use model::{Action, Actor, Invitation, Millis, Realm, Role, Session, Token, User};
use store::Row;

use crate::people::{PASSWORD, denied, email, from, member, secret, sign_in_first, signed_in, take};
use crate::world::{ROOT, World, name};

fn address(user: &str) -> String {
    email(user).to_string()
}

/// The bearer of a token that somebody just made.
fn bearer(control: &Control, actor: &Actor, wish: &Wish, org: Option<&str>) -> Actor {
    let (_, text) = people::create_token(control, actor, wish, org).expect("a token");
    people::authenticate(control, text.expose_str().expect("text")).expect("live")
}

fn limited(scopes: &[Action]) -> Wish {
    Wish {
        scopes: Some(scopes.iter().copied().collect()),
        ..Wish::of("limited", Role::Owner)
    }
}

fn id_of(actor: &Actor) -> model::TokenId {
    match actor {
        Actor::Token { token, .. } => *token,
        other => panic!("no token: {other:?}"),
    }
}

/// The text of an invitation.
fn invited(
    control: &Control,
    by: &Actor,
    org: &str,
    project: Option<&str>,
    user: &str,
    role: Role,
) -> String {
    let (_, text) = people::invite(control, by, Some(org), project, &email(user), role).expect("made");
    text.expose_str().expect("text").to_owned()
}

fn change<R: Row>(world: &World, row: &R) {
    let now = store::Now::at(world.now.as_ms());
    let changed: Result<_, store::StoreError> = world
        .parts()
        .store
        .write(now, |tx| tx.update(row, store::Expect::Any));
    changed.expect("changed");
}

/// A token that may administer and look, and nothing else, makes nobody who may more: not by roles, invitations or passwords.
#[test]
fn a_token_gives_no_more_than_its_scopes() {
    let world = World::new();
    let control = world.control();
    let owner = member(control, "owner", "default", None, Role::Owner);
    member(control, "mole", "default", None, Role::Viewer);
    people::set_role(control, &ROOT, &address("owner"), Some(Role::Owner)).expect("given");
    let token = bearer(
        control,
        &owner,
        &limited(&[Action::Read, Action::Administer]),
        None,
    );
    let give =
        |actor: &Actor, role| people::grant_member(control, actor, "default", None, &address("mole"), role);
    for role in [Role::Developer, Role::Admin, Role::Owner] {
        assert!(denied(give(&token, role)), "{role:?}");
        let invited = people::invite(control, &token, Some("default"), None, &email("new"), role);
        assert!(denied(invited), "{role:?}");
        let invited = people::invite(control, &token, None, None, &email("new"), role);
        assert!(denied(invited), "{role:?}");
        assert!(denied(people::set_role(
            control,
            &token,
            &address("mole"),
            Some(role)
        )));
    }
    assert!(denied(people::invite_reset(control, &token, &address("owner"))));
    assert!(give(&token, Role::Viewer).is_ok(), "what it may itself");
    assert!(
        give(
            &bearer(control, &owner, &Wish::of("all", Role::Owner), None),
            Role::Owner
        )
        .is_ok()
    );
    // Taking away is no way up.
    give(&ROOT, Role::Developer).expect("given");
    people::remove_member(control, &token, "default", None, &address("mole")).expect("removed");
}

/// Whoever finds a token of CI in a log does not become the one who made it.
#[test]
fn a_token_that_was_made_for_something_does_not_manage_the_account() {
    let world = World::new();
    let control = world.control();
    places::create_org(control, &ROOT, &name("other")).expect("an org");
    let ada = member(control, "ada", "default", None, Role::Admin);
    people::grant_member(control, &ROOT, "other", None, &address("ada"), Role::Viewer).expect("given");
    let laptop = bearer(control, &ada, &Wish::of("laptop", Role::Owner), None);
    let (_, dpl) =
        people::create_deploy_token(control, &ada, "default", "default", &Wish::of("ci", Role::Admin))
            .expect("a token");
    let dpl = people::authenticate(control, dpl.expose_str().expect("text")).expect("live");
    let bound = bearer(control, &ada, &Wish::of("bound", Role::Owner), Some("default"));
    let session = signed_in(control, &from(3)).session.id.to_string();
    let scoped = bearer(control, &ada, &limited(&[Action::Read, Action::Deploy]), None);
    let viewer = bearer(control, &ada, &Wish::of("viewer", Role::Viewer), None);
    for token in [&dpl, &bound, &scoped, &viewer] {
        assert!(denied(people::sessions(control, token)), "{token:?}");
        assert!(denied(people::end_session(control, token, &session)), "{token:?}");
        let listed = people::tokens(control, token).expect("itself");
        assert_eq!(
            listed.iter().map(|one| one.row.id).collect::<Vec<_>>(),
            [id_of(token)]
        );
        let other = people::revoke_token(control, token, &id_of(&laptop).to_string());
        assert!(
            matches!(other, Err(ControlError::NotFound { kind: "token", .. })),
            "{token:?}"
        );
    }
    for token in [&scoped, &viewer] {
        assert!(denied(people::remove_member(
            control,
            token,
            "default",
            None,
            &address("ada")
        )));
    }
    let roles = |actor: &Actor| {
        people::own(control, actor)
            .expect("read")
            .expect("ada")
            .memberships
            .len()
    };
    assert_eq!((roles(&ada), roles(&bound), roles(&laptop)), (2, 1, 2));
    // It may end itself, and what was made for all may do all.
    people::revoke_token(control, &viewer, &id_of(&viewer).to_string()).expect("ended");
    assert!(people::sessions(control, &laptop).expect("his").len() > 1);
    people::end_session(control, &laptop, &session).expect("ended");
    people::revoke_token(control, &laptop, &id_of(&scoped).to_string()).expect("ended");
    people::remove_member(control, &laptop, "other", None, &address("ada")).expect("left");
}

#[test]
fn what_was_taken_away_does_not_come_back_by_an_invitation() {
    let world = World::new();
    let control = world.control();
    places::create_project(control, &ROOT, "default", &name("side")).expect("a project");
    let fails = |user: &str, text: &str| assert!(sign_in_first(take(control, user, text)), "{user}");
    // Those that he made end with his right to make them.
    let admin = member(control, "admin", "default", None, Role::Admin);
    let mole = invited(control, &admin, "default", None, "mole", Role::Admin);
    let helper = invited(control, &admin, "default", Some("side"), "helper", Role::Viewer);
    let give = |role| {
        people::grant_member(control, &ROOT, "default", None, &address("admin"), role).expect("given");
    };
    give(Role::Developer);
    fails("mole", &mole);
    give(Role::Admin);
    fails("mole", &mole);
    fails("helper", &helper);
    let again = invited(control, &admin, "default", None, "mole", Role::Admin);
    people::remove_member(control, &ROOT, "default", None, &address("admin")).expect("removed");
    assert!(world.all::<Invitation>().is_empty(), "nothing is open");
    fails("mole", &again);
    // Those for him end with what he was.
    member(control, "bob", "default", None, Role::Viewer);
    let back = invited(control, &ROOT, "default", Some("side"), "bob", Role::Admin);
    people::remove_member(control, &ROOT, "default", None, &address("bob")).expect("removed");
    fails("bob", &back);
    let (_, reset) = people::invite_reset(control, &ROOT, &address("bob")).expect("made");
    let back = invited(control, &ROOT, "default", None, "bob", Role::Admin);
    people::delete_user(control, &ROOT, &address("bob")).expect("removed");
    fails("bob", reset.expose_str().expect("text"));
    fails("bob", &back);
    // A role that was given by hand is the last word.
    member(control, "eve", "default", Some("side"), Role::Viewer);
    let more = invited(control, &ROOT, "default", None, "eve", Role::Owner);
    people::grant_member(control, &ROOT, "default", None, &address("eve"), Role::Viewer).expect("given");
    fails("eve", &more);
    // Who chose another password is not overtaken by a reset from before.
    let ada = member(control, "ada", "default", None, Role::Admin);
    let (_, reset) = people::invite_reset(control, &ROOT, &address("ada")).expect("made");
    let new = secret("another horse entirely");
    people::change_password(control, &ada, &from(1), &secret(PASSWORD), &new).expect("changed");
    fails("ada", reset.expose_str().expect("text"));
}

/// What removal did not see is seen when it is taken.
#[test]
fn an_invitation_is_worth_what_its_maker_may_give_when_it_is_taken() {
    let world = World::new();
    let control = world.control();
    let admin = member(control, "admin", "default", None, Role::Admin);
    let token = bearer(control, &admin, &Wish::of("t", Role::Admin), None);
    let text = invited(control, &token, "default", None, "mole", Role::Developer);
    people::revoke_token(control, &admin, &id_of(&token).to_string()).expect("revoked");
    assert!(
        sign_in_first(take(control, "mole", &text)),
        "its token was revoked"
    );
    let session = signed_in_as(control, "admin");
    let text = invited(control, &session.0, "default", None, "mole", Role::Developer);
    people::end_session(control, &session.0, &session.1).expect("signed out");
    take(control, "mole", &text).expect("signing out takes nothing back");
    places::create_project(control, &ROOT, "default", &name("side")).expect("a project");
    let text = invited(control, &ROOT, "default", Some("side"), "late", Role::Viewer);
    places::delete_project(control, &ROOT, "default", "side", None).expect("removed");
    assert!(
        sign_in_first(take(control, "late", &text)),
        "there is no such place"
    );
    // Who became more than the one who offers him another password is not his to become.
    people::set_role(control, &ROOT, &address("admin"), Some(Role::Admin)).expect("given");
    let (_, reset) = people::invite_reset(control, &admin, &address("mole")).expect("made");
    people::set_role(control, &ROOT, &address("mole"), Some(Role::Owner)).expect("given");
    assert!(sign_in_first(take(
        control,
        "mole",
        reset.expose_str().expect("text")
    )));
}

fn signed_in_as(control: &Control, user: &str) -> (Actor, String) {
    let found = people::sign_in(control, &email(user), &secret(PASSWORD), &from(4), "").expect("in");
    let found = found.expect("no rehearsal");
    let actor = Actor::User {
        user: found.account.user.id,
        session: found.session.id,
    };
    (actor, found.session.id.to_string())
}

/// An inviter holds the text of the invitation: what it is answered must not tell him whether the address has an account.
#[test]
fn an_invitation_tells_nobody_whether_there_is_an_account() {
    let world = World::new();
    let control = world.control();
    member(control, "ada", "default", None, Role::Viewer);
    places::create_org(control, &ROOT, &name("other")).expect("an org");
    let answers = |user: &str| -> Vec<String> {
        let text = invited(control, &ROOT, "other", None, user, Role::Viewer);
        let asked = [
            (None, "short"),
            (Some("\u{202e}"), "a horse of a colour"),
            (None, "aaaaaaaaaaaaaa"),
        ];
        let all = asked.into_iter().map(|(name, password)| {
            let accepted = Accepted {
                text: text.clone(),
                name: name.map(str::to_owned),
                password: secret(password),
            };
            format!("{:?}", people::accept(control, &accepted, &from(9), "").map(drop))
        });
        all.collect()
    };
    assert_eq!(answers("ada"), answers("nobody"));
    let text = invited(control, &ROOT, "other", None, "grace", Role::Viewer);
    let nameless = Accepted {
        text,
        name: None,
        password: secret(PASSWORD),
    };
    let found = people::accept(control, &nameless, &from(9), "").expect("taken");
    assert_eq!(found.account.user.name, "grace");
}

/// Who knows no more of an org than its name does not find out who is in it.
#[test]
fn removing_somebody_tells_nobody_who_is_there() {
    let world = World::new();
    let control = world.control();
    places::create_project(control, &ROOT, "default", &name("side")).expect("a project");
    member(control, "ada", "default", None, Role::Viewer);
    member(control, "else", "default", Some("side"), Role::Viewer);
    places::create_org(control, &ROOT, &name("other")).expect("an org");
    member(control, "far", "other", None, Role::Viewer);
    let only = member(control, "only", "default", Some("side"), Role::Developer);
    for user in ["ada", "else", "far", "nobody"] {
        let asked = people::remove_member(control, &only, "default", None, &address(user));
        assert!(denied(asked), "{user}");
    }
    people::remove_member(control, &only, "default", Some("side"), &address("only")).expect("left");
}

/// Who is only in projects of an org is taken out of it with one word, too, and nothing of him stays.
#[test]
fn whoever_leaves_an_org_leaves_its_projects() {
    let world = World::new();
    let control = world.control();
    for project in ["one", "two"] {
        places::create_project(control, &ROOT, "default", &name(project)).expect("a project");
    }
    member(control, "only", "default", Some("one"), Role::Developer);
    people::grant_member(
        control,
        &ROOT,
        "default",
        Some("two"),
        &address("only"),
        Role::Owner,
    )
    .expect("given");
    let admin = member(control, "admin", "default", None, Role::Admin);
    let above = people::remove_member(control, &admin, "default", None, &address("only"));
    assert!(
        denied(above),
        "an admin takes no owner's role, of a project either"
    );
    people::remove_member(control, &ROOT, "default", None, &address("only")).expect("removed");
    let left = world.all::<model::Membership>();
    assert!(
        left.iter()
            .all(|one| one.realm.key() != Realm::Installation.key())
    );
    assert_eq!(left.len(), 1, "the admin's: {left:?}");
    let nobody = people::remove_member(control, &ROOT, "default", None, &address("only"));
    assert!(matches!(nobody, Err(ControlError::NotFound { .. })));
}

/// A place counts as known for long after the session from there ended: guessing keeps its owner out of nothing.
#[test]
fn the_owner_gets_in_from_where_he_was_before() {
    let world = World::new();
    let control = world.control();
    member(control, "ada", "default", None, Role::Owner);
    let mut session = signed_in(control, &from(5)).session;
    session.last_used_at = model::Timestamp::from_ms(0);
    change(&world, &session);
    for found in world.all::<Session>() {
        let gone: Result<_, store::StoreError> = world
            .parts()
            .store
            .write(store::Now::at(world.now.as_ms()), |tx| {
                tx.delete::<Session>(&found.id.to_string(), store::Expect::Any)
            });
        gone.expect("ended");
    }
    for last in 100..200 {
        world
            .parts()
            .door
            .throttle
            .count_wrong(&email("ada"), &from(last), 3_600_000);
    }
    let try_from = |last| people::sign_in(control, &email("ada"), &secret(PASSWORD), &from(last), "");
    assert!(
        matches!(try_from(6), Err(ControlError::Guessed { .. })),
        "a stranger's place"
    );
    assert!(try_from(5).is_ok(), "his own");
    // But not for ever, and not that of who had the password before.
    let mut user = world.all::<User>().remove(0);
    user.familiar
        .iter_mut()
        .for_each(|one| one.at = model::Timestamp::from_ms(0));
    change(&world, &user);
    for found in world.all::<Session>() {
        people::end_session(control, &signed_actor(&found), &found.id.to_string()).expect("ended");
    }
    assert!(
        matches!(try_from(5), Err(ControlError::Guessed { .. })),
        "long ago"
    );
    for last in 0..40 {
        world.parts().door.throttle.forget_all();
        try_from(last).expect("in").expect("no rehearsal");
    }
    assert_eq!(world.all::<User>()[0].familiar.len(), 20, "bounded");
    let (_, reset) = people::invite_reset(control, &ROOT, &address("ada")).expect("made");
    take(control, "", reset.expose_str().expect("text")).expect("taken");
    assert_eq!(world.all::<User>()[0].familiar.len(), 1);
}

fn signed_actor(session: &Session) -> Actor {
    Actor::User {
        user: session.user,
        session: session.id,
    }
}

/// Whoever keeps the hasher busy does not win free guesses by that.
#[test]
fn a_busy_hasher_forgives_nothing() {
    let world = World::new();
    let control = world.control();
    member(control, "ada", "default", None, Role::Owner);
    let guess =
        || people::sign_in(control, &email("ada"), &secret("wrong password"), &from(66), "").map(drop);
    for _ in 0..4 {
        assert!(sign_in_first(guess()));
    }
    world.parts().door.hasher.set_full(true);
    for _ in 0..10 {
        assert!(
            matches!(guess(), Err(ControlError::Busy { .. })),
            "nor does it count"
        );
    }
    world.parts().door.hasher.set_full(false);
    assert!(sign_in_first(guess()));
    assert!(matches!(guess(), Err(ControlError::Guessed { .. })), "the sixth");
}

#[test]
fn a_rehearsal_looks_at_no_password() {
    let world = World::new();
    let control = world.control();
    let ada = member(control, "ada", "default", None, Role::Owner);
    for (user, password) in [("ada", PASSWORD), ("ada", "wrong password"), ("nobody", PASSWORD)] {
        let (done, would) = rehearsal::rehearsed(|| {
            people::sign_in(control, &email(user), &secret(password), &from(7), "")
                .map(|found| found.is_none())
        });
        assert!(matches!(done, Ok(true)), "{user} {password}: {done:?}");
        assert_eq!(would.len(), 1);
    }
    let change = |current: &str| {
        let (done, _) = rehearsal::rehearsed(|| {
            people::change_password(
                control,
                &ada,
                &from(7),
                &secret(current),
                &secret("another horse entirely"),
            )
        });
        format!("{done:?}")
    };
    assert_eq!(change(PASSWORD), change("wrong password"));
}

#[test]
fn a_revoked_token_takes_those_it_made() {
    let world = World::new();
    let control = world.control();
    let ada = member(control, "ada", "default", None, Role::Admin);
    let first = bearer(control, &ada, &Wish::of("first", Role::Admin), None);
    let second = bearer(control, &first, &Wish::of("second", Role::Admin), None);
    let third = bearer(control, &second, &Wish::of("third", Role::Viewer), None);
    let beside = bearer(control, &ada, &Wish::of("beside", Role::Admin), None);
    let row = |actor: &Actor| {
        let mut all = world.all::<Token>().into_iter();
        all.find(|row| row.id == id_of(actor)).expect("there")
    };
    assert!(
        row(&third).expires_at <= row(&first).expires_at,
        "none outlives its maker"
    );
    let own = people::tokens(control, &second).expect("a list");
    assert!(own.iter().any(|one| one.row.id == id_of(&third)));
    people::revoke_token(control, &ada, &id_of(&first).to_string()).expect("revoked");
    for (actor, counts) in [
        (&first, false),
        (&second, false),
        (&third, false),
        (&beside, true),
    ] {
        assert_eq!(!row(actor).revoked, counts, "{actor:?}");
        assert_eq!(places::orgs(control, actor).is_ok(), counts, "{actor:?}");
    }
    let other = row(&first).revoked_at;
    people::revoke_token(control, &ada, &id_of(&first).to_string()).expect("again");
    assert_eq!(row(&first).revoked_at, other, "it was revoked once");
}

/// A token's row goes a month after its end; the last one stays while it alone tells that the installation was claimed.
#[test]
fn ended_tokens_do_not_stay_for_ever() {
    let mut world = World::new();
    let control = world.shared();
    let make = |name: &str| {
        let (token, _) =
            people::create_token(&control, &ROOT, &Wish::of(name, Role::Admin), None).expect("made");
        token.id
    };
    let (revoked, lives) = (make("revoked"), make("lives"));
    people::revoke_token(&control, &ROOT, &revoked.to_string()).expect("revoked");
    drop(control);
    let mut later = |days: u64| -> Vec<model::TokenId> {
        world.now = world.now.plus(Millis::seconds(days * 24 * 3600));
        world.crash();
        world.pass();
        world.all::<Token>().into_iter().map(|row| row.id).collect()
    };
    assert_eq!(later(29).len(), 2);
    assert_eq!(later(2), [lives]);
    assert_eq!(later(200), [lives], "nobody else tells of the claim");
}

#[test]
fn a_scope_that_nothing_can_be_done_with_is_refused() {
    let world = World::new();
    let control = world.control();
    let ada = member(control, "ada", "default", None, Role::Admin);
    for scopes in [&[Action::Deploy][..], &[Action::Administer, Action::Manage], &[]] {
        let refused = people::create_token(control, &ada, &limited(scopes), None);
        let Err(ControlError::Invalid(problems)) = refused else {
            panic!("{scopes:?}: {:?}", refused.map(drop));
        };
        assert_eq!(problems[0].at, "/scopes");
    }
}

/// Whoever chooses a program that runs inside reads what is in the environment there.
#[test]
fn what_runs_inside_needs_the_right_to_read_secrets() {
    let world = World::with_shop();
    let control = world.control();
    let ada = member(control, "ada", "default", None, Role::Developer);
    let place = EnvPath::default();
    let command = ["env".to_owned()];
    let exec = engine::Exec {
        argv: command.to_vec(),
        env: Vec::new(),
        user: None,
        workdir: None,
        terminal: None,
    };
    for (scopes, passes) in [
        (&[Action::Read, Action::Deploy][..], false),
        (&[Action::Read, Action::ReadSecrets], false),
        (&[Action::Read, Action::Deploy, Action::ReadSecrets], true),
    ] {
        let token = bearer(control, &ada, &limited(scopes), None);
        let run = releases::run(control, &token, &place, "shop", &command);
        assert_eq!(!denied(run), passes, "{scopes:?}");
        let inside = releases::enter(control, &token, &place, "shop", None, &exec).map(drop);
        assert_eq!(!denied(inside), passes, "{scopes:?}");
    }
}

/// What is open looks whether it may go on; that is no use of a session.
#[test]
fn looking_does_not_keep_a_session_alive() {
    let world = World::new();
    let control = world.control();
    member(control, "ada", "default", None, Role::Viewer);
    let signed = signed_in(control, &from(1));
    let text = signed.text.expose_str().expect("text");
    let ago = |hours: u64| {
        let mut row = signed.session.clone();
        row.last_used_at = model::Timestamp::from_ms(model::Timestamp::now().as_ms() - hours * 3_600_000);
        change(&world, &row);
        row.last_used_at
    };
    let last_use = || {
        let mut all = world.all::<Session>().into_iter();
        all.find(|row| row.id == signed.session.id)
            .expect("there")
            .last_used_at
    };
    let at = ago(11);
    people::look_at_session(control, text).expect("it counts");
    assert_eq!(last_use(), at);
    people::authenticate_session(control, text).expect("it counts");
    assert!(last_use() > at);
    ago(13);
    assert!(sign_in_first(people::look_at_session(control, text)));
}

/// A refusal says what is missing in the words that people write, and points at what was sent.
#[test]
fn refusals_name_what_was_sent() {
    let world = World::with_shop();
    let control = world.control();
    let ada = member(control, "ada", "default", None, Role::Developer);
    let token = bearer(control, &ada, &limited(&[Action::Read, Action::Deploy]), None);
    let refused = releases::run(control, &token, &EnvPath::default(), "shop", &["x".to_owned()]);
    let refused = refused.expect_err("no right");
    assert!(refused.to_string().contains("read_secrets"), "{refused}");
    assert!(refused.next().contains("--scope"), "{}", refused.next());
    let weak = people::change_password(control, &ada, &from(1), &secret(PASSWORD), &secret("short"));
    let Err(ControlError::Invalid(problems)) = weak else {
        panic!("{weak:?}");
    };
    assert_eq!(problems[0].at, "/new");
    let port = [("PORT".parse().expect("a key"), Some(secret("1")))];
    let set = control::secrets::change(control, &ada, &EnvPath::default(), "shop", &port.into());
    let Err(ControlError::Invalid(problems)) = set else {
        panic!("{set:?}");
    };
    assert_eq!(problems[0].at, "/set/PORT");
}
