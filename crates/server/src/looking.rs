//! What the servers of databases say of themselves.

use api::{
    DatabaseActivity, DatabaseSession, DatabaseSetting, DatabaseSettingSource, DatabaseSettings,
    DatabaseStatement, DatabaseStatements,
};
use control::databases::{self, Source};
use model::Millis;

use crate::answer::Reply;
use crate::call::Call;
use crate::refusal::Refusal;

pub(crate) fn activity(call: &Call) -> Result<Reply, Refusal> {
    let found = databases::activity(
        call.control(),
        call.actor()?,
        &call.place()?,
        call.parameter("database")?,
    )?;
    let sessions = found.sessions.into_iter().map(|one| DatabaseSession {
        pid: one.pid,
        user: one.user,
        database: one.database,
        application: one.application,
        address: one.address,
        state: one.state,
        wait: one.wait,
        blocked_by: one.blocked_by,
        state_ms: one.in_state.map(Millis::as_ms),
        transaction_ms: one.in_transaction.map(Millis::as_ms),
        query: one.query,
    });
    Reply::ok(&DatabaseActivity {
        sessions: sessions.collect(),
        count: found.count,
        max: found.most,
    })
}

pub(crate) fn statements(call: &Call) -> Result<Reply, Refusal> {
    let found = databases::statements(
        call.control(),
        call.actor()?,
        &call.place()?,
        call.parameter("database")?,
    )?;
    let statements = found.statements.into_iter().map(|one| DatabaseStatement {
        user: one.user,
        database: one.database,
        calls: one.calls,
        total_us: one.total_us,
        mean_us: one.mean_us,
        max_us: one.max_us,
        rows: one.rows,
        blocks_hit: one.blocks_hit,
        blocks_read: one.blocks_read,
        query: one.query,
    });
    Reply::ok(&DatabaseStatements {
        since: found.since,
        statements: statements.collect(),
    })
}

pub(crate) fn settings(call: &Call) -> Result<Reply, Refusal> {
    let found = databases::settings(
        call.control(),
        call.actor()?,
        &call.place()?,
        call.parameter("database")?,
    )?;
    let settings = found.into_iter().map(|one| DatabaseSetting {
        name: one.name,
        value: one.value,
        default: one.default,
        source: match one.source {
            Source::Memory => DatabaseSettingSource::Memory {},
            Source::Size => DatabaseSettingSource::Size {},
            Source::Platform => DatabaseSettingSource::Platform {},
            Source::File { file } => DatabaseSettingSource::File { file },
            Source::Sessions { database, role } => DatabaseSettingSource::Sessions { database, role },
        },
        pending_restart: one.is_pending,
    });
    Reply::ok(&DatabaseSettings {
        settings: settings.collect(),
    })
}
