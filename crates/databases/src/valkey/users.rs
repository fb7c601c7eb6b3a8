//! Users of a Valkey: the platform's own, the logins of applications, and the one that may only ask whether it answers.
//!
//! Invariant: the file of users is in the volume, with passwords as their SHA-256 alone; ours are long and random.

use std::fmt::Write as _;

use engine::Engine;
use sha2::{Digest as _, Sha256};

use super::{Cli, DATA, USERS};
use crate::inside::Inside;
use crate::psql::patiently;
use crate::{DatabaseError, login_role};

/// The platform's own user.
pub(super) const PLATFORM: &str = "stoa";
/// What a login may not do: whatever changes the server or its log, reaches another one, or shows what others do. What is only
/// slow, or destroys nothing but its own data, it may.
const LOGIN_MAY: [&str; 13] = [
    "+@all",
    "-@admin",
    "-@dangerous",
    "+flushall",
    "+flushdb",
    "+info",
    "+keys",
    "+restore",
    "+role",
    "+sort",
    "+sort_ro",
    "+swapdb",
    "+client|list",
];

/// Makes the volume of a new database, with a server that only the platform can sign in to. Doing it again makes it anew.
///
/// # Errors
/// When it cannot be made; nothing of it is left then.
pub fn create_volume(engine: &dyn Engine, volume: &str, password: &str) -> Result<(), DatabaseError> {
    let making = format!("making-{volume}");
    engine.remove_volume(&making)?;
    engine.create_volume(&making)?;
    let made = (|| {
        let root = Inside::volume(&engine.volume_path(&making)?).map_err(DatabaseError::file(DATA))?;
        root.make_open_directory(DATA)
            .and_then(|data| data.put_open(USERS, first(password).as_bytes()))
            .and_then(|()| root.sync())
            .map_err(DatabaseError::file(USERS))?;
        engine.rename_volume(&making, volume)?;
        Ok(())
    })();
    if made.is_err() {
        drop(engine.remove_volume(&making));
    }
    made
}

/// Makes the copy in a stopped volume the platform's alone: none of the logins of what it is a copy of counts in it.
///
/// # Errors
/// When the file of users cannot be replaced.
pub fn take_over(engine: &dyn Engine, volume: &str, password: &str) -> Result<(), DatabaseError> {
    let data = Inside::volume(&engine.volume_path(volume)?)
        .and_then(|root| root.below(DATA))
        .map_err(DatabaseError::file(DATA))?;
    // A rewrite that was under way, or that a kill cut short.
    for (name, _) in data.list().map_err(DatabaseError::file(DATA))? {
        if name.starts_with("temp-") {
            data.remove(&name).map_err(DatabaseError::file(&name))?;
        }
    }
    data.put_open(USERS, first(password).as_bytes())
        .map_err(DatabaseError::file(USERS))
}

/// The users of a server that nobody has a login of yet.
fn first(password: &str) -> String {
    let hash = hash(password);
    format!(
        "user default off\n\
         user {PLATFORM} on #{hash} ~* &* +@all\n\
         user probe on nopass resetkeys resetchannels -@all +ping\n"
    )
}

fn hash(password: &str) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(password.as_bytes()) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Makes a login with a password. Doing it again sets the password again. A server that does not answer yet is asked again.
///
/// # Errors
/// When the server refuses.
pub fn add_login(cli: Cli<'_>, version: u64, password: &str) -> Result<(), DatabaseError> {
    let (user, hash) = (login_role(version), format!("#{}", hash(password)));
    let mut words = vec!["ACL", "SETUSER", &user, "reset", "on", &hash, "~*", "&*"];
    words.extend(LOGIN_MAY);
    patiently(|| cli.ask(&words).map(drop))?;
    save(cli)
}

/// Ends a login. One that is not there is fine.
///
/// # Errors
/// When the server refuses.
pub fn drop_login(cli: Cli<'_>, version: u64) -> Result<(), DatabaseError> {
    cli.ask(&["ACL", "DELUSER", &login_role(version)])?;
    save(cli)
}

fn save(cli: Cli<'_>) -> Result<(), DatabaseError> {
    cli.ask(&["ACL", "SAVE"]).map(drop)
}

/// How many sessions a login has.
///
/// # Errors
/// When the server refuses.
pub fn sessions(cli: Cli<'_>, version: u64) -> Result<u64, DatabaseError> {
    let user = format!("user={}", login_role(version));
    let told = cli.ask(&["CLIENT", "LIST"])?;
    let count = told
        .lines()
        .filter(|line| line.split(' ').any(|word| word == user))
        .count();
    Ok(count as u64)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_first_users_hold_no_password() {
        let text = super::first("secret");
        assert!(!text.contains("secret"), "{text}");
        assert!(
            text.contains("#2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b "),
            "{text}"
        );
        assert!(text.starts_with("user default off\n"), "{text}");
    }
}
