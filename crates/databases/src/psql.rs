//! SQL by the server's own `psql`, inside the database's instance and over its private socket.
//!
//! Invariant: no text of a user becomes SQL here; names are ours and passwords are hexadecimal.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use engine::{Engine, Exec, ExecStreams};
use model::InstanceId;

use crate::cluster::{SOCKETS, USER};
use crate::{DATABASE, DatabaseError, OWNER, login_role};

/// How long a new server may take until it answers.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);

/// How long a server may take for what is short: to be told that it may only read, or asked how far its log is.
const TOLD_WITHIN: Duration = Duration::from_secs(10);

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
        // Ours also change what they must while the database is full, and wait for no receiver: they see to it.
        env: options(&format!(
            "-c default_transaction_read_only=off -c synchronous_commit=local{}",
            // Nothing there is ours to call that a login may have put there. Elsewhere data may need its own path.
            if database == "postgres" { SAFE_PATH } else { "" }
        )),
        user: Some(USER.to_owned()),
        workdir: Some("/".to_owned()),
        terminal: None,
    }
}

/// Only what PostgreSQL brings is found by its plain name: a function that fits better would run with our rights.
const SAFE_PATH: &str = " -c search_path=pg_catalog";

fn options(text: &str) -> Vec<(String, String)> {
    vec![("PGOPTIONS".to_owned(), text.trim_start().to_owned())]
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
        talk(self.engine.exec(self.instance, &quiet(database))?, sql, None)
    }

    /// The same, given up after a while: for who has others to see to.
    pub(crate) fn run_soon(&self, database: &str, sql: &str) -> Result<String, DatabaseError> {
        talk(
            self.engine.exec(self.instance, &quiet(database))?,
            sql,
            Some(TOLD_WITHIN),
        )
    }

    /// The same with everything set as it is for whoever signs in, but for where names are looked for.
    pub(crate) fn run_as_set(&self, sql: &str) -> Result<String, DatabaseError> {
        let exec = Exec {
            env: options(SAFE_PATH),
            ..quiet("postgres")
        };
        talk(self.engine.exec(self.instance, &exec)?, sql, Some(TOLD_WITHIN))
    }

    /// Waits until the server answers a query.
    ///
    /// # Errors
    /// When it does not in time, with what psql said last.
    pub fn wait(&self) -> Result<(), DatabaseError> {
        patiently(|| self.run("postgres", "SELECT 1").map(drop))
    }
}

/// What a program said, and how it ended.
pub(crate) struct Said {
    pub(crate) printed: String,
    pub(crate) complaint: String,
    pub(crate) code: i32,
    /// It took all that it was sent.
    pub(crate) is_heard: bool,
}

/// Sends SQL to a running psql, and returns what that prints. With a limit psql is ended when it is over.
fn talk(streams: ExecStreams, sql: &str, limit: Option<Duration>) -> Result<String, DatabaseError> {
    let said = hear("psql", streams, sql, limit)?;
    if said.code == 0 && said.is_heard {
        return Ok(said.printed);
    }
    let output = said.complaint.lines().last().unwrap_or("no message").to_owned();
    Err(DatabaseError::Program {
        program: "psql",
        output,
    })
}

/// Sends text to a running program, and waits for its end. With a limit it is ended when that is over.
pub(crate) fn hear(
    what: &'static str,
    streams: ExecStreams,
    text: &str,
    limit: Option<Duration>,
) -> Result<Said, DatabaseError> {
    let ExecStreams {
        stdin,
        stdout,
        stderr,
        wait,
        hold,
    } = streams;
    let (mut printed, mut complaint) = (String::new(), String::new());
    let (done, is_done) = mpsc::channel::<()>();
    let (sent, code, is_late) = std::thread::scope(|scope| {
        // Whatever is waited for below ends with the program.
        let guard = scope.spawn(move || {
            let is_late = limit
                .is_some_and(|limit| is_done.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout));
            if !is_late {
                let _ended = is_done.recv();
            }
            drop(hold);
            is_late
        });
        let errors = scope.spawn(|| {
            if let Some(errors) = stderr {
                complaint = text_of(File::from(errors));
            }
        });
        let mut input = File::from(stdin);
        let sent = input.write_all(text.as_bytes());
        drop(input);
        printed = text_of(File::from(stdout));
        drop(errors.join());
        let code = wait();
        drop(done);
        (sent, code, guard.join().unwrap_or(false))
    });
    if let Some(limit) = limit.filter(|_| is_late) {
        return Err(DatabaseError::Slow {
            what,
            limit_s: limit.as_secs(),
        });
    }
    Ok(Said {
        printed,
        complaint,
        code: code?,
        is_heard: sent.is_ok(),
    })
}

/// The columns of a line that were put together with `concat_ws(chr(31), ...)`. None of them may hold a control character:
/// what users chose is freed of them by the server.
pub(crate) fn fields(line: &str) -> Vec<&str> {
    line.split('\u{1f}').collect()
}

/// All of it; what is no UTF-8, as the text of a database in another encoding, is marked.
fn text_of(mut stream: File) -> String {
    let mut bytes = Vec::new();
    drop(stream.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Asks a server that may still be starting.
pub(crate) fn patiently<T>(mut ask: impl FnMut() -> Result<T, DatabaseError>) -> Result<T, DatabaseError> {
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
/// When the server refuses, or does not answer for a while.
pub fn only_read(psql: Psql<'_>) -> Result<(), DatabaseError> {
    let sql = "ALTER SYSTEM SET default_transaction_read_only = on;\nSELECT pg_reload_conf();\n";
    psql.run_soon("postgres", sql).map(drop)
}

/// Lets sessions write again.
///
/// # Errors
/// When the server refuses, or does not answer for a while.
pub fn write_again(psql: Psql<'_>) -> Result<(), DatabaseError> {
    let sql = "ALTER SYSTEM RESET default_transaction_read_only;\nSELECT pg_reload_conf();\n";
    psql.run_soon("postgres", sql).map(drop)
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
    count_of(&psql.run("postgres", &sql)?)
}

fn count_of(printed: &str) -> Result<u64, DatabaseError> {
    printed.trim().parse().map_err(|_| DatabaseError::Program {
        program: "psql",
        output: format!("not a number: {printed}"),
    })
}

/// How many clients are signed in, whoever they are; not counting who asks.
///
/// # Errors
/// When the server does not say.
pub fn all_sessions(psql: Psql<'_>) -> Result<u64, DatabaseError> {
    let sql = "SELECT count(*) FROM pg_catalog.pg_stat_activity \
               WHERE backend_type = 'client backend' AND usename IS NOT NULL AND pid <> pg_catalog.pg_backend_pid()";
    count_of(&psql.run_soon("postgres", sql)?)
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
    use std::process::{Child, Command, Stdio};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use engine::ExecStreams;

    use super::talk;
    use crate::DatabaseError;

    /// Ends a program when it is dropped, as an engine does.
    struct Hold(Arc<Mutex<Child>>);

    impl Drop for Hold {
        fn drop(&mut self) {
            let _ended_already = self.0.lock().expect("no panic").kill();
        }
    }

    fn program(argv: &[&str]) -> ExecStreams {
        let mut child = Command::new(argv[0])
            .args(&argv[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let child = Arc::new(Mutex::new(child));
        let hold = Hold(Arc::clone(&child));
        let wait = move || {
            let code = child.lock().expect("no panic").wait().expect("waited for").code();
            Ok(code.unwrap_or(137))
        };
        ExecStreams {
            stdin: stdin.expect("piped").into(),
            stdout: stdout.expect("piped").into(),
            stderr: stderr.map(Into::into),
            wait: Box::new(wait),
            hold: Box::new(hold),
        }
    }

    #[test]
    fn a_server_that_does_not_answer_is_not_waited_for() {
        let done = talk(
            program(&["sleep", "infinity"]),
            "SELECT 1",
            Some(Duration::from_millis(50)),
        );
        assert!(matches!(done, Err(DatabaseError::Slow { .. })), "{done:?}");
    }

    #[test]
    fn what_a_program_prints_comes_back_and_its_failure_too() {
        for limit in [None, Some(Duration::from_secs(600))] {
            assert_eq!(
                talk(program(&["cat"]), "SELECT 1", limit).expect("printed"),
                "SELECT 1"
            );
            let failed = talk(program(&["cat", "/nowhere"]), "", limit);
            assert!(
                matches!(&failed, Err(DatabaseError::Program { output, .. }) if output.contains("nowhere")),
                "{failed:?}"
            );
        }
    }

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
