//! A pooler: PgBouncer between a database and its clients, so that many clients share few sessions.
//!
//! Lives here: its image, what the server must know of it, its workload and settings, holding its clients back for a while.
//! Does not live here: rows, names and the password at rest (`control`).
//! Invariants: it knows no password of a client: each is looked up on the server as it signs in, so that a rotation needs
//! no word to it. Its own login may call one function and nothing else, and that tells of the logins of apps alone.

use std::time::Duration;

use engine::{Engine, EngineError, Exec, FetchImage, LineSink, LogQuery, Probe, Reach, SecretFile, Workload};
use model::operation::ImageSource;
use model::spec::Health;
use model::{Bytes, Database, EnvKey, Exit, ImageDigest, Instance, InstanceId, Millis, Resources};

use crate::cluster;
use crate::psql::{Psql, hear};
use crate::template::{Place, wait_end};
use crate::{DATABASE, DatabaseError, PORT};

/// The image that poolers run from.
pub const IMAGE: &str = "pgbouncer:1";
/// Debian 12 has 1.18: no prepared statements in transactions, and CVE-2025-2291.
const SUITE: &str = "trixie";
/// The second one is for its console.
const PACKAGES: [&str; 2] = ["pgbouncer", "postgresql-client-17"];
/// Before it, an expired password was taken (CVE-2025-2291).
const OLDEST: [u32; 3] = [1, 24, 1];
/// Nobody in particular, whatever users the image knows: it owns no file but its secrets.
pub const USER: &str = "65534:65534";
/// What Debian calls `psql` elsewhere is a script that only looks for it, in Perl.
const PATH: &str = "/usr/lib/postgresql/17/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const SETTINGS: &str = "pgbouncer.ini";
const USERS: &str = "userlist.txt";
/// Where its console is; whoever has its user id may use it without a password.
const SOCKETS: &str = "/tmp";
/// The role that looks up who may sign in, and the schema of its function.
const ROLE: &str = "stoa_pooler";
/// The database that clients are looked up in.
const LOOKED_UP_IN: &str = "postgres";
/// A lookup takes a millisecond; one that takes longer is tried again with the next server.
const LOOKED_UP_WITHIN: Duration = Duration::from_secs(1);
/// A client that does nothing costs some kilobytes, one at work some more.
const MEMORY: Bytes = Bytes::mi(64);
/// What a client of a database is refused beyond.
const CLIENTS: u32 = 1000;
/// Sessions for looking up who may sign in: each lookup takes a millisecond. With a second one, which comes and goes, a
/// pause may meet it as it signs in; PgBouncer then refuses whoever connects until the pause is over.
const LOOKUPS: u32 = 1;
/// How long the console may take for what is short.
const TOLD_WITHIN: Duration = Duration::from_secs(10);

/// The image with PgBouncer, and which that is. Made of Debian's packages unless there is one of that name.
///
/// # Errors
/// When it cannot be got; `Unfit` when what is in it is none, or too old.
pub fn ensure_image(
    engine: &dyn Engine,
    place: &Place,
    lines: LineSink<'_>,
) -> Result<(ImageDigest, String), DatabaseError> {
    let digest = match engine.find_image(IMAGE)? {
        Some(facts) => facts.digest,
        None => {
            let source = ImageSource::Debian {
                suite: SUITE.to_owned(),
                packages: PACKAGES.map(str::to_owned).into(),
            };
            let fetch = FetchImage {
                source: &source,
                archive: None,
                name: IMAGE,
                reach: Reach::PublicOnly,
            };
            engine.fetch_image(&fetch, lines)?
        }
    };
    let version = version_in(engine, place, &digest)?;
    Ok((digest, version))
}

fn version_in(engine: &dyn Engine, place: &Place, image: &ImageDigest) -> Result<String, DatabaseError> {
    let workload = Workload {
        id: place.id,
        hostname: "pooler".to_owned(),
        network: String::new(),
        image: image.clone(),
        command: vec!["pgbouncer".to_owned(), "--version".to_owned()],
        user: Some(USER.to_owned()),
        workdir: Some("/".to_owned()),
        env: surroundings().into_iter().collect(),
        secrets: Vec::new(),
        resources: limits(),
        uid_range: place.uid_range,
        volumes: Vec::new(),
        search_domain: String::new(),
        log_key: "templates".to_owned(),
        log_label: "pgbouncer".to_owned(),
        probe: None,
        stop_signal: 15,
    };
    match engine.ensure(&workload) {
        // There is no such program in it.
        Err(EngineError::NotStarted { why, .. }) => return Err(unfit(&why)),
        begun => drop(begun?),
    }
    let ended = wait_end(engine, place.id, "the version of PgBouncer");
    let query = LogQuery {
        key: workload.log_key,
        instance: Some(place.id),
        limit: 5,
        ..LogQuery::default()
    };
    let said = engine.logs(&query).unwrap_or_default();
    engine.remove(place.id)?;
    let said: Vec<String> = said.into_iter().map(|line| line.text).collect();
    match ended? {
        Exit::Code { code: 0 } => judge(&said.join("\n")),
        exit => Err(unfit(&format!("{}: {}", exit.describe(), said.join(" / ")))),
    }
}

fn unfit(why: &str) -> DatabaseError {
    DatabaseError::Unfit {
        why: format!("the image {IMAGE} is no PgBouncer that can be used: {why}"),
    }
}

/// The version, unless it is too old.
fn judge(printed: &str) -> Result<String, DatabaseError> {
    let version = printed
        .lines()
        .find_map(|line| line.strip_prefix("PgBouncer "))
        .map(str::trim)
        .ok_or_else(|| unfit("it does not tell its version"))?;
    let numbers: Option<Vec<u32>> = version.split('.').map(|part| part.parse().ok()).collect();
    match numbers {
        Some(numbers) if numbers >= OLDEST.to_vec() => Ok(version.to_owned()),
        Some(_) | None => {
            let oldest = OLDEST.map(|number| number.to_string()).join(".");
            Err(unfit(&format!("it has {version}, and {oldest} is the oldest")))
        }
    }
}

/// Makes the server ready for its pooler: the role with that password, and what it may look up. Nobody else but superusers
/// signs in to where it looks, for there is one session for it. Doing it again is fine.
///
/// # Errors
/// When the server refuses, or does not answer for a while.
pub fn prepare(psql: Psql<'_>, password: &str) -> Result<(), DatabaseError> {
    if password.is_empty() || !password.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(DatabaseError::Program {
            program: "psql",
            output: "the password is not hexadecimal".to_owned(),
        });
    }
    let sql = format!(
        "BEGIN;\n\
         SELECT 'CREATE ROLE {ROLE}' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}')\\gexec\n\
         ALTER ROLE {ROLE} LOGIN NOSUPERUSER NOREPLICATION NOCREATEROLE NOCREATEDB NOBYPASSRLS PASSWORD '{password}';\n\
         SELECT 'CREATE SCHEMA {ROLE}' WHERE NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = '{ROLE}')\\gexec\n\
         REVOKE ALL ON SCHEMA {ROLE} FROM PUBLIC;\n\
         GRANT USAGE ON SCHEMA {ROLE} TO {ROLE};\n\
         CREATE OR REPLACE FUNCTION {ROLE}.lookup(wanted text, OUT name text, OUT secret text)\n\
         RETURNS SETOF record LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS\n\
         'SELECT rolname::text, rolpassword FROM pg_authid WHERE rolname = wanted AND rolcanlogin AND NOT rolsuper\n\
          AND rolname ~ ''^app_[0-9]+$'' AND (rolvaliduntil IS NULL OR rolvaliduntil > now())';\n\
         REVOKE ALL ON FUNCTION {ROLE}.lookup FROM PUBLIC;\n\
         GRANT EXECUTE ON FUNCTION {ROLE}.lookup TO {ROLE};\n\
         REVOKE CONNECT ON DATABASE {LOOKED_UP_IN} FROM PUBLIC;\n\
         GRANT CONNECT ON DATABASE {LOOKED_UP_IN} TO {ROLE};\n\
         COMMIT;\n"
    );
    psql.run_soon(LOOKED_UP_IN, &sql).map(drop)
}

/// Has the pooler's role sign in no more.
///
/// # Errors
/// When the server refuses, or does not answer for a while.
pub fn forget(psql: Psql<'_>) -> Result<(), DatabaseError> {
    let sql = format!(
        "SELECT 'ALTER ROLE {ROLE} NOLOGIN PASSWORD NULL' FROM pg_roles WHERE rolname = '{ROLE}'\\gexec\n"
    );
    psql.run_soon(LOOKED_UP_IN, &sql).map(drop)
}

/// How many sessions of a server of that size its pooler uses at most: some are left for those who come directly, for the
/// platform's own and for looking up.
#[must_use]
pub fn sessions(resources: Resources) -> u32 {
    /// What PostgreSQL keeps for superusers.
    const RESERVED: u32 = 3;
    (cluster::connections(resources) - RESERVED - LOOKUPS) * 3 / 4
}

/// The pooler of a database: it reaches the server as `server`, signs in there with its own password, and listens on the
/// port of PostgreSQL.
#[must_use]
pub fn workload(
    database: &Database,
    image: &ImageDigest,
    instance: &Instance,
    server: &str,
    password: &str,
) -> Workload {
    let secret = |name: &str, content: String| SecretFile {
        name: name.to_owned(),
        content: content.into_bytes(),
    };
    Workload {
        id: instance.id,
        hostname: format!("{}-pooler-{}", database.name, instance.id.short(6)),
        network: database.environment.to_string(),
        image: image.clone(),
        command: vec!["pgbouncer".to_owned(), format!("/run/secrets/{SETTINGS}")],
        user: Some(USER.to_owned()),
        workdir: Some("/".to_owned()),
        env: surroundings().into_iter().collect(),
        secrets: vec![
            secret(SETTINGS, settings(server, database.resources)),
            secret(USERS, format!("\"{ROLE}\" \"{password}\"\n")),
        ],
        resources: limits(),
        uid_range: instance.uid_range,
        volumes: Vec::new(),
        search_domain: "db.internal".to_owned(),
        log_key: database.id.to_string(),
        log_label: "pgbouncer".to_owned(),
        probe: Some(Probe {
            speaks: engine::Speaks::Tcp,
            port: PORT,
            health: Health {
                interval: Millis::seconds(5),
                ..Health::default()
            },
        }),
        // SIGINT has it take no new client, finish what is under way and end.
        stop_signal: 2,
    }
}

fn limits() -> Resources {
    Resources {
        memory: MEMORY,
        ..Resources::default()
    }
}

fn surroundings() -> Option<(EnvKey, String)> {
    let key = "PATH".parse::<EnvKey>().ok()?;
    Some((key, PATH.to_owned()))
}

fn settings(server: &str, resources: Resources) -> String {
    let sessions = sessions(resources);
    let lines = [
        "[databases]".to_owned(),
        format!("{DATABASE} = host={server} port={PORT} dbname={DATABASE}"),
        format!(
            "{LOOKED_UP_IN} = host={server} port={PORT} dbname={LOOKED_UP_IN} pool_size={LOOKUPS} max_db_connections={LOOKUPS}"
        ),
        "[pgbouncer]".to_owned(),
        "listen_addr = 0.0.0.0".to_owned(),
        format!("listen_port = {PORT}"),
        format!("unix_socket_dir = {SOCKETS}"),
        "pool_mode = transaction".to_owned(),
        format!("max_client_conn = {CLIENTS}"),
        // Two logins share the sessions during a rotation: one that has none takes those that the other does not use.
        format!("default_pool_size = {sessions}"),
        format!("max_db_connections = {sessions}"),
        "max_prepared_statements = 200".to_owned(),
        "auth_type = scram-sha-256".to_owned(),
        format!("auth_file = /run/secrets/{USERS}"),
        format!("auth_user = {ROLE}"),
        format!("auth_dbname = {LOOKED_UP_IN}"),
        format!("auth_query = SELECT name, secret FROM {ROLE}.lookup($1)"),
        // A login that is replaced ends when nobody uses it any more.
        "server_idle_timeout = 30".to_owned(),
        // A server that is started again is there in a second, by another address.
        "server_login_retry = 0.2".to_owned(),
        // One that takes another's place lets nobody in for some seconds, and ends that within a minute.
        "server_connect_timeout = 60".to_owned(),
        "dns_max_ttl = 0.5".to_owned(),
        "dns_nxdomain_ttl = 0.2".to_owned(),
        "tcp_keepidle = 10".to_owned(),
        "tcp_keepintvl = 5".to_owned(),
        "tcp_keepcnt = 3".to_owned(),
        // Drivers in Java send it, and what it asks for is what there is.
        "ignore_startup_parameters = extra_float_digits".to_owned(),
        "server_tls_sslmode = disable".to_owned(),
        "log_connections = 0".to_owned(),
        "log_disconnections = 0".to_owned(),
        "log_stats = 0".to_owned(),
    ];
    lines.join("\n") + "\n"
}

/// Has clients of a pooler wait from their next transaction on, and ends its sessions as they finish theirs. Who is
/// waiting, and who comes anew, goes on after [`resume`]. Says whether every transaction had ended within the time.
///
/// # Errors
/// When it refuses.
pub fn pause(engine: &dyn Engine, pooler: InstanceId, within: Duration) -> Result<bool, DatabaseError> {
    let hold = |database: &str, within| match console(engine, pooler, &format!("PAUSE {database};"), within) {
        Ok(_) => Ok(true),
        // It stays so when who asked goes.
        Err(DatabaseError::Slow { .. }) => Ok(false),
        Err(cause) => Err(cause),
    };
    // In this order, so that who signs in meanwhile is still looked up.
    let all_ended = hold(DATABASE, within)?;
    hold(LOOKED_UP_IN, LOOKED_UP_WITHIN)?;
    Ok(all_ended)
}

/// Lets clients go on. One whose clients do not wait stays as it is.
///
/// # Errors
/// When it refuses, or does not answer for a while.
pub fn resume(engine: &dyn Engine, pooler: InstanceId) -> Result<(), DatabaseError> {
    for database in [LOOKED_UP_IN, DATABASE] {
        match console(engine, pooler, &format!("RESUME {database};"), TOLD_WITHIN) {
            Err(DatabaseError::Program { output, .. }) if output.contains("is not paused") => {}
            done => drop(done?),
        }
    }
    Ok(())
}

/// Whether its clients wait.
///
/// # Errors
/// When it refuses, or does not answer for a while.
pub fn is_paused(engine: &dyn Engine, pooler: InstanceId) -> Result<bool, DatabaseError> {
    Ok(any_paused(&console(
        engine,
        pooler,
        "SHOW DATABASES;",
        TOLD_WITHIN,
    )?))
}

/// Of a table with its heading, fields with bars between.
fn any_paused(printed: &str) -> bool {
    let mut lines = printed.lines().map(|line| line.split('|').collect::<Vec<_>>());
    let heading = lines.next().unwrap_or_default();
    let column = heading.iter().position(|name| *name == "paused");
    column.is_some_and(|column| lines.any(|fields| fields.get(column) == Some(&"1")))
}

/// Says something to its console.
fn console(
    engine: &dyn Engine,
    pooler: InstanceId,
    command: &str,
    within: Duration,
) -> Result<String, DatabaseError> {
    let port = PORT.to_string();
    let argv = [
        "psql",
        "--no-psqlrc",
        "--quiet",
        "--no-align",
        "--pset=footer=off",
        "--host",
        SOCKETS,
        "--port",
        &port,
        "--username",
        "pgbouncer",
        "--dbname",
        "pgbouncer",
        "--command",
        command,
    ];
    let exec = Exec {
        argv: argv.map(str::to_owned).to_vec(),
        env: vec![("PATH".to_owned(), PATH.to_owned())],
        user: Some(USER.to_owned()),
        workdir: Some("/".to_owned()),
        terminal: None,
    };
    let said = hear("pgbouncer", engine.exec(pooler, &exec)?, "", Some(within))?;
    match said.code {
        0 => Ok(said.printed),
        _ => Err(DatabaseError::Program {
            program: "pgbouncer",
            output: said.complaint.lines().last().unwrap_or("no message").to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_too_old_or_none_is_refused() {
        for (printed, expected) in [
            ("PgBouncer 1.24.1\nlibevent 2.1.12-stable\n", Some("1.24.1")),
            ("PgBouncer 1.25.0", Some("1.25.0")),
            ("PgBouncer 2.0", Some("2.0")),
            ("PgBouncer 1.24.0", None),
            ("PgBouncer 1.24", None),
            ("PgBouncer 1.18.0", None),
            ("PgBouncer version 1.12.0", None),
            ("", None),
        ] {
            assert_eq!(judge(printed).ok().as_deref(), expected, "{printed}");
        }
    }

    #[test]
    fn the_server_has_room_for_others_beside_its_pooler() {
        for (mi, expected) in [(64, 12), (256, 15), (1024, 73), (4096, 147)] {
            let resources = Resources {
                memory: Bytes::mi(mi),
                ..Resources::default()
            };
            assert_eq!(sessions(resources), expected, "{mi} MiB");
        }
    }

    #[test]
    fn whether_clients_wait_is_read_by_the_name_of_its_column() {
        let table =
            |app: &str| format!("name|host|paused|disabled\napp|x|{app}|0\npgbouncer||0|0\npostgres|x|0|1\n");
        assert!(any_paused(&table("1")));
        assert!(!any_paused(&table("0")));
        assert!(!any_paused(""));
    }
}
