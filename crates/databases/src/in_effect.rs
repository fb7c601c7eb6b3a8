//! How a server is set: what differs from PostgreSQL's own defaults, and where that comes from.
//!
//! Invariant: an answer has a bounded size, whatever values the users of the server chose.

use crate::DatabaseError;
use crate::cluster::{BY_MEMORY, BY_SIZE};
use crate::psql::{Psql, fields};

/// More than there are settings of PostgreSQL that anybody changes at once.
const MOST: u32 = 500;
/// Letters of a value.
const VALUE_MAX: u32 = 1000;

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The platform derives it from the memory limit.
    Memory,
    /// The platform derives it from the budget of the volume.
    Size,
    /// The platform's, for another reason.
    Platform,
    /// A file of the server: what `ALTER SYSTEM` wrote, or what was there when it was made.
    File {
        /// Its name, without its folder.
        file: String,
    },
    /// Of sessions only: of a role, in a database, or both.
    Sessions {
        /// In which database; nothing for any.
        database: Option<String>,
        /// Of which role; nothing for any.
        role: Option<String>,
    },
}

/// A setting that is not PostgreSQL's default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its value as `SHOW` tells it, with the unit.
    pub value: String,
    /// What it would be otherwise, in the same form; nothing where PostgreSQL has none.
    pub default: Option<String>,
    /// Where it comes from.
    pub source: Source,
    /// A file says another value already, which counts from the next start on.
    pub is_pending: bool,
}

/// Asks a server how it is set.
///
/// # Errors
/// When it does not answer in time.
pub fn settings_in_effect(psql: Psql<'_>) -> Result<Vec<Setting>, DatabaseError> {
    let printed = psql.run_as_set(&question())?;
    let lines = printed.lines().map(|line| setting(&fields(line)).ok_or(line));
    lines
        .collect::<Result<_, _>>()
        .map_err(|line| DatabaseError::Program {
            program: "psql",
            output: format!("no setting: {}", line.chars().take(200).collect::<String>()),
        })
}

/// Where `ALTER SYSTEM` writes.
const CHANGED_FILE: &str = "postgresql.auto.conf";

fn question() -> String {
    let line = |text: &str| {
        format!("regexp_replace(left(coalesce({text}, ''), {VALUE_MAX}), '[[:cntrl:]]', ' ', 'g')")
    };
    // What a session says for itself, as ours does, is nobody's setting. What belongs to a role or database is in the
    // catalogue, whoever asks and wherever.
    format!(
        "SELECT concat_ws(chr(31), 'server', name, {}, {}, coalesce(unit, ''), source, {}, '', pending_restart) FROM pg_settings \
         WHERE (source IN ('command line', 'configuration file', 'environment variable') AND setting IS DISTINCT FROM boot_val) \
           OR pending_restart \
         ORDER BY name LIMIT {MOST};\n\
         SELECT concat_ws(chr(31), 'sessions', {}, {}, '', '', '', {}, {}, false) FROM pg_db_role_setting \
         LEFT JOIN pg_database ON pg_database.oid = setdatabase LEFT JOIN pg_roles ON pg_roles.oid = setrole, unnest(setconfig) AS one \
         ORDER BY one, datname, rolname LIMIT {MOST};\n",
        line("current_setting(name)"),
        line("boot_val"),
        line("regexp_replace(sourcefile, '^.*/', '')"),
        line("split_part(one, '=', 1)"),
        line("substr(one, strpos(one, '=') + 1)"),
        line("datname::text"),
        line("rolname::text"),
    )
}

fn setting(fields: &[&str]) -> Option<Setting> {
    let told = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let [kind, name, value, default, unit, from, first, second, is_pending] = fields else {
        return None;
    };
    let source = match (*kind, *from) {
        ("sessions", _) => Source::Sessions {
            database: told(first),
            role: told(second),
        },
        // One that only waits for a start says `default`: what it waits for stands in the file that is changed while it runs.
        ("server", "configuration file" | "default") => Source::File {
            file: told(first).unwrap_or_else(|| CHANGED_FILE.to_owned()),
        },
        ("server", _) if BY_MEMORY.contains(name) => Source::Memory,
        ("server", _) if BY_SIZE.contains(name) => Source::Size,
        ("server", _) => Source::Platform,
        (_other, _) => return None,
    };
    Some(Setting {
        name: (*name).to_owned(),
        value: (*value).to_owned(),
        default: told(default).map(|raw| shown(&raw, unit)),
        // The server also says so of what the command line holds against a file.
        is_pending: *is_pending == "t" && matches!(source, Source::File { .. }),
        source,
    })
}

/// A number of units as `SHOW` tells it: in the largest unit that leaves no rest.
fn shown(raw: &str, unit: &str) -> String {
    const SIZES: [(&str, u64); 5] = [
        ("TB", 1 << 40),
        ("GB", 1 << 30),
        ("MB", 1 << 20),
        ("kB", 1 << 10),
        ("B", 1),
    ];
    const TIMES: [(&str, u64); 5] = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("min", 60_000),
        ("s", 1000),
        ("ms", 1),
    ];
    let (count, name) = unit.split_at(unit.bytes().take_while(u8::is_ascii_digit).count());
    let scale = [SIZES, TIMES]
        .into_iter()
        .find(|scale| scale.iter().any(|(known, _)| *known == name));
    let (Some(scale), Ok(number)) = (scale, raw.parse::<u64>()) else {
        return raw.to_owned();
    };
    let one = scale
        .iter()
        .find(|(known, _)| *known == name)
        .map_or(1, |(_, one)| *one);
    let all = number
        .saturating_mul(one)
        .saturating_mul(count.parse().unwrap_or(1));
    let fits = scale.iter().find(|(_, one)| all > 0 && all % one == 0);
    fits.map_or_else(|| raw.to_owned(), |(name, one)| format!("{}{name}", all / one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_reads_as_a_value_does() {
        for (raw, unit, told) in [
            ("16384", "8kB", "128MB"),
            ("1024", "MB", "1GB"),
            ("4096", "kB", "4MB"),
            ("1000", "ms", "1s"),
            ("1500", "ms", "1500ms"),
            ("300", "s", "5min"),
            ("0", "kB", "0"),
            ("-1", "8kB", "-1"),
            ("100", "", "100"),
            ("localhost", "", "localhost"),
        ] {
            assert_eq!(shown(raw, unit), told, "{raw} {unit}");
        }
    }

    #[test]
    fn a_line_is_a_setting() {
        let file = "postgresql.auto.conf";
        let cases = [
            (
                "server|shared_buffers|64MB|16384|8kB|command line|||t",
                Some(Source::Memory),
                false,
            ),
            (
                "server|max_wal_size|512MB|1024|MB|command line|||f",
                Some(Source::Size),
                false,
            ),
            (
                "server|listen_addresses|*|localhost||command line|||f",
                Some(Source::Platform),
                false,
            ),
            (
                "server|synchronous_standby_names|a,b|||configuration file|postgresql.auto.conf||t",
                Some(Source::File {
                    file: file.to_owned(),
                }),
                true,
            ),
            (
                "sessions|role|app_owner||||app|app_1|f",
                Some(Source::Sessions {
                    database: Some("app".to_owned()),
                    role: Some("app_1".to_owned()),
                }),
                false,
            ),
            ("other||||||||", None, false),
            ("server", None, false),
        ];
        for (line, expected, is_pending) in cases {
            let found = setting(&fields(&line.replace('|', "\u{1f}")));
            assert_eq!(
                found.as_ref().map(|found| &found.source),
                expected.as_ref(),
                "{line}"
            );
            assert_eq!(found.is_some_and(|found| found.is_pending), is_pending, "{line}");
        }
    }
}
