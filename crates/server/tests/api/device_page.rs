//! The page that lets a machine in: what browsers see and send there.

use api::{CreateDevice, Device, PollDevice};

use super::oidc::{Home, header, session};
use super::{World, people, problem};

const FORM: &str = "content-type: application/x-www-form-urlencoded\r\n";
const OURS: &str = "sec-fetch-site: same-origin\r\n";
const PASSWORD: &str = "password=correct+horse+battery";

fn begin(world: &World, name: &str) -> Device {
    let wish = CreateDevice {
        name: name.to_owned(),
        role: None,
        scopes: Some(vec![api::Scope::Read, api::Scope::Deploy]),
    };
    world.with("stoa_pat_none").device_create(&wish).expect("a code")
}

/// What the machine is told when it asks for its token: a code of a problem, or nothing.
fn told(world: &World, device: &Device) -> Option<String> {
    let body = PollDevice {
        device_code: device.device_code.clone(),
    };
    let asked = world.with("stoa_pat_none").device_token(&body);
    asked.err().map(|refused| {
        let problem = refused.problem().expect("a problem");
        problem.code.clone()
    })
}

/// Ada, who is signed in with her browser.
fn ada(world: &World) -> String {
    people::member(world, "ada", api::Role::Developer);
    let (_, text) = people::sign_in(world, "ada").expect("in");
    format!("cookie: __Host-stoa={text}\r\n")
}

fn page(world: &World, query: &str, headers: &str) -> String {
    let (status, answer) = world.call("GET", &format!("/device{query}"), headers, "");
    assert_eq!(status, 200, "{answer}");
    answer
}

#[test]
fn a_browser_signs_in_and_lets_a_machine_in() {
    let world = World::with_rate(0);
    people::member(&world, "ada", api::Role::Developer);
    let device = begin(&world, "<b>laptop</b> & \"co\"");
    let code = &device.user_code;
    let query = format!("?user_code={code}");

    // Who is not signed in learns nothing but that it may sign in.
    let answer = page(&world, &query, "");
    assert!(
        answer.contains("name=\"password\"") && !answer.contains("laptop"),
        "{answer}"
    );
    assert!(answer.contains(&format!("value=\"{code}\"")), "{answer}");
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        (
            "content-security-policy",
            "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
        ),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
        ("x-frame-options", "DENY"),
    ] {
        assert_eq!(header(&answer, &format!("{name}: ")), value);
    }
    // What stands in an address is text on the page.
    let answer = page(&world, "?user_code=%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E", "");
    assert!(
        !answer.contains("<script") && answer.contains("&lt;script&gt;"),
        "{answer}"
    );

    let sign_in = |headers: &str, body: &str| {
        let headers = format!("{FORM}{headers}");
        world.call("POST", "/device/sign-in", &headers, body)
    };
    let form = format!("email=ada%40example.org&{PASSWORD}&user_code={code}");
    assert_eq!(sign_in("sec-fetch-site: cross-site\r\n", &form).0, 403);
    assert_eq!(sign_in("origin: http://evil\r\n", &form).0, 403);
    let (status, answer) = sign_in(
        OURS,
        &format!("email=ada%40example.org&password=wrong&user_code={code}"),
    );
    assert!(
        status == 401 && answer.contains("do not belong together"),
        "{answer}"
    );
    assert!(
        !answer.contains("set-cookie") && answer.contains(&format!("value=\"{code}\"")),
        "{answer}"
    );
    assert_eq!(sign_in(OURS, &format!("{form}&password=x")).0, 400, "twice");
    assert_eq!(sign_in(OURS, &format!("{form}&more=x")).0, 422);
    assert_eq!(sign_in(OURS, "email=%zz&password=x").0, 400);
    let json = "{\"email\": \"ada@example.org\", \"password\": \"x\"}";
    let as_json = "content-type: application/json\r\nsec-fetch-site: same-origin\r\n";
    assert_eq!(world.call("POST", "/device/sign-in", as_json, json).0, 415);
    let (status, answer) = sign_in(OURS, &form);
    assert_eq!(
        (status, header(&answer, "location: ")),
        (303, format!("/device{query}"))
    );
    let cookie = header(&answer, "set-cookie: ");
    assert!(
        cookie.contains("; Path=/; Secure; HttpOnly; SameSite=Lax"),
        "{cookie}"
    );
    let own = format!("cookie: __Host-stoa={}\r\n", session(&answer));

    // Who is signed in sees what asks, and from where; looking decides nothing.
    let answer = page(&world, &query, &own);
    for text in [
        "&lt;b&gt;laptop&lt;/b&gt; &amp; &quot;co&quot;",
        "127.0.0.1",
        "read, deploy",
        "ada@example.org",
        code,
    ] {
        assert!(answer.contains(text), "no {text}: {answer}");
    }
    assert_eq!(told(&world, &device).as_deref(), Some("authorization_pending"));
    let decide = |headers: &str, body: &str| world.call("POST", "/device", &format!("{FORM}{headers}"), body);
    let yes = format!("user_code={code}&decision=approve");
    for elsewhere in [
        "",
        "sec-fetch-site: cross-site\r\n",
        "sec-fetch-site: same-site\r\n",
        "origin: null\r\n",
    ] {
        let (status, answer) = decide(&format!("{own}{elsewhere}"), &yes);
        assert!(
            status == 403 && answer.contains("cross_site"),
            "{elsewhere}: {answer}"
        );
    }
    assert_eq!(decide(OURS, &yes).0, 401, "nobody");
    let ours = format!("{own}{OURS}");
    assert_eq!(decide(&ours, &format!("user_code={code}&decision=maybe")).0, 422);
    assert_eq!(decide(&ours, &format!("user_code={code}")).0, 422);
    assert_ne!(told(&world, &device), None, "nobody said yes");
    let (status, answer) = decide(&ours, &yes);
    assert!(status == 200 && answer.contains("Approved"), "{answer}");
    let (status, answer) = decide(&ours, &format!("user_code={code}&decision=deny"));
    assert!(
        status == 409 && answer.contains("approved or refused already"),
        "{answer}"
    );
}

#[test]
fn a_machine_is_kept_out_and_codes_are_not_guessed() {
    let world = World::with_rate(0);
    let own = ada(&world);
    let device = begin(&world, "stranger");
    let answer = page(&world, "", &own);
    assert!(answer.contains("name=\"user_code\""), "{answer}");
    // As people type it.
    let typed = device.user_code.to_lowercase().replace('-', "+");
    assert!(page(&world, &format!("?user_code={typed}"), &own).contains("stranger"));
    let headers = format!("{own}{OURS}{FORM}");
    let no = format!("user_code={typed}&decision=deny");
    let (status, answer) = world.call("POST", "/device", &headers, &no);
    assert!(status == 200 && answer.contains("Refused"), "{answer}");
    assert_eq!(told(&world, &device).as_deref(), Some("access_denied"));
    let guess = || world.call("GET", "/device?user_code=BBBB-BBBB", &own, "");
    for _ in 0..10 {
        let (status, answer) = guess();
        assert!(status == 404 && answer.contains("name=\"user_code\""), "{answer}");
    }
    assert_eq!(guess().0, 429);
    // A session that ended is none.
    let text = own.trim_end().rsplit('=').next().expect("its text");
    let id = people::sessions_of(&world, text);
    world.with(text).session_delete(&id).expect("ended");
    assert!(page(&world, "", &own).contains("name=\"password\""));
}

/// Who has no password here signs in at a provider, and comes back to the machine.
#[test]
fn a_provider_leads_back_to_the_page() {
    let home = Home::new();
    people::member(home.world(), "ada", api::Role::Developer);
    let device = begin(home.world(), "laptop");
    let code = &device.user_code;
    home.invite("zoe@example.org");
    let answer = page(home.world(), &format!("?user_code={code}"), "");
    let there = format!("/v1/oidc/home?user_code={code}");
    assert!(answer.contains(&format!("href=\"{there}\"")), "{answer}");
    let (path, cookie) = home.leave(&format!("?user_code={code}"), "zoe");
    let (status, answer) = home.come(&path, &cookie);
    assert_eq!(
        (status, header(&answer, "location: ")),
        (303, format!("/device?user_code={code}"))
    );
    let own = format!("cookie: __Host-stoa={}\r\n", session(&answer));
    let seen = page(home.world(), &format!("?user_code={code}"), &own);
    assert!(
        seen.contains("zoe@example.org") && seen.contains("laptop"),
        "{seen}"
    );
    let yes = format!("user_code={code}&decision=approve");
    assert_eq!(
        home.world()
            .call("POST", "/device", &format!("{own}{OURS}{FORM}"), &yes)
            .0,
        200
    );
    let body = PollDevice {
        device_code: device.device_code.clone(),
    };
    let issued = home
        .world()
        .with("stoa_pat_none")
        .device_token(&body)
        .expect("a token");
    let who = home.world().with(&issued.token).whoami().expect("in");
    assert_eq!(who.user.expect("a user").email, "zoe@example.org");
    assert_eq!(
        problem(home.world().with(&issued.token).identity_providers()).status,
        403
    );
}
