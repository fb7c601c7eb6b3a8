//! Invitations: how somebody becomes a member, or chooses a new password, by his own hand.
//!
//! Does not live here: what members are (`members`).
//! Invariant: an invitation is for one address, works once, and its text is never shown again; it is worth what its maker
//! may give when it is taken, and ends with what it would undo.

use model::{
    Action, Actor, Email, Invitation, InvitationId, Membership, Millis, Org, Project, Realm, Role, Timestamp,
    User, UserId,
};
use store::secret::Secret;
use store::{ReadTx, WriteTx};

use super::members::{self, find, object, realm, refuse_more};
use super::sessions::{self, SignedIn};
use super::{Source, hash, password, random_text, users};
use crate::authorize::{self, Rights};
use crate::planted::{self, Defect};
use crate::{Control, ControlError};

/// What the text of an invitation begins with.
const INVITATION_PREFIX: &str = "stoa_inv_";
/// How long an invitation is good for.
const INVITATION_LIFE: Millis = Millis::seconds(7 * 24 * 3600);
/// How long a text that sets a new password is good for.
const RESET_LIFE: Millis = Millis::seconds(24 * 3600);
/// Open invitations of one place.
const INVITATIONS_MAX: usize = 200;

/// Open invitations to an org and its projects, or with no org to the installation; never their text.
///
/// # Errors
/// As the gate's.
pub fn invitations(
    control: &Control,
    actor: &Actor,
    org: Option<&str>,
) -> Result<Vec<Invitation>, ControlError> {
    control.read(|tx| {
        let realm = of_invitations(tx, actor, org)?;
        let all = tx.list::<Invitation>("")?.into_iter().map(|found| found.row);
        let mut found: Vec<Invitation> = all.filter(|one| one.realm.org() == realm.org()).collect();
        found.sort_by_key(|invitation| invitation.id);
        Ok(found)
    })
}

fn of_invitations(tx: &ReadTx, actor: &Actor, org: Option<&str>) -> Result<Realm, ControlError> {
    let rights = Rights::of(tx, actor)?;
    match org {
        Some(org) => realm(tx, &rights, Action::Administer, org, None),
        None => {
            rights.demand(Action::Administer, Realm::Installation, "installation", "")?;
            Ok(Realm::Installation)
        }
    }
}

/// Invites an address to an org, to a project in it, or (without an org) to the installation. The text is given this
/// once, for whoever has that address; an earlier invitation of it to that place ends.
///
/// # Errors
/// As the gate's; `Denied` for more than the actor is himself; `Taken` for who is a member; `State` for too many.
pub fn invite(
    control: &Control,
    actor: &Actor,
    org: Option<&str>,
    project: Option<&str>,
    email: &Email,
    role: Role,
) -> Result<(Invitation, Secret), ControlError> {
    let place = org.map_or_else(String::new, |org| object(org, project, ""));
    control.mutate(actor, "invitation.create", &format!("{place}{email}"), |tx| {
        let rights = Rights::of(tx, actor)?;
        let realm = match (org, project) {
            (Some(org), Some(project)) => realm(tx, &rights, Action::Administer, org, Some(project))?,
            (org, _) => of_invitations(tx, actor, org)?,
        };
        refuse_more(&rights, realm, role)?;
        if let Some(user) = users::by_email(tx, email)?
            && find(tx, user.row.id, realm)?.is_some()
        {
            return Err(ControlError::Taken {
                kind: "member",
                name: email.to_string(),
            });
        }
        offer(control, tx, actor, email, realm, Some(role), INVITATION_LIFE)
    })
}

/// A text that lets a user choose a new password, this once.
///
/// # Errors
/// As the gate's; `NotFound` for who is no user; `Denied` for who may do more than the actor.
pub fn invite_reset(
    control: &Control,
    actor: &Actor,
    user: &str,
) -> Result<(Invitation, Secret), ControlError> {
    control.mutate(actor, "user.reset", user, |tx| {
        let rights = Rights::of(tx, actor)?;
        rights.demand(Action::Administer, Realm::Installation, "installation", "")?;
        let user = users::find(tx, user)?.row;
        refuse_reset(tx, &rights, &user)?;
        let realm = Realm::Installation;
        offer(control, tx, actor, &user.email, realm, None, RESET_LIFE)
    })
}

/// Who chooses somebody's password has all that he is: else an admin, or a token of less, could become an owner by this way.
fn refuse_reset(tx: &ReadTx, rights: &Rights, user: &User) -> Result<(), ControlError> {
    for found in tx.list::<Membership>(&user.id.to_string())? {
        refuse_more(rights, found.row.realm, found.row.role)?;
    }
    Ok(())
}

fn offer(
    control: &Control,
    tx: &WriteTx,
    actor: &Actor,
    email: &Email,
    realm: Realm,
    role: Option<Role>,
    life: Millis,
) -> Result<(Invitation, Secret), ControlError> {
    let now = control.now_of(tx);
    let mut beside = 0;
    for old in tx.list::<Invitation>("")? {
        let is_same =
            old.row.email == *email && old.row.realm == realm && old.row.role.is_none() == role.is_none();
        if is_same || old.row.expires_at <= now {
            tx.delete::<Invitation>(&old.row.id.to_string(), store::Expect::Any)?;
        } else if old.row.realm.org() == realm.org() {
            beside += 1;
        }
    }
    if beside >= INVITATIONS_MAX {
        return Err(ControlError::State {
            message: format!("there are {INVITATIONS_MAX} open invitations already"),
            next_step: "end those that nobody takes: stoa members invitations".to_owned(),
        });
    }
    let text = random_text(INVITATION_PREFIX)?;
    let invitation = Invitation {
        id: InvitationId::fresh(),
        hash: hash(&text),
        email: email.clone(),
        realm,
        role,
        by: actor.describe(),
        maker: Some(actor.clone()),
        created_at: now,
        expires_at: now.plus(life),
    };
    tx.insert(&invitation)?;
    Ok((invitation, Secret::new(text.into_bytes())))
}

/// Ends an open invitation.
///
/// # Errors
/// As the gate's.
pub fn revoke_invitation(
    control: &Control,
    actor: &Actor,
    org: Option<&str>,
    id: &str,
) -> Result<(), ControlError> {
    control.mutate(actor, "invitation.revoke", id, |tx| {
        let realm = of_invitations(tx, actor, org)?;
        let found = tx.get::<Invitation>(id)?;
        let found = found.filter(|found| found.row.realm.org() == realm.org());
        let found = found.ok_or_else(|| authorize::missing("invitation", id))?;
        tx.delete::<Invitation>(&found.row.id.to_string(), store::Expect::Any)?;
        Ok(())
    })
}

/// Ends the open invitations of a user's address that `is_over` names, and those he made that are worth nothing now.
pub(super) fn void(
    tx: &WriteTx,
    user: &User,
    is_over: impl Fn(&Invitation) -> bool,
) -> Result<(), ControlError> {
    let own = format!("user:{}", user.id);
    for found in tx.list::<Invitation>("")? {
        let invitation = &found.row;
        let is_for_him = invitation.email == user.email && is_over(invitation);
        let is_by_him = invitation.by.split(' ').next() == Some(own.as_str());
        // Of one from an earlier version it is not known what it was made with.
        if is_for_him || is_by_him && (invitation.maker.is_none() || !is_worth(tx, invitation)?) {
            tx.delete::<Invitation>(&invitation.id.to_string(), store::Expect::Any)?;
        }
    }
    Ok(())
}

/// Whether its maker may give now what an invitation promises, and the place is still there.
pub(super) fn is_worth(tx: &ReadTx, invitation: &Invitation) -> Result<bool, ControlError> {
    let is_there = match invitation.realm {
        Realm::Installation => true,
        Realm::Org { org } => tx.get::<Org>(&org.to_string())?.is_some(),
        Realm::Project { project, .. } => tx.get::<Project>(&project.to_string())?.is_some(),
    };
    let Some(maker) = invitation.maker.as_ref().filter(|_| is_there) else {
        return Ok(is_there);
    };
    let rights = match Rights::of_maker(tx, maker) {
        Err(ControlError::SignIn) => return Ok(false),
        rights => rights?,
    };
    let given = match (invitation.role, users::by_email(tx, &invitation.email)?) {
        _ if !rights.allow(Action::Administer, invitation.realm) => return Ok(false),
        (Some(role), _) => refuse_more(&rights, invitation.realm, role),
        (None, Some(user)) => refuse_reset(tx, &rights, &user.row),
        (None, None) => return Ok(false),
    };
    match given {
        Ok(()) => Ok(true),
        Err(ControlError::Denied { .. }) => Ok(false),
        Err(cause) => Err(cause),
    }
}

/// Who takes an invitation.
#[derive(Debug)]
pub struct Accepted {
    /// The text of the invitation.
    pub text: String,
    /// Name for people, for who is no user yet; without it, the part of the address before the `@`.
    pub name: Option<String>,
    /// The password he has, or from now on will have.
    pub password: Secret,
}

/// Takes an invitation: makes the user when there is none of that address, and signs him in. A user who is there shows
/// his password; one who was given a reset chooses a new one. Works once.
///
/// # Errors
/// `SignIn` for a text that is not (or no longer) good or a wrong password; `Invalid` for values that cannot be, whether or
/// not there is a user: who invites an address must not learn by that whether it has an account.
pub fn accept(
    control: &Control,
    accepted: &Accepted,
    source: &Source,
    agent: &str,
) -> Result<SignedIn, ControlError> {
    let presented = hash(&accepted.text);
    let find_live = |tx: &ReadTx| -> Result<_, ControlError> {
        let found = tx
            .find::<Invitation>("", &presented)?
            .ok_or(ControlError::SignIn)?;
        let is_live = found.row.expires_at > Timestamp::now() || planted::is(Defect::InvitesForEver);
        let is_good = is_live && is_worth(tx, &found.row)?;
        is_good.then_some(found).ok_or(ControlError::SignIn)
    };
    let (invitation, user) = control.read(|tx| {
        let invitation = find_live(tx)?.row;
        let user = users::by_email(tx, &invitation.email)?.map(|found| found.row);
        Ok((invitation, user))
    })?;
    let name = name_of(accepted, &invitation.email);
    users::check_name(&name)?;
    password::refuse_weak(&accepted.password, &invitation.email, "/password")?;
    let hash = || control.door.hasher.hash(&accepted.password);
    let kept = match (&user, invitation.role) {
        (Some(user), Some(_)) => {
            if !sessions::guess(control, &user.email, source, &accepted.password, Some(user))? {
                return Err(ControlError::SignIn);
            }
            None
        }
        (Some(_), None) | (None, Some(_)) => Some(hash()?),
        (None, None) => return Err(ControlError::SignIn),
    };
    control.mutate(
        &Actor::System,
        "invitation.accept",
        invitation.email.as_str(),
        |tx| {
            // Somebody else may have taken it, or become this user, meanwhile.
            let live = find_live(tx)?.row;
            let now = control.now_of(tx);
            let current = users::by_email(tx, &invitation.email)?;
            let user = match (current, &user, kept) {
                (None, None, Some(kept)) => users::insert(tx, &invitation.email, &name, Some(kept), now)?,
                (Some(found), Some(seen), None) if found.row.password == seen.password => found.row,
                (Some(mut found), Some(_), Some(kept)) => {
                    found.row.password = Some(kept);
                    // Who had the old one may have used it from somewhere.
                    found.row.familiar.clear();
                    tx.update(&found.row, store::Expect::Generation(found.generation))?;
                    users::end_sessions(tx, found.row.id, None)?;
                    found.row
                }
                _changed => return Err(ControlError::SignIn),
            };
            join(tx, user.id, &live, now)?;
            sessions::open(tx, &user, source, agent, now)
        },
    )
}

fn name_of(accepted: &Accepted, email: &Email) -> String {
    let given = accepted.name.as_deref().filter(|name| !name.trim().is_empty());
    let own = email.as_str().split('@').next().unwrap_or_default();
    given.unwrap_or(own).to_owned()
}

/// Makes what an invitation promises, and ends it.
pub(super) fn join(
    tx: &WriteTx,
    user: UserId,
    invitation: &Invitation,
    now: Timestamp,
) -> Result<(), ControlError> {
    tx.delete::<Invitation>(&invitation.id.to_string(), store::Expect::Any)?;
    let Some(role) = invitation.role else {
        return Ok(());
    };
    match find(tx, user, invitation.realm)? {
        None => {
            members::grant(tx, user, invitation.realm, role, now)?;
        }
        Some(mut found) if found.row.role < role => {
            found.row.role = role;
            tx.update(&found.row, store::Expect::Generation(found.generation))?;
        }
        Some(_) => {}
    }
    Ok(())
}
