//! What the servers of databases say of themselves.

use api::{DatabaseActivity, DatabaseSession, DatabaseSetting, DatabaseSettingSource, DatabaseSettings};
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
