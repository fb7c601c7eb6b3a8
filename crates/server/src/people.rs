//! Claiming, tokens, the audit log, and who one is.

use api::{AuditPage, AuditRow, AuditVerification, Claim, CreateToken, IssuedToken, Role, TokenPage, Whoami};
use control::{AuditVerdict, people};
use model::{Actor, Millis, Timestamp, Token};

use crate::answer::Reply;
use crate::call::Call;
use crate::pages;
use crate::refusal::Refusal;
use control::Secret;

pub(crate) fn claim(call: &Call) -> Result<Reply, Refusal> {
    let body: Claim = call.needed_body()?;
    let (token, text) = people::claim(call.control(), body.token.trim())?;
    issued(&token, &text)
}

pub(crate) fn whoami(call: &Call) -> Result<Reply, Refusal> {
    let actor = call.actor()?;
    let (role, org, token_name) = match actor {
        Actor::HostRoot { .. } | Actor::System => (Role::Owner, None, None),
        Actor::Token { role, org, name, .. } => (
            wire_role(*role),
            org.map(|org| org.to_string()),
            Some(name.clone()),
        ),
    };
    Reply::ok(&Whoami {
        actor: actor.describe(),
        role,
        org,
        token_name,
    })
}

pub(crate) fn token_list(call: &Call) -> Result<Reply, Refusal> {
    let all = people::tokens(call.control(), call.actor()?)?;
    let (page, next) = pages::cut(call, all, |token| token.row.id.to_string())?;
    let items = page.iter().map(|token| wire(&token.row)).collect();
    Reply::ok(&TokenPage {
        items,
        next_page: next,
    })
}

pub(crate) fn token_create(call: &Call) -> Result<Reply, Refusal> {
    let body: CreateToken = call.needed_body()?;
    let life = body.lifetime_s.map(Millis::seconds);
    let role = model_role(body.role);
    let (token, text) = people::create_token(
        call.control(),
        call.actor()?,
        &body.name,
        role,
        body.org.as_deref(),
        life,
    )?;
    issued(&token, &text)
}

pub(crate) fn token_delete(call: &Call) -> Result<Reply, Refusal> {
    people::revoke_token(call.control(), call.actor()?, call.parameter("token")?)?;
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

fn issued(token: &Token, text: &Secret) -> Result<Reply, Refusal> {
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
        created_at: token.created_at,
        expires_at: token.expires_at,
        last_used_at: token.last_used_at,
        revoked: token.revoked,
    }
}

fn wire_role(role: model::Role) -> Role {
    match role {
        model::Role::Viewer => Role::Viewer,
        model::Role::Developer => Role::Developer,
        model::Role::Admin => Role::Admin,
        model::Role::Owner => Role::Owner,
    }
}

fn model_role(role: Role) -> model::Role {
    match role {
        Role::Viewer => model::Role::Viewer,
        Role::Developer => model::Role::Developer,
        Role::Admin => model::Role::Admin,
        Role::Owner => model::Role::Owner,
    }
}
