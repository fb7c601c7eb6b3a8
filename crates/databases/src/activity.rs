//! What a server does now: its sessions.
//!
//! Invariant: an answer has a bounded size, whatever names and queries the users of the server chose.

use model::Millis;

use crate::DatabaseError;
use crate::psql::{Psql, fields};

/// More than the connections of any server that we start: only who changed `max_connections` has more.
const SESSIONS_MAX: u32 = 200;
/// Letters of a query: enough to know it by. The server itself keeps 1024 bytes.
const QUERY_MAX: u32 = 500;

/// What a server does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activity {
    /// Its sessions: those at work first, the oldest transaction before others.
    pub sessions: Vec<Sitting>,
    /// How many there are.
    pub count: u64,
    /// How many there may be.
    pub most: u64,
}

/// One session of somebody at a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sitting {
    /// Its process there.
    pub pid: i32,
    /// Who signed in.
    pub user: String,
    /// To which database.
    pub database: String,
    /// What the program calls itself.
    pub application: String,
    /// From where; nothing over the private socket.
    pub address: Option<String>,
    /// `active`, `idle`, `idle in transaction`...
    pub state: String,
    /// What it waits for, for example `Lock: transactionid`.
    pub wait: Option<String>,
    /// The sessions that hold what it waits for.
    pub blocked_by: Vec<i32>,
    /// Since when it is in this state.
    pub in_state: Option<Millis>,
    /// How long its transaction is open.
    pub in_transaction: Option<Millis>,
    /// What it does, or did last, on one line and cut.
    pub query: String,
}

/// Asks a server what it does now.
///
/// # Errors
/// When it does not answer in time.
pub fn activity(psql: Psql<'_>) -> Result<Activity, DatabaseError> {
    let printed = psql.run_soon("postgres", &question())?;
    let mut lines = printed.lines().map(fields);
    let counts = lines.next().unwrap_or_default();
    let (Some(count), Some(most)) = (number(&counts, 0), number(&counts, 1)) else {
        return Err(unreadable(&printed));
    };
    let sessions = lines.map(|line| sitting(&line).ok_or_else(|| unreadable(&line.join(" "))));
    Ok(Activity {
        sessions: sessions.collect::<Result<_, _>>()?,
        count,
        most,
    })
}

fn question() -> String {
    // Background processes and receivers of the log are the server's own; so is who asks.
    const THEM: &str =
        "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let line = |text: &str, most: u32| {
        format!("regexp_replace(left(coalesce({text}, ''), {most}), '[[:cntrl:]]', ' ', 'g')")
    };
    let span = |since: &str| format!("(extract(epoch FROM clock_timestamp() - {since}) * 1000)::bigint");
    let columns = [
        "pid".to_owned(),
        line("usename::text", 64),
        line("datname::text", 64),
        line("application_name", 64),
        "host(client_addr)".to_owned(),
        "coalesce(state, '')".to_owned(),
        "wait_event_type || ': ' || wait_event".to_owned(),
        "array_to_string(pg_blocking_pids(pid), ',')".to_owned(),
        span("state_change"),
        span("xact_start"),
        line("query", QUERY_MAX),
    ];
    let columns: Vec<String> = columns
        .iter()
        .map(|c| format!("coalesce(({c})::text, '')"))
        .collect();
    format!(
        "SELECT concat_ws(chr(31), count(*), current_setting('max_connections')) {THEM};\n\
         SELECT concat_ws(chr(31), {}) {THEM} ORDER BY coalesce(state, '') = 'idle', xact_start, state_change, pid LIMIT {SESSIONS_MAX};\n",
        columns.join(", ")
    )
}

fn number<T: std::str::FromStr>(fields: &[&str], at: usize) -> Option<T> {
    fields.get(at)?.parse().ok()
}

fn sitting(fields: &[&str]) -> Option<Sitting> {
    let [
        pid,
        user,
        database,
        application,
        address,
        state,
        wait,
        blocked_by,
        in_state,
        in_transaction,
        query,
    ] = fields
    else {
        return None;
    };
    let told = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let span = |text: &str| text.parse().ok().map(Millis::new);
    Some(Sitting {
        pid: pid.parse().ok()?,
        user: (*user).to_owned(),
        database: (*database).to_owned(),
        application: (*application).to_owned(),
        address: told(address),
        state: (*state).to_owned(),
        wait: told(wait),
        blocked_by: blocked_by.split(',').filter_map(|pid| pid.parse().ok()).collect(),
        in_state: span(in_state),
        in_transaction: span(in_transaction),
        query: query.split_whitespace().collect::<Vec<_>>().join(" "),
    })
}

fn unreadable(printed: &str) -> DatabaseError {
    DatabaseError::Program {
        program: "psql",
        output: format!("not sessions: {}", printed.chars().take(200).collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_session() {
        let line = "42\u{1f}app_1\u{1f}app\u{1f}psql\u{1f}10.1.0.1\u{1f}active\u{1f}Lock: transactionid\u{1f}7,9\u{1f}1500\u{1f}\u{1f}UPDATE t  SET a = 'x|y'";
        let found = sitting(&fields(line)).expect("a session");
        let expected = Sitting {
            pid: 42,
            user: "app_1".to_owned(),
            database: "app".to_owned(),
            application: "psql".to_owned(),
            address: Some("10.1.0.1".to_owned()),
            state: "active".to_owned(),
            wait: Some("Lock: transactionid".to_owned()),
            blocked_by: vec![7, 9],
            in_state: Some(Millis::new(1500)),
            in_transaction: None,
            query: "UPDATE t SET a = 'x|y'".to_owned(),
        };
        assert_eq!(found, expected);
        for bad in [
            "",
            "42",
            "x\u{1f}\u{1f}\u{1f}\u{1f}\u{1f}\u{1f}\u{1f}\u{1f}\u{1f}\u{1f}",
        ] {
            assert_eq!(sitting(&fields(bad)), None, "{bad:?}");
        }
    }
}
