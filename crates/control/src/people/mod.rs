//! Who may come in: the claim of a new installation, access tokens, orgs, projects, environments.

use std::fs;
use std::path::PathBuf;

use model::{
    Action, Actor, Environment, EnvironmentId, Millis, Name, Org, OrgId, Project, ProjectId, Role, Timestamp,
    Token, TokenId,
};
use sha2::{Digest, Sha256};
use store::rows::Claim;
use store::secret::Secret;
use store::{ReadTx, Versioned};

use crate::authorize::{self, EnvPath};
use crate::{Control, ControlError, rehearsal};

/// How long a claim token is good for.
const CLAIM_LIFE: Millis = Millis::seconds(15 * 60);
/// How long an access token lives unless asked otherwise.
pub const TOKEN_LIFE: Millis = Millis::seconds(90 * 24 * 3600);
/// The last use of a token is written down at most that often: a read must not cost a commit.
const LAST_USE_EVERY: Millis = Millis::seconds(60);
/// What every access token begins with.
pub const TOKEN_PREFIX: &str = "stoa_pat_";
const CLAIM_PREFIX: &str = "stoa_claim_";

/// Makes what exists from the start: org and project `default`, environment `production`. Idempotent.
///
/// # Errors
/// When the store does not take it.
pub fn found(control: &Control) -> Result<(), ControlError> {
    control.write(|tx| {
        let defaults = EnvPath::default();
        if tx.find::<Org>("", &defaults.org)?.is_some() {
            return Ok(());
        }
        let name = |text: &str| {
            text.parse::<Name>()
                .map_err(|e| ControlError::invalid("/name", e.to_string()))
        };
        let org = Org {
            id: OrgId::fresh(),
            name: name(&defaults.org)?,
        };
        let project = Project {
            id: ProjectId::fresh(),
            org: org.id,
            name: name(&defaults.project)?,
        };
        let environment = Environment {
            id: EnvironmentId::fresh(),
            project: project.id,
            name: name(&defaults.environment)?,
        };
        tx.insert(&org)?;
        tx.insert(&project)?;
        tx.insert(&environment)?;
        Ok(())
    })
}

fn random_text(prefix: &str) -> Result<String, ControlError> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(|e| ControlError::File {
        what: "no randomness from the system".to_owned(),
        cause: std::io::Error::other(e.to_string()),
    })?;
    Ok(format!("{prefix}{}", hex(&bytes)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hash(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

/// Where the claim token of this start can be read by root.
#[must_use]
pub fn claim_path(control: &Control) -> PathBuf {
    control.settings.data_dir.join("run").join("claim-token")
}

/// A fresh claim token, if nobody has claimed the installation. An earlier one ends with it.
///
/// # Errors
/// When it cannot be stored.
pub fn offer_claim(control: &Control) -> Result<Option<String>, ControlError> {
    let path = claim_path(control);
    if control.read(|tx| Ok(!tx.list::<Token>("")?.is_empty()))? {
        drop(fs::remove_file(&path));
        return Ok(None);
    }
    let text = random_text(CLAIM_PREFIX)?;
    control.write(|tx| {
        for old in tx.list::<Claim>("")? {
            tx.delete::<Claim>(&old.row.hash, store::Expect::Any)?;
        }
        tx.insert(&Claim {
            hash: hash(&text),
            expires_at: control.now_of(tx).plus(CLAIM_LIFE),
        })?;
        Ok(())
    })?;
    crate::files::write_private(&path, text.as_bytes())
        .map_err(|cause| crate::uploads::file_error("could not write the claim token", cause))?;
    Ok(Some(text))
}

/// Trades the claim token for the first owner's access token. Works once.
///
/// # Errors
/// `SignIn` for anything but the live claim token.
pub fn claim(control: &Control, text: &str) -> Result<(Token, Secret), ControlError> {
    let presented = hash(text);
    let find = |tx: &ReadTx| -> Result<_, ControlError> {
        let mut claims = tx.list::<Claim>("")?.into_iter();
        Ok(claims.find(|claim| claim.row.hash == presented))
    };
    // Anybody may ask: a wrong guess is answered without a write, or strangers could fill the disk.
    if control.read(find)?.is_none() {
        tracing::info!("somebody presented a wrong claim token");
        return Err(ControlError::SignIn);
    }
    let made = control.mutate(&Actor::System, "claim", "installation", |tx| {
        let live = find(tx)?;
        let now = control.now_of(tx);
        let live = live
            .filter(|claim| claim.row.expires_at > now)
            .ok_or(ControlError::SignIn)?;
        tx.delete::<Claim>(&live.row.hash, store::Expect::Any)?;
        let (token, text) = new_token("owner", Role::Owner, None, now, TOKEN_LIFE)?;
        tx.insert(&token)?;
        Ok((token, text))
    })?;
    if !rehearsal::is_on() {
        drop(fs::remove_file(claim_path(control)));
    }
    Ok((made.0, Secret::new(made.1.into_bytes())))
}

fn new_token(
    name: &str,
    role: Role,
    org: Option<OrgId>,
    now: Timestamp,
    life: Millis,
) -> Result<(Token, String), ControlError> {
    let text = random_text(TOKEN_PREFIX)?;
    let token = Token {
        id: TokenId::fresh(),
        name: name.to_owned(),
        hash: hash(&text),
        role,
        org,
        created_at: now,
        expires_at: now.plus(life),
        last_used_at: None,
        revoked: false,
    };
    Ok((token, text))
}

/// Who presents this access token.
///
/// # Errors
/// `SignIn` for an unknown, expired or revoked one.
pub fn authenticate(control: &Control, text: &str) -> Result<Actor, ControlError> {
    if !text.starts_with(TOKEN_PREFIX) || text.len() > 200 {
        return Err(ControlError::SignIn);
    }
    // Looked up by its hash: what is compared in the index says nothing about the text.
    let found = control
        .read(|tx| Ok(tx.find::<Token>("", &hash(text))?))?
        .ok_or(ControlError::SignIn)?;
    let now = Timestamp::now();
    if found.row.revoked || found.row.expires_at <= now {
        return Err(ControlError::SignIn);
    }
    if found
        .row
        .last_used_at
        .is_none_or(|last| now.since(last) > LAST_USE_EVERY)
    {
        let mut row = found.row.clone();
        row.last_used_at = Some(now);
        // Losing this write is harmless, and a full disk must not lock people out.
        drop(control.write(|tx| {
            let current = tx.need::<Token>(&row.id.to_string())?;
            if !current.row.revoked {
                tx.update_status(&row, store::Expect::Generation(current.generation))?;
            }
            Ok(())
        }));
    }
    Ok(Actor::Token {
        token: found.row.id,
        name: found.row.name,
        role: found.row.role,
        org: found.row.org,
    })
}

/// All access tokens; never their text.
///
/// # Errors
/// As the gate's.
pub fn tokens(control: &Control, actor: &Actor) -> Result<Vec<Versioned<Token>>, ControlError> {
    authorize::authorize(actor, Action::Administer, None, "token", "")?;
    control.read(|tx| Ok(tx.list::<Token>("")?))
}

/// A new access token; its text is shown this once. It never has more rights than its maker.
///
/// # Errors
/// As the gate's; `Invalid` for values that cannot be.
pub fn create_token(
    control: &Control,
    actor: &Actor,
    name: &str,
    role: Role,
    org: Option<&str>,
    life: Option<Millis>,
) -> Result<(Token, Secret), ControlError> {
    let life = life.unwrap_or(TOKEN_LIFE);
    let (token, text) = control.mutate(actor, "token.create", name, |tx| {
        authorize::authorize(actor, Action::Administer, None, "token", name)?;
        if let Actor::Token { role: own, .. } = actor
            && role > *own
        {
            return Err(ControlError::Denied {
                action: Action::Administer,
            });
        }
        check_token(name, life)?;
        let org = match org {
            Some(org) => Some(authorize::org(tx, actor, Action::Administer, org)?.row.id),
            None => None,
        };
        let (token, text) = new_token(name, role, org, control.now_of(tx), life)?;
        tx.insert(&token)?;
        Ok((token, text))
    })?;
    Ok((token, Secret::new(text.into_bytes())))
}

fn check_token(name: &str, life: Millis) -> Result<(), ControlError> {
    if name.is_empty() || name.len() > 80 || name.chars().any(char::is_control) {
        return Err(ControlError::invalid(
            "/name",
            "1 to 80 characters without control characters",
        ));
    }
    if life.as_ms() < 60_000 || life > Millis::seconds(366 * 24 * 3600) {
        return Err(ControlError::invalid(
            "/expires_in",
            "from one minute to 366 days",
        ));
    }
    Ok(())
}

/// Ends an access token at once.
///
/// # Errors
/// As the gate's.
pub fn revoke_token(control: &Control, actor: &Actor, id: &str) -> Result<(), ControlError> {
    control.mutate(actor, "token.revoke", id, |tx| {
        authorize::authorize(actor, Action::Administer, None, "token", id)?;
        let mut found = tx
            .get::<Token>(id)?
            .ok_or_else(|| authorize::missing("token", id))?;
        found.row.revoked = true;
        tx.update(&found.row, store::Expect::Generation(found.generation))?;
        Ok(())
    })
}

/// Orgs the actor may see.
///
/// # Errors
/// When the store cannot be read.
pub fn orgs(control: &Control, actor: &Actor) -> Result<Vec<Versioned<Org>>, ControlError> {
    control.read(|tx| {
        let all = tx.list::<Org>("")?;
        let sees = |org: &Org| {
            authorize::authorize(actor, Action::Read, Some(org.id), "org", org.name.as_str()).is_ok()
        };
        Ok(all.into_iter().filter(|org| sees(&org.row)).collect())
    })
}

/// Projects of an org.
///
/// # Errors
/// As the gate's.
pub fn projects(
    control: &Control,
    actor: &Actor,
    org: &str,
) -> Result<Vec<Versioned<Project>>, ControlError> {
    control.read(|tx| {
        let org = authorize::org(tx, actor, Action::Read, org)?;
        Ok(tx.list::<Project>(&org.row.id.to_string())?)
    })
}

/// Environments of a project.
///
/// # Errors
/// As the gate's.
pub fn environments(
    control: &Control,
    actor: &Actor,
    org: &str,
    project: &str,
) -> Result<Vec<Versioned<Environment>>, ControlError> {
    control.read(|tx| {
        let (_, project) = authorize::project(tx, actor, Action::Read, org, project)?;
        Ok(tx.list::<Environment>(&project.row.id.to_string())?)
    })
}

/// A new environment of a project, with a network of its own.
///
/// # Errors
/// As the gate's; `Taken` when the name is.
pub fn create_environment(
    control: &Control,
    actor: &Actor,
    org: &str,
    project: &str,
    name: &Name,
) -> Result<Versioned<Environment>, ControlError> {
    control.mutate(actor, "environment.create", name.as_str(), |tx| {
        let (_, project) = authorize::project(tx, actor, Action::Administer, org, project)?;
        if tx
            .find::<Environment>(&project.row.id.to_string(), name.as_str())?
            .is_some()
        {
            return Err(ControlError::Taken {
                kind: "environment",
                name: name.to_string(),
            });
        }
        let environment = Environment {
            id: EnvironmentId::fresh(),
            project: project.row.id,
            name: name.clone(),
        };
        tx.insert(&environment)?;
        Ok(tx.need::<Environment>(&environment.id.to_string())?)
    })
}
