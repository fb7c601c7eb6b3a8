//! `stoa db top`, of sessions or of statements, and `stoa db settings`: what the server of a database says of itself.

use api::{DatabaseActivity, DatabaseSession, DatabaseSetting, DatabaseSettingSource, DatabaseStatement};

use crate::failure::Failure;
use crate::output::{self, say};
use crate::session::Session;

/// Letters of a value in a table.
const VALUE_SHOWN: usize = 40;
/// Letters of a query in a table: with the other columns it is about as wide as a terminal.
const QUERY_SHOWN: usize = 60;
/// What a session waits for that has nothing to do.
const NOTHING_TO_DO: &str = "Client: ClientRead";

pub(crate) fn top(session: &Session, name: &str) -> Result<u8, Failure> {
    let activity = session.client.database_activity(&session.place, name)?;
    if session.json {
        output::json(&activity)?;
    } else {
        say(&format!(
            "{} of {} connections of {name} are in use",
            activity.count, activity.max
        ));
        output::data(&sessions(&activity))?;
    }
    Ok(0)
}

fn sessions(activity: &DatabaseActivity) -> String {
    let rows: Vec<Vec<String>> = activity.sessions.iter().map(row).collect();
    output::table(
        &["PID", "USER", "STATE", "FOR", "OPEN", "WAITS FOR", "QUERY"],
        &rows,
    )
}

fn row(session: &DatabaseSession) -> Vec<String> {
    let span = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), span);
    vec![
        session.pid.to_string(),
        session.user.clone(),
        output::or_dash(Some(&session.state)),
        span(session.state_ms),
        span(session.transaction_ms),
        waits(session),
        cut(&session.query, QUERY_SHOWN),
    ]
}

/// Who is in the way says more than what the wait is called.
fn waits(session: &DatabaseSession) -> String {
    let wait = session.wait.as_deref().filter(|wait| *wait != NOTHING_TO_DO);
    match (wait, &session.blocked_by[..]) {
        (None, []) => "-".to_owned(),
        (Some(wait), []) => wait.to_owned(),
        (wait, them) => {
            let them: Vec<String> = them.iter().map(ToString::to_string).collect();
            format!("{} of {}", wait.unwrap_or("Lock"), them.join(", "))
        }
    }
}

pub(crate) fn statements(session: &Session, name: &str) -> Result<u8, Failure> {
    let found = session.client.database_statements(&session.place, name)?;
    if session.json {
        output::json(&found)?;
    } else {
        say(&format!(
            "counted since {}; those that took most time altogether come first",
            found.since
        ));
        output::data(&spent(&found.statements))?;
    }
    Ok(0)
}

fn spent(statements: &[DatabaseStatement]) -> String {
    let row = |one: &DatabaseStatement| {
        vec![
            one.calls.to_string(),
            took(one.total_us),
            took(one.mean_us),
            took(one.max_us),
            one.rows.to_string(),
            hit(one.blocks_hit, one.blocks_read),
            format!("{}/{}", one.database, one.user),
            cut(&one.query, QUERY_SHOWN),
        ]
    };
    let rows: Vec<Vec<String>> = statements.iter().map(row).collect();
    output::table(
        &[
            "CALLS",
            "TOTAL",
            "MEAN",
            "MAX",
            "ROWS",
            "HIT",
            "DATABASE/USER",
            "QUERY",
        ],
        &rows,
    )
}

/// "12us", "1.5ms", and what is longer as any span.
fn took(us: u64) -> String {
    match us {
        0..=999 => format!("{us}us"),
        1000..=999_999 => format!("{}.{}ms", us / 1000, us % 1000 / 100),
        _ => span(us / 1000),
    }
}

/// The share of blocks that were in memory, rounded down: nothing that was read looks like nothing.
fn hit(hit: u64, read: u64) -> String {
    let all = u128::from(hit) + u128::from(read);
    match (u128::from(hit) * 1000).checked_div(all) {
        None => "-".to_owned(),
        Some(share) => format!("{}.{}%", share / 10, share % 10),
    }
}

fn cut(text: &str, shown: usize) -> String {
    match text.char_indices().nth(shown) {
        None => output::or_dash(Some(text)),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

pub(crate) fn settings(session: &Session, name: &str) -> Result<u8, Failure> {
    let found = session.client.database_settings(&session.place, name)?;
    if session.json {
        output::json(&found)?;
    } else {
        output::data(&in_effect(&found.settings))?;
    }
    Ok(0)
}

fn in_effect(settings: &[DatabaseSetting]) -> String {
    let row = |one: &DatabaseSetting| {
        let mut from = source(&one.source);
        if one.pending_restart {
            from.push_str("; another value from its next start on");
        }
        let default = one.default.as_deref().unwrap_or_default();
        vec![
            one.name.clone(),
            cut(&one.value, VALUE_SHOWN),
            cut(default, VALUE_SHOWN),
            from,
        ]
    };
    let rows: Vec<Vec<String>> = settings.iter().map(row).collect();
    output::table(&["SETTING", "VALUE", "DEFAULT", "FROM"], &rows)
}

fn source(source: &DatabaseSettingSource) -> String {
    match source {
        DatabaseSettingSource::Memory {} => "platform, by memory".to_owned(),
        DatabaseSettingSource::Size {} => "platform, by size".to_owned(),
        DatabaseSettingSource::Platform {} => "platform".to_owned(),
        DatabaseSettingSource::File { file } => file.clone(),
        DatabaseSettingSource::Sessions { database, role } => match (role, database) {
            (Some(role), Some(database)) => format!("role {role} in database {database}"),
            (Some(role), None) => format!("role {role}"),
            (None, Some(database)) => format!("database {database}"),
            (None, None) => "all roles".to_owned(),
        },
    }
}

/// "1.5s", "3m", "2h".
fn span(ms: u64) -> String {
    match ms {
        0..=999 => format!("{ms}ms"),
        1000..=59_999 => format!("{}.{}s", ms / 1000, ms % 1000 / 100),
        60_000..=3_599_999 => format!("{}m", ms / 60_000),
        3_600_000..=86_399_999 => format!("{}h", ms / 3_600_000),
        _ => format!("{}d", ms / 86_400_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_says_where_it_comes_from() {
        let sessions = |database: Option<&str>, role: Option<&str>| DatabaseSettingSource::Sessions {
            database: database.map(str::to_owned),
            role: role.map(str::to_owned),
        };
        for (from, told) in [
            (DatabaseSettingSource::Memory {}, "platform, by memory"),
            (sessions(Some("app"), Some("app_1")), "role app_1 in database app"),
            (sessions(Some("app"), None), "database app"),
            (sessions(None, Some("app_1")), "role app_1"),
            (sessions(None, None), "all roles"),
        ] {
            assert_eq!(source(&from), told);
        }
        let one = DatabaseSetting {
            name: "work_mem".to_owned(),
            value: "2MB".to_owned(),
            default: Some("4MB".to_owned()),
            source: DatabaseSettingSource::File {
                file: "postgresql.auto.conf".to_owned(),
            },
            pending_restart: true,
        };
        let told = in_effect(&[one]);
        assert!(
            told.ends_with(
                "work_mem  2MB    4MB      postgresql.auto.conf; another value from its next start on\n"
            ),
            "{told}"
        );
    }

    #[test]
    fn a_statement_is_a_line() {
        let one = DatabaseStatement {
            user: "app_owner".to_owned(),
            database: "app".to_owned(),
            calls: 3,
            total_us: 4_200_000,
            mean_us: 1540,
            max_us: 12,
            rows: 7,
            blocks_hit: 9999,
            blocks_read: 1,
            query: "SELECT $1".to_owned(),
        };
        let none = DatabaseStatement {
            blocks_hit: 0,
            blocks_read: 0,
            ..one.clone()
        };
        let told = spent(&[one, none]);
        let cells: Vec<Vec<&str>> = told
            .lines()
            .skip(1)
            .map(|line| {
                line.split("  ")
                    .map(str::trim)
                    .filter(|c| !c.is_empty())
                    .collect()
            })
            .collect();
        assert_eq!(
            cells[0],
            [
                "3",
                "4.2s",
                "1.5ms",
                "12us",
                "7",
                "99.9%",
                "app/app_owner",
                "SELECT $1"
            ]
        );
        assert_eq!(cells[1][5], "-");
    }

    #[test]
    fn a_session_is_a_line() {
        let busy = DatabaseSession {
            pid: 42,
            user: "app_1".to_owned(),
            database: "app".to_owned(),
            application: String::new(),
            address: None,
            state: "active".to_owned(),
            wait: Some("Lock: transactionid".to_owned()),
            blocked_by: vec![7, 9],
            state_ms: Some(1540),
            transaction_ms: Some(200_000),
            query: "x".repeat(61),
        };
        let idle = DatabaseSession {
            state: "idle".to_owned(),
            wait: Some(NOTHING_TO_DO.to_owned()),
            blocked_by: Vec::new(),
            state_ms: Some(90_000_000),
            transaction_ms: None,
            query: String::new(),
            ..busy.clone()
        };
        let activity = DatabaseActivity {
            sessions: vec![busy, idle],
            count: 2,
            max: 25,
        };
        let told = sessions(&activity);
        let lines: Vec<Vec<&str>> = told
            .lines()
            .skip(1)
            .map(|line| {
                line.split("  ")
                    .filter(|cell| !cell.is_empty())
                    .map(str::trim)
                    .collect()
            })
            .collect();
        let query = format!("{}...", "x".repeat(60));
        assert_eq!(
            lines[0],
            [
                "42",
                "app_1",
                "active",
                "1.5s",
                "3m",
                "Lock: transactionid of 7, 9",
                &query
            ]
        );
        assert_eq!(lines[1], ["42", "app_1", "idle", "1d", "-", "-", "-"]);
    }
}
