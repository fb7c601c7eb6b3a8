//! Members: what users are in an org, a project or the whole installation.
//!
//! Does not live here: how somebody becomes one by his own hand (`invitations`).
//! Invariant: nobody gives what he does not have; an org is never without its last owner by the hand of anybody but the
//! host's; what was taken away does not come back by an invitation from before.

use model::{Action, Actor, Email, Membership, MembershipId, Realm, Role, Timestamp, User, UserId};
use store::{ReadTx, Versioned, WriteTx};

use super::{invitations, users};
use crate::authorize::{self, Rights};
use crate::planted::{self, Defect};
use crate::{Control, ControlError};

/// A user in a place.
#[derive(Debug, Clone)]
pub struct Member {
    /// Who.
    pub user: User,
    /// As what, and since when.
    pub membership: Membership,
}

/// The place of an org or of a project in it.
pub(super) fn realm(
    tx: &ReadTx,
    rights: &Rights,
    action: Action,
    org: &str,
    project: Option<&str>,
) -> Result<Realm, ControlError> {
    match project {
        None => Ok(Realm::Org {
            org: rights.org(tx, action, org)?.row.id,
        }),
        Some(project) => {
            let (_, project) = rights.project(tx, action, org, project)?;
            Ok(authorize::realm_of(&project.row))
        }
    }
}

fn of_realm(tx: &ReadTx, realm: Realm) -> Result<Vec<Membership>, ControlError> {
    let all = tx.list_all::<Membership>()?.into_iter();
    let mut found: Vec<Membership> = all
        .map(|found| found.row)
        .filter(|membership| membership.realm == realm)
        .collect();
    found.sort_by_key(|membership| membership.id);
    Ok(found)
}

/// Who is a member of an org, or of a project in it.
///
/// # Errors
/// As the gate's.
pub fn members(
    control: &Control,
    actor: &Actor,
    org: &str,
    project: Option<&str>,
) -> Result<Vec<Member>, ControlError> {
    control.read(|tx| {
        let rights = Rights::of(tx, actor)?;
        let realm = realm(tx, &rights, Action::Read, org, project)?;
        let found = of_realm(tx, realm)?.into_iter();
        found
            .map(|membership| {
                let user = tx.need::<User>(&membership.user.to_string())?.row;
                Ok(Member { user, membership })
            })
            .collect()
    })
}

/// Makes a user a member, or gives a member another role. It counts from the next request on.
///
/// # Errors
/// As the gate's; `Denied` for more than the actor is himself; `State` for the last owner.
pub fn grant_member(
    control: &Control,
    actor: &Actor,
    org: &str,
    project: Option<&str>,
    user: &str,
    role: Role,
) -> Result<Member, ControlError> {
    control.mutate(actor, "member.update", &object(org, project, user), |tx| {
        let rights = Rights::of(tx, actor)?;
        let realm = realm(tx, &rights, Action::Administer, org, project)?;
        let user = known(tx, &rights, realm, user)?;
        let membership = change(control, tx, actor, &rights, &user, realm, role)?;
        Ok(Member { user, membership })
    })
}

/// Takes a member out of an org with its projects, or out of one project. It counts from the next request on, and ends open
/// streams; invitations that would undo it end too.
///
/// # Errors
/// As the gate's; `NotFound` for who is none; `State` for the last owner.
pub fn remove_member(
    control: &Control,
    actor: &Actor,
    org: &str,
    project: Option<&str>,
    user: &str,
) -> Result<(), ControlError> {
    control.mutate(actor, "member.remove", &object(org, project, user), |tx| {
        let rights = Rights::of(tx, actor)?;
        let hand = hand(tx, actor, &rights, user)?;
        // Anybody may leave. Who else is there is told only to who may send him away.
        let needed = match hand {
            Hand::Own => Action::See,
            Hand::Others => Action::Administer,
        };
        let place = realm(tx, &rights, needed, org, project)?;
        let user = known(tx, &rights, place, user)?;
        let mut there = tx.list::<Membership>(&user.id.to_string())?;
        there.retain(|found| place.covers(found.row.realm));
        if there.is_empty() {
            return Err(authorize::missing("member", user.email.as_str()));
        }
        // Who is no longer in an org is no longer in its projects.
        for found in there {
            end(tx, actor, &rights, hand, &found)?;
        }
        invitations::void(tx, &user, |invitation| place.covers(invitation.realm))
    })
}

/// Whose hand a membership ends by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hand {
    /// The member's own.
    Own,
    /// Somebody else's, or a token's that is not for managing the account.
    Others,
}

/// Whether `name` is who acts.
fn hand(tx: &ReadTx, actor: &Actor, rights: &Rights, name: &str) -> Result<Hand, ControlError> {
    let Some(id) = actor.user().filter(|_| rights.manage_account()) else {
        return Ok(Hand::Others);
    };
    let own = tx.need::<User>(&id.to_string())?.row;
    let is_own = match name.parse::<Email>() {
        Ok(email) => email == own.email,
        Err(_) => name == id.to_string(),
    };
    Ok(if is_own { Hand::Own } else { Hand::Others })
}

pub(super) fn object(org: &str, project: Option<&str>, user: &str) -> String {
    match project {
        Some(project) => format!("{org}/{project}/{user}"),
        None => format!("{org}/{user}"),
    }
}

/// A user whom the actor may know of: who is somewhere in the org, or anybody for who administers the installation.
fn known(tx: &ReadTx, rights: &Rights, realm: Realm, name: &str) -> Result<User, ControlError> {
    let found = users::find(tx, name)?.row;
    let own = tx.list::<Membership>(&found.id.to_string())?;
    let is_near = own.iter().any(|one| one.row.realm.org() == realm.org());
    if is_near || rights.allow(Action::Administer, Realm::Installation) {
        Ok(found)
    } else {
        Err(authorize::missing("user", name))
    }
}

pub(super) fn grant(
    tx: &WriteTx,
    user: UserId,
    realm: Realm,
    role: Role,
    now: Timestamp,
) -> Result<Membership, ControlError> {
    let membership = Membership {
        id: MembershipId::fresh(),
        user,
        realm,
        role,
        created_at: now,
    };
    tx.insert(&membership)?;
    Ok(membership)
}

pub(super) fn find(
    tx: &ReadTx,
    user: UserId,
    realm: Realm,
) -> Result<Option<Versioned<Membership>>, ControlError> {
    Ok(tx.find::<Membership>(&user.to_string(), &realm.key())?)
}

/// Sets a role somewhere. An invitation to that place has nothing to say any more.
pub(super) fn change(
    control: &Control,
    tx: &WriteTx,
    actor: &Actor,
    rights: &Rights,
    user: &User,
    realm: Realm,
    role: Role,
) -> Result<Membership, ControlError> {
    refuse_more(rights, realm, role)?;
    let membership = match find(tx, user.id, realm)? {
        None => grant(tx, user.id, realm, role, control.now_of(tx))?,
        Some(mut found) => {
            refuse_above(rights, realm, found.row.role)?;
            if role < Role::Owner {
                refuse_last_owner(tx, actor, &found.row)?;
            }
            if found.row.role != role {
                found.row.role = role;
                tx.update(&found.row, store::Expect::Generation(found.generation))?;
            }
            found.row
        }
    };
    invitations::void(tx, user, |invitation| {
        invitation.realm == realm && invitation.role.is_some()
    })?;
    Ok(membership)
}

/// Ends what a user is to the whole installation.
pub(super) fn end_in_installation(
    tx: &WriteTx,
    actor: &Actor,
    rights: &Rights,
    user: &User,
) -> Result<(), ControlError> {
    let found = find(tx, user.id, Realm::Installation)?
        .ok_or_else(|| authorize::missing("member", user.email.as_str()))?;
    let hand = hand(tx, actor, rights, &user.id.to_string())?;
    end(tx, actor, rights, hand, &found)?;
    invitations::void(tx, user, |invitation| {
        invitation.realm == Realm::Installation && invitation.role.is_some()
    })
}

/// Ends a membership.
pub(super) fn end(
    tx: &WriteTx,
    actor: &Actor,
    rights: &Rights,
    hand: Hand,
    found: &Versioned<Membership>,
) -> Result<(), ControlError> {
    if hand == Hand::Others {
        refuse_above(rights, found.row.realm, found.row.role)?;
    }
    refuse_last_owner(tx, actor, &found.row)?;
    tx.delete::<Membership>(
        &found.row.id.to_string(),
        store::Expect::Generation(found.generation),
    )?;
    Ok(())
}

/// Nobody gives a role that is above his own, and no token one that is more than what it lets pass.
pub(super) fn refuse_more(rights: &Rights, realm: Realm, role: Role) -> Result<(), ControlError> {
    if rights.may_give(role, realm) || planted::is(Defect::GivesMoreThanItHas) {
        return Ok(());
    }
    Err(ControlError::Denied {
        action: Action::Administer,
    })
}

/// Nobody changes or takes a role that is above his own.
fn refuse_above(rights: &Rights, realm: Realm, role: Role) -> Result<(), ControlError> {
    if rights.role(realm) >= Some(role) || planted::is(Defect::GivesMoreThanItHas) {
        return Ok(());
    }
    Err(ControlError::Denied {
        action: Action::Administer,
    })
}

/// The host's root may do even this: it is how somebody comes back.
fn refuse_last_owner(tx: &ReadTx, actor: &Actor, going: &Membership) -> Result<(), ControlError> {
    if going.role < Role::Owner
        || matches!(going.realm, Realm::Project { .. })
        || matches!(actor, Actor::HostRoot { .. } | Actor::System)
        || planted::is(Defect::ForgetsLastOwner)
    {
        return Ok(());
    }
    let all = of_realm(tx, going.realm)?;
    if all
        .iter()
        .any(|other| other.role == Role::Owner && other.id != going.id)
    {
        return Ok(());
    }
    Err(ControlError::State {
        message: "this is the last owner there".to_owned(),
        next_step: "make somebody else owner first: stoa members set EMAIL --role owner".to_owned(),
    })
}
