//! SQL by the server's own `psql`, inside the database's instance and over its private socket.
//!
//! Invariant: no text of a user becomes SQL here; names are ours and passwords are hexadecimal.

use std::fs::File;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use engine::{Engine, Exec};
use model::InstanceId;

use crate::cluster::{SOCKETS, USER};
use crate::{DATABASE, DatabaseError, OWNER, login_role};

/// How long a new server may take until it answers.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);

/// A database's instance to speak SQL with.
#[derive(Clone, Copy)]
pub struct Psql<'a> {
    /// Where it runs.
    pub engine: &'a dyn Engine,
    /// Its instance.
    pub instance: InstanceId,
}

/// The program a person gets: psql as the owner of everything in the database.
#[must_use]
pub fn psql(arguments: &[String]) -> Exec {
    let mut argv = base(DATABASE);
    argv.extend_from_slice(arguments);
    Exec {
        argv,
        env: vec![
            ("PGOPTIONS".to_owned(), format!("-c role={OWNER}")),
            ("HOME".to_owned(), "/tmp".to_owned()),
        ],
        user: Some(USER.to_owned()),
        workdir: Some("/".to_owned()),
        terminal: None,
    }
}

fn base(database: &str) -> Vec<String> {
    [
        "psql",
        "--host",
        SOCKETS,
        "--username",
        USER,
        "--dbname",
        database,
    ]
    .map(str::to_owned)
    .to_vec()
}

/// psql that prints answers alone and ends at the first error.
pub(crate) fn quiet(database: &str) -> Exec {
    let mut argv = base(database);
    argv.extend(
        [
            "--no-psqlrc",
            "--quiet",
            "--no-align",
            "--tuples-only",
            "--set",
            "ON_ERROR_STOP=1",
        ]
        .map(str::to_owned),
    );
    Exec {
        argv,
        // Ours also change what they must while the database is full.
        env: vec![(
            "PGOPTIONS".to_owned(),
            "-c default_transaction_read_only=off".to_owned(),
        )],
        user: Some(USER.to_owned()),
        workdir: Some("/".to_owned()),
        terminal: None,
    }
}

/// A database by a name that its users chose: psql takes some names for the address of another server.
pub(crate) fn named(database: &str) -> String {
    let escaped = database.replace('\\', r"\\").replace('\'', r"\'");
    format!("dbname='{escaped}'")
}

impl Psql<'_> {
    /// Runs SQL in a database of the cluster and returns what it prints, unaligned.
    ///
    /// # Errors
    /// When psql or the SQL fails.
    pub fn run(&self, database: &str, sql: &str) -> Result<String, DatabaseError> {
        let streams = self.engine.exec(self.instance, &quiet(database))?;
        let mut input = File::from(streams.stdin);
        let sent = input.write_all(sql.as_bytes());
        drop(input);
        let (mut printed, mut complaint) = (String::new(), String::new());
        let errors = streams.stderr.map(File::from);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                if let Some(mut errors) = errors {
                    drop(errors.read_to_string(&mut complaint));
                }
            });
            drop(File::from(streams.stdout).read_to_string(&mut printed));
            drop(reader.join());
        });
        let code = (streams.wait)()?;
        if code == 0 && sent.is_ok() {
            return Ok(printed);
        }
        let output = complaint.lines().last().unwrap_or("no message").to_owned();
        Err(DatabaseError::Program {
            program: "psql",
            output,
        })
    }

    /// Waits until the server answers a query.
    ///
    /// # Errors
    /// When it does not in time, with what psql said last.
    pub fn wait(&self) -> Result<(), DatabaseError> {
        patiently(|| self.run("postgres", "SELECT 1").map(drop))
    }
}

/// Asks a server that may still be starting.
fn patiently<T>(mut ask: impl FnMut() -> Result<T, DatabaseError>) -> Result<T, DatabaseError> {
    let until = Instant::now() + ANSWERS_WITHIN;
    loop {
        match ask() {
            Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            answer => return answer,
        }
    }
}

/// Makes a login role with a password (hexadecimal, so it needs no quoting). Doing it again sets the password again. A
/// server that does not answer yet is asked again: that spares a query which would only find out.
///
/// # Errors
/// When the server refuses.
pub fn add_login(psql: Psql<'_>, version: u64, password: &str) -> Result<(), DatabaseError> {
    if password.is_empty() || !password.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(DatabaseError::Program {
            program: "psql",
            output: "the password is not hexadecimal".to_owned(),
        });
    }
    let role = login_role(version);
    let sql = format!(
        "SELECT 'CREATE ROLE {role} LOGIN IN ROLE {OWNER}' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}')\\gexec\n\
         ALTER ROLE {role} LOGIN PASSWORD '{password}';\n\
         ALTER ROLE {role} IN DATABASE {DATABASE} SET role TO {OWNER};\n"
    );
    patiently(|| psql.run("postgres", &sql).map(drop))
}

/// Lets sessions only read from now on, those under way too. Whoever deletes to make room says so first:
/// `SET default_transaction_read_only = off`.
///
/// # Errors
/// When the server refuses.
pub fn only_read(psql: Psql<'_>) -> Result<(), DatabaseError> {
    let sql = "ALTER SYSTEM SET default_transaction_read_only = on;\nSELECT pg_reload_conf();\n";
    psql.run("postgres", sql).map(drop)
}

/// Lets sessions write again.
///
/// # Errors
/// When the server refuses.
pub fn write_again(psql: Psql<'_>) -> Result<(), DatabaseError> {
    let sql = "ALTER SYSTEM RESET default_transaction_read_only;\nSELECT pg_reload_conf();\n";
    psql.run("postgres", sql).map(drop)
}

/// How many sessions a login role has.
///
/// # Errors
/// When the server refuses.
pub fn sessions(psql: Psql<'_>, version: u64) -> Result<u64, DatabaseError> {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE usename = '{}'",
        login_role(version)
    );
    let printed = psql.run("postgres", &sql)?;
    printed.trim().parse().map_err(|_| DatabaseError::Program {
        program: "psql",
        output: format!("not a number: {printed}"),
    })
}

/// Ends a login role. One that is not there is fine.
///
/// # Errors
/// When the server refuses.
pub fn drop_login(psql: Psql<'_>, version: u64) -> Result<(), DatabaseError> {
    let role = login_role(version);
    psql.run("postgres", &format!("DROP ROLE IF EXISTS {role};\n"))
        .map(drop)
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_name_of_a_database_leads_to_another_server() {
        for (name, expected) in [
            ("app", "dbname='app'"),
            ("host=far dbname=x", "dbname='host=far dbname=x'"),
            ("postgres://far/x", "dbname='postgres://far/x'"),
            (r"a' host='far\", r"dbname='a\' host=\'far\\'"),
        ] {
            assert_eq!(super::named(name), expected);
        }
    }
}
