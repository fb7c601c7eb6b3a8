//! What a request shows to say who it is, and what a browser may do with it.
//!
//! Lives here: the Authorization header, the cookie, and which sites a change may come from. Does not live here: whether a
//! credential counts (`control::people`).
//! Invariant: a cookie changes something only when the browser says that the page is ours; a credential is never taken
//! from an address.

use api::endpoint::Method;
use api::sessions::SESSION_COOKIE;
use control::people::{self, Source};
use http::HeaderMap;
use http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use model::Actor;

use crate::Shared;
use crate::listen::Peer;
use crate::refusal::Refusal;

/// The cookie of a browser that is on its way to an identity provider.
const STATE_COOKIE: &str = "__Host-stoa-state";

/// What was shown.
#[derive(Clone)]
pub(crate) enum Credential {
    /// The text of an access token.
    Token(String),
    /// The text of a session, from a cookie.
    Session(String),
}

/// What a request shows. A token counts before a cookie.
pub(crate) fn shown(headers: &HeaderMap) -> Result<Option<Credential>, Refusal> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let text = value.to_str().map_err(|_| Refusal::sign_in())?;
        return match text.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => {
                Ok(Some(Credential::Token(token.trim().to_owned())))
            }
            _ => Err(Refusal::sign_in()),
        };
    }
    let pairs = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'));
    let mut ours = pairs.filter_map(|pair| pair.trim().strip_prefix(SESSION_COOKIE)?.strip_prefix('='));
    match (ours.next(), ours.next()) {
        (None, _) => Ok(None),
        (Some(text), None) => Ok(Some(Credential::Session(text.to_owned()))),
        // One of them was put there by somebody else.
        (Some(_), Some(_)) => Err(Refusal::sign_in()),
    }
}

/// The session of a browser, for a page that everybody may open and who is signed in sees more of.
pub(crate) fn browser(headers: &HeaderMap) -> Option<Credential> {
    let shown = shown(headers).ok().flatten();
    shown.filter(|shown| matches!(shown, Credential::Session(_)))
}

/// Who asks. A credential that is shown counts, even from root: whoever sends one wants to act as its bearer.
pub(crate) fn authenticate(
    shared: &Shared,
    peer: Peer,
    credential: Option<&Credential>,
) -> Result<Actor, Refusal> {
    match (credential, peer) {
        (Some(Credential::Token(text)), _) => Ok(people::authenticate(&shared.control, text)?),
        (Some(Credential::Session(text)), _) => Ok(people::authenticate_session(&shared.control, text)?),
        (None, Peer::Root { pid }) => Ok(Actor::HostRoot { pid }),
        (None, Peer::Anybody { .. } | Peer::LocalUser) => Err(Refusal::sign_in()),
    }
}

/// That what was shown still counts, for what goes on after the answer has begun. It is no use of it: what is open must not
/// keep a session alive.
pub(crate) fn still_counts(
    shared: &Shared,
    peer: Peer,
    credential: Option<&Credential>,
) -> Result<(), Refusal> {
    match (credential, peer) {
        (Some(Credential::Token(text)), _) => Ok(people::look_at(&shared.control, text)?),
        (Some(Credential::Session(text)), _) => Ok(people::look_at_session(&shared.control, text)?),
        (None, Peer::Root { .. }) => Ok(()),
        (None, Peer::Anybody { .. } | Peer::LocalUser) => Err(Refusal::sign_in()),
    }
}

/// Where a request comes from.
pub(crate) fn source(peer: Peer) -> Source {
    match peer {
        Peer::Anybody { from } => Source::of(from),
        Peer::Root { .. } | Peer::LocalUser => Source::host(),
    }
}

/// Refuses a change with a cookie unless the browser says that its page is ours. Browsers have said so for years; what
/// is not a browser uses tokens, or says `Sec-Fetch-Site: none`.
pub(crate) fn refuse_cross_site(
    method: Method,
    credential: Option<&Credential>,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    match credential {
        Some(Credential::Session(_)) if method != Method::Get => {}
        Some(_) | None => return Ok(()),
    }
    if is_same_site(headers) == Some(true) || control::planted::forgets_sites() {
        Ok(())
    } else {
        Err(Refusal::cross_site())
    }
}

/// Refuses to sign anybody in for a page of another site. What is not a browser says nothing; whoever follows a link to what
/// everybody may read changes nothing, and who comes back from an identity provider is known by a cookie.
pub(crate) fn refuse_sign_in_from_elsewhere(method: Method, headers: &HeaderMap) -> Result<(), Refusal> {
    if method == Method::Get {
        return Ok(());
    }
    if is_same_site(headers) == Some(false) && !control::planted::forgets_sites() {
        return Err(Refusal::cross_site());
    }
    Ok(())
}

fn is_same_site(headers: &HeaderMap) -> Option<bool> {
    let text = |name: &http::HeaderName| headers.get(name)?.to_str().ok();
    if let Some(site) = headers.get("sec-fetch-site") {
        return Some(matches!(site.to_str(), Ok("same-origin" | "none")));
    }
    headers.get(ORIGIN)?;
    let origin = text(&ORIGIN)
        .and_then(|origin| origin.split_once("://"))
        .map(|(scheme, host)| (default_port(scheme), host.to_ascii_lowercase()));
    let Some(((default, origin), host)) = origin.zip(text(&HOST)) else {
        return Some(false);
    };
    let plain = |host: &str| host.strip_suffix(default).unwrap_or(host).to_ascii_lowercase();
    Some(plain(&origin) == plain(host))
}

fn default_port(scheme: &str) -> &'static str {
    if scheme == "https" { ":443" } else { ":80" }
}

/// The cookie of a session that just began.
pub(crate) fn of_session(signed_in: &people::SignedIn) -> Result<String, Refusal> {
    let text = signed_in.text.expose_str();
    text.map(cookie)
        .ok_or_else(|| Refusal::internal("a session that is no text"))
}

/// The cookie of a session. It ends with the browser's own idea of a session or with ours, whichever is first.
fn cookie(text: &str) -> String {
    format!("{SESSION_COOKIE}={text}; Path=/; Secure; HttpOnly; SameSite=Lax")
}

/// The cookie of a browser that goes to an identity provider, for as long as that may take.
pub(crate) fn state_cookie(state: &str) -> String {
    format!("{STATE_COOKIE}={state}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=600")
}

/// What makes a browser forget that one.
pub(crate) fn no_state_cookie() -> String {
    format!("{STATE_COOKIE}=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0")
}

/// By what a browser that comes back is known. Nothing, when it shows two: one was put there by somebody else.
pub(crate) fn state(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(COOKIE).iter();
    let pairs = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'));
    let mut states = pairs.filter_map(|pair| pair.trim().strip_prefix(STATE_COOKIE)?.strip_prefix('='));
    let first = states.next()?;
    states.next().is_none().then(|| first.to_owned())
}

/// What makes a browser forget it.
pub(crate) fn no_cookie() -> String {
    format!("{SESSION_COOKIE}=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in all {
            headers.append(*name, value.parse().expect("a value"));
        }
        headers
    }

    #[test]
    fn only_our_own_pages_change_something_with_a_cookie() {
        let session = Credential::Session("x".to_owned());
        for (method, sent, passes) in [
            (Method::Post, &[("sec-fetch-site", "same-origin")][..], true),
            (Method::Post, &[("sec-fetch-site", "none")], true),
            (Method::Post, &[("sec-fetch-site", "same-site")], false),
            (Method::Post, &[("sec-fetch-site", "cross-site")], false),
            (
                Method::Post,
                &[
                    ("sec-fetch-site", "cross-site"),
                    ("origin", "http://stoa:7070"),
                    ("host", "stoa:7070"),
                ],
                false,
            ),
            (
                Method::Delete,
                &[("origin", "http://stoa:7070"), ("host", "stoa:7070")],
                true,
            ),
            (
                Method::Put,
                &[("origin", "https://STOA"), ("host", "stoa:443")],
                true,
            ),
            (
                Method::Put,
                &[("origin", "https://stoa"), ("host", "stoa:80")],
                false,
            ),
            (
                Method::Patch,
                &[("origin", "http://evil"), ("host", "stoa")],
                false,
            ),
            (Method::Patch, &[("origin", "null"), ("host", "stoa")], false),
            (Method::Post, &[("host", "stoa")], false),
            (Method::Get, &[("sec-fetch-site", "cross-site")], true),
        ] {
            let found = refuse_cross_site(method, Some(&session), &headers(sent)).is_ok();
            assert_eq!(found, passes, "{method:?} {sent:?}");
        }
        let token = Credential::Token("x".to_owned());
        let elsewhere = headers(&[("sec-fetch-site", "cross-site")]);
        assert!(refuse_cross_site(Method::Post, Some(&token), &elsewhere).is_ok());
        assert!(refuse_sign_in_from_elsewhere(Method::Post, &elsewhere).is_err());
        assert!(refuse_sign_in_from_elsewhere(Method::Post, &headers(&[])).is_ok());
        assert!(refuse_sign_in_from_elsewhere(Method::Get, &elsewhere).is_ok());
        let of = |cookie: &str| state(&headers(&[("cookie", cookie)]));
        assert_eq!(
            of("a=1; __Host-stoa-state=x; __Host-stoa=y"),
            Some("x".to_owned())
        );
        assert_eq!(of("__Host-stoa-state=x; __Host-stoa-state=y"), None);
        assert_eq!(of("x__Host-stoa-state=x; __Host-stoa=y"), None);
    }

    #[test]
    fn a_credential_is_read_one_way() {
        let kind = |all: &[(&'static str, &str)]| match shown(&headers(all)) {
            Ok(Some(Credential::Token(text))) => format!("token {text}"),
            Ok(Some(Credential::Session(text))) => format!("session {text}"),
            Ok(None) => "nothing".to_owned(),
            Err(refusal) => refusal.status().to_string(),
        };
        assert_eq!(kind(&[("authorization", "Bearer a")]), "token a");
        assert_eq!(
            kind(&[("authorization", "bearer a"), ("cookie", "__Host-stoa=b")]),
            "token a"
        );
        assert_eq!(
            kind(&[("authorization", "Basic a"), ("cookie", "__Host-stoa=b")]),
            "401"
        );
        assert_eq!(kind(&[("cookie", "x=1; __Host-stoa=b; y=2")]), "session b");
        assert_eq!(kind(&[("cookie", "__Host-stoa=a; __Host-stoa=b")]), "401");
        assert_eq!(
            kind(&[("cookie", "__Host-stoa=a"), ("cookie", "__Host-stoa=b")]),
            "401"
        );
        assert_eq!(kind(&[("cookie", "stoa=a; x__Host-stoa=b")]), "nothing");
    }
}
