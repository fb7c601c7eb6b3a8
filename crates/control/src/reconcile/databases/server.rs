//! The server of a database, whichever engine it has: its logins, and whether it may be written to.

use databases::valkey::{self, Cli};
use databases::{DatabaseError, Psql};
use engine::Engine;
use model::{Bytes, Credential, Database, DatabaseEngine, DatabaseId, InstanceId, ValkeyPlan};
use store::Expect;
use store::rows::{PASSWORD, database_tenant};
use store::secret::Secret;

use super::{fresh_password, refused};
use crate::{Control, ControlError};

/// A server to speak with.
pub(in crate::reconcile) struct Server<'a> {
    engine: &'a dyn Engine,
    instance: InstanceId,
    kind: Kind,
}

enum Kind {
    Postgres,
    Valkey {
        password: Secret,
        plan: ValkeyPlan,
        memory: Bytes,
    },
}

impl<'a> Server<'a> {
    /// That of a database, in this instance.
    pub(in crate::reconcile) fn of(
        control: &'a Control,
        database: &Database,
        instance: InstanceId,
    ) -> Result<Self, ControlError> {
        let kind = match &database.engine {
            DatabaseEngine::Postgres => Kind::Postgres,
            DatabaseEngine::Valkey(valkey) => Kind::Valkey {
                password: crate::databases::valkey::admin_password(control, database.id, valkey)?,
                plan: valkey.plan,
                memory: database.resources.memory,
            },
        };
        Ok(Self {
            engine: &*control.engine,
            instance,
            kind,
        })
    }

    /// That of a PostgreSQL.
    pub(super) fn postgres(psql: Psql<'a>) -> Self {
        Self {
            engine: psql.engine,
            instance: psql.instance,
            kind: Kind::Postgres,
        }
    }

    fn psql(&self) -> Psql<'_> {
        Psql {
            engine: self.engine,
            instance: self.instance,
        }
    }

    fn cli<'s>(&'s self, password: &'s Secret) -> Cli<'s> {
        Cli {
            engine: self.engine,
            instance: self.instance,
            password: password.expose_str().unwrap_or_default(),
        }
    }

    /// How many sessions a login has.
    pub(super) fn sessions(&self, version: u64) -> Result<u64, DatabaseError> {
        match &self.kind {
            Kind::Postgres => databases::sessions(self.psql(), version),
            Kind::Valkey { password, .. } => valkey::sessions(self.cli(password), version),
        }
    }

    /// Ends a login. One that is not there is fine.
    pub(super) fn drop_login(&self, version: u64) -> Result<(), DatabaseError> {
        match &self.kind {
            Kind::Postgres => databases::drop_login(self.psql(), version),
            Kind::Valkey { password, .. } => valkey::drop_login(self.cli(password), version),
        }
    }

    fn add_login(&self, version: u64, new: &str) -> Result<(), DatabaseError> {
        match &self.kind {
            Kind::Postgres => databases::add_login(self.psql(), version, new),
            Kind::Valkey { password, .. } => valkey::add_login(self.cli(password), version, new),
        }
    }

    /// Has it refuse what needs room from now on.
    pub(in crate::reconcile) fn only_read(&self) -> Result<(), DatabaseError> {
        match &self.kind {
            Kind::Postgres => databases::only_read(self.psql()),
            // It writes nothing to a disk, and would throw away what it has instead.
            Kind::Valkey {
                plan: ValkeyPlan::Cache,
                ..
            } => Ok(()),
            Kind::Valkey { password, .. } => self.cli(password).only_read(),
        }
    }

    /// Has it take everything again.
    pub(in crate::reconcile) fn write_again(&self) -> Result<(), DatabaseError> {
        match &self.kind {
            Kind::Postgres => databases::write_again(self.psql()),
            Kind::Valkey {
                password,
                plan,
                memory,
            } => self.cli(password).write_again(*plan, *memory),
        }
    }
}

/// A login with a fresh password: known to the server first, then handed out, with `change` in the same transaction.
pub(super) fn new_login(
    control: &Control,
    id: DatabaseId,
    server: &Server<'_>,
    version: u64,
    change: impl Fn(&mut Database),
) -> Result<(), ControlError> {
    let password = fresh_password()?;
    server.add_login(version, &password).map_err(refused)?;
    let secret = Secret::new(password.into_bytes());
    control.write(|tx| {
        let sealed = tx.seal(&database_tenant(id), PASSWORD, version, &secret);
        let sealed = sealed.map_err(store::StoreError::from)?;
        let mut found = tx.need::<Database>(&id.to_string())?;
        let since = control.now_of(tx);
        found.row.credentials.push(Credential {
            version,
            sealed: sealed.0,
            since,
        });
        change(&mut found.row);
        tx.update_status(&found.row, Expect::Rev(found.rev))?;
        Ok(())
    })
}
