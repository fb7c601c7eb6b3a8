//! Users: who can sign in, their names and passwords.
//!
//! Lives here: accounts. Does not live here: what a user is where (`members`), signing in (`sessions`).
//! Invariant: who is removed is out with that commit: memberships, sessions and tokens end in the same transaction.

use model::{Action, Actor, Email, Membership, Realm, Role, Session, Timestamp, User, UserId};
use store::secret::Secret;
use store::{ReadTx, Versioned, WriteTx};

use super::{invitations, members, password, tokens};
use crate::authorize::{self, Rights};
use crate::{Control, ControlError};

/// A user, and what he is.
#[derive(Debug, Clone)]
pub struct Account {
    /// Who.
    pub user: User,
    /// What he is where.
    pub memberships: Vec<Membership>,
}

/// Checks and hashes what a new user is to be kept with. Outside of any transaction: it takes its time.
pub(super) fn keep(
    control: &Control,
    email: &Email,
    name: &str,
    password: &Secret,
) -> Result<String, ControlError> {
    check_name(name)?;
    password::refuse_weak(password, email, "/password")?;
    control.door.hasher.hash(password)
}

/// A name for people.
pub(super) fn check_name(name: &str) -> Result<(), ControlError> {
    // Marks that turn the direction of writing make a name look like another one.
    let is_odd = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if name.trim().is_empty() || name.chars().count() > 80 || name.chars().any(is_odd) {
        return Err(ControlError::invalid(
            "/name",
            "1 to 80 characters without control characters",
        ));
    }
    Ok(())
}

pub(super) fn insert(
    tx: &WriteTx,
    email: &Email,
    name: &str,
    password: Option<String>,
    now: Timestamp,
) -> Result<User, ControlError> {
    let user = User {
        id: UserId::fresh(),
        email: email.clone(),
        name: name.to_owned(),
        password,
        created_at: now,
        familiar: Vec::new(),
    };
    tx.insert(&user)?;
    Ok(user)
}

pub(super) fn by_email(tx: &ReadTx, email: &Email) -> Result<Option<Versioned<User>>, ControlError> {
    Ok(tx.find::<User>("", email.as_str())?)
}

/// A user by id or address.
pub(super) fn find(tx: &ReadTx, name: &str) -> Result<Versioned<User>, ControlError> {
    let found = match name.parse::<UserId>() {
        Ok(_) => tx.get::<User>(name)?,
        Err(_) => match name.parse::<Email>() {
            Ok(email) => by_email(tx, &email)?,
            Err(_) => None,
        },
    };
    found.ok_or_else(|| authorize::missing("user", name))
}

pub(super) fn account(tx: &ReadTx, user: User) -> Result<Account, ControlError> {
    let own = tx.list::<Membership>(&user.id.to_string())?.into_iter();
    Ok(Account {
        user,
        memberships: own.map(|found| found.row).collect(),
    })
}

/// All users.
///
/// # Errors
/// As the gate's.
pub fn users(control: &Control, actor: &Actor) -> Result<Vec<Account>, ControlError> {
    control.read(|tx| {
        authorize::installation(tx, actor, Action::Administer)?;
        let all = tx.list::<User>("")?.into_iter();
        all.map(|found| account(tx, found.row)).collect()
    })
}

/// One user, by id or address.
///
/// # Errors
/// As the gate's.
pub fn user(control: &Control, actor: &Actor, name: &str) -> Result<Account, ControlError> {
    control.read(|tx| {
        authorize::installation(tx, actor, Action::Administer)?;
        account(tx, find(tx, name)?.row)
    })
}

/// The user who acts, and what he is as far as the token in use lets pass: it is nobody's business where else he is something.
///
/// # Errors
/// When the store cannot be read.
pub fn own(control: &Control, actor: &Actor) -> Result<Option<Account>, ControlError> {
    let Some(id) = actor.user() else {
        return Ok(None);
    };
    control.read(|tx| match tx.get::<User>(&id.to_string())? {
        Some(found) => {
            let rights = Rights::of(tx, actor)?;
            let mut account = account(tx, found.row)?;
            account.memberships.retain(|one| rights.role(one.realm).is_some());
            Ok(Some(account))
        }
        None => Err(ControlError::SignIn),
    })
}

/// What a user is to the whole installation; `None` ends that.
///
/// # Errors
/// As the gate's; `Denied` for more than the actor is himself; `State` for the last owner.
pub fn set_role(
    control: &Control,
    actor: &Actor,
    name: &str,
    role: Option<Role>,
) -> Result<Account, ControlError> {
    control.mutate(actor, "user.update", name, |tx| {
        authorize::installation(tx, actor, Action::Administer)?;
        let user = find(tx, name)?.row;
        let rights = Rights::of(tx, actor)?;
        match role {
            Some(role) => {
                members::change(control, tx, actor, &rights, &user, Realm::Installation, role)?;
            }
            None => members::end_in_installation(tx, actor, &rights, &user)?,
        }
        account(tx, user)
    })
}

/// Removes a user, with all he was and all that let him in.
///
/// # Errors
/// As the gate's; `State` for the last owner of something.
pub fn delete_user(control: &Control, actor: &Actor, name: &str) -> Result<(), ControlError> {
    control.mutate(actor, "user.delete", name, |tx| {
        authorize::installation(tx, actor, Action::Administer)?;
        let user = find(tx, name)?.row;
        let rights = Rights::of(tx, actor)?;
        for found in tx.list::<Membership>(&user.id.to_string())? {
            members::end(tx, actor, &rights, members::Hand::Others, &found)?;
        }
        end_sessions(tx, user.id, None)?;
        let now = control.now_of(tx);
        tokens::revoke(tx, now, |token| token.user == Some(user.id))?;
        invitations::void(tx, &user, |_| true)?;
        super::oidc::forget(tx, user.id)?;
        tx.delete::<User>(&user.id.to_string(), store::Expect::Any)?;
        Ok(())
    })
}

/// Another password for the user who acts. His other sessions end; tokens are for him to revoke.
///
/// # Errors
/// `Denied` for anything but a session; `Invalid` for a wrong or weak password; `Guessed` after too many wrong ones.
pub fn change_password(
    control: &Control,
    actor: &Actor,
    source: &super::Source,
    current: &Secret,
    new: &Secret,
) -> Result<(), ControlError> {
    let Actor::User { user, session } = actor else {
        // A token that leaked must not become its maker.
        return Err(ControlError::Denied {
            action: Action::Administer,
        });
    };
    let found = control
        .read(|tx| Ok(tx.get::<User>(&user.to_string())?))?
        .ok_or(ControlError::SignIn)?
        .row;
    let changed =
        super::sessions::guess(control, &found.email, source, current, Some(&found)).and_then(|is_right| {
            match is_right {
                true => {
                    password::refuse_weak(new, &found.email, "/new")?;
                    control.door.hasher.hash(new)
                }
                false => Err(ControlError::invalid("/current", "is not your password")),
            }
        });
    let kept = control.audited(actor, "password.change", found.email.as_str(), changed)?;
    control.mutate(actor, "password.change", found.email.as_str(), |tx| {
        let mut now = tx.need::<User>(&user.to_string())?;
        if now.row.password != found.password {
            return Err(ControlError::invalid("/current", "was changed meanwhile"));
        }
        now.row.password = Some(kept);
        now.row.familiar.retain(|one| one.source == source.as_str());
        tx.update(&now.row, store::Expect::Generation(now.generation))?;
        // Whoever holds a text that sets another one is kept out as well.
        invitations::void(tx, &now.row, |invitation| invitation.role.is_none())?;
        end_sessions(tx, *user, Some(*session))
    })
}

/// Ends the sessions of a user, but for one.
pub(super) fn end_sessions(
    tx: &WriteTx,
    user: UserId,
    but: Option<model::SessionId>,
) -> Result<(), ControlError> {
    for found in tx.list::<Session>(&user.to_string())? {
        if Some(found.row.id) != but {
            tx.delete::<Session>(&found.row.id.to_string(), store::Expect::Any)?;
        }
    }
    Ok(())
}
