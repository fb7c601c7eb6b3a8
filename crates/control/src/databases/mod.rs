//! Managed databases: create, see, connect, rotate, promote, destroy. Making them is `reconcile`'s work.

mod awake;
pub(crate) mod backups;
mod branches;
pub(crate) mod drills;
mod levels;
mod looking;
pub(crate) mod promote;
mod restart;
pub(crate) mod room;
mod tunnel;
mod upgrade;
pub(crate) mod valkey;

use model::operation::Work;
use model::{
    Action, Actor, Bytes, Credential, Database, DatabaseEngine, DatabaseId, DatabaseState, EngineWish,
    Instance, Level, Millis, Name, Resources, Timestamp,
};
use store::rows::{PASSWORD, database_tenant, poolers_of};
use store::secret::{Sealed, Secret};
use store::{ReadTx, Versioned};

use crate::authorize::{self, EnvPath, Scope};
use crate::operations::{self, Accepted};
use crate::transact::Current;
use crate::{Control, ControlError, rehearsal};

pub use ::databases::{Activity, Setting, Source, Statements};
pub use plan::backup::{Gap, Window};

use awake::Server;
pub(crate) use awake::knock;
pub use backups::{Backups, KeptOfValkey, backup, backups, restore};
pub use branches::{BranchWish, IDLE_STOP, branch, reset};
pub(crate) use branches::{branches_of, joined, not_drilled};
pub use drills::{Proof, Watched, Which, drill, drill_view, drills, watched};
pub use levels::{Change, pooled_sessions, update};
pub use looking::{activity, settings, statements};
pub use plan::drill::Protection;
pub use promote::promote;
pub use restart::restart;
pub use tunnel::tunnel;
pub use upgrade::{PostgresVersion, UpgradeWish, upgrade, versions};

/// A database with what runs of it.
#[derive(Debug, Clone)]
pub struct DatabaseView {
    /// The database.
    pub database: Versioned<Database>,
    /// Its living instance.
    pub instance: Option<Instance>,
    /// The living instance of its pooler.
    pub pooler: Option<Instance>,
    /// The apps whose serving release uses it.
    pub used_by: Vec<Name>,
    /// Databases that were branched from it.
    pub branches: Vec<Name>,
    /// Whether its backup was proven.
    pub proof: Proof,
    /// What its volume holds; only where one database is looked at.
    pub used: Option<Bytes>,
}

/// What may be asked of a new database.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// What it is to be.
    pub engine: EngineWish,
    /// Major version; `None` takes what is there.
    pub version: Option<String>,
    /// Budget of the volume.
    pub size: Option<Bytes>,
    /// Memory limit.
    pub memory: Option<Bytes>,
    /// Level of its backup; `None` takes the usual one.
    pub level: Option<Level>,
    /// Whether its address leads to a pooler; `None` makes none.
    pub pooled: Option<bool>,
}

/// What a program needs to connect.
pub struct Connection {
    /// How its address begins.
    pub scheme: &'static str,
    /// Host name inside the environment: of the pooler where it has one.
    pub host: String,
    /// Host name of the server itself.
    pub server: String,
    /// Port.
    pub port: u16,
    /// Login role.
    pub user: String,
    /// Its password.
    pub password: Secret,
    /// Database name.
    pub database: String,
}

impl Connection {
    /// The address in the usual form. Holds the password.
    #[must_use]
    pub fn url(&self) -> Secret {
        self.url_by(&self.host)
    }

    /// The same of the server itself: for what needs a session of its own.
    #[must_use]
    pub fn direct_url(&self) -> Secret {
        self.url_by(&self.server)
    }

    fn url_by(&self, host: &str) -> Secret {
        let password = self.password.expose_str().unwrap_or_default();
        let text = format!(
            "{}://{}:{password}@{host}:{}/{}",
            self.scheme, self.user, self.port, self.database
        );
        Secret::new(text.into_bytes())
    }
}

/// Shorter than it takes to use it, and longer than anybody remembers what it was for: of a branch, and of what was
/// replaced.
const LIVES: std::ops::RangeInclusive<Millis> = Millis::seconds(60)..=Millis::seconds(365 * 24 * 3600);
/// Budget of a database's volume unless asked otherwise.
pub(crate) const SIZE: Bytes = Bytes::mi(10 * 1024);
/// Memory of a database's instance unless asked otherwise.
pub(crate) const MEMORY: Bytes = Bytes::mi(256);
/// Least memory in which a server starts and serves some connections.
const MEMORY_LEAST: Bytes = Bytes::mi(64);

/// All databases of an environment.
///
/// # Errors
/// As the gate's.
pub fn list(control: &Control, actor: &Actor, path: &EnvPath) -> Result<Vec<DatabaseView>, ControlError> {
    control.read(|tx| {
        let scope = authorize::environment(tx, actor, Action::Read, path)?;
        let all = tx.list::<Database>(&scope.parent())?;
        all.into_iter().map(|database| view_of(tx, database)).collect()
    })
}

/// One database.
///
/// # Errors
/// As the gate's.
pub fn view(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
) -> Result<DatabaseView, ControlError> {
    let mut view = control.read(|tx| {
        let scope = authorize::environment(tx, actor, Action::Read, path)?;
        let database = scope.database(tx, name)?;
        view_of(tx, database)
    })?;
    // Measured outside of the transaction: it looks at every file.
    let volume = crate::reconcile::volume_of(view.database.row.id);
    view.used = control.engine.volume_bytes(&volume, Bytes::new(u64::MAX)).ok();
    Ok(view)
}

fn view_of(tx: &ReadTx, database: Versioned<Database>) -> Result<DatabaseView, ControlError> {
    let live = |parent: &str| -> Result<Option<Instance>, ControlError> {
        let mut instances = tx.list::<Instance>(parent)?.into_iter().map(|i| i.row);
        Ok(instances.find(|i| i.condition.is_live()))
    };
    let instance = live(&database.row.id.to_string())?;
    let pooler = live(&poolers_of(database.row.id))?;
    let used_by = users_of(tx, &database.row)?;
    let branches = branches_of(tx, &database.row)?;
    let proof = drills::proof(tx, &database.row, Timestamp::now())?;
    Ok(DatabaseView {
        database,
        instance,
        pooler,
        used_by,
        branches,
        proof,
        used: None,
    })
}

/// The apps whose serving release uses a database.
pub(crate) fn users_of(tx: &ReadTx, database: &Database) -> Result<Vec<Name>, ControlError> {
    let mut used_by = Vec::new();
    for (app, release) in crate::workload::serving(tx, &database.environment.to_string())? {
        let mut services = release.services.values();
        if services.any(|service| service.uses.contains(&database.name)) {
            used_by.push(app.name);
        }
    }
    Ok(used_by)
}

/// Asks for a new database.
///
/// # Errors
/// As the gate's; `Taken`, `Invalid` for a wish that cannot be met, or `State` without room in the storage pool.
pub fn create(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &Name,
    wish: &Wish,
) -> Result<(Versioned<Database>, Accepted), ControlError> {
    let wish = consider(control, wish)?;
    control.mutate(actor, "database.create", name.as_str(), |tx| {
        let scope = authorize::environment(tx, actor, Action::Manage, path)?;
        create_in(control, tx, actor, &scope, name, &wish)
    })
}

/// A wish, whether its version is to be had here, and what room there is.
pub(crate) struct Considered<'a> {
    wish: &'a Wish,
    is_to_be_had: bool,
    room: Option<room::Room>,
}

/// Asks the engine what it has: before a transaction, as all other writers would wait for the answer inside one.
pub(crate) fn consider<'a>(control: &Control, wish: &'a Wish) -> Result<Considered<'a>, ControlError> {
    let is_to_be_had = match &wish.version {
        None => true,
        Some(version) => is_to_be_had(control, wish.engine, version)?,
    };
    Ok(Considered {
        wish,
        is_to_be_had,
        room: room::seen(control),
    })
}

fn is_to_be_had(control: &Control, engine: EngineWish, version: &str) -> Result<bool, ControlError> {
    let can_make = match engine {
        EngineWish::Postgres => ::databases::can_make(version),
        EngineWish::Valkey(_) => ::databases::valkey::can_make(version),
    };
    let image = format!("{}:{version}", engine.as_str());
    Ok(is_version(version) && (can_make || control.engine.find_image(&image)?.is_some()))
}

/// Refuses a version of PostgreSQL that there is not; to be asked outside of a transaction.
pub(crate) fn need_to_be_had(control: &Control, version: &str) -> Result<(), ControlError> {
    let engine = EngineWish::Postgres;
    judge_version(engine, version, is_to_be_had(control, engine, version)?)
}

fn judge_version(engine: EngineWish, version: &str, is_to_be_had: bool) -> Result<(), ControlError> {
    let (called, example, list) = match engine {
        EngineWish::Postgres => ("PostgreSQL", ::databases::USUAL_VERSION, "stoa db engines"),
        EngineWish::Valkey(_) => ("Valkey", ::databases::valkey::USUAL_VERSION, "stoa image ls"),
    };
    let why = match (is_version(version), is_to_be_had) {
        (true, true) => return Ok(()),
        (false, _) => format!("a major version of {called}, for example {example}"),
        (true, false) => format!(
            "there is no {called} {version} here; see which there are: {list}; any image becomes one as {}:{version}: stoa \
             image pull, import or add",
            engine.as_str()
        ),
    };
    Err(ControlError::invalid("/version", why))
}

fn is_version(text: &str) -> bool {
    !text.is_empty() && text.len() <= 3 && text.bytes().all(|b| b.is_ascii_digit())
}

/// The same inside a transaction, for databases that a manifest declares.
pub(crate) fn create_in(
    control: &Control,
    tx: &store::WriteTx,
    actor: &Actor,
    scope: &Scope,
    name: &Name,
    considered: &Considered<'_>,
) -> Result<(Versioned<Database>, Accepted), ControlError> {
    let wish = considered.wish;
    if tx.find::<Database>(&scope.parent(), name.as_str())?.is_some() {
        return Err(ControlError::Taken {
            kind: "database",
            name: name.to_string(),
        });
    }
    if let Some(version) = &wish.version {
        judge_version(wish.engine, version, considered.is_to_be_had)?;
    }
    if let (EngineWish::Valkey(_), Some(_)) = (wish.engine, wish.level) {
        return Err(ControlError::invalid(
            "/backup_level",
            "a Valkey has no level: it logs to its disk once a second",
        ));
    }
    if let (EngineWish::Valkey(_), Some(true)) = (wish.engine, wish.pooled) {
        return Err(ControlError::invalid(
            "/pooled",
            "a Valkey needs no pooler: it takes thousands of clients",
        ));
    }
    let memory = wish.memory.unwrap_or(MEMORY);
    if memory < MEMORY_LEAST {
        return Err(ControlError::invalid(
            "/memory",
            format!("at least {MEMORY_LEAST}"),
        ));
    }
    room::refuse(considered.room.as_ref(), "a new database")?;
    let database = Database {
        id: DatabaseId::fresh(),
        environment: scope.environment.id,
        name: name.clone(),
        engine: valkey::engine(wish.engine),
        version: wish.version.clone(),
        image: None,
        size: wish.size.unwrap_or(SIZE),
        resources: Resources {
            memory,
            ..Resources::default()
        },
        created_at: control.now_of(tx),
        credentials: Vec::new(),
        state: DatabaseState::Creating,
        full: None,
        origin: None,
        restored: None,
        paused: None,
        promoted: None,
        replaced: None,
        level: wish.level.unwrap_or_default(),
        pooled: wish.pooled.unwrap_or_default(),
        pooler: None,
        unpooled: None,
        archive: None,
        expires_at: None,
        idle_stop: None,
        asleep: None,
        restarting: None,
    };
    tx.insert(&database)?;
    let accepted = operations::accept(
        control,
        tx,
        actor,
        Some(scope),
        Work::CreateDatabase {
            database: database.id,
        },
    )?;
    Ok((tx.need::<Database>(&database.id.to_string())?, accepted))
}

/// Asks for a new password by a second login role.
///
/// # Errors
/// As the gate's; `State` unless it is active.
pub fn rotate(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
) -> Result<Accepted, ControlError> {
    control.mutate(actor, "database.rotate", name, |tx| {
        let scope = authorize::environment(tx, actor, Action::Configure, path)?;
        let database = scope.database(tx, name)?;
        need_active(&database.row)?;
        let work = Work::RotateDatabase {
            database: database.row.id,
        };
        operations::accept(control, tx, actor, Some(&scope), work)
    })
}

/// Asks for the end of a database. Its volume stays under another name for the grace period.
///
/// # Errors
/// As the gate's; `State` while a serving release uses it.
pub fn destroy(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
    expected: Option<u64>,
) -> Result<Accepted, ControlError> {
    control.mutate(actor, "database.destroy", name, |tx| {
        let scope = authorize::environment(tx, actor, Action::Manage, path)?;
        let database = scope.database(tx, name)?.current(expected)?;
        let used_by = users_of(tx, &database.row)?;
        if let Some(app) = used_by.first() {
            return Err(ControlError::State {
                message: format!("{name} is used by the release of {app} that serves"),
                next_step: format!(
                    "remove it from `uses` in the stoa.toml of {app} and deploy, or end the app: stoa apps destroy {app}"
                ),
            });
        }
        promote::refuse_promoted(control, tx, &database.row)?;
        let work = Work::DestroyDatabase {
            database: database.row.id,
        };
        operations::accept(control, tx, actor, Some(&scope), work)
    })
}

fn need_active(database: &Database) -> Result<(), ControlError> {
    match &database.state {
        DatabaseState::Active => Ok(()),
        DatabaseState::Creating | DatabaseState::Failed { .. } | DatabaseState::Destroyed { .. } => {
            Err(ControlError::State {
                message: format!("the database {} does not answer", database.name),
                next_step: format!("see why: stoa db info {}", database.name),
            })
        }
    }
}

/// How to connect. Reading it is audited.
///
/// # Errors
/// As the gate's; `State` unless it is active.
pub fn connection(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
) -> Result<Connection, ControlError> {
    control.mutate(actor, "database.credentials", name, |tx| {
        let scope = authorize::environment(tx, actor, Action::ReadSecrets, path)?;
        let database = scope.database(tx, name)?;
        need_active(&database.row)?;
        connection_of(control, &database.row)
    })
}

/// How to connect to a database with its newest credential.
pub(crate) fn connection_of(control: &Control, database: &Database) -> Result<Connection, ControlError> {
    let Some(credential) = database.credentials.last() else {
        return Err(ControlError::State {
            message: format!("the database {} has no login yet", database.name),
            next_step: format!("wait for it: stoa db info {}", database.name),
        });
    };
    if let DatabaseEngine::Valkey(_) = &database.engine {
        return valkey::connection(control, database, credential);
    }
    let password = password_of(control, database.id, credential)?;
    let server = format!("{}.internal", crate::routes::server_name(database));
    Ok(Connection {
        scheme: "postgresql",
        host: match database.pooled {
            true => format!("{}.internal", crate::routes::pooler_name(database)),
            false => server.clone(),
        },
        server,
        port: ::databases::PORT,
        user: ::databases::login_role(credential.version),
        password,
        database: ::databases::DATABASE.to_owned(),
    })
}

/// The password of one of its logins.
pub(crate) fn password_of(
    control: &Control,
    id: DatabaseId,
    credential: &Credential,
) -> Result<Secret, ControlError> {
    let sealed = Sealed(credential.sealed.clone());
    let tenant = database_tenant(id);
    let opened = control
        .store
        .unseal(&tenant, PASSWORD, credential.version, &sealed);
    Ok(opened.map_err(store::StoreError::from)?)
}

/// Opens an interactive or piped program in a database's instance: `psql` as its owner role, `valkey-cli` as its newest login.
/// Nothing when it is only rehearsed.
///
/// # Errors
/// As the gate's; `State` when it does not run.
pub fn enter(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
    arguments: &[String],
    terminal: Option<(u16, u16)>,
) -> Result<Option<engine::ExecStreams>, ControlError> {
    let (found, mut exec) = control.mutate(actor, "database.connect", name, |tx| {
        let scope = authorize::environment(tx, actor, Action::ReadSecrets, path)?;
        let database = scope.database(tx, name)?.row;
        let exec = program(control, &database, arguments)?;
        Ok((Server::of(tx, database)?, exec))
    })?;
    if rehearsal::is_on() {
        rehearsal::note("session", name, "insert");
        return Ok(None);
    }
    let instance = found.awake(control)?;
    exec.terminal = terminal;
    Ok(Some(control.engine.exec(instance.id, &exec)?))
}

fn program(
    control: &Control,
    database: &Database,
    arguments: &[String],
) -> Result<engine::Exec, ControlError> {
    match (&database.engine, database.credentials.last()) {
        (DatabaseEngine::Valkey(_), Some(credential)) => {
            let password = password_of(control, database.id, credential)?;
            let password = password.expose_str().unwrap_or_default();
            Ok(::databases::valkey::connect(
                credential.version,
                password,
                arguments,
            ))
        }
        (DatabaseEngine::Valkey(_), None) | (DatabaseEngine::Postgres, _) => Ok(::databases::psql(arguments)),
    }
}
