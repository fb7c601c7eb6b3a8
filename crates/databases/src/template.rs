//! From nothing to a volume with a cluster: image, template, clone, identity.

use std::time::{Duration, Instant};

use engine::{
    Engine, FetchImage, LineSink, LogQuery, Observed, Phase, Reach, VolumeFacts, VolumeMount, Workload,
};
use model::operation::ImageSource;
use model::{Exit, ImageDigest, InstanceId, Resources};

use crate::cluster::{PGDATA, SOCKETS, USER, VOLUME_TARGET, program, surroundings};
use crate::inside::Inside;
use crate::psql::Psql;
use crate::{DATABASE, DatabaseError, OWNER, control_file};

/// The major version that Debian 12's packages carry.
pub const USUAL_VERSION: &str = "15";
const SUITE: &str = "bookworm";
/// How long one of PostgreSQL's own programs may take.
pub(crate) const PROGRAM_LIMIT: Duration = Duration::from_secs(180);

/// A place for a short-lived instance: made by the caller, who owns its id and range and removes it.
pub struct Place {
    /// Its id.
    pub id: InstanceId,
    /// Its private range of user ids.
    pub uid_range: u32,
    /// The network it is on.
    pub network: String,
}

fn name_of(version: &str) -> String {
    format!("postgres:{version}")
}

/// The image with PostgreSQL in it that is there, and its major version.
///
/// # Errors
/// When the store cannot be read.
pub fn find_image(
    engine: &dyn Engine,
    version: Option<&str>,
) -> Result<Option<(ImageDigest, String)>, DatabaseError> {
    let asked = version.unwrap_or(USUAL_VERSION);
    let found = engine.find_image(&name_of(asked))?;
    Ok(found.map(|facts| (facts.digest, asked.to_owned())))
}

/// Whether an image of this version can be made here; any other must be in the store, as `postgres:N`.
#[must_use]
pub fn can_make(version: &str) -> bool {
    version == USUAL_VERSION
}

/// An image with PostgreSQL in it, and its major version.
///
/// # Errors
/// When there is no such version or it cannot be got.
pub fn ensure_image(
    engine: &dyn Engine,
    version: Option<&str>,
    lines: LineSink<'_>,
) -> Result<(ImageDigest, String), DatabaseError> {
    if let Some(found) = find_image(engine, version)? {
        return Ok(found);
    }
    let asked = version.unwrap_or(USUAL_VERSION);
    let name = name_of(asked);
    if asked != USUAL_VERSION {
        return Err(DatabaseError::Version {
            asked: asked.to_owned(),
            known: USUAL_VERSION,
        });
    }
    let packages = vec![
        format!("postgresql-{USUAL_VERSION}"),
        format!("postgresql-client-{USUAL_VERSION}"),
    ];
    let source = ImageSource::Debian {
        suite: SUITE.to_owned(),
        packages,
    };
    lines("making the PostgreSQL image from Debian packages (once; a minute or two)");
    let digest = engine.fetch_image(
        &FetchImage {
            source: &source,
            archive: None,
            name: &name,
            reach: Reach::PublicOnly,
        },
        lines,
    )?;
    Ok((digest, asked.to_owned()))
}

/// The template of this image, if it is there.
///
/// # Errors
/// When the pool cannot be read.
pub fn find_template(
    engine: &dyn Engine,
    image: &ImageDigest,
    version: &str,
) -> Result<Option<String>, DatabaseError> {
    let template = template_of(image, version);
    let is_there = engine.volumes()?.iter().any(|volume| volume.name == template);
    Ok(is_there.then_some(template))
}

/// The stopped, checksummed cluster that databases of this image are cloned from. Made once.
///
/// # Errors
/// When one of PostgreSQL's programs fails.
pub fn ensure_template(
    engine: &dyn Engine,
    image: &ImageDigest,
    version: &str,
    places: [Place; 2],
    lines: LineSink<'_>,
) -> Result<String, DatabaseError> {
    if let Some(template) = find_template(engine, image, version)? {
        return Ok(template);
    }
    let template = template_of(image, version);
    lines("making the template cluster (once)");
    // Named by the place: what a crash leaves is never mistaken for a finished template.
    let making = format!("{MAKING}{}", places[0].id.short(20));
    engine.create_volume(&making)?;
    let result = fill(engine, image, version, &making, places);
    if let Err(cause) = result {
        drop(engine.remove_volume(&making));
        return Err(cause);
    }
    engine.rename_volume(&making, &template)?;
    Ok(template)
}

fn fill(
    engine: &dyn Engine,
    image: &ImageDigest,
    version: &str,
    volume: &str,
    [first, second]: [Place; 2],
) -> Result<(), DatabaseError> {
    let program_of = program(version, "initdb");
    run_once(
        engine,
        temporary(&first, image, version, volume, &initdb(&program_of, PGDATA)),
        "initdb",
        &|| true,
    )?;
    open_to_the_network(engine, volume)?;
    let server = [
        &program(version, "postgres"),
        "-D",
        PGDATA,
        "-c",
        "listen_addresses=",
        "-c",
        &format!("unix_socket_directories={SOCKETS}"),
        "-c",
        "password_encryption=scram-sha-256",
    ];
    let workload = temporary(&second, image, version, volume, &server);
    engine.ensure(&workload)?;
    let psql = Psql {
        engine,
        instance: second.id,
    };
    let prepared = psql.wait().and_then(|()| {
        psql.run("postgres", &format!("CREATE ROLE {OWNER} NOLOGIN;\nCREATE DATABASE {DATABASE} OWNER {OWNER};\n"))?;
        psql.run(DATABASE, &format!("REVOKE ALL ON SCHEMA public FROM PUBLIC;\nALTER SCHEMA public OWNER TO {OWNER};\nCHECKPOINT;\n"))
    });
    engine.stop(second.id, PROGRAM_LIMIT)?;
    let ended = wait_end(engine, second.id, "stopping the template");
    let removed = engine.remove(second.id);
    prepared?;
    removed?;
    match ended? {
        Exit::Code { code: 0 } => Ok(()),
        exit => Err(DatabaseError::Program {
            program: "postgres",
            output: exit.describe(),
        }),
    }
}

/// Makes an empty cluster. All of ours are made so: `pg_upgrade` takes none that differs.
pub(crate) fn initdb<'a>(program: &'a str, pgdata: &'a str) -> [&'a str; 10] {
    [
        program,
        "--pgdata",
        pgdata,
        "--username",
        USER,
        "--encoding=UTF8",
        "--locale=C.UTF-8",
        "--data-checksums",
        "--auth-local=peer",
        "--auth-host=scram-sha-256",
    ]
}

/// Logins with a password from the private network; nothing else is reachable.
fn open_to_the_network(engine: &dyn Engine, volume: &str) -> Result<(), DatabaseError> {
    let path = engine.volume_path(volume)?.join("pgdata/pg_hba.conf");
    let rules = "# Written by Stoa. The private socket is the platform's; the network needs a password.\n\
                 local all postgres peer\n\
                 local all all scram-sha-256\n\
                 host all postgres 0.0.0.0/0 reject\n\
                 host all all 0.0.0.0/0 scram-sha-256\n";
    let failed = |cause: std::io::Error| DatabaseError::File {
        file: "pg_hba.conf".to_owned(),
        why: cause.to_string(),
    };
    std::fs::write(&path, rules).map_err(failed)?;
    std::fs::File::open(&path)
        .and_then(|file| file.sync_all())
        .map_err(failed)
}

/// Makes a database's volume: a clone of the template with an identifier of its own, or the spare one. Doing it again is
/// fine.
///
/// # Errors
/// When the clone or its change fails; nothing of it is left then.
pub fn create_volume(engine: &dyn Engine, template: &str, volume: &str) -> Result<(), DatabaseError> {
    let known = engine.volumes()?;
    let is_there = |name: &str| known.iter().any(|known| known.name == name);
    if is_there(volume) {
        return Ok(());
    }
    // Of two that want it one gets it, for a volume has one name.
    let spare = spare_of(template);
    if is_there(&spare) && engine.rename_volume(&spare, volume).is_ok() {
        return Ok(());
    }
    make_volume(engine, &known, template, volume)
}

/// Makes the volume that the next database gets, unless it is there: copying takes most of the time that is ours. Only
/// one may be at it at a time.
///
/// # Errors
/// As [`create_volume`].
pub fn prepare_spare(engine: &dyn Engine, template: &str) -> Result<(), DatabaseError> {
    let known = engine.volumes()?;
    let spare = spare_of(template);
    if known.iter().any(|known| known.name == spare) {
        return Ok(());
    }
    make_volume(engine, &known, template, &spare)
}

const TEMPLATE: &str = "template-postgres-";
const SPARE: &str = "spare-";
const MAKING: &str = "making-";

fn template_of(image: &ImageDigest, version: &str) -> String {
    format!("{TEMPLATE}{version}-{}", image.short())
}

fn spare_of(template: &str) -> String {
    format!("{SPARE}{template}")
}

/// Removes the templates whose image was replaced by another of its version, or is gone, with what was made of them
/// beforehand. Databases keep what they cloned. Not to be called while one is being made.
///
/// # Errors
/// When the images or the pool cannot be read, or something could not be removed.
pub fn collect_templates(engine: &dyn Engine) -> Result<(), DatabaseError> {
    for volume in engine.volumes()? {
        let name = volume.name.strip_prefix(MAKING).unwrap_or(&volume.name);
        let template = name.strip_prefix(SPARE).unwrap_or(name);
        let Some((version, _)) = template
            .strip_prefix(TEMPLATE)
            .and_then(|rest| rest.split_once('-'))
        else {
            continue;
        };
        let current =
            find_image(engine, Some(version))?.map(|(image, version)| template_of(&image, &version));
        if current.as_deref() != Some(template) {
            engine.remove_volume(&volume.name)?;
        }
    }
    Ok(())
}

fn make_volume(
    engine: &dyn Engine,
    known: &[VolumeFacts],
    template: &str,
    volume: &str,
) -> Result<(), DatabaseError> {
    let making = format!("{MAKING}{volume}");
    // What a creation that was cut short left.
    if known.iter().any(|known| known.name == making) {
        engine.remove_volume(&making)?;
    }
    engine.clone_volume(template, &making)?;
    let made = (|| {
        identify(engine, &making)?;
        engine.rename_volume(&making, volume)?;
        Ok(())
    })();
    if made.is_err() {
        drop(engine.remove_volume(&making));
    }
    made
}

/// Gives the stopped cluster in a volume an identifier of its own.
pub(crate) fn identify(engine: &dyn Engine, volume: &str) -> Result<(), DatabaseError> {
    let mut identifier = [0_u8; 8];
    getrandom::fill(&mut identifier).map_err(|e| DatabaseError::File {
        file: "system randomness".to_owned(),
        why: e.to_string(),
    })?;
    let cluster = Inside::cluster(&engine.volume_path(volume)?).map_err(DatabaseError::file("pgdata"))?;
    control_file::set_identifier(&cluster, u64::from_le_bytes(identifier))
}

pub(crate) fn temporary(
    place: &Place,
    image: &ImageDigest,
    version: &str,
    volume: &str,
    command: &[&str],
) -> Workload {
    Workload {
        id: place.id,
        hostname: "template".to_owned(),
        network: place.network.clone(),
        image: image.clone(),
        command: command.iter().map(|part| (*part).to_owned()).collect(),
        user: Some(USER.to_owned()),
        workdir: Some("/".to_owned()),
        env: surroundings(version),
        secrets: Vec::new(),
        resources: Resources::default(),
        uid_range: place.uid_range,
        volumes: vec![VolumeMount {
            volume: volume.to_owned(),
            target: VOLUME_TARGET.to_owned(),
        }],
        search_domain: String::new(),
        log_key: "templates".to_owned(),
        log_label: "template".to_owned(),
        probe: None,
        stop_signal: 2,
    }
}

pub(crate) fn run_once(
    engine: &dyn Engine,
    workload: Workload,
    program: &'static str,
    is_wanted: &dyn Fn() -> bool,
) -> Result<(), DatabaseError> {
    engine.ensure(&workload)?;
    let ended = wait_end_while(engine, workload.id, (program, PROGRAM_LIMIT), is_wanted);
    let query = LogQuery {
        key: workload.log_key,
        instance: Some(workload.id),
        limit: 5,
        ..LogQuery::default()
    };
    let said = engine.logs(&query).unwrap_or_default();
    engine.remove(workload.id)?;
    match ended? {
        Exit::Code { code: 0 } => Ok(()),
        exit => {
            let said: Vec<String> = said.into_iter().map(|line| line.text).collect();
            Err(DatabaseError::Program {
                program,
                output: format!("{}: {}", exit.describe(), said.join(" / ")),
            })
        }
    }
}

pub(crate) fn wait_end(
    engine: &dyn Engine,
    id: InstanceId,
    what: &'static str,
) -> Result<Exit, DatabaseError> {
    wait_end_while(engine, id, (what, PROGRAM_LIMIT), &|| true)
}

/// The same, ended when it takes longer or nobody wants it any more.
pub(crate) fn wait_end_while(
    engine: &dyn Engine,
    id: InstanceId,
    (what, limit): (&'static str, Duration),
    is_wanted: &dyn Fn() -> bool,
) -> Result<Exit, DatabaseError> {
    let until = Instant::now() + limit;
    let mut seen = engine.wait_change(0, Duration::ZERO);
    loop {
        let found: Option<Observed> = engine.observe()?.into_iter().find(|one| one.id == id);
        match found.map(|one| one.phase) {
            Some(Phase::Exited { exit, .. }) => return Ok(exit),
            None => return Ok(Exit::Lost),
            Some(Phase::Running { .. }) => {}
        }
        if Instant::now() >= until || !is_wanted() {
            drop(engine.remove(id));
            return Err(DatabaseError::Slow {
                what,
                limit_s: limit.as_secs(),
            });
        }
        seen = engine.wait_change(seen, Duration::from_millis(500));
    }
}
