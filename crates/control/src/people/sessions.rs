//! Sessions: users who signed in with a browser.
//!
//! Lives here: signing in with a password, and how long that counts. Does not live here: cookies and what other sites may
//! not do with them (`server`).
//! Invariant: a session ends 12 hours after its last use and 14 days after its begin, or at once; an unknown account, a
//! wrong password and one that has none get the same answer after the same work.

use model::{Action, Actor, Email, Familiar, Millis, Session, SessionId, Timestamp, Token, User};
use store::secret::Secret;
use store::{ReadTx, WriteTx};
use subtle::ConstantTimeEq as _;

use super::{LAST_USE_EVERY, Source, hash, random_text, users};
use crate::authorize::{self, Rights};
use crate::planted::{self, Defect};
use crate::{Control, ControlError, rehearsal};

/// What the text of a session begins with; its id follows.
const PREFIX: &str = "stoa_ses_";
/// How long a session counts without being used.
pub const IDLE: Millis = Millis::seconds(12 * 3600);
/// How long it counts at all.
pub const LIFE: Millis = Millis::seconds(14 * 24 * 3600);
/// Sessions of one user; one more ends the oldest.
const SESSIONS_MAX: usize = 50;
/// How long a place counts as one from which a user signed in: as long as a token lives.
const FAMILIAR_FOR: Millis = Millis::seconds(90 * 24 * 3600);
/// That he came from there again is written down at most that often.
const FAMILIAR_EVERY: Millis = Millis::seconds(24 * 3600);
/// Places of one user: home, work, and those of somebody who travels.
const FAMILIAR_MAX: usize = 20;
/// Ended tokens are kept for that long, for who looks after what one did; the audit log has it for ever.
const TOKENS_KEPT: Millis = Millis::seconds(30 * 24 * 3600);
/// Longest name of a browser that is kept.
const AGENT_MAX: usize = 200;

/// A session that just began. Its text is given this once.
#[derive(Debug)]
pub struct SignedIn {
    /// Who, and what he is.
    pub account: users::Account,
    /// The session.
    pub session: Session,
    /// What the browser keeps.
    pub text: Secret,
}

/// Signs a user in by password. Nothing when it is only rehearsed: no password is looked at then, as a guess that leaves
/// nothing behind would be one that nobody finds.
///
/// # Errors
/// `SignIn` when address and password do not belong together; `Guessed` after too many wrong ones; `Busy`.
pub fn sign_in(
    control: &Control,
    email: &Email,
    password: &Secret,
    source: &Source,
    agent: &str,
) -> Result<Option<SignedIn>, ControlError> {
    if rehearsal::is_on() {
        rehearsal::note("session", "", "insert");
        return Ok(None);
    }
    let user = control
        .read(|tx| users::by_email(tx, email))?
        .map(|found| found.row);
    if !guess(control, email, source, password, user.as_ref())? {
        tracing::info!(
            source = source.as_str(),
            "somebody signed in with a wrong password"
        );
        return Err(ControlError::SignIn);
    }
    let seen = user.ok_or(ControlError::SignIn)?;
    let actor = Actor::System;
    control.mutate(&actor, "session.create", seen.email.as_str(), |tx| {
        let now = tx.get::<User>(&seen.id.to_string())?;
        // Between the check and now he may have been removed or have another password.
        let user = now
            .map(|found| found.row)
            .filter(|user| user.password == seen.password);
        let user = user.ok_or(ControlError::SignIn)?;
        open(tx, &user, source, agent, control.now_of(tx)).map(Some)
    })
}

/// One guess of a password, counted. A rehearsal looks at none.
pub(super) fn guess(
    control: &Control,
    account: &Email,
    source: &Source,
    password: &Secret,
    user: Option<&User>,
) -> Result<bool, ControlError> {
    if rehearsal::is_on() {
        return Ok(true);
    }
    let is_familiar = match user {
        Some(user) => control.read(|tx| is_familiar(tx, user, source))?,
        None => false,
    };
    let throttle = &control.door.throttle;
    let guess = throttle
        .begin(account, source, is_familiar, control.clock.now().mono_ms)
        .map_err(|wait| ControlError::Guessed { wait })?;
    let kept = user.and_then(|user| user.password.as_deref());
    let is_right = match control.door.hasher.check(password, kept) {
        Ok(is_right) => is_right,
        Err(busy) => {
            throttle.withdraw(&guess);
            return Err(busy);
        }
    };
    if is_right {
        throttle.forgive(&guess);
    }
    Ok(is_right)
}

/// Whether the user signed in from there not long ago.
fn is_familiar(tx: &ReadTx, user: &User, source: &Source) -> Result<bool, ControlError> {
    let now = Timestamp::now();
    let is_there = |one: &Familiar| one.source == source.as_str() && now.since(one.at) <= FAMILIAR_FOR;
    if user.familiar.iter().any(is_there) {
        return Ok(true);
    }
    // Those that began before it was kept beside the user.
    let own = tx.list::<Session>(&user.id.to_string())?;
    Ok(own.iter().any(|found| found.row.source == source.as_str()))
}

/// Remembers from where a user signed in. The oldest place goes.
fn make_familiar(tx: &WriteTx, user: &User, source: &Source, now: Timestamp) -> Result<(), ControlError> {
    let mut found = tx.need::<User>(&user.id.to_string())?;
    let known = &mut found.row.familiar;
    let is_fresh = |one: &Familiar| one.source == source.as_str() && now.since(one.at) < FAMILIAR_EVERY;
    if known.iter().any(is_fresh) {
        return Ok(());
    }
    known.retain(|one| one.source != source.as_str() && now.since(one.at) <= FAMILIAR_FOR);
    known.sort_by_key(|one| one.at);
    let surplus = (known.len() + 1).saturating_sub(FAMILIAR_MAX);
    known.drain(..surplus);
    known.push(Familiar {
        source: source.as_str().to_owned(),
        at: now,
    });
    tx.update_status(&found.row, store::Expect::Rev(found.rev))?;
    Ok(())
}

/// Begins a session.
pub(super) fn open(
    tx: &WriteTx,
    user: &User,
    source: &Source,
    agent: &str,
    now: Timestamp,
) -> Result<SignedIn, ControlError> {
    let mut own = tx.list::<Session>(&user.id.to_string())?;
    own.sort_by_key(|found| found.row.last_used_at);
    let surplus = (own.len() + 1).saturating_sub(SESSIONS_MAX);
    for old in own.drain(..surplus) {
        tx.delete::<Session>(&old.row.id.to_string(), store::Expect::Any)?;
    }
    let id = SessionId::fresh();
    let text = random_text(&format!("{PREFIX}{id}_"))?;
    let session = Session {
        id,
        user: user.id,
        hash: hash(&text),
        source: source.as_str().to_owned(),
        agent: agent
            .chars()
            .filter(|letter| !letter.is_control())
            .take(AGENT_MAX)
            .collect(),
        created_at: now,
        expires_at: now.plus(LIFE),
        last_used_at: now,
    };
    tx.insert(&session)?;
    make_familiar(tx, user, source, now)?;
    Ok(SignedIn {
        account: users::account(tx, user.clone())?,
        session,
        text: Secret::new(text.into_bytes()),
    })
}

/// Who presents the text of a session. It counts as a use of it.
///
/// # Errors
/// `SignIn` for an unknown, ended or idle one.
pub fn authenticate_session(control: &Control, text: &str) -> Result<Actor, ControlError> {
    let found = presented(control, text)?;
    let (id, now) = (found.id, Timestamp::now());
    if now.since(found.last_used_at) > LAST_USE_EVERY {
        // Losing this write shortens the session at worst, and a full disk must not lock people out.
        drop(control.write(|tx| {
            if let Some(mut current) = tx.get::<Session>(&id.to_string())? {
                current.row.last_used_at = now;
                tx.update_status(&current.row, store::Expect::Generation(current.generation))?;
            }
            Ok(())
        }));
    }
    Ok(Actor::User {
        user: found.user,
        session: id,
    })
}

/// That the text of a session still counts, without using it: what is open must not keep it alive.
///
/// # Errors
/// As [`authenticate_session`].
pub fn look_at_session(control: &Control, text: &str) -> Result<(), ControlError> {
    presented(control, text).map(drop)
}

fn presented(control: &Control, text: &str) -> Result<Session, ControlError> {
    let id = text
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.rsplit_once('_'))
        .and_then(|(id, _)| id.parse::<SessionId>().ok())
        .filter(|_| text.len() <= 200)
        .ok_or(ControlError::SignIn)?;
    let found = control.read(|tx| Ok(tx.get::<Session>(&id.to_string())?))?;
    let found = found.ok_or(ControlError::SignIn)?;
    let is_it = hash(text).as_bytes().ct_eq(found.row.hash.as_bytes());
    let now = Timestamp::now();
    let is_over = found.row.expires_at <= now || now.since(found.row.last_used_at) > IDLE;
    if !bool::from(is_it) || is_over && !planted::is(Defect::KeepsSessions) {
        return Err(ControlError::SignIn);
    }
    Ok(found.row)
}

/// The live sessions of the user who acts, newest use first.
///
/// # Errors
/// `SignIn` for who is no user; `Denied` for a token that is not for managing the account.
pub fn sessions(control: &Control, actor: &Actor) -> Result<Vec<Session>, ControlError> {
    let Some(user) = actor.user() else {
        return Ok(Vec::new());
    };
    control.read(|tx| {
        refuse_narrow(&Rights::of(tx, actor)?)?;
        let now = Timestamp::now();
        let all = tx
            .list::<Session>(&user.to_string())?
            .into_iter()
            .map(|found| found.row);
        let is_live = |session: &Session| session.expires_at > now && now.since(session.last_used_at) <= IDLE;
        let mut live: Vec<Session> = all.filter(is_live).collect();
        live.sort_by_key(|session| std::cmp::Reverse(session.last_used_at));
        Ok(live)
    })
}

/// Refuses what shows that it is not for managing the account.
pub(super) fn refuse_narrow(rights: &Rights) -> Result<(), ControlError> {
    match rights.manage_account() {
        true => Ok(()),
        false => Err(ControlError::Denied {
            action: Action::Administer,
        }),
    }
}

/// Ends a session of the user who acts.
///
/// # Errors
/// `NotFound` when it is not his; `Denied` for a token that is not for managing the account.
pub fn end_session(control: &Control, actor: &Actor, id: &str) -> Result<(), ControlError> {
    control.mutate(actor, "session.revoke", id, |tx| {
        refuse_narrow(&Rights::of(tx, actor)?)?;
        let found = tx.get::<Session>(id)?;
        let found = found.filter(|found| actor.user() == Some(found.row.user));
        let found = found.ok_or_else(|| authorize::missing("session", id))?;
        tx.delete::<Session>(&found.row.id.to_string(), store::Expect::Any)?;
        Ok(())
    })
}

/// That a session still is; its user's rights count by it.
pub(crate) fn refuse_ended(tx: &ReadTx, id: SessionId) -> Result<(), ControlError> {
    match tx.get::<Session>(&id.to_string())? {
        Some(_) => Ok(()),
        None => Err(ControlError::SignIn),
    }
}

/// Removes sessions that are over, invitations, and tokens that ended long ago.
pub(crate) fn collect(control: &Control, now: Timestamp) -> Result<(), ControlError> {
    let (sessions, invitations, tokens) = control.read(|tx| {
        let sessions = crate::transact::all::<Session>(tx)?.0;
        let invitations = crate::transact::all::<model::Invitation>(tx)?.0;
        Ok((sessions, invitations, super::tokens::stale(tx, now, TOKENS_KEPT)?))
    })?;
    let is_over = |session: &Session| session.expires_at <= now || now.since(session.last_used_at) > IDLE;
    let over: Vec<String> = sessions
        .iter()
        .filter(|session| is_over(session))
        .map(|session| session.id.to_string())
        .collect();
    let late: Vec<String> = invitations
        .iter()
        .filter(|invitation| invitation.expires_at <= now)
        .map(|invitation| invitation.id.to_string())
        .collect();
    if over.is_empty() && late.is_empty() && tokens.is_empty() {
        return Ok(());
    }
    control.write(|tx| {
        // What is damaged waits for its repair.
        let passed = |deleted: Result<(), store::StoreError>| {
            crate::transact::unless_corrupt(deleted.map_err(ControlError::from)).map(drop)
        };
        for id in &over {
            passed(tx.delete::<Session>(id, store::Expect::Any).map(drop))?;
        }
        for id in &late {
            passed(tx.delete::<model::Invitation>(id, store::Expect::Any).map(drop))?;
        }
        for id in &tokens {
            passed(tx.delete::<Token>(&id.to_string(), store::Expect::Any).map(drop))?;
        }
        Ok(())
    })
}
