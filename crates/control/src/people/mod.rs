//! Who may come in: the claim of a new installation, users and what they are where, sessions, access tokens.
//!
//! Lives here: the claim, and the texts that let somebody in. Does not live here: what each may do (`authorize`).
//! Invariant: of a text that lets somebody in only its hash is kept.

pub mod device;
mod invitations;
mod members;
pub mod oidc;
mod password;
mod sessions;
mod throttle;
mod tokens;
mod users;

use std::fs;
use std::path::PathBuf;

use model::{Actor, Email, Millis, OrgId, Realm, Role, Token, User};
use sha2::{Digest, Sha256};
use store::ReadTx;
use store::rows::Claim;
use store::secret::Secret;

use crate::authorize::Rights;
use crate::{Control, ControlError, rehearsal};

pub use invitations::{Accepted, accept, invitations, invite, invite_reset, revoke_invitation};
pub use members::{Member, grant_member, members, remove_member};
pub use password::Hasher;
pub use sessions::{SignedIn, authenticate_session, end_session, look_at_session, sessions, sign_in};
pub(crate) use sessions::{collect, refuse_ended};
pub use throttle::{Source, Throttle};
pub(crate) use tokens::bounds;
pub use tokens::{
    DEPLOY, LIFE as TOKEN_LIFE, PERSONAL, Wish, authenticate, create_deploy_token, create_token,
    deploy_tokens, look_at, revoke_deploy_token, revoke_token, tokens,
};
pub use users::{Account, change_password, delete_user, own, set_role, user, users};

/// How long a claim token is good for.
const CLAIM_LIFE: Millis = Millis::seconds(15 * 60);
/// The last use of a credential is written down at most that often: a read must not cost a commit.
const LAST_USE_EVERY: Millis = Millis::seconds(60);
const CLAIM_PREFIX: &str = "stoa_claim_";

fn fill_randomly(bytes: &mut [u8]) -> Result<(), ControlError> {
    getrandom::fill(bytes).map_err(|e| ControlError::File {
        what: "no randomness from the system".to_owned(),
        cause: std::io::Error::other(e.to_string()),
    })
}

fn random_text(prefix: &str) -> Result<String, ControlError> {
    let mut bytes = [0_u8; 32];
    fill_randomly(&mut bytes)?;
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
    if control.read(|tx| Ok(!tx.list::<Token>("")?.is_empty() || tx.count::<User>("")? > 0))? {
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

/// Who claims an installation, when it is to be a user and not only a token.
#[derive(Debug)]
pub struct Founder {
    /// Address.
    pub email: Email,
    /// Name for people.
    pub name: String,
    /// Password.
    pub password: Secret,
}

/// Trades the claim token for the first owner's access token. Works once.
///
/// # Errors
/// `SignIn` for anything but the live claim token; `Invalid` for a founder that cannot be.
pub fn claim(
    control: &Control,
    text: &str,
    founder: Option<&Founder>,
) -> Result<(Token, Secret), ControlError> {
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
    let kept = founder
        .map(|founder| users::keep(control, &founder.email, &founder.name, &founder.password))
        .transpose()?;
    let made = control.mutate(&Actor::System, "claim", "installation", |tx| {
        let live = find(tx)?;
        let now = control.now_of(tx);
        let live = live
            .filter(|claim| claim.row.expires_at > now)
            .ok_or(ControlError::SignIn)?;
        tx.delete::<Claim>(&live.row.hash, store::Expect::Any)?;
        let user = match (founder, &kept) {
            (Some(founder), Some(kept)) => {
                let user = users::insert(tx, &founder.email, &founder.name, Some(kept.clone()), now)?;
                members::grant(tx, user.id, Realm::Installation, Role::Owner, now)?;
                Some(user.id)
            }
            _nobody => None,
        };
        let (mut token, text) = tokens::fresh(tokens::PERSONAL, "owner", now, tokens::LIFE)?;
        token.user = user;
        tx.insert(&token)?;
        Ok((token, text))
    })?;
    if !rehearsal::is_on() {
        drop(fs::remove_file(claim_path(control)));
    }
    Ok((made.0, Secret::new(made.1.into_bytes())))
}

/// What the door asks before anything else.
#[derive(Default)]
pub struct Door {
    /// Hashes passwords, a few at once.
    pub hasher: Hasher,
    /// Counts wrong guesses.
    pub throttle: Throttle,
    /// Machines that wait to be signed in.
    pub devices: device::Devices,
    /// Browsers on their way to an identity provider and back.
    pub browsers: oidc::Browsers,
}

/// What an actor may do where.
#[derive(Debug, Clone)]
pub struct Standing {
    /// The strongest role anywhere.
    pub strongest: Role,
    /// The role in each place, as far as the token in use lets it pass.
    pub roles: Vec<(Realm, Role)>,
    /// The org, when there are rights in that one only.
    pub only: Option<OrgId>,
}

/// What an actor may do where.
///
/// # Errors
/// When the store cannot be read.
pub fn standing(control: &Control, actor: &Actor) -> Result<Standing, ControlError> {
    let rights = control.read(|tx| Rights::of(tx, actor))?;
    let roles: Vec<(Realm, Role)> = rights.everywhere().collect();
    let mut orgs: Vec<Option<OrgId>> = roles.iter().map(|(realm, _)| realm.org()).collect();
    orgs.dedup();
    let only = match orgs[..] {
        [only] => only,
        [..] => None,
    };
    let strongest = roles.iter().map(|(_, role)| *role).max();
    Ok(Standing {
        strongest: strongest.unwrap_or(Role::Viewer),
        roles,
        only,
    })
}
