//! Signing in over HTTP: cookies, what other sites may not do with them, and that everything ends at once.

use std::time::{Duration, Instant};

use api::{AcceptInvitation, CreateInvitation, CreateSession, CreateToken, PutRole, Role, Scope};
use client::{Client, Next};
use control::planted::{Defect, plant};

use super::{World, app, operations, place, problem};

const PASSWORD: &str = "correct horse battery";

/// Takes an invitation; the text of the session.
pub fn take(world: &World, token: &str, name: &str) -> String {
    let body = AcceptInvitation {
        token: token.to_owned(),
        name: Some(name.to_owned()),
        password: PASSWORD.to_owned(),
    };
    world
        .with("stoa_pat_none")
        .invitation_accept(&body)
        .expect("taken")
        .1
}

/// A session's id and text, of who took an invitation before.
pub fn sign_in(world: &World, name: &str) -> Option<(String, String)> {
    let body = CreateSession {
        email: format!("{name}@example.org"),
        password: PASSWORD.to_owned(),
    };
    let (signed_in, text) = world.with("stoa_pat_none").session_create(&body).ok()?;
    Some((signed_in.session.id, text))
}

/// An access token of who is signed in.
pub fn token_of(world: &World, session: &str) -> String {
    let body = CreateToken {
        name: "t".to_owned(),
        role: Role::Owner,
        org: None,
        scopes: None,
        lifetime_s: None,
    };
    world.with(session).token_create(&body).expect("a token").token
}

/// The id of the session in use.
pub fn sessions_of(world: &World, text: &str) -> String {
    let all = world.with(text).sessions().expect("sessions");
    let current = all.into_iter().find(|one| one.current);
    current.expect("the one in use").id
}

pub fn member(world: &World, name: &str, role: Role) -> String {
    let body = CreateInvitation {
        email: format!("{name}@example.org"),
        role,
        project: None,
    };
    let invitation = world.root().invite("default", &body).expect("an invitation");
    take(world, &invitation.token, name)
}

/// N39: flags of the cookie, no fixation, and no change from another site.
#[test]
fn a_session_is_a_cookie_that_only_our_pages_can_use() {
    let world = World::alone();
    let planted_by_others = member(&world, "eve", Role::Viewer);
    let session = member(&world, "ada", Role::Owner);
    let body = format!("{{\"email\":\"ADA@example.org\",\"password\":\"{PASSWORD}\"}}");
    let json = "content-type: application/json\r\n";
    let headers = format!("{json}cookie: __Host-stoa={planted_by_others}\r\n");
    let (status, answer) = world.call("POST", "/v1/sessions", &headers, &body);
    assert_eq!(status, 201, "{answer}");
    let cookie = answer
        .lines()
        .find_map(|line| line.strip_prefix("set-cookie: "))
        .expect("a cookie");
    assert!(cookie.starts_with("__Host-stoa=stoa_ses_"), "{cookie}");
    for flag in ["; Path=/", "; Secure", "; HttpOnly", "; SameSite=Lax"] {
        assert!(cookie.contains(flag), "{cookie} lacks {flag}");
    }
    assert!(
        !cookie.contains("Domain") && !cookie.contains(&planted_by_others),
        "{cookie}"
    );
    assert!(
        !answer
            .split("\r\n\r\n")
            .nth(1)
            .expect("a body")
            .contains("stoa_ses_"),
        "only in the cookie"
    );
    for (site, passes) in [("cross-site", false), ("same-site", false), ("same-origin", true)] {
        let headers = format!("{json}sec-fetch-site: {site}\r\n");
        let (status, _) = world.call("POST", "/v1/sessions", &headers, &body);
        assert_eq!(status == 201, passes, "signing in from {site}");
    }
    // No change of any kind, whatever is asked for.
    let from = |site: &str| format!("{json}cookie: __Host-stoa={session}\r\n{site}");
    let changes = operations(|_| "default".to_owned())
        .into_iter()
        .filter(|(method, _, operation)| method != "GET" && operation["security"] != serde_json::json!([]));
    let changes: Vec<_> = changes.collect();
    let refused = || {
        changes.iter().all(|(method, path, _)| {
            [
                "sec-fetch-site: cross-site\r\n",
                "origin: https://evil.example\r\n",
                "",
            ]
            .iter()
            .all(|site| {
                let (status, answer) = world.call(method, &format!("{path}?nonsense=1"), &from(site), "");
                status == 403 && answer.contains("\"cross_site\"")
            })
        })
    };
    assert!(refused(), "a change from another site");
    plant(Some(Defect::ForgetsSites));
    assert!(!refused(), "the check holds without its guard");
    plant(None);
    let ours = from("sec-fetch-site: same-origin\r\n");
    let base = "/v1/orgs/default/projects/default/environments/production";
    let made = world.call("POST", &format!("{base}/apps"), &ours, "{\"name\":\"shop\"}");
    assert_eq!(made.0, 201, "{}", made.1);
    let read = world.call(
        "GET",
        &format!("{base}/apps/shop"),
        &from("sec-fetch-site: cross-site\r\n"),
        "",
    );
    assert_eq!(
        read.0, 200,
        "reading changes nothing, and no other site sees the answer"
    );
    let allowed = read.1.lines().any(|line| line.starts_with("access-control-"));
    assert!(!allowed, "{}", read.1);
}

/// N38, N34: within a second of the end of what opened it, a stream ends.
#[test]
fn what_is_open_ends_with_its_right() {
    let world = World::new();
    let session = member(&world, "ada", Role::Developer);
    world.root().app_create(&place(), &app("shop")).expect("an app");
    let ends = |what: &str, by: &dyn Fn(), client: &Client| {
        let place = place();
        let path = [place.org.as_str(), &place.project, &place.environment, "shop"];
        let query = [("follow", "true")];
        let mut logs = client
            .events(&api::endpoints::APP_LOGS, &path, &query)
            .expect("a stream");
        by();
        let began = Instant::now();
        loop {
            assert!(
                began.elapsed() < Duration::from_secs(30),
                "{what}: the stream is still open"
            );
            match logs.next(Duration::from_millis(50)) {
                Ok(Next::End) | Err(_) => break,
                Ok(Next::Frame(_) | Next::Nothing) => {}
            }
        }
        println!("{what}: the stream ended after {:?}", began.elapsed());
    };
    let root = world.root();
    let token = token_of(&world, &session);
    let id = world.with(&token).tokens().expect("tokens")[0].id.clone();
    ends(
        "token revoked",
        &|| root.token_delete(&id).expect("revoked"),
        &world.with(&token),
    );
    let (own, text) = sign_in(&world, "ada").expect("in");
    ends(
        "session ended",
        &|| world.with(&session).session_delete(&own).expect("ended"),
        &world.with(&text),
    );
    let token = token_of(&world, &session);
    let member = "ada@example.org";
    ends(
        "member removed",
        &|| root.member_delete("default", None, member).expect("removed"),
        &world.with(&token),
    );
    root.member_put("default", None, member, Role::Developer)
        .expect("back");
    ends(
        "user removed",
        &|| root.user_delete(member).expect("removed"),
        &world.with(&token),
    );
    assert_eq!(problem(world.with(&token).whoami()).code, "sign_in");
}

/// N33: what the body names is looked at like what the path names. N37: nobody reads what lets others in.
#[test]
fn ids_in_bodies_and_others_secrets_are_guarded() {
    let world = World::new();
    let root = world.root();
    root.org_create(&api::CreateOrg {
        name: "other".to_owned(),
    })
    .expect("an org");
    root.project_create(
        "other",
        &api::CreateProject {
            name: "secret".to_owned(),
        },
    )
    .expect("a project");
    let other_project = root.projects("other").expect("projects")[0].id.clone();
    let admin = world.with(&member(&world, "admin", Role::Admin));
    for project in [other_project.as_str(), "secret", "nothere"] {
        let body = CreateInvitation {
            email: "x@example.org".to_owned(),
            role: Role::Viewer,
            project: Some(project.to_owned()),
        };
        let refused = problem(admin.invite("default", &body));
        assert_eq!(
            (refused.status, refused.code.as_str()),
            (404, "not_found"),
            "{project}"
        );
    }
    let refused = problem(admin.token_create(&CreateToken {
        name: "x".to_owned(),
        role: Role::Viewer,
        org: Some("other".to_owned()),
        scopes: None,
        lifetime_s: None,
    }));
    assert_eq!(refused.status, 404);
    let stranger = problem(admin.member_put("other", None, "admin@example.org", Role::Viewer));
    assert_eq!(stranger.status, 404);
    let viewer = world.with(&member(&world, "viewer", Role::Viewer));
    let body = CreateInvitation {
        email: "next@example.org".to_owned(),
        role: Role::Viewer,
        project: None,
    };
    let issued = admin.invite("default", &body).expect("made");
    assert_eq!(problem(viewer.invitations(Some("default"))).status, 403);
    assert!(!format!("{:?}", admin.invitations(Some("default")).expect("a list")).contains(&issued.token));
    assert!(viewer.tokens().expect("own").is_empty());
    assert_eq!(viewer.sessions().expect("own").len(), 1);
    let foreign = admin.sessions().expect("own")[0].id.clone();
    assert_eq!(problem(viewer.session_delete(&foreign)).status, 404);
    let more = world.call(
        "PUT",
        "/v1/orgs/default/members/viewer@example.org",
        "content-type: application/json\r\nauthorization: Bearer x\r\n",
        &serde_json::to_string(&PutRole { role: Role::Owner }).expect("JSON"),
    );
    assert_eq!(more.0, 401);
}

/// N40 over HTTP: 429 with Retry-After for who guesses, and the owner gets in from elsewhere. N43: no extra fields.
#[test]
fn guesses_are_slowed_by_address() {
    let world = World::new();
    let session = member(&world, "ada", Role::Owner);
    let json = "content-type: application/json\r\n";
    let guess = |password: &str| {
        let body = format!("{{\"email\":\"ada@example.org\",\"password\":\"{password}\"}}");
        world.call("POST", "/v1/sessions", json, &body)
    };
    let answers: Vec<u16> = (0..8).map(|_| guess("wrong password").0).collect();
    assert!(
        answers.starts_with(&[401]) && answers.contains(&429),
        "{answers:?}"
    );
    let (status, answer) = guess(PASSWORD);
    assert!(status == 429 && answer.contains("retry-after: "), "{answer}");
    assert!(world.with(&session).whoami().expect("the owner").user.is_some());
    // Over control's own socket it is another place.
    let body = CreateSession {
        email: "ada@example.org".to_owned(),
        password: PASSWORD.to_owned(),
    };
    assert!(world.root().session_create(&body).is_ok());
    let extra = "{\"email\":\"ada@example.org\",\"password\":\"x\",\"role\":\"owner\"}";
    assert_eq!(world.call("POST", "/v1/sessions", json, extra).0, 422);
}

/// Nothing can be done to what may not be looked at.
#[test]
fn a_limited_token_always_reads() {
    let world = World::with_rate(0);
    let client = world.with(&member(&world, "ada", Role::Developer));
    for (asked, given) in [
        (vec![Scope::Deploy], vec![Scope::Read, Scope::Deploy]),
        (vec![Scope::Read], vec![Scope::Read]),
    ] {
        let body = CreateToken {
            name: "ci".to_owned(),
            role: Role::Developer,
            org: None,
            scopes: Some(asked),
            lifetime_s: None,
        };
        let issued = client.token_create(&body).expect("made");
        assert_eq!(issued.about.scopes, Some(given));
    }
}

/// N45: a bound on how many there may be holds for parallel requests.
#[test]
fn bounds_hold_when_they_are_raced() {
    let world = World::with_rate(0);
    let session = member(&world, "ada", Role::Developer);
    let made = std::thread::scope(|scope| {
        let all: Vec<_> = (0..8)
            .map(|_| {
                let client = world.with(&session);
                scope.spawn(move || {
                    let body = CreateToken {
                        name: "t".to_owned(),
                        role: Role::Viewer,
                        org: None,
                        scopes: None,
                        lifetime_s: None,
                    };
                    (0..30).filter(|_| client.token_create(&body).is_ok()).count()
                })
            })
            .collect();
        all.into_iter()
            .map(|one| one.join().expect("no panic"))
            .sum::<usize>()
    });
    assert_eq!(made, 200, "of 240 at once");
}

/// What strangers do at one door closes no other, and none to root; the ways in stay open however often others ask.
#[test]
fn strangers_close_no_way_in() {
    let world = World::with_rate(5);
    let json = "content-type: application/json\r\n";
    let flood = |path: &str| (0..20).fold(None, |_, _| Some(world.call("GET", path, "", "").0));
    assert_eq!(flood("/v1/nothing"), Some(429));
    assert_eq!(flood("/v1/whoami"), Some(429));
    for path in ["/healthz", "/readyz"] {
        assert_eq!(flood(path), Some(200), "{path}");
    }
    let invitation = format!("{{\"token\":\"stoa_inv_00\",\"password\":\"{PASSWORD}\"}}");
    for (path, body) in [
        ("/v1/invitations/accept", invitation.as_str()),
        ("/v1/claim", "{\"token\":\"stoa_claim_00\"}"),
    ] {
        let answers: Vec<u16> = (0..20).map(|_| world.call("POST", path, json, body).0).collect();
        assert_eq!(answers, [401; 20], "{path}");
    }
    let root = world.root();
    for _ in 0..20 {
        assert_eq!(
            root.raw("GET", "/v1/nothing", None).expect("an answer").status,
            404
        );
        let wrong = world.root_with("stoa_pat_none").whoami();
        assert_eq!(
            problem(wrong).status,
            401,
            "root is told so however often he errs"
        );
    }
}

/// Nobody fills our memory before saying who he is.
#[test]
fn strangers_send_little() {
    let world = World::new();
    let known = world.with(&token_of(&world, &member(&world, "ada", Role::Owner)));
    let sent = |client: &Client, bytes: usize, path: &str| {
        let body = format!("{{\"name\":\"{}\"}}", "x".repeat(bytes));
        let answer = client.raw("POST", path, Some(body.into_bytes()));
        answer.expect("an answer").status
    };
    // Where no credential is needed nobody looks at one.
    for client in [&world.with("stoa_pat_none"), &known] {
        assert_eq!(sent(client, 15 << 10, "/v1/sessions"), 422);
        assert_eq!(sent(client, 16 << 10, "/v1/sessions"), 413);
    }
    assert_eq!(sent(&known, 100 << 10, "/v1/tokens"), 422);
}

/// Whoever follows a link from elsewhere to what everybody may read gets it, whatever his browser sends along.
#[test]
fn what_is_open_is_open_whatever_is_shown() {
    let world = World::new();
    member(&world, "ada", Role::Viewer);
    for headers in [
        "sec-fetch-site: cross-site\r\n",
        "authorization: Basic x\r\n",
        "cookie: __Host-stoa=a; __Host-stoa=b\r\n",
    ] {
        for path in ["/docs", "/healthz", "/openapi.json"] {
            assert_eq!(world.call("GET", path, headers, "").0, 200, "{path} {headers}");
        }
    }
    // A cookie that somebody else put there keeps nobody from signing in.
    let body = format!("{{\"email\":\"ada@example.org\",\"password\":\"{PASSWORD}\"}}");
    let headers = "content-type: application/json\r\ncookie: __Host-stoa=a; __Host-stoa=b\r\n";
    assert_eq!(world.call("POST", "/v1/sessions", headers, &body).0, 201);
}

/// A rehearsed sign-in leaves no trace, so it tells nothing.
#[test]
fn a_rehearsed_sign_in_tells_nothing() {
    let world = World::new();
    member(&world, "ada", Role::Viewer);
    let ask = |email: &str, password: &str| {
        let body = format!("{{\"email\":\"{email}\",\"password\":\"{password}\"}}");
        let json = "content-type: application/json\r\n";
        let (status, answer) = world.call("POST", "/v1/sessions?dry_run=true", json, &body);
        (status, answer.split("\r\n\r\n").nth(1).map(str::to_owned))
    };
    let right = ask("ada@example.org", PASSWORD);
    assert_eq!(right.0, 200, "{right:?}");
    assert_eq!(right, ask("ada@example.org", "wrong password"));
    assert_eq!(right, ask("nobody@example.org", PASSWORD));
}

/// Somebody with many tokens is one, and root gets his stream however many others are open.
#[test]
fn streams_are_bounded_for_each_user() {
    let world = World::new();
    let session = member(&world, "ada", Role::Developer);
    let clients: Vec<Client> = (0..3).map(|_| world.with(&token_of(&world, &session))).collect();
    let watch = &api::endpoints::EVENT_WATCH;
    let held: Vec<_> = (0..64)
        .map(|number| {
            clients[number % clients.len()]
                .events(watch, &[], &[])
                .expect("a stream")
        })
        .collect();
    let open = |client: &Client| client.events(watch, &[], &[]).map(drop);
    for client in &clients {
        assert_eq!(problem(open(client)).status, 429);
    }
    let other = world.with(&token_of(&world, &member(&world, "bob", Role::Developer)));
    assert!(open(&other).is_ok() && open(&world.root()).is_ok());
    drop(held);
}
