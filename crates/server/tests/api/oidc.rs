//! Signing in at a real provider of OpenID Connect, npm's `oidc-provider` on loopback.

#[path = "../../../oidc/tests/provider/mod.rs"]
mod provider;

use api::{CreateInvitation, FetchSession, LinkIdentity, PutIdentityProvider, Role};
use provider::{Running, browse, parameter};
use serde_json::json;

use super::{World, problem};

/// Those of RFC 7636, appendix B.
pub const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
pub const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
const PASSWORD: &str = "correct horse battery";

/// One for tests that only need that there is one. It ends with this process: its standard input does.
pub fn shared() -> &'static str {
    static RUNNING: std::sync::OnceLock<Running> = std::sync::OnceLock::new();
    let start = || Running::start("0", "http://127.0.0.1:1/callback", "one");
    &RUNNING.get_or_init(start).issuer
}

/// A world with a provider called `home`.
pub struct Home {
    world: World,
    running: Running,
    callback: String,
}

impl Home {
    pub fn new() -> Self {
        let world = World::with_rate(0);
        let callback = format!("http://{}/v1/oidc/home/callback", world.address);
        let running = Running::start("0", &callback, "one");
        let home = Self {
            world,
            running,
            callback,
        };
        let made = home.world.root().identity_provider_put("home", &home.wanted());
        assert_eq!(made.expect("a provider").redirect, home.callback);
        home
    }

    pub fn world(&self) -> &World {
        &self.world
    }

    fn wanted(&self) -> PutIdentityProvider {
        PutIdentityProvider {
            issuer: self.running.issuer.clone(),
            client_id: "stoa".to_owned(),
            client_secret: Some("secret of stoa".to_owned()),
            origin: format!("http://{}", self.world.address),
        }
    }

    pub fn invite(&self, email: &str) -> String {
        let body = CreateInvitation {
            email: email.to_owned(),
            role: Role::Developer,
            project: None,
        };
        let invitation = self.world.root().invite("default", &body);
        invitation.expect("an invitation").token
    }

    /// Sends a browser to the provider, where somebody signs in: the address it comes back with, and its cookie.
    pub fn leave(&self, query: &str, login: &str) -> (String, String) {
        let (status, answer) = self.world.call("GET", &format!("/v1/oidc/home{query}"), "", "");
        assert_eq!(status, 303, "{answer}");
        let cookie = header(&answer, "set-cookie: ");
        for flag in ["; Path=/", "; Secure", "; HttpOnly", "; SameSite=Lax"] {
            assert!(cookie.contains(flag), "{cookie} lacks {flag}");
        }
        let own = cookie.split(';').next().expect("a pair").to_owned();
        assert!(own.starts_with("__Host-stoa-state="), "{own}");
        let back = browse(&header(&answer, "location: "), &self.callback, login);
        let path = back.split_once("/v1/").map(|(_, path)| format!("/v1/{path}"));
        (path.expect("an address of ours"), own)
    }

    /// A browser comes back, by a link on the provider's page.
    pub fn come(&self, path: &str, cookie: &str) -> (u16, String) {
        let headers =
            format!("cookie: {cookie}\r\nsec-fetch-site: cross-site\r\naccept: text/html,*/*;q=0.8\r\n");
        self.world.call("GET", path, &headers, "")
    }

    /// There and back: the session that its browser has then, or the status.
    fn sign_in(&self, login: &str) -> Result<String, u16> {
        let (path, cookie) = self.leave("", login);
        let (status, answer) = self.come(&path, &cookie);
        let again = self.come(&path, &cookie);
        assert_eq!(again.0, 401, "nobody comes back twice: {}", again.1);
        assert!(
            answer.contains("content-type: text/html"),
            "for a person: {answer}"
        );
        match status {
            200 => Ok(session(&answer)),
            refused => {
                assert!(!answer.contains("set-cookie"), "{answer}");
                assert!(answer.contains("href=\"/v1/oidc/home\""), "{answer}");
                Err(refused)
            }
        }
    }

    /// What a browser brings to the program that waits for it.
    fn for_program(&self, login: &str) -> String {
        let (path, cookie) = self.leave(&format!("?port=43210&challenge={CHALLENGE}"), login);
        let (status, answer) = self.come(&path, &cookie);
        assert_eq!(status, 303, "{answer}");
        assert!(!answer.contains("__Host-stoa="), "it gets no session: {answer}");
        header(&answer, "location: ")
    }

    fn user(&self, session: &str) -> api::User {
        let who = self.world.with(session).whoami().expect("signed in");
        who.user.expect("a user")
    }
}

pub fn header(answer: &str, name: &str) -> String {
    let mut lines = answer.lines();
    let found = lines.find_map(|line| line.strip_prefix(name));
    found.unwrap_or_else(|| panic!("no {name}: {answer}")).to_owned()
}

pub fn session(answer: &str) -> String {
    let mut cookies = answer
        .lines()
        .filter_map(|line| line.strip_prefix("set-cookie: __Host-stoa="));
    let cookie = cookies.next().unwrap_or_else(|| panic!("no session: {answer}"));
    cookie.split(';').next().expect("its text").to_owned()
}

fn fetch(code: &str, verifier: &str) -> FetchSession {
    FetchSession {
        code: code.to_owned(),
        verifier: verifier.to_owned(),
    }
}

#[test]
fn who_was_invited_comes_in_and_nobody_else() {
    let home = Home::new();
    let root = home.world.root();
    // An account somewhere makes nobody a user here.
    assert_eq!(home.sign_in("bob"), Err(403));
    home.invite("bob@example.org");
    let bob = home.user(&home.sign_in("bob").expect("in"));
    assert_eq!((bob.email.as_str(), bob.has_password), ("bob@example.org", false));
    assert_eq!(bob.roles.len(), 1);
    // He is linked by what the provider calls him: the invitation is used up.
    assert_eq!(home.user(&home.sign_in("bob").expect("in again")).id, bob.id);
    // What he is invited to later, he takes by signing in: he has no password to do it with.
    let body = api::CreateUserInvitation {
        email: "bob@example.org".to_owned(),
        role: Role::Viewer,
    };
    root.user_invite(&body).expect("an invitation");
    let more = home.user(&home.sign_in("bob").expect("in"));
    assert_eq!((more.id, more.roles.len()), (bob.id.clone(), 2));
    // Who only says to have an address does not take its invitation.
    let invitation = home.invite("ada@example.org");
    assert_eq!(home.sign_in("eve"), Err(403));
    // Nor does an address lead to who is a user here already, invited once more or not.
    super::people::take(&home.world, &invitation, "Ada");
    assert_eq!(home.sign_in("ada"), Err(403));
    let body = api::CreateUserInvitation {
        email: "ada@example.org".to_owned(),
        role: Role::Owner,
    };
    root.user_invite(&body).expect("an invitation");
    assert_eq!(home.sign_in("ada"), Err(403));
    // Who was removed is out, and comes in as anybody else.
    let session = home.sign_in("bob").expect("in");
    root.user_delete("bob@example.org").expect("removed");
    assert_eq!(problem(home.world.with(&session).whoami()).status, 401);
    assert_eq!(home.sign_in("bob"), Err(403));
    home.invite("bob@example.org");
    assert_ne!(home.user(&home.sign_in("bob").expect("in")).id, bob.id);
}

/// N39: nobody is signed in as somebody else by an address that was sent to him.
#[test]
fn only_the_browser_that_began_comes_back() {
    let home = Home::new();
    home.invite("zoe@example.org");
    for cookie in ["x=1", "__Host-stoa-state=", "__Host-stoa-state=another"] {
        let (path, own) = home.leave("", "zoe");
        let (status, answer) = home.come(&path, cookie);
        assert!(
            status == 401 && !answer.contains("set-cookie"),
            "{cookie}: {answer}"
        );
        let both = format!("{own}; {cookie}");
        assert_eq!(home.come(&path, &both).0 == 200, cookie == "x=1", "{both}");
    }
    // Of another provider, by another one's name, without what it needs.
    let (path, own) = home.leave("", "zoe");
    let mixed_up = path.replace("&iss=", "&iss=http%3A%2F%2Felsewhere&was=");
    assert_ne!(mixed_up, path, "the provider says who it is");
    assert_eq!(home.come(&mixed_up, &own).0, 401);
    for path in [
        "/v1/oidc/home/callback?error=access_denied&state=x",
        "/v1/oidc/home/callback?code=x&state=",
    ] {
        assert_eq!(home.come(path, "__Host-stoa-state=").0, 401, "{path}");
    }
    assert_eq!(home.come("/v1/oidc/home/callback?code=x", &own).0, 401);
    assert_eq!(home.world.call("GET", "/v1/oidc/nothere", "", "").0, 404);
    assert_eq!(home.world.call("GET", "/v1/oidc/home?port=4321", "", "").0, 422);
    // Who only asks whether it could go there does not begin.
    for _ in 0..30 {
        let (status, answer) = home.world.call("GET", "/v1/oidc/home?check=true", "", "");
        assert!(status == 204 && !answer.contains("set-cookie"), "{answer}");
    }
    assert_eq!(
        home.world.call("GET", "/v1/oidc/nothere?check=true", "", "").0,
        404
    );
    // However many begin: they wait in bounded number.
    let begin = || home.world.call("GET", "/v1/oidc/home", "", "").0;
    let statuses: Vec<u16> = (0..30).map(|_| begin()).collect();
    assert!(
        statuses.contains(&303) && statuses.last() == Some(&429),
        "{statuses:?}"
    );
}

/// For programs without a browser of their own, and for who links an account with the user that he is.
#[test]
fn a_program_gets_what_its_browser_brought() {
    let home = Home::new();
    let nobody = home.world.with("stoa_pat_none");
    let take = |login: &str| {
        let address = home.for_program(login);
        let begin = format!("http://127.0.0.1:43210/{CHALLENGE}?code=");
        assert!(address.starts_with(&begin), "{address}");
        parameter(&address, "code").expect("a code")
    };
    home.invite("zoe@example.org");
    // A wrong verifier uses it up, also when it is only rehearsed.
    let code = take("zoe");
    let wrong = fetch(&code, &VERIFIER.replace('d', "e"));
    assert_eq!(problem(nobody.oidc_session_create(&wrong)).status, 401);
    assert_eq!(
        problem(nobody.oidc_session_create(&fetch(&code, VERIFIER))).status,
        401
    );
    let code = take("zoe");
    let json = "content-type: application/json\r\n";
    let body = json!({"code": code, "verifier": VERIFIER.replace('d', "e")}).to_string();
    let path = "/v1/oidc/sessions?dry_run=true";
    assert_eq!(home.world.call("POST", path, json, &body).0, 401);
    assert_eq!(
        problem(nobody.oidc_session_create(&fetch(&code, VERIFIER))).status,
        401
    );
    // A rehearsal with the right one leaves it, and the invitation, for the real thing; that works once.
    let code = take("zoe");
    let body = json!({"code": code, "verifier": VERIFIER}).to_string();
    let (status, answer) = home.world.call("POST", path, json, &body);
    assert!(
        status == 200 && answer.contains("session") && !answer.contains("set-cookie"),
        "{answer}"
    );
    let (_, session) = nobody
        .oidc_session_create(&fetch(&code, VERIFIER))
        .expect("signed in");
    let zoe = home.user(&session);
    assert_eq!(zoe.email, "zoe@example.org");
    assert_eq!(
        problem(nobody.oidc_session_create(&fetch(&code, VERIFIER))).status,
        401
    );
    // Her only way in stays.
    let zoe = home.world.with(&session);
    let only = zoe.identities().expect("a list").remove(0);
    assert_eq!((only.provider.as_str(), only.subject.as_str()), ("home", "zoe"));
    assert_eq!(problem(zoe.identity_delete(&only.id)).status, 409);

    // Who is nobody here gets nothing for what his browser brought; why not, the program is told.
    let refused = problem(nobody.oidc_session_create(&fetch(&take("ada"), VERIFIER)));
    assert_eq!((refused.status, refused.code.as_str()), (403, "not_linked"));
    // Ada links it: with her own password, and a code that fits.
    let ada_text = super::people::take(&home.world, &home.invite("ada@example.org"), "Ada");
    let token = super::people::token_of(&home.world, &ada_text);
    let (ada, ada_by_token) = (home.world.with(&ada_text), home.world.with(&token));
    let link = |code: &str, password: &str| LinkIdentity {
        code: code.to_owned(),
        verifier: VERIFIER.to_owned(),
        password: password.to_owned(),
    };
    let code = take("ada");
    assert_eq!(
        problem(ada_by_token.identity_create(&link(&code, "a guess of it"))).status,
        422
    );
    assert_eq!(problem(ada.identity_create(&link("00", PASSWORD))).status, 401);
    let root = problem(home.world.root().identity_create(&link(&code, PASSWORD)));
    assert_eq!(root.status, 403, "the host is no user");
    assert_eq!(
        ada_by_token
            .identity_create(&link(&code, PASSWORD))
            .expect("linked")
            .subject,
        "ada"
    );
    let by_provider = home.sign_in("ada").expect("in");
    assert_eq!(home.user(&by_provider).email, "ada@example.org");
    // What is linked is linked once, and with one.
    let taken = problem(ada.identity_create(&link(&take("ada"), PASSWORD)));
    assert_eq!(taken.status, 409);
    assert_eq!(
        problem(ada.identity_create(&link(&take("zoe"), PASSWORD))).status,
        409
    );
    // She sees and ends her own, and no other's.
    let own = ada.identities().expect("a list");
    assert_eq!(own.len(), 1);
    assert_eq!(problem(ada.identity_delete(&only.id)).status, 404);
    // A token that is for reading does not manage her account.
    let reading = api::CreateToken {
        name: "reading".to_owned(),
        role: Role::Viewer,
        org: None,
        scopes: None,
        lifetime_s: None,
    };
    let reading = home
        .world
        .with(&ada_text)
        .token_create(&reading)
        .expect("a token");
    let reading = home.world.with(&reading.token);
    assert_eq!(problem(reading.identities()).status, 403);
    assert_eq!(problem(reading.identity_delete(&own[0].id)).status, 403);
    let code = take("zoe");
    assert_eq!(
        problem(reading.identity_create(&link(&code, PASSWORD))).status,
        403
    );
    ada.identity_delete(&own[0].id).expect("ended");
    assert_eq!(home.sign_in("ada"), Err(403));
}

#[test]
fn providers_are_set_tried_and_removed() {
    let home = Home::new();
    let root = home.world.root();
    let put = |change: fn(&mut PutIdentityProvider)| {
        let mut wanted = home.wanted();
        change(&mut wanted);
        let refused = problem(root.identity_provider_put("other", &wanted));
        (refused.status, refused.code)
    };
    let unusable = (422, "identity_provider".to_owned());
    assert_eq!(
        put(|it| "http://id.example.org".clone_into(&mut it.issuer)),
        unusable
    );
    assert_eq!(put(|it| it.issuer.push('/')), unusable, "to the letter");
    assert_eq!(
        put(|it| "http://stoa.example.org".clone_into(&mut it.origin)),
        (422, "invalid".to_owned())
    );
    // One that is not there is somebody else's fault, and said so.
    let refused = home.world.root().identity_provider_put("other", &{
        let mut wanted = home.wanted();
        "http://127.0.0.1:1".clone_into(&mut wanted.issuer);
        wanted
    });
    let refused = problem(refused);
    assert_eq!(
        (refused.status, refused.code.as_str()),
        (422, "identity_provider")
    );
    assert!(refused.next_step.contains("stoa providers"), "{refused:?}");
    assert_eq!(problem(root.identity_provider("other")).status, 404);
    let seen = root.identity_provider("home").expect("home");
    assert_eq!(
        (seen.issuer, seen.has_secret),
        (home.running.issuer.clone(), true)
    );
    // Who changes what he has not seen is told so, and nothing is changed.
    let token = home.world.token(Role::Owner);
    let stale = format!("authorization: Bearer {token}\r\nif-match: \"9\"\r\n");
    let path = "/v1/identity-providers/home";
    assert_eq!(home.world.call("DELETE", path, &stale, "").0, 412);
    let (status, answer) = home
        .world
        .call("GET", path, &stale.replace("if-match: \"9\"\r\n", ""), "");
    assert!(status == 200 && answer.contains("etag: \"1\""), "{answer}");
    let all = root.identity_providers().expect("a list");
    assert!(all.len() == 1 && all[0].has_secret, "{all:?}");
    // The secret is nowhere but sealed.
    let told = format!("{all:?}");
    assert!(!told.contains("secret of"), "{told}");
    let files = std::fs::read_dir(home.world.dir.path()).expect("the data directory");
    for file in files.filter_map(Result::ok).filter(|file| file.path().is_file()) {
        let bytes = std::fs::read(file.path()).expect("a file");
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("secret of stoa"), "{}", file.path().display());
    }
    // A wrong secret signs nobody in, and says so; the right one does again.
    home.invite("bob@example.org");
    let mut wrong = home.wanted();
    wrong.client_secret = Some("another".to_owned());
    root.identity_provider_put("home", &wrong)
        .expect("it looks right");
    assert_eq!(home.sign_in("bob"), Err(401));
    root.identity_provider_put("home", &home.wanted()).expect("set");
    let bob = home.sign_in("bob").expect("in");
    let token = super::people::token_of(&home.world, &bob);
    // N38: with the provider the sessions of its people end at once; other issuers' people are other people.
    root.identity_provider_delete("home").expect("removed");
    assert_eq!(problem(home.world.with(&bob).whoami()).code, "sign_in");
    assert!(home.world.with(&token).whoami().is_ok(), "tokens are apart");
    assert_eq!(home.world.call("GET", "/v1/oidc/home", "", "").0, 404);
    root.identity_provider_put("home", &home.wanted()).expect("set");
    assert_eq!(home.sign_in("bob"), Err(403), "the link is gone");
}

/// A provider that went away signs nobody in: not who begins, nor who comes back from it.
#[test]
fn a_provider_that_is_away_signs_nobody_in() {
    let Home {
        world,
        running,
        callback,
    } = Home::new();
    let (_, answer) = world.call("GET", "/v1/oidc/home", "", "");
    let cookie = header(&answer, "set-cookie: ");
    let back = browse(&header(&answer, "location: "), &callback, "ada");
    let path = back.split_once("/v1/").map(|(_, path)| format!("/v1/{path}"));
    drop(running);
    let own = cookie.split(';').next().expect("a pair");
    let headers = format!("cookie: {own}\r\nsec-fetch-site: cross-site\r\n");
    let (status, answer) = world.call("GET", &path.expect("ours"), &headers, "");
    assert!(status == 502 && answer.contains("identity_provider"), "{answer}");
    assert!(
        answer.contains("next_step") && !answer.contains("__Host-stoa="),
        "{answer}"
    );
    // Who is set anew is asked anew.
    let provider = world.root().identity_provider("home").expect("home");
    let wanted = PutIdentityProvider {
        issuer: provider.issuer,
        client_id: provider.client_id,
        client_secret: None,
        origin: format!("http://{}", world.address),
    };
    assert_eq!(
        problem(world.root().identity_provider_put("home", &wanted)).status,
        422
    );
}
