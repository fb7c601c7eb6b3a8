//! `stoa members`, `stoa users` and `stoa sessions`.

use api::{CreateInvitation, CreateUserInvitation, IssuedInvitation, Role};
use serde_json::json;

use crate::args::{MembersCommand, SessionsCommand, UsersCommand};
use crate::failure::Failure;
use crate::output::{self, say};
use crate::places::show;
use crate::session::Session;
use crate::terminal;

/// `stoa members`.
pub(crate) fn members(session: &Session, command: &MembersCommand) -> Result<u8, Failure> {
    let (client, org) = (&session.client, session.place.org.as_str());
    let project = |of_project: bool| of_project.then_some(session.place.project.as_str());
    match command {
        MembersCommand::Ls { of_project } => {
            let all = client.members(org, project(*of_project))?;
            if session.json {
                output::json(&all)?;
                return Ok(0);
            }
            let rows = all.iter().map(|one| {
                vec![
                    one.email.clone(),
                    one.name.clone(),
                    role(one.role),
                    one.since.to_string(),
                ]
            });
            output::data(&output::table(
                &["MEMBER", "NAME", "ROLE", "SINCE"],
                &rows.collect::<Vec<_>>(),
            ))?;
            Ok(0)
        }
        MembersCommand::Invite {
            email,
            role,
            of_project,
        } => {
            let body = CreateInvitation {
                email: email.clone(),
                role: *role,
                project: project(*of_project).map(str::to_owned),
            };
            issued(session, &client.invite(org, &body)?)
        }
        MembersCommand::Set {
            user,
            role: wanted,
            of_project,
        } => {
            let member = client.member_put(org, project(*of_project), user, *wanted)?;
            show(session, &member, &format!("{user} is {} now", role(*wanted)))
        }
        MembersCommand::Rm { user, of_project } => {
            client.member_delete(org, project(*of_project), user)?;
            show(
                session,
                &json!({"user": user, "removed": true}),
                &format!("removed {user}"),
            )
        }
        MembersCommand::Invitations => {
            let all = client.invitations(Some(org))?;
            if session.json {
                output::json(&all)?;
                return Ok(0);
            }
            let rows = all.iter().map(|one| {
                vec![
                    one.id.clone(),
                    one.email.clone(),
                    one.role.map_or_else(|| "new password".to_owned(), role),
                    one.expires_at.to_string(),
                ]
            });
            output::data(&output::table(
                &["INVITATION", "FOR", "ROLE", "UNTIL"],
                &rows.collect::<Vec<_>>(),
            ))?;
            Ok(0)
        }
        MembersCommand::Uninvite { invitation } => {
            client.invitation_delete(Some(org), invitation)?;
            let ended = json!({"invitation": invitation, "removed": true});
            show(session, &ended, &format!("ended {invitation}"))
        }
    }
}

/// `stoa users`.
pub(crate) fn users(session: &Session, command: &UsersCommand) -> Result<u8, Failure> {
    let client = &session.client;
    match command {
        UsersCommand::Ls => {
            let all = client.users()?;
            if session.json {
                output::json(&all)?;
                return Ok(0);
            }
            let rows = all.iter().map(|user| {
                let whole = user.roles.iter().find(|grant| grant.org.is_none());
                vec![
                    user.email.clone(),
                    user.name.clone(),
                    whole.map_or_else(|| "-".to_owned(), |grant| role(grant.role)),
                    user.id.clone(),
                ]
            });
            output::data(&output::table(
                &["USER", "NAME", "INSTALLATION", "ID"],
                &rows.collect::<Vec<_>>(),
            ))?;
            Ok(0)
        }
        UsersCommand::Invite { email, role } => {
            let body = CreateUserInvitation {
                email: email.clone(),
                role: *role,
            };
            issued(session, &client.user_invite(&body)?)
        }
        UsersCommand::Set {
            user,
            role: wanted,
            none: _,
        } => {
            let (changed, said) = match wanted {
                Some(wanted) => (
                    client.user_role_put(user, *wanted)?,
                    format!("{user} is {} of the installation now", role(*wanted)),
                ),
                None => (
                    client.user_role_delete(user)?,
                    format!("{user} has no role for the whole installation now"),
                ),
            };
            show(session, &changed, &said)
        }
        UsersCommand::Reset { user } => issued(session, &client.user_reset(user)?),
        UsersCommand::Rm { user, confirm } => {
            terminal::confirm("the user", user, confirm.as_deref())?;
            client.user_delete(user)?;
            show(
                session,
                &json!({"user": user, "removed": true}),
                &format!("removed {user}"),
            )
        }
    }
}

/// `stoa sessions`.
pub(crate) fn sessions(session: &Session, command: &SessionsCommand) -> Result<u8, Failure> {
    match command {
        SessionsCommand::Ls => {
            let all = session.client.sessions()?;
            if session.json {
                output::json(&all)?;
                return Ok(0);
            }
            let rows = all.iter().map(|one| {
                let used = output::ago(one.last_used_at);
                vec![one.id.clone(), one.source.clone(), used, one.agent.clone()]
            });
            output::data(&output::table(
                &["SESSION", "FROM", "USED", "BROWSER"],
                &rows.collect::<Vec<_>>(),
            ))?;
            Ok(0)
        }
        SessionsCommand::Revoke { session: id } => {
            session.client.session_delete(id)?;
            show(
                session,
                &json!({"session": id, "revoked": true}),
                &format!("ended {id}"),
            )
        }
    }
}

fn issued(session: &Session, issued: &IssuedInvitation) -> Result<u8, Failure> {
    if session.json {
        output::json(issued)?;
        return Ok(0);
    }
    let about = &issued.about;
    let own = session.client.address().to_string();
    let address = if leads_others(&own) {
        &own
    } else {
        "ADDRESS_OF_THE_SERVER"
    };
    say(&format!(
        "for {} only, once, until {}; hand it over on a way that only they can read.\nthey type: stoa login --api {address} --invitation TOKEN --name NAME",
        about.email, about.expires_at,
    ));
    output::data(&format!("{}\n", issued.token))?;
    Ok(0)
}

fn role(role: Role) -> String {
    format!("{role:?}").to_lowercase()
}

/// Whether an address leads from other machines to the server, too.
fn leads_others(address: &str) -> bool {
    let Some((_, rest)) = address.split_once("://") else {
        // unix:/PATH
        return false;
    };
    let own = ["127.", "localhost", "[::1]", "0.0.0.0"];
    !own.iter().any(|here| rest.starts_with(here))
}

#[cfg(test)]
mod tests {
    use super::leads_others;

    #[test]
    fn an_invitation_names_no_address_of_this_machine() {
        for (address, leads) in [
            ("https://stoa.example.org", true),
            ("http://192.168.1.2:7070", true),
            ("http://127.0.0.1:7070", false),
            ("http://localhost:7070", false),
            ("https://[::1]:7070", false),
            ("unix:/var/lib/stoa/run/control.sock", false),
        ] {
            assert_eq!(leads_others(address), leads, "{address}");
        }
    }
}
