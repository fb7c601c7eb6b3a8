//! What servers are told when one takes the place of another.
//!
//! Lives here: holding new sessions of the one that comes, ending those of the one that goes, where a name leads.
//! Does not live here: rows and names, and the order of the steps (`control`).
//! Invariant: whoever is held waits and is not refused; a hold ends with the session that has it, so that no crash of ours
//! leaves one behind.

use std::net::Ipv4Addr;
use std::time::Duration;

use engine::{Engine, Exec};
use model::{Bytes, InstanceId, Lsn};

use crate::cluster::USER;
use crate::psql::{Psql, hear};
use crate::session::Session;
use crate::{DATABASE, DatabaseError, login_role};

/// How long others may keep us from holding: whoever reads of roles in a long transaction does.
const HOLDS_WITHIN_S: u64 = 5;
/// How long a session that is told to end is waited for.
const ENDS_WITHIN_MS: u64 = 1000;
/// How often sessions are looked for before one that does not end is given up.
const ROUNDS: u32 = 5;
/// Between two looks: a session that has signed in and is not listed yet is there by the next.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long a name may take to be answered.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// New sessions of a server wait as long as this is there, those that are there go on. A server lets nobody wait for
/// longer than its `authentication_timeout`, one minute.
pub struct Hold(Session);

impl Hold {
    /// Lets them in.
    ///
    /// # Errors
    /// When the session that held them had ended.
    pub fn release(mut self) -> Result<(), DatabaseError> {
        self.0.ask("COMMIT;").map(drop)
    }
}

/// Has new sessions wait: nobody signs in without reading the roles.
///
/// # Errors
/// When the server refuses, or somebody reads the roles for too long.
pub fn hold(psql: Psql<'_>) -> Result<Hold, DatabaseError> {
    let mut session = Session::open(psql)?;
    session.ask(&format!(
        "SET lock_timeout = '{HOLDS_WITHIN_S}s';\n\
         SET idle_in_transaction_session_timeout = 0;\n\
         BEGIN;\n\
         LOCK TABLE pg_catalog.pg_authid IN ACCESS EXCLUSIVE MODE;"
    ))?;
    Ok(Hold(session))
}

/// Lets nobody sign in by these logins any more. Sessions that are there go on.
///
/// # Errors
/// When the server refuses, or does not answer for a while.
pub fn bar(psql: Psql<'_>, versions: &[u64]) -> Result<(), DatabaseError> {
    let each = versions.iter().map(|version| {
        let role = login_role(*version);
        format!("SELECT 'ALTER ROLE {role} NOLOGIN' FROM pg_roles WHERE rolname = '{role}'\\gexec\n")
    });
    psql.run_soon("postgres", &each.collect::<String>()).map(drop)
}

/// Ends the sessions of everybody but us, of these logins for good.
///
/// # Errors
/// When the server refuses or does not answer for a while, or a session does not end.
pub fn cut(psql: Psql<'_>, versions: &[u64]) -> Result<(), DatabaseError> {
    bar(psql, versions)?;
    let sql = format!(
        "SELECT pg_terminate_backend(pid, {ENDS_WITHIN_MS}) FROM pg_stat_activity\n\
         WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()\n\
         AND (usename IS DISTINCT FROM '{USER}' OR datname = '{DATABASE}');\n"
    );
    let mut was_none = false;
    for _ in 0..ROUNDS {
        let is_none = psql.run_soon("postgres", &sql)?.trim().is_empty();
        if is_none && was_none {
            return Ok(());
        }
        was_none = is_none;
        std::thread::sleep(LOOK_AGAIN);
    }
    Err(DatabaseError::Slow {
        what: "the end of the sessions of others",
        limit_s: u64::from(ROUNDS) * ENDS_WITHIN_MS / 1000,
    })
}

/// How much a server has written to its log since a place in it.
///
/// # Errors
/// When the server refuses, or does not answer for a while.
pub fn written_since(psql: Psql<'_>, lsn: Lsn) -> Result<Bytes, DatabaseError> {
    let sql = format!("SELECT greatest(pg_wal_lsn_diff(pg_current_wal_lsn(), '{lsn}'), 0)::bigint;\n");
    let printed = psql.run_soon("postgres", &sql)?;
    let bytes = printed.trim().parse().map_err(|_| DatabaseError::Program {
        program: "psql",
        output: format!("not a number: {printed}"),
    })?;
    Ok(Bytes::new(bytes))
}

/// Where a name leads, asked as a user that its image has asks in an instance; nothing while nobody has it.
///
/// # Errors
/// When its image has no `getent`, or that is not answered.
pub fn leads_to(
    engine: &dyn Engine,
    instance: InstanceId,
    user: &str,
    name: &str,
) -> Result<Vec<Ipv4Addr>, DatabaseError> {
    let exec = Exec {
        argv: ["getent", "ahostsv4", name].map(str::to_owned).to_vec(),
        env: Vec::new(),
        user: Some(user.to_owned()),
        workdir: Some("/".to_owned()),
        terminal: None,
    };
    let said = hear("getent", engine.exec(instance, &exec)?, "", Some(ANSWERS_WITHIN))?;
    match said.code {
        0 | NO_SUCH_NAME => Ok(addresses(&said.printed)),
        _ => Err(DatabaseError::Program {
            program: "getent",
            output: said.complaint.lines().last().unwrap_or("no message").to_owned(),
        }),
    }
}

/// What `getent` ends with when nobody has the name.
const NO_SUCH_NAME: i32 = 2;

/// One line for each address and kind of socket, the address first.
fn addresses(printed: &str) -> Vec<Ipv4Addr> {
    let first = printed.lines().filter_map(|line| line.split_whitespace().next());
    let mut all: Vec<Ipv4Addr> = first.filter_map(|word| word.parse().ok()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_is_told_once() {
        let printed =
            "10.80.1.2       STREAM main.db.internal\n10.80.1.2       DGRAM  \n10.80.1.2       RAW    \n";
        assert_eq!(addresses(printed), [Ipv4Addr::new(10, 80, 1, 2)]);
        assert!(addresses("").is_empty());
    }
}
