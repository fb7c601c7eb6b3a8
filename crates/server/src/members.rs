//! Users, members and invitations.

use api::{
    AcceptInvitation, CreateInvitation, CreateUserInvitation, Grant, InvitationPage, IssuedInvitation,
    MemberPage, PutRole, Role, UserPage,
};
use control::Secret;
use control::people::{self, Accepted, Account, Member};
use model::{Email, Invitation, Realm};

use crate::answer::Reply;
use crate::call::Call;
use crate::pages;
use crate::people::{model_role, wire_role};
use crate::refusal::Refusal;
use crate::sessions::signed_in;

pub(crate) fn user_list(call: &Call) -> Result<Reply, Refusal> {
    let all = people::users(call.control(), call.actor()?)?;
    let (page, next_page) = pages::cut(call, all, |account| account.user.id.to_string())?;
    Reply::ok(&UserPage {
        items: page.iter().map(wire_user).collect(),
        next_page,
    })
}

pub(crate) fn user_view(call: &Call) -> Result<Reply, Refusal> {
    let found = people::user(call.control(), call.actor()?, call.parameter("user")?)?;
    Reply::ok(&wire_user(&found))
}

pub(crate) fn user_delete(call: &Call) -> Result<Reply, Refusal> {
    people::delete_user(call.control(), call.actor()?, call.parameter("user")?)?;
    Ok(Reply::Empty)
}

pub(crate) fn user_role_put(call: &Call) -> Result<Reply, Refusal> {
    let body: PutRole = call.needed_body()?;
    let role = Some(model_role(body.role));
    let found = people::set_role(call.control(), call.actor()?, call.parameter("user")?, role)?;
    Reply::ok(&wire_user(&found))
}

pub(crate) fn user_role_delete(call: &Call) -> Result<Reply, Refusal> {
    let found = people::set_role(call.control(), call.actor()?, call.parameter("user")?, None)?;
    Reply::ok(&wire_user(&found))
}

pub(crate) fn user_reset(call: &Call) -> Result<Reply, Refusal> {
    let (invitation, text) = people::invite_reset(call.control(), call.actor()?, call.parameter("user")?)?;
    issued(&invitation, &text)
}

/// Of an org, or of the installation.
pub(crate) fn invitation_list(call: &Call) -> Result<Reply, Refusal> {
    let all = people::invitations(call.control(), call.actor()?, call.parameter("org").ok())?;
    let (page, next_page) = pages::cut(call, all, |invitation| invitation.id.to_string())?;
    Reply::ok(&InvitationPage {
        items: page.iter().map(wire_invitation).collect(),
        next_page,
    })
}

/// To an org or a project in it, or to the installation.
pub(crate) fn invitation_create(call: &Call) -> Result<Reply, Refusal> {
    let body: CreateInvitation = call.needed_body()?;
    let to = (Some(call.parameter("org")?), body.project.as_deref());
    invite(call, to, &body.email, body.role)
}

/// To the whole installation.
pub(crate) fn user_invitation_create(call: &Call) -> Result<Reply, Refusal> {
    let body: CreateUserInvitation = call.needed_body()?;
    invite(call, (None, None), &body.email, body.role)
}

fn invite(
    call: &Call,
    (org, project): (Option<&str>, Option<&str>),
    address: &str,
    role: Role,
) -> Result<Reply, Refusal> {
    let (address, role) = (email(address)?, model_role(role));
    let (invitation, text) = people::invite(call.control(), call.actor()?, org, project, &address, role)?;
    issued(&invitation, &text)
}

pub(crate) fn invitation_delete(call: &Call) -> Result<Reply, Refusal> {
    let (org, id) = (call.parameter("org").ok(), call.parameter("invitation")?);
    people::revoke_invitation(call.control(), call.actor()?, org, id)?;
    Ok(Reply::Empty)
}

pub(crate) fn invitation_accept(call: &Call) -> Result<Reply, Refusal> {
    let body: AcceptInvitation = call.needed_body()?;
    let accepted = Accepted {
        text: body.token.trim().to_owned(),
        name: body.name,
        password: Secret::from(body.password),
    };
    let found = people::accept(call.control(), &accepted, &call.source, &call.agent)?;
    signed_in(&found)
}

/// Of an org, or of a project in it.
pub(crate) fn member_list(call: &Call) -> Result<Reply, Refusal> {
    let (org, project) = (call.parameter("org")?, call.parameter("project").ok());
    let all = people::members(call.control(), call.actor()?, org, project)?;
    let (page, next_page) = pages::cut(call, all, |member| member.membership.id.to_string())?;
    Reply::ok(&MemberPage {
        items: page.iter().map(wire_member).collect(),
        next_page,
    })
}

pub(crate) fn member_put(call: &Call) -> Result<Reply, Refusal> {
    let body: PutRole = call.needed_body()?;
    let (org, project) = (call.parameter("org")?, call.parameter("project").ok());
    let (user, role) = (call.parameter("user")?, model_role(body.role));
    let member = people::grant_member(call.control(), call.actor()?, org, project, user, role)?;
    Reply::ok(&wire_member(&member))
}

pub(crate) fn member_delete(call: &Call) -> Result<Reply, Refusal> {
    let (org, project) = (call.parameter("org")?, call.parameter("project").ok());
    people::remove_member(
        call.control(),
        call.actor()?,
        org,
        project,
        call.parameter("user")?,
    )?;
    Ok(Reply::Empty)
}

/// An address from a body.
pub(crate) fn email(text: &str) -> Result<Email, Refusal> {
    text.parse()
        .map_err(|why: model::email::EmailError| Refusal::field("/email", why.to_string()))
}

fn issued(invitation: &Invitation, text: &Secret) -> Result<Reply, Refusal> {
    let text = text
        .expose_str()
        .ok_or_else(|| Refusal::internal("an invitation that is no text"))?;
    Reply::json(
        201,
        &IssuedInvitation {
            token: text.to_owned(),
            about: wire_invitation(invitation),
        },
    )
}

pub(crate) fn wire_user(account: &Account) -> api::User {
    let user = &account.user;
    let roles = account.memberships.iter();
    api::User {
        id: user.id.to_string(),
        email: user.email.to_string(),
        name: user.name.clone(),
        has_password: user.password.is_some(),
        roles: roles.map(|one| grant(one.realm, one.role)).collect(),
        created_at: user.created_at,
    }
}

pub(crate) fn grant(realm: Realm, role: model::Role) -> Grant {
    Grant {
        role: wire_role(role),
        org: realm.org().map(|org| org.to_string()),
        project: project_of(realm),
    }
}

fn project_of(realm: Realm) -> Option<String> {
    match realm {
        Realm::Installation | Realm::Org { .. } => None,
        Realm::Project { project, .. } => Some(project.to_string()),
    }
}

fn wire_member(member: &Member) -> api::Member {
    api::Member {
        user: member.user.id.to_string(),
        email: member.user.email.to_string(),
        name: member.user.name.clone(),
        role: wire_role(member.membership.role),
        since: member.membership.created_at,
    }
}

fn wire_invitation(invitation: &Invitation) -> api::Invitation {
    api::Invitation {
        id: invitation.id.to_string(),
        email: invitation.email.to_string(),
        role: invitation.role.map(wire_role),
        org: invitation.realm.org().map(|org| org.to_string()),
        project: project_of(invitation.realm),
        invited_by: invitation.by.clone(),
        created_at: invitation.created_at,
        expires_at: invitation.expires_at,
    }
}
