//! Against a real provider: npm's `oidc-provider` on loopback. Who comes in does; what is forged, late, for others or of
//! an unknown key does not. Each wrong token differs from a real one in one thing.

mod provider;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use oidc::{Client, KEYS_ASKED_EVERY_S, KEYS_KEPT_S, OidcError, Provider, Secrets};
use provider::{Running, browse, parameter};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

const CALLBACK: &str = "http://127.0.0.1:1/callback";

fn as_client(running: &Running, id: &str) -> Provider {
    sent_back_to(running, id, CALLBACK)
}

fn sent_back_to(running: &Running, id: &str, redirect: &str) -> Provider {
    Provider::discover(Client {
        issuer: running.issuer.clone(),
        id: id.to_owned(),
        secret: (id != "public").then(|| format!("secret of {id}")),
        redirect: redirect.to_owned(),
    })
    .expect("a provider")
}

fn secrets() -> Secrets {
    let mut random = [0; 96];
    getrandom::fill(&mut random).expect("randomness");
    Secrets::of(&random)
}

fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs()
}

/// A code that the provider gave for somebody, and what belongs to it.
fn code(provider: &Provider, login: &str) -> (String, Secrets) {
    let secrets = secrets();
    let back = browse(&provider.begin(&secrets), CALLBACK, login);
    assert_eq!(
        parameter(&back, "state").as_deref(),
        Some(secrets.state.as_str()),
        "{back}"
    );
    (
        parameter(&back, "code").unwrap_or_else(|| panic!("no code: {back}")),
        secrets,
    )
}

fn why<T: std::fmt::Debug>(result: Result<T, OidcError>) -> &'static str {
    match result {
        Err(OidcError::NotBelieved { why }) => why,
        other => panic!("not a token that is not believed: {other:?}"),
    }
}

#[test]
fn somebody_signs_in_by_every_kind_of_key() {
    let running = Running::start("0", CALLBACK, "one");
    for id in ["stoa", "curve", "edwards", "public"] {
        let provider = as_client(&running, id);
        let (code, secrets) = code(&provider, "ada");
        let identity = provider
            .finish(&code, Some(&running.issuer), &secrets, now_s())
            .expect(id);
        assert_eq!(identity.subject, "ada");
        assert_eq!(identity.verified_email.as_deref(), Some("ada@example.org"));
        assert_eq!(identity.name.as_deref(), Some("Ada"));
        let again = provider.finish(&code, Some(&running.issuer), &secrets, now_s());
        assert!(
            matches!(again, Err(OidcError::Refused { .. })),
            "a code works once: {again:?}"
        );
    }
    let provider = as_client(&running, "stoa");
    let (code, secrets) = code(&provider, "eve");
    let identity = provider
        .finish(&code, Some(&running.issuer), &secrets, now_s())
        .expect("a token");
    assert_eq!(
        identity.verified_email, None,
        "an address that nobody verified is none"
    );
}

#[test]
fn a_code_is_worth_nothing_without_what_began_it() {
    let running = Running::start("0", CALLBACK, "one");
    let provider = as_client(&running, "stoa");
    let (code, mut secrets) = code(&provider, "ada");
    secrets.verifier = self::secrets().verifier;
    let stolen = provider.finish(&code, Some(&running.issuer), &secrets, now_s());
    assert!(matches!(stolen, Err(OidcError::Refused { .. })), "{stolen:?}");
}

/// Where browsers are sent back to is what was registered, to the letter, and is said again with the code.
#[test]
fn a_code_goes_to_the_registered_address_only() {
    let running = Running::start("0", CALLBACK, "one");
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .max_redirects(0)
        .http_status_as_error(false)
        .build()
        .into();
    for other in [
        "http://127.0.0.1:1/callback/",
        "http://127.0.0.1:1/callback?x=1",
        "http://127.0.0.1:1/Callback",
        "http://127.0.0.2:1/callback",
    ] {
        let elsewhere = sent_back_to(&running, "stoa", other);
        let asked = agent.get(elsewhere.begin(&secrets())).call().expect("an answer");
        assert_eq!(asked.status().as_u16(), 400, "{other}");
        let (code, secrets) = code(&as_client(&running, "stoa"), "ada");
        let stolen = elsewhere.exchange(&code, &secrets);
        assert!(
            matches!(stolen, Err(OidcError::Refused { .. })),
            "{other}: {stolen:?}"
        );
    }
}

/// RFC 9207: a code that another provider sent is shown to none.
#[test]
fn a_code_of_another_provider_is_not_taken() {
    let running = Running::start("0", CALLBACK, "one");
    let provider = as_client(&running, "stoa");
    let (code, secrets) = code(&provider, "ada");
    for sender in [None, Some("http://127.0.0.1:1"), Some("")] {
        let mixed_up = provider.finish(&code, sender, &secrets, now_s());
        assert_eq!(why(mixed_up), "another provider sent it", "{sender:?}");
    }
    let sender = Some(running.issuer.as_str());
    assert!(
        provider.finish(&code, sender, &secrets, now_s()).is_ok(),
        "nobody was shown it before"
    );
}

/// Some providers take our secret in the body only.
#[test]
fn the_secret_goes_where_the_provider_wants_it() {
    let running = Running::start("0", CALLBACK, "post");
    let provider = as_client(&running, "stoa");
    let (code, secrets) = code(&provider, "ada");
    let identity = provider.finish(&code, Some(&running.issuer), &secrets, now_s());
    assert_eq!(identity.expect("a token").subject, "ada");
}

#[test]
fn what_is_not_a_real_token_for_us_is_not_believed() {
    let running = Running::start("0", CALLBACK, "one");
    let provider = as_client(&running, "stoa");
    let (code, secrets) = code(&provider, "ada");
    let real = provider.exchange(&code, &secrets).expect("a token");
    let believe = |text: &str| provider.believe(text, &secrets.nonce, now_s());
    assert!(believe(&real).is_ok());
    assert_eq!(
        why(provider.believe(&real, "another", now_s())),
        "it answers another sign-in"
    );
    assert_eq!(
        why(provider.believe(&real, "", now_s())),
        "it answers another sign-in"
    );
    assert_eq!(
        why(provider.believe(&real, &secrets.nonce, now_s() + 3 * 3600)),
        "it has expired"
    );
    assert_eq!(
        why(provider.believe(&real, &secrets.nonce, now_s() - 3600)),
        "it is of a time to come"
    );
    let other = as_client(&running, "other");
    assert_eq!(
        why(other.believe(&real, &secrets.nonce, now_s())),
        "it is for somebody else"
    );
    let elsewhere = Running::start("0", CALLBACK, "one");
    let foreign = as_client(&elsewhere, "stoa");
    assert_eq!(
        why(foreign.believe(&real, &secrets.nonce, now_s())),
        "its signature does not fit"
    );

    let parts: Vec<&str> = real.split('.').collect();
    let header: Value = serde_json::from_slice(&BASE64.decode(parts[0]).expect("base64")).expect("JSON");
    let claims: Value = serde_json::from_slice(&BASE64.decode(parts[1]).expect("base64")).expect("JSON");
    let encode = |value: &Value| BASE64.encode(value.to_string());
    let with = |header: Value, signature: &[u8]| {
        format!("{}.{}.{}", encode(&header), parts[1], BASE64.encode(signature))
    };
    for alg in ["none", "None", "HS256", "HS512", ""] {
        let forged = with(json!({"alg": alg, "kid": header["kid"]}), b"x");
        assert_eq!(
            why(believe(&forged)),
            "it is signed by an algorithm that is not taken",
            "{alg}"
        );
    }
    assert_eq!(
        why(believe(&format!(
            "{}.{}.",
            encode(&json!({"alg": "none"})),
            parts[1]
        ))),
        "it is signed by an algorithm that is not taken"
    );
    let demanding = with(
        json!({"alg": "RS256", "kid": header["kid"], "crit": ["exp"]}),
        b"x",
    );
    assert_eq!(
        why(believe(&demanding)),
        "its header demands what is not known here"
    );
    let mut altered = claims.clone();
    altered["sub"] = json!("owner");
    let altered = format!("{}.{}.{}", parts[0], encode(&altered), parts[2]);
    assert_eq!(why(believe(&altered)), "its signature does not fit");
    // By a key of ours under the provider's name for its own.
    let rogue = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a key");
    assert_eq!(rogue.public_key().as_ref().len(), 32);
    let sign = |kid: &str| {
        let signed = format!("{}.{}", encode(&json!({"alg": "EdDSA", "kid": kid})), parts[1]);
        format!("{signed}.{}", BASE64.encode(rogue.sign(signed.as_bytes())))
    };
    assert_eq!(why(believe(&sign("ed one"))), "its signature does not fit");
    assert_eq!(
        why(believe(&sign("rsa one"))),
        "it is signed by a key that the provider does not publish"
    );
    for rubbish in [
        "",
        "a",
        "a.b",
        "a.b.c",
        "..",
        &format!("{real}.x"),
        &"x".repeat(20_000),
    ] {
        why(believe(rubbish));
    }
}

/// A provider that changed its keys is believed by the new ones, and no longer by the old ones; and whoever sends tokens of
/// invented keys does not make us ask for each.
#[test]
fn keys_change() {
    let first = Running::start("0", CALLBACK, "one");
    let provider = as_client(&first, "stoa");
    let (code_of_first, secrets_of_first) = code(&provider, "ada");
    let old = provider
        .exchange(&code_of_first, &secrets_of_first)
        .expect("a token");
    let now = now_s();
    let believe_old = |at| provider.believe(&old, &secrets_of_first.nonce, at);
    assert!(believe_old(now).is_ok());
    let port = first.issuer.rsplit(':').next().expect("a port").to_owned();
    drop(first);
    let second = Running::start(&port, CALLBACK, "two");
    let (code, secrets) = code(&provider, "ada");
    let new = provider.exchange(&code, &secrets).expect("a token");
    let believe_new = |at| provider.believe(&new, &secrets.nonce, at);
    let unknown = "it is signed by a key that the provider does not publish";
    assert_eq!(why(believe_new(now + KEYS_ASKED_EVERY_S - 1)), unknown);
    assert!(
        believe_old(now + KEYS_ASKED_EVERY_S - 1).is_ok(),
        "the keys are known"
    );
    assert!(believe_new(now + KEYS_ASKED_EVERY_S).is_ok());
    assert_eq!(why(believe_old(now + KEYS_ASKED_EVERY_S)), unknown);
    // What is known is forgotten, however many ask; also when the clock was set back.
    drop(second);
    assert!(believe_new(now + KEYS_ASKED_EVERY_S + 1).is_ok());
    let away = provider.exchange("code", &secrets);
    assert!(matches!(away, Err(OidcError::Unreachable { .. })), "{away:?}");
    for at in [now + KEYS_ASKED_EVERY_S + KEYS_KEPT_S, now] {
        let asked = believe_new(at);
        assert!(matches!(asked, Err(OidcError::Unreachable { .. })), "{asked:?}");
    }
}

#[test]
fn another_name_or_a_plain_connection_is_no_provider() {
    let running = Running::start("0", CALLBACK, "one");
    let other = running.issuer.replace("127.0.0.1", "localhost");
    assert!(matches!(discovered(&other), Err(OidcError::Unusable { .. })));
    assert!(matches!(
        discovered("http://id.example.org"),
        Err(OidcError::Unusable { .. })
    ));
    assert!(matches!(
        discovered("http://127.0.0.1:1"),
        Err(OidcError::Unreachable { .. })
    ));
}

/// What answers each request with `answer`, a piece in a second, and then keeps the connection open.
fn answering(answer: impl Fn(&str) -> Vec<Vec<u8>> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let issuer = format!("http://{}", listener.local_addr().expect("an address"));
    let pieces = answer(&issuer);
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for mut stream in listener.incoming().map_while(Result::ok) {
            drop(stream.read(&mut [0; 4096]));
            for (index, piece) in pieces.iter().enumerate() {
                std::thread::sleep(Duration::from_secs(u64::from(index > 0)));
                if stream.write_all(piece).is_err() {
                    break;
                }
            }
            open.push(stream);
        }
    });
    issuer
}

fn discovered(issuer: &str) -> Result<(), OidcError> {
    Provider::discover(Client {
        issuer: issuer.to_owned(),
        id: "stoa".to_owned(),
        secret: None,
        redirect: CALLBACK.to_owned(),
    })
    .map(drop)
}

/// However a provider does not answer: who waits for it is told so in seconds.
#[test]
fn a_provider_that_is_slow_is_waited_for_in_bounds() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n".to_vec();
    let trickling: Vec<Vec<u8>> = std::iter::once(head)
        .chain((0..30).map(|_| b" ".to_vec()))
        .collect();
    for (what, pieces) in [("silent", Vec::new()), ("trickling", trickling)] {
        let issuer = answering(move |_| pieces.clone());
        let begin = Instant::now();
        let waited = discovered(&issuer);
        let took = begin.elapsed();
        let Err(OidcError::Unreachable { why, .. }) = &waited else {
            panic!("{what}: {waited:?}");
        };
        assert!(why.contains("did not answer within 5 s"), "{what}: {why}");
        assert!(took < Duration::from_secs(8), "{what}: {took:?}");
    }
}

/// What it answers is bounded, and leads nowhere else.
#[test]
fn a_provider_that_answers_something_else_is_none() {
    let whole = |status: &str, head: &str, body: &str| {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{head}\r\n{body}")
            .into_bytes()
    };
    let running = Running::start("0", CALLBACK, "one");
    let there = format!(
        "location: {}/.well-known/openid-configuration\r\n",
        running.issuer
    );
    for (what, answer) in [
        (
            "endless",
            whole(
                "200 OK",
                "",
                &format!("{{\"issuer\":\"{}\"}}", "x".repeat(2 << 20)),
            ),
        ),
        ("redirect", whole("302 Found", &there, "")),
        ("page", whole("200 OK", "", "<html>")),
        (
            "error",
            whole("500 Internal Server Error", "", "{\"error\": \"<script>\"}"),
        ),
    ] {
        let issuer = answering(move |_| vec![answer.clone()]);
        let said = discovered(&issuer);
        let Err(OidcError::Unreachable { why, .. }) = &said else {
            panic!("{what}: {said:?}");
        };
        assert!(!why.contains("script"), "{why}");
    }
    // One that would have its secrets sent over a plain connection.
    let issuer = answering(move |issuer| {
        let endpoint = "http://id.example.org/token";
        let metadata = json!({"issuer": issuer, "authorization_endpoint": format!("{issuer}/auth"),
            "token_endpoint": endpoint, "jwks_uri": format!("{issuer}/jwks")});
        vec![whole("200 OK", "", &metadata.to_string())]
    });
    let plain = discovered(&issuer);
    assert!(matches!(plain, Err(OidcError::Unusable { .. })), "{plain:?}");
}
