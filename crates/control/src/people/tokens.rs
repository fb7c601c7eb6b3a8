//! Access tokens: a user's, a project's for deploying, and those of the host.
//!
//! Invariant: no token is stronger than its maker is now (rights are intersected when it is used, `authorize`), and none
//! makes one that is stronger, lives where it does not, or outlives it.

use std::collections::BTreeSet;

use model::{Action, Actor, Bounds, Millis, Realm, Role, Timestamp, Token, TokenId};
use store::secret::Secret;
use store::{ReadTx, Versioned, WriteTx};

use super::{LAST_USE_EVERY, hash, random_text};
use crate::authorize::{self, Rights};
use crate::planted::{self, Defect};
use crate::{Control, ControlError};

/// How long an access token lives unless asked otherwise.
pub const LIFE: Millis = Millis::seconds(90 * 24 * 3600);
/// What a user's tokens and those of the host begin with.
pub const PERSONAL: &str = "stoa_pat_";
/// What a project's deploy tokens begin with.
pub const DEPLOY: &str = "stoa_dpl_";
/// Live tokens of one maker, or of one project.
const LIVE_MAX: usize = 200;

/// What a token is to be.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Name for people.
    pub name: String,
    /// At most as one of this role.
    pub role: Role,
    /// Only these rights; `None` is all that the role has.
    pub scopes: Option<BTreeSet<Action>>,
    /// How long; as usual when nobody says.
    pub life: Option<Millis>,
}

impl Wish {
    /// One of a role, without other limits.
    #[must_use]
    pub fn of(name: &str, role: Role) -> Self {
        Self {
            name: name.to_owned(),
            role,
            scopes: None,
            life: None,
        }
    }
}

pub(super) fn fresh(
    prefix: &str,
    name: &str,
    now: Timestamp,
    life: Millis,
) -> Result<(Token, String), ControlError> {
    let text = random_text(prefix)?;
    let token = Token {
        id: TokenId::fresh(),
        name: name.to_owned(),
        hash: hash(&text),
        role: Role::Owner,
        org: None,
        project: None,
        scopes: None,
        user: None,
        created_at: now,
        expires_at: now.plus(life),
        last_used_at: None,
        revoked: false,
        revoked_at: None,
        parent: None,
    };
    Ok((token, text))
}

/// Who presents this access token. It counts as a use of it.
///
/// # Errors
/// `SignIn` for an unknown, expired or revoked one.
pub fn authenticate(control: &Control, text: &str) -> Result<Actor, ControlError> {
    let (found, now) = (presented(control, text)?, Timestamp::now());
    if found
        .last_used_at
        .is_none_or(|last| now.since(last) > LAST_USE_EVERY)
    {
        let mut row = found.clone();
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
        token: found.id,
        name: found.name,
        user: found.user,
    })
}

/// That an access token still counts, without using it.
///
/// # Errors
/// As [`authenticate`].
pub fn look_at(control: &Control, text: &str) -> Result<(), ControlError> {
    presented(control, text).map(drop)
}

fn presented(control: &Control, text: &str) -> Result<Token, ControlError> {
    if !(text.starts_with(PERSONAL) || text.starts_with(DEPLOY)) || text.len() > 200 {
        return Err(ControlError::SignIn);
    }
    // Looked up by its hash: what is compared in the index says nothing about the text.
    let found = control
        .read(|tx| Ok(tx.find::<Token>("", &hash(text))?))?
        .ok_or(ControlError::SignIn)?;
    let now = Timestamp::now();
    let is_over = found.row.revoked || found.row.expires_at <= now;
    if is_over && !planted::is(Defect::TrustsTokens) {
        return Err(ControlError::SignIn);
    }
    Ok(found.row)
}

/// The access tokens that the actor may know of: his own; all, for who administers the installation; itself and those it made,
/// for a token that is not for managing the account. Never their text.
///
/// # Errors
/// `Denied` for a token that is nobody's.
pub fn tokens(control: &Control, actor: &Actor) -> Result<Vec<Versioned<Token>>, ControlError> {
    control.read(|tx| {
        let all = authorize::installation(tx, actor, Action::Administer);
        let mut found = tx.list::<Token>("")?;
        match (all, actor.user()) {
            (Ok(()), _) => {}
            (Err(ControlError::Denied { .. }), Some(_)) => {
                let own = own(&found, actor, &Rights::of(tx, actor)?);
                found.retain(|token| own.contains(&token.row.id));
            }
            (Err(refused), _) => return Err(refused),
        }
        found.sort_by_key(|token| token.row.id);
        Ok(found)
    })
}

/// The tokens that are the actor's to see and to end.
fn own(all: &[Versioned<Token>], actor: &Actor, rights: &Rights) -> BTreeSet<TokenId> {
    let mut own = match actor {
        Actor::Token { token, .. } => family(all, |one| one.id == *token),
        Actor::User { .. } | Actor::HostRoot { .. } | Actor::System => BTreeSet::new(),
    };
    if let Some(user) = actor.user().filter(|_| rights.manage_account()) {
        let his = |one: &&Versioned<Token>| one.row.user == Some(user) && one.row.project.is_none();
        own.extend(all.iter().filter(his).map(|one| one.row.id));
    }
    own
}

/// The tokens that `is_first` names, and those they made, and so on.
fn family(all: &[Versioned<Token>], is_first: impl Fn(&Token) -> bool) -> BTreeSet<TokenId> {
    let first = all.iter().filter(|one| is_first(&one.row));
    let mut found: BTreeSet<TokenId> = first.map(|one| one.row.id).collect();
    loop {
        let made = |one: &&Versioned<Token>| one.row.parent.is_some_and(|parent| found.contains(&parent));
        let more: Vec<TokenId> = all.iter().filter(made).map(|one| one.row.id).collect();
        let before = found.len();
        found.extend(more);
        if found.len() == before {
            return found;
        }
    }
}

/// A new access token; its text is shown this once. One that a token makes ends with it, at the latest.
///
/// # Errors
/// As the gate's; `Invalid` for values that cannot be; `State` when there are too many.
pub fn create_token(
    control: &Control,
    actor: &Actor,
    wish: &Wish,
    org: Option<&str>,
) -> Result<(Token, Secret), ControlError> {
    let life = check(wish)?;
    let made = control.mutate(actor, "token.create", &wish.name, |tx| {
        let rights = Rights::of(tx, actor)?;
        let wanted = match org {
            Some(org) => Some(Realm::Org {
                org: rights.org(tx, Action::See, org)?.row.id,
            }),
            None => None,
        };
        // A token of a token lives where that one does.
        let realm = wanted
            .or_else(|| rights.bounds().map(|bounds| bounds.realm))
            .unwrap_or(Realm::Installation);
        let is_own = matches!(actor, Actor::User { .. });
        if !is_own {
            refuse_stronger(&rights, wish, realm)?;
        }
        if actor.user().is_none() {
            // Nobody's rights bound it later: its maker must have them all.
            rights.demand(Action::Administer, Realm::Installation, "installation", "")?;
        }
        issue(tx, actor, PERSONAL, wish, control.now_of(tx).plus(life), realm)
    })?;
    Ok((made.0, Secret::new(made.1.into_bytes())))
}

fn issue(
    tx: &WriteTx,
    actor: &Actor,
    prefix: &str,
    wish: &Wish,
    until: Timestamp,
    realm: Realm,
) -> Result<(Token, String), ControlError> {
    let now = Timestamp::from_ms(tx.now().wall_ms);
    let (mut token, text) = fresh(prefix, &wish.name, now, LIFE)?;
    token.expires_at = until;
    token.role = wish.role;
    token.scopes.clone_from(&wish.scopes);
    token.user = actor.user();
    if let Actor::Token { token: maker, .. } = actor {
        token.parent = Some(*maker);
        let maker = tx.need::<Token>(&maker.to_string())?;
        token.expires_at = until.min(maker.row.expires_at);
    }
    put(&mut token, realm);
    refuse_too_many(tx, &token, now)?;
    tx.insert(&token)?;
    Ok((token, text))
}

/// A token makes no token that outdoes it, and only one that may administer makes any: one that leaked must not stay.
fn refuse_stronger(rights: &Rights, wish: &Wish, realm: Realm) -> Result<(), ControlError> {
    let refused = Err(ControlError::Denied {
        action: Action::Administer,
    });
    let Some(own) = rights.bounds() else {
        return Ok(());
    };
    let is_narrower = match (&own.scopes, &wish.scopes) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(own), Some(wanted)) => wanted.is_subset(own),
    };
    if wish.role > own.role || !own.allow(Action::Administer) || !is_narrower || !own.realm.covers(realm) {
        return refused;
    }
    Ok(())
}

fn put(token: &mut Token, realm: Realm) {
    (token.org, token.project) = match realm {
        Realm::Installation => (None, None),
        Realm::Org { org } => (Some(org), None),
        Realm::Project { org, project } => (Some(org), Some(project)),
    };
}

fn refuse_too_many(tx: &WriteTx, token: &Token, now: Timestamp) -> Result<(), ControlError> {
    let is_beside = |other: &Token| match token.project {
        Some(project) => other.project == Some(project),
        None => other.user == token.user && other.project.is_none(),
    };
    let live =
        |other: &Versioned<Token>| !other.row.revoked && other.row.expires_at > now && is_beside(&other.row);
    if tx.list::<Token>("")?.iter().filter(|other| live(other)).count() < LIVE_MAX {
        return Ok(());
    }
    Err(ControlError::State {
        message: format!("there are {LIVE_MAX} tokens already"),
        next_step: "revoke those that nobody uses: stoa tokens ls".to_owned(),
    })
}

/// Refuses an actor who could not make such a token himself.
pub(super) fn refuse_making(tx: &ReadTx, actor: &Actor, wish: &Wish) -> Result<(), ControlError> {
    let rights = Rights::of(tx, actor)?;
    let realm = rights.bounds().map_or(Realm::Installation, |bounds| bounds.realm);
    refuse_stronger(&rights, wish, realm)
}

pub(super) fn check(wish: &Wish) -> Result<Millis, ControlError> {
    let life = wish.life.unwrap_or(LIFE);
    super::users::check_name(&wish.name)?;
    if life.as_ms() < 60_000 || life > Millis::seconds(366 * 24 * 3600) {
        return Err(ControlError::invalid(
            "/lifetime_s",
            "from one minute to 366 days",
        ));
    }
    let is_within = |scopes: &BTreeSet<Action>| {
        !scopes.is_empty() && scopes.iter().all(|action| wish.role.allows(*action))
    };
    if !wish.scopes.as_ref().is_none_or(is_within) {
        return Err(ControlError::invalid(
            "/scopes",
            "at least one, and none that the role does not have",
        ));
    }
    if wish
        .scopes
        .as_ref()
        .is_some_and(|scopes| !scopes.contains(&Action::Read))
    {
        return Err(ControlError::invalid(
            "/scopes",
            "must contain read: nothing can be done to what may not be looked at",
        ));
    }
    Ok(life)
}

/// Ends an access token at once, with those it made: one of the actor's own, or any, for who administers the installation.
///
/// # Errors
/// `NotFound` for one that the actor may not know of.
pub fn revoke_token(control: &Control, actor: &Actor, id: &str) -> Result<(), ControlError> {
    control.mutate(actor, "token.revoke", id, |tx| {
        let rights = Rights::of(tx, actor)?;
        let may_all = rights.demand(Action::Administer, Realm::Installation, "installation", "");
        let found = tx.get::<Token>(id)?;
        let all = tx.list::<Token>("")?;
        let is_own = |token: &Token| own(&all, actor, &rights).contains(&token.id);
        let found = match (found, may_all) {
            (Some(found), Ok(())) => found,
            (Some(found), Err(_)) if is_own(&found.row) => found,
            // Nobody's tokens know of no others at all.
            (_, Err(refused)) if actor.user().is_none() => return Err(refused),
            _absent => return Err(authorize::missing("token", id)),
        };
        revoke(tx, control.now_of(tx), |token| token.id == found.row.id)
    })
}

/// Ends the tokens that `is_meant` names, and those they made: what a leaked one left behind goes with it.
pub(super) fn revoke(
    tx: &WriteTx,
    now: Timestamp,
    is_meant: impl Fn(&Token) -> bool,
) -> Result<(), ControlError> {
    let all = tx.list::<Token>("")?;
    let ends = family(&all, is_meant);
    for mut found in all {
        if ends.contains(&found.row.id) && !found.row.revoked {
            found.row.revoked = true;
            found.row.revoked_at = Some(now);
            tx.update(&found.row, store::Expect::Generation(found.generation))?;
        }
    }
    Ok(())
}

/// The tokens that ended longer than `kept` ago. While there is no user one stays: it tells that the installation was claimed.
pub(super) fn stale(tx: &ReadTx, now: Timestamp, kept: Millis) -> Result<Vec<TokenId>, ControlError> {
    let (all, _lost) = crate::transact::all::<Token>(tx)?;
    let is_stale = |token: &Token| {
        // When those of earlier versions were revoked was not kept.
        let seen = token.last_used_at.unwrap_or(token.created_at);
        let revoked = token.revoked.then(|| token.revoked_at.unwrap_or(seen));
        let ended = revoked.map_or(token.expires_at, |at| at.min(token.expires_at));
        ended <= now && now.since(ended) > kept
    };
    let mut stale: Vec<TokenId> = all
        .iter()
        .filter(|token| is_stale(token))
        .map(|token| token.id)
        .collect();
    if stale.len() == all.len() && tx.count::<model::User>("")? == 0 {
        stale.pop();
    }
    Ok(stale)
}

/// The deploy tokens of a project; never their text.
///
/// # Errors
/// As the gate's.
pub fn deploy_tokens(
    control: &Control,
    actor: &Actor,
    org: &str,
    project: &str,
) -> Result<Vec<Versioned<Token>>, ControlError> {
    control.read(|tx| {
        let (_, project) = authorize::project(tx, actor, Action::Administer, org, project)?;
        of_project(tx, project.row.id)
    })
}

fn of_project(tx: &ReadTx, project: model::ProjectId) -> Result<Vec<Versioned<Token>>, ControlError> {
    let mut found = tx.list::<Token>("")?;
    found.retain(|token| token.row.project == Some(project));
    found.sort_by_key(|token| token.row.id);
    Ok(found)
}

/// A new deploy token of a project; its text is shown this once. It ends with its maker's own rights there.
///
/// # Errors
/// As the gate's; `Denied` for more than the maker may; `Invalid` for values that cannot be.
pub fn create_deploy_token(
    control: &Control,
    actor: &Actor,
    org: &str,
    project: &str,
    wish: &Wish,
) -> Result<(Token, Secret), ControlError> {
    let life = check(wish)?;
    let object = format!("{org}/{project}/{}", wish.name);
    let made = control.mutate(actor, "deploy_token.create", &object, |tx| {
        let rights = Rights::of(tx, actor)?;
        let (_, project) = rights.project(tx, Action::Administer, org, project)?;
        let realm = authorize::realm_of(&project.row);
        if rights.role(realm) < Some(wish.role) {
            return Err(ControlError::Denied {
                action: Action::Administer,
            });
        }
        refuse_stronger(&rights, wish, realm)?;
        issue(tx, actor, DEPLOY, wish, control.now_of(tx).plus(life), realm)
    })?;
    Ok((made.0, Secret::new(made.1.into_bytes())))
}

/// Ends a deploy token at once.
///
/// # Errors
/// As the gate's.
pub fn revoke_deploy_token(
    control: &Control,
    actor: &Actor,
    org: &str,
    project: &str,
    id: &str,
) -> Result<(), ControlError> {
    control.mutate(
        actor,
        "deploy_token.revoke",
        &format!("{org}/{project}/{id}"),
        |tx| {
            let (_, project) = authorize::project(tx, actor, Action::Administer, org, project)?;
            let mut all = of_project(tx, project.row.id)?.into_iter();
            let found = all.find(|token| token.row.id.to_string() == id);
            let found = found.ok_or_else(|| authorize::missing("token", id))?;
            revoke(tx, control.now_of(tx), |token| token.id == found.row.id)
        },
    )
}

/// What a token lets pass now, or that it does not count any more.
pub(crate) fn bounds(tx: &ReadTx, id: TokenId) -> Result<Bounds, ControlError> {
    let found = tx.get::<Token>(&id.to_string())?.ok_or(ControlError::SignIn)?.row;
    if found.revoked && !planted::is(Defect::TrustsTokens) {
        return Err(ControlError::SignIn);
    }
    Ok(found.bounds())
}
