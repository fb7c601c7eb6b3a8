//! Claiming, tokens, the audit log, and who one is.

use api::{
    AuditPage, AuditRow, AuditVerification, Claim, CreateDeployToken, CreateToken, IssuedToken, Role, Scope,
    TokenPage, Whoami,
};
use std::collections::BTreeSet;

use control::people::{self, Founder, Wish};
use control::{AuditVerdict, Secret, Versioned};
use model::{Action, Actor, Millis, Timestamp, Token};

use crate::answer::Reply;
use crate::call::Call;
use crate::credential::Credential;
use crate::members::{grant, wire_user};
use crate::pages;
use crate::planted::{self, Defect};
use crate::refusal::Refusal;

pub(crate) fn claim(call: &Call) -> Result<Reply, Refusal> {
    let body: Claim = call.needed_body()?;
    let founder = match (body.email, body.name, body.password) {
        (None, None, None) => None,
        (Some(email), Some(name), Some(password)) => Some(Founder {
            email: crate::members::email(&email)?,
            name,
            password: Secret::from(password),
        }),
        _some => {
            return Err(Refusal::field(
                "/email",
                "the first user has an email, a name and a password",
            ));
        }
    };
    let (token, text) = people::claim(call.control(), body.token.trim(), founder.as_ref())?;
    issued(&token, &text)
}

pub(crate) fn whoami(call: &Call) -> Result<Reply, Refusal> {
    let actor = call.actor()?;
    let shown = match &call.credential {
        Some(Credential::Token(text) | Credential::Session(text)) => text.as_str(),
        None => "",
    };
    assert!(!planted::is(Defect::PanicsInAHandler), "planted: {shown}");
    let standing = people::standing(call.control(), actor)?;
    let token_name = match actor {
        Actor::Token { name, .. } => Some(name.clone()),
        Actor::HostRoot { .. } | Actor::System | Actor::User { .. } => None,
    };
    let user = people::own(call.control(), actor)?;
    let roles = standing.roles.iter();
    Reply::ok(&Whoami {
        actor: actor.describe(),
        role: wire_role(standing.strongest),
        roles: roles.map(|(realm, role)| grant(*realm, *role)).collect(),
        user: user.as_ref().map(wire_user),
        org: standing.only.map(|org| org.to_string()),
        token_name,
    })
}

pub(crate) fn token_list(call: &Call) -> Result<Reply, Refusal> {
    token_page(call, people::tokens(call.control(), call.actor()?)?)
}

fn token_page(call: &Call, all: Vec<Versioned<Token>>) -> Result<Reply, Refusal> {
    let (page, next) = pages::cut(call, all, |token| token.row.id.to_string())?;
    let items = page.iter().map(|token| wire(&token.row)).collect();
    Reply::ok(&TokenPage {
        items,
        next_page: next,
    })
}

pub(crate) fn token_create(call: &Call) -> Result<Reply, Refusal> {
    let body: CreateToken = call.needed_body()?;
    let wish = wish(body.name, body.role, body.scopes, body.lifetime_s);
    let (token, text) = people::create_token(call.control(), call.actor()?, &wish, body.org.as_deref())?;
    issued(&token, &text)
}

fn wish(name: String, role: Role, scopes: Option<Vec<Scope>>, lifetime_s: Option<u64>) -> Wish {
    Wish {
        name,
        role: model_role(role),
        scopes: actions(scopes),
        life: lifetime_s.map(Millis::seconds),
    }
}

pub(crate) fn token_delete(call: &Call) -> Result<Reply, Refusal> {
    people::revoke_token(call.control(), call.actor()?, call.parameter("token")?)?;
    Ok(Reply::Empty)
}

pub(crate) fn deploy_token_list(call: &Call) -> Result<Reply, Refusal> {
    let (org, project) = (call.parameter("org")?, call.parameter("project")?);
    token_page(
        call,
        people::deploy_tokens(call.control(), call.actor()?, org, project)?,
    )
}

pub(crate) fn deploy_token_create(call: &Call) -> Result<Reply, Refusal> {
    let body: CreateDeployToken = call.needed_body()?;
    let wish = wish(body.name, body.role, body.scopes, body.lifetime_s);
    let (org, project) = (call.parameter("org")?, call.parameter("project")?);
    let (token, text) = people::create_deploy_token(call.control(), call.actor()?, org, project, &wish)?;
    issued(&token, &text)
}

pub(crate) fn deploy_token_delete(call: &Call) -> Result<Reply, Refusal> {
    let (org, project) = (call.parameter("org")?, call.parameter("project")?);
    people::revoke_deploy_token(
        call.control(),
        call.actor()?,
        org,
        project,
        call.parameter("token")?,
    )?;
    Ok(Reply::Empty)
}

pub(crate) fn audit_list(call: &Call) -> Result<Reply, Refusal> {
    let walk = pages::Walk::of(call)?;
    let found = control::audit::list(call.control(), call.actor()?, walk.from.parse().ok(), walk.limit)?;
    let last = found
        .last()
        .filter(|last| found.len() == walk.limit && last.seq > 1);
    let next_page = walk.next(found.len(), last.map(|last| last.seq.to_string()));
    let rows = found.into_iter().map(|record| {
        let body = serde_json::to_value(&record.body).unwrap_or_default();
        let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
        AuditRow {
            number: record.seq,
            at: Timestamp::from_ms(record.at_ms),
            actor: text("actor"),
            action: text("action"),
            object: text("object"),
            decision: text("decision"),
            completes: body["of"].as_u64(),
            outcome: body["outcome"].as_str().map(str::to_owned),
            hash: record.hash,
        }
    });
    Reply::ok(&AuditPage {
        items: rows.collect(),
        next_page,
    })
}

pub(crate) fn audit_verify(call: &Call) -> Result<Reply, Refusal> {
    let verdict = control::audit::verify(call.control(), call.actor()?)?;
    Reply::ok(&match verdict {
        AuditVerdict::Whole { records } => AuditVerification {
            whole: true,
            records: Some(records),
            first_bad: None,
            why: None,
        },
        AuditVerdict::FirstBad { seq, why } => AuditVerification {
            whole: false,
            records: None,
            first_bad: Some(seq),
            why: Some(why),
        },
    })
}

pub(crate) fn issued(token: &Token, text: &Secret) -> Result<Reply, Refusal> {
    let text = text
        .expose_str()
        .ok_or_else(|| Refusal::internal("a token that is no text"))?;
    Reply::json(
        201,
        &IssuedToken {
            token: text.to_owned(),
            about: wire(token),
        },
    )
}

fn wire(token: &Token) -> api::Token {
    api::Token {
        id: token.id.to_string(),
        name: token.name.clone(),
        role: wire_role(token.role),
        org: token.org.map(|org| org.to_string()),
        project: token.project.map(|project| project.to_string()),
        user: token.user.map(|user| user.to_string()),
        scopes: token
            .scopes
            .as_ref()
            .map(|scopes| scopes.iter().filter_map(|action| scope(*action)).collect()),
        created_at: token.created_at,
        expires_at: token.expires_at,
        last_used_at: token.last_used_at,
        revoked: token.revoked,
    }
}

pub(crate) fn wire_role(role: model::Role) -> Role {
    match role {
        model::Role::Viewer => Role::Viewer,
        model::Role::Developer => Role::Developer,
        model::Role::Admin => Role::Admin,
        model::Role::Owner => Role::Owner,
    }
}

pub(crate) fn model_role(role: Role) -> model::Role {
    match role {
        Role::Viewer => model::Role::Viewer,
        Role::Developer => model::Role::Developer,
        Role::Admin => model::Role::Admin,
        Role::Owner => model::Role::Owner,
    }
}

/// The rights that somebody asks for, and `read`, without which none of them is of use.
pub(crate) fn actions(scopes: Option<Vec<Scope>>) -> Option<BTreeSet<Action>> {
    scopes.map(|scopes| scopes.into_iter().map(action).chain([Action::Read]).collect())
}

fn action(scope: Scope) -> Action {
    match scope {
        Scope::Read => Action::Read,
        Scope::Deploy => Action::Deploy,
        Scope::Configure => Action::Configure,
        Scope::ReadSecrets => Action::ReadSecrets,
        Scope::Manage => Action::Manage,
        Scope::Administer => Action::Administer,
    }
}

/// Knowing that something is there is no right that anybody asks for.
pub(crate) fn scope(action: Action) -> Option<Scope> {
    match action {
        Action::See => None,
        Action::Read => Some(Scope::Read),
        Action::Deploy => Some(Scope::Deploy),
        Action::Configure => Some(Scope::Configure),
        Action::ReadSecrets => Some(Scope::ReadSecrets),
        Action::Manage => Some(Scope::Manage),
        Action::Administer => Some(Scope::Administer),
    }
}
