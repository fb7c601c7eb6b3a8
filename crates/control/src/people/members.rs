//! Members and invitations: what users are in an org, a project or the whole installation.
//!
//! Invariant: nobody gives what he does not have; an org is never without its last owner by the hand of anybody but the
//! host's; an invitation is for one address, works once, and its text is never shown again.

use model::{
    Action, Actor, Email, Invitation, InvitationId, Membership, MembershipId, Millis, Realm, Role, Timestamp,
    User, UserId,
};
use store::secret::Secret;
use store::{ReadTx, Versioned, WriteTx};

use super::sessions::{self, SignedIn};
use super::{Source, hash, random_text, users};
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

/// A user in a place.
#[derive(Debug, Clone)]
pub struct Member {
    /// Who.
    pub user: User,
    /// As what, and since when.
    pub membership: Membership,
}

/// The place of an org or of a project in it.
fn realm(
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

/// Takes a member out. It counts from the next request on, and ends open streams.
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
        // Anybody may leave.
        let seen = realm(tx, &rights, Action::See, org, project)?;
        let user = known(tx, &rights, seen, user)?;
        if Some(user.id) != actor.user() {
            realm(tx, &rights, Action::Administer, org, project)?;
        }
        end(tx, actor, &rights, &user, seen)?;
        // Who is no longer in an org is no longer in its projects.
        if let Realm::Org { org } = seen {
            for found in tx.list::<Membership>(&user.id.to_string())? {
                if found.row.realm.org() == Some(org) {
                    tx.delete::<Membership>(&found.row.id.to_string(), store::Expect::Any)?;
                }
            }
        }
        Ok(())
    })
}

fn object(org: &str, project: Option<&str>, user: &str) -> String {
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

fn find(tx: &ReadTx, user: UserId, realm: Realm) -> Result<Option<Versioned<Membership>>, ControlError> {
    Ok(tx.find::<Membership>(&user.to_string(), &realm.key())?)
}

/// Sets a role somewhere.
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
    let Some(mut found) = find(tx, user.id, realm)? else {
        return grant(tx, user.id, realm, role, control.now_of(tx));
    };
    refuse_more(rights, realm, found.row.role)?;
    if role < Role::Owner {
        refuse_last_owner(tx, actor, &found.row)?;
    }
    if found.row.role != role {
        found.row.role = role;
        tx.update(&found.row, store::Expect::Generation(found.generation))?;
    }
    Ok(found.row)
}

/// Ends a membership.
pub(super) fn end(
    tx: &WriteTx,
    actor: &Actor,
    rights: &Rights,
    user: &User,
    realm: Realm,
) -> Result<(), ControlError> {
    let Some(found) = find(tx, user.id, realm)? else {
        return Err(authorize::missing("member", user.email.as_str()));
    };
    if actor.user() != Some(user.id) {
        refuse_more(rights, realm, found.row.role)?;
    }
    refuse_last_owner(tx, actor, &found.row)?;
    tx.delete::<Membership>(
        &found.row.id.to_string(),
        store::Expect::Generation(found.generation),
    )?;
    Ok(())
}

/// Nobody gives, changes or takes a role that is above his own.
fn refuse_more(rights: &Rights, realm: Realm, role: Role) -> Result<(), ControlError> {
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
        // Else an admin could become an owner by this way.
        for found in tx.list::<Membership>(&user.id.to_string())? {
            refuse_more(&rights, found.row.realm, found.row.role)?;
        }
        let realm = Realm::Installation;
        offer(control, tx, actor, &user.email, realm, None, RESET_LIFE)
    })
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

/// Who takes an invitation.
#[derive(Debug)]
pub struct Accepted {
    /// The text of the invitation.
    pub text: String,
    /// Name for people; needed from who is no user yet.
    pub name: Option<String>,
    /// The password he has, or from now on will have.
    pub password: Secret,
}

/// Takes an invitation: makes the user when there is none of that address, and signs him in. A user who is there shows
/// his password; one who was given a reset chooses a new one. Works once.
///
/// # Errors
/// `SignIn` for a text that is not (or no longer) good or a wrong password; `Invalid` for values that cannot be.
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
        is_live.then_some(found).ok_or(ControlError::SignIn)
    };
    let (invitation, user) = control.read(|tx| {
        let invitation = find_live(tx)?.row;
        let user = users::by_email(tx, &invitation.email)?.map(|found| found.row);
        Ok((invitation, user))
    })?;
    let kept = match (&user, invitation.role) {
        (Some(user), Some(_)) => {
            if !sessions::guess(control, &user.email, source, &accepted.password, Some(user))? {
                return Err(ControlError::SignIn);
            }
            None
        }
        (Some(user), None) => Some(users::keep(control, &user.email, &user.name, &accepted.password)?),
        (None, Some(_)) => {
            let name = accepted.name.as_deref().unwrap_or_default();
            Some(users::keep(control, &invitation.email, name, &accepted.password)?)
        }
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
                (None, None, Some(kept)) => {
                    let name = accepted.name.as_deref().unwrap_or_default();
                    users::insert(tx, &invitation.email, name, Some(kept), now)?
                }
                (Some(found), Some(seen), None) if found.row.password == seen.password => found.row,
                (Some(mut found), Some(_), Some(kept)) => {
                    found.row.password = Some(kept);
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
            grant(tx, user, invitation.realm, role, now)?;
        }
        Some(mut found) if found.row.role < role => {
            found.row.role = role;
            tx.update(&found.row, store::Expect::Generation(found.generation))?;
        }
        Some(_) => {}
    }
    Ok(())
}
