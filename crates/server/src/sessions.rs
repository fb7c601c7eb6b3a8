//! Signing in and out with a password.

use api::{CreateSession, PutPassword, SessionPage, SignedIn};
use control::Secret;
use control::people;
use model::{Actor, Session};

use crate::answer::Reply;
use crate::call::Call;
use crate::credential::{no_cookie, of_session};
use crate::members::{email, wire_user};
use crate::pages;
use crate::refusal::Refusal;

/// What the session that asks is called in paths.
const CURRENT: &str = "current";

pub(crate) fn create(call: &Call) -> Result<Reply, Refusal> {
    let body: CreateSession = call.needed_body()?;
    let (email, password) = (email(&body.email)?, Secret::from(body.password));
    match people::sign_in(call.control(), &email, &password, &call.source, &call.agent)? {
        Some(found) => signed_in(&found),
        // A rehearsal's answer is its status.
        None => Reply::json(201, &()),
    }
}

/// The answer to who just signed in.
pub(crate) fn signed_in(found: &people::SignedIn) -> Result<Reply, Refusal> {
    let body = SignedIn {
        user: wire_user(&found.account),
        session: wire(&found.session, true),
    };
    Ok(Reply::json(201, &body)?.with_cookie(of_session(found)?))
}

pub(crate) fn list(call: &Call) -> Result<Reply, Refusal> {
    let current = current(call);
    let all = people::sessions(call.control(), call.actor()?)?;
    let (page, next_page) = pages::cut(call, all, |session| session.id.to_string())?;
    let wired = |session: &Session| wire(session, current.as_deref() == Some(&session.id.to_string()));
    Reply::ok(&SessionPage {
        items: page.iter().map(wired).collect(),
        next_page,
    })
}

pub(crate) fn delete(call: &Call) -> Result<Reply, Refusal> {
    let (wanted, current) = (call.parameter("session")?, current(call));
    let id = match &current {
        Some(current) if wanted == CURRENT => current,
        Some(_) | None => wanted,
    };
    people::end_session(call.control(), call.actor()?, id)?;
    Ok(if current.as_deref() == Some(id) {
        Reply::Gone { cookie: no_cookie() }
    } else {
        Reply::Empty
    })
}

pub(crate) fn password_put(call: &Call) -> Result<Reply, Refusal> {
    let body: PutPassword = call.needed_body()?;
    let (current, new) = (Secret::from(body.current), Secret::from(body.new));
    people::change_password(call.control(), call.actor()?, &call.source, &current, &new)?;
    Ok(Reply::Empty)
}

fn current(call: &Call) -> Option<String> {
    match &call.actor {
        Some(Actor::User { session, .. }) => Some(session.to_string()),
        Some(Actor::HostRoot { .. } | Actor::Token { .. } | Actor::System) | None => None,
    }
}

fn wire(session: &Session, current: bool) -> api::Session {
    api::Session {
        id: session.id.to_string(),
        source: session.source.clone(),
        agent: session.agent.clone(),
        current,
        created_at: session.created_at,
        last_used_at: session.last_used_at,
        expires_at: session.expires_at,
    }
}
