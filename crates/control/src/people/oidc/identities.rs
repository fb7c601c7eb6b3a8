//! Who of ours somebody of a provider is.
//!
//! Invariant: found by issuer and subject only. The link is made with the password of who is there, or together with the
//! user, from an open invitation of exactly the address that the provider has verified.

use model::{
    Action, Actor, Email, Identity, IdentityId, IdentityProvider, Invitation, ProviderId, Timestamp, User,
    UserId,
};
use store::secret::Secret;
use store::{ReadTx, WriteTx};

use super::way::fetch;
use crate::authorize::{self, Rights};
use crate::people::sessions::{self, SignedIn};
use crate::people::{Source, invitations, own, users};
use crate::{Control, ControlError};

pub(super) fn forget_people(tx: &WriteTx, provider: ProviderId) -> Result<(), ControlError> {
    for found in tx.list::<Identity>(&provider.to_string())? {
        tx.delete::<Identity>(&found.row.id.to_string(), store::Expect::Any)?;
        users::end_sessions(tx, found.row.user, None)?;
    }
    Ok(())
}

/// Ends the links of a user who is removed.
pub(in crate::people) fn forget(tx: &WriteTx, user: UserId) -> Result<(), ControlError> {
    for (_, found) in of_user(tx, user)? {
        tx.delete::<Identity>(&found.id.to_string(), store::Expect::Any)?;
    }
    Ok(())
}

fn of_user(tx: &ReadTx, user: UserId) -> Result<Vec<(IdentityProvider, Identity)>, ControlError> {
    let mut own = Vec::new();
    for provider in tx.list::<IdentityProvider>("")? {
        let all = tx.list::<Identity>(&provider.row.id.to_string())?;
        let his = all
            .into_iter()
            .map(|found| found.row)
            .filter(|one| one.user == user);
        own.extend(his.map(|identity| (provider.row.clone(), identity)));
    }
    Ok(own)
}

/// Signs in whom a provider has named.
pub(super) fn sign_in(
    control: &Control,
    provider: &IdentityProvider,
    identity: &oidc::Identity,
    source: &Source,
    agent: &str,
) -> Result<SignedIn, ControlError> {
    let object = format!("{}/{}", provider.name, identity.subject);
    let known = control.read(|tx| Ok(tx.find::<Identity>(&provider.id.to_string(), &identity.subject)?))?;
    let action = match known {
        Some(_) => "session.create",
        None => "invitation.accept",
    };
    control.mutate(&Actor::System, action, &object, |tx| {
        refuse_changed(tx, provider)?;
        let now = control.now_of(tx);
        let user = who(tx, provider, identity, now)?;
        sessions::open(tx, &user, source, agent, now)
    })
}

/// The provider may have been removed, or become another one, since somebody was named.
fn refuse_changed(tx: &ReadTx, seen: &IdentityProvider) -> Result<(), ControlError> {
    let current = tx.get::<IdentityProvider>(&seen.id.to_string())?;
    match current {
        Some(current) if current.row.issuer == seen.issuer => Ok(()),
        Some(_) | None => Err(ControlError::SignIn),
    }
}

/// Who of ours somebody of a provider is. He joins what his address was invited to.
fn who(
    tx: &WriteTx,
    provider: &IdentityProvider,
    identity: &oidc::Identity,
    now: Timestamp,
) -> Result<User, ControlError> {
    let email = identity.verified_email.as_deref();
    let email = email.and_then(|email| email.parse::<Email>().ok());
    let linked = tx.find::<Identity>(&provider.id.to_string(), &identity.subject)?;
    let Some(linked) = linked else {
        return newcomer(
            tx,
            provider,
            identity,
            &email.ok_or(ControlError::NotLinked)?,
            now,
        );
    };
    let user = tx.get::<User>(&linked.row.user.to_string())?;
    let user = user.ok_or(ControlError::SignIn)?.row;
    // Who has no password here could take no other invitation.
    if email.as_ref() == Some(&user.email) {
        for invitation in invited(tx, &user.email, now)? {
            invitations::join(tx, user.id, &invitation, now)?;
        }
    }
    Ok(user)
}

/// The user that somebody becomes who was invited, and is linked from now on.
fn newcomer(
    tx: &WriteTx,
    provider: &IdentityProvider,
    identity: &oidc::Identity,
    email: &Email,
    now: Timestamp,
) -> Result<User, ControlError> {
    let invited = invited(tx, email, now)?;
    // Whoever decides about addresses at the provider must not become somebody who is here already.
    if invited.is_empty() || users::by_email(tx, email)?.is_some() {
        return Err(ControlError::NotLinked);
    }
    let name = identity.name.as_deref();
    let name = name.filter(|name| users::check_name(name).is_ok());
    let user = users::insert(tx, email, name.unwrap_or(email.as_str()), None, now)?;
    for invitation in invited {
        invitations::join(tx, user.id, &invitation, now)?;
    }
    insert(tx, provider, &identity.subject, user.id, now)?;
    Ok(user)
}

/// The open invitations of an address that are worth what they promise.
fn invited(tx: &ReadTx, email: &Email, now: Timestamp) -> Result<Vec<Invitation>, ControlError> {
    let mut invited = Vec::new();
    for found in tx.list::<Invitation>("")? {
        let invitation = found.row;
        let is_open = invitation.email == *email && invitation.role.is_some() && invitation.expires_at > now;
        if is_open && invitations::is_worth(tx, &invitation)? {
            invited.push(invitation);
        }
    }
    Ok(invited)
}

fn insert(
    tx: &WriteTx,
    provider: &IdentityProvider,
    subject: &str,
    user: UserId,
    now: Timestamp,
) -> Result<Identity, ControlError> {
    let identity = Identity {
        id: IdentityId::fresh(),
        provider: provider.id,
        subject: subject.to_owned(),
        user,
        created_at: now,
    };
    tx.insert(&identity)?;
    Ok(identity)
}

/// Links whom a provider has named with the user who acts, from now on. It asks for his password: a token that leaked must
/// not become a way in that outlives it.
///
/// # Errors
/// `Denied` for who is no user or has no password, and for a token that is not for managing the account; `Invalid` for a wrong one; `SignIn` for a code that is not good;
/// `Taken` when it is linked already.
pub fn link(
    control: &Control,
    actor: &Actor,
    (code, verifier): (&str, &str),
    password: &Secret,
    source: &Source,
) -> Result<(IdentityProvider, Identity), ControlError> {
    let checked = control.read(|tx| sessions::refuse_narrow(&Rights::of(tx, actor)?));
    let checked = checked.and_then(|()| own(control, actor)).and_then(|own| {
        let user = own.map(|account| account.user);
        let user = user.filter(|user| user.password.is_some());
        let user = user.ok_or(ControlError::Denied {
            action: Action::Administer,
        })?;
        match sessions::guess(control, &user.email, source, password, Some(&user))? {
            true => Ok((user, fetch(control, code, verifier)?)),
            false => Err(ControlError::invalid("/password", "is not your password")),
        }
    });
    let (user, proven) = control.audited(actor, "identity.link", "", checked)?;
    let object = format!("{}/{}", proven.provider.name, proven.identity.subject);
    control.mutate(actor, "identity.link", &object, |tx| {
        sessions::refuse_narrow(&Rights::of(tx, actor)?)?;
        refuse_changed(tx, &proven.provider)?;
        let current = tx.get::<User>(&user.id.to_string())?;
        if current.is_none_or(|current| current.row.password != user.password) {
            return Err(ControlError::SignIn);
        }
        let parent = proven.provider.id.to_string();
        if tx.find::<Identity>(&parent, &proven.identity.subject)?.is_some() {
            return Err(ControlError::Taken {
                kind: "identity",
                name: object.clone(),
            });
        }
        let now = control.now_of(tx);
        let identity = insert(tx, &proven.provider, &proven.identity.subject, user.id, now)?;
        Ok((proven.provider.clone(), identity))
    })
}

/// The links of the user who acts.
///
/// # Errors
/// `SignIn` for who was removed; `Denied` for a token that is not for managing the account.
pub fn identities(
    control: &Control,
    actor: &Actor,
) -> Result<Vec<(IdentityProvider, Identity)>, ControlError> {
    let Some(user) = actor.user() else {
        return Ok(Vec::new());
    };
    control.read(|tx| {
        sessions::refuse_narrow(&Rights::of(tx, actor)?)?;
        of_user(tx, user)
    })
}

/// Ends a link of the user who acts.
///
/// # Errors
/// `NotFound` when it is not his; `State` for the only way in; `Denied` for a token that is not for managing the account.
pub fn unlink(control: &Control, actor: &Actor, id: &str) -> Result<(), ControlError> {
    control.mutate(actor, "identity.unlink", id, |tx| {
        sessions::refuse_narrow(&Rights::of(tx, actor)?)?;
        let found = tx.get::<Identity>(id)?;
        let found = found.filter(|found| actor.user() == Some(found.row.user));
        let found = found.ok_or_else(|| authorize::missing("identity", id))?;
        let user = tx.need::<User>(&found.row.user.to_string())?.row;
        if user.password.is_none() && of_user(tx, user.id)?.len() == 1 {
            return Err(ControlError::State {
                message: "you would have no way to sign in".to_owned(),
                next_step: "an owner gives you a password first: stoa users reset EMAIL".to_owned(),
            });
        }
        tx.delete::<Identity>(&found.row.id.to_string(), store::Expect::Any)?;
        Ok(())
    })
}
