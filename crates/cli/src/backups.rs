//! `stoa db backups` of a PostgreSQL: what of it can be restored.

use api::DatabaseBackups;

use crate::elsewhere;
use crate::output;

pub(crate) fn page(name: &str, backups: &DatabaseBackups) -> String {
    let mut text = String::new();
    let log = match backups.receiving {
        true => "received as it is written",
        false => {
            "NOT RECEIVED AT THE MOMENT: what is written now cannot be restored; it is tried again, see: stoa db info"
        }
    };
    let there = backups
        .elsewhere
        .iter()
        .flat_map(|there| elsewhere::told(name, there));
    let mut row = |name: &str, value: String| text.push_str(&format!("{name:<12}{value}\n"));
    row("log", log.to_owned());
    if let (Some(since), Some(bytes)) = (backups.unreceived_since, backups.unreceived_bytes) {
        row(
            "not yet",
            format!("{} written since {since} at the last look", output::size(bytes)),
        );
    }
    row(
        "kept",
        format!(
            "{} days back; {} of log, on this server",
            backups.keep_s / 86_400,
            output::size(backups.wal_bytes)
        ),
    );
    for (name, value) in there {
        row(name, value);
    }
    if let Some(at) = backups.drilled_at {
        let value = format!("as of {at}; a branch of it: stoa db branch {name} --as NAME --from drilled");
        row("drilled", value);
    }
    for window in &backups.windows {
        row(
            "restorable",
            format!("from {} until {}", window.from, window.until),
        );
        row("", format!("from {} until {}", window.from_lsn, window.until_lsn));
    }
    if backups.windows.is_empty() {
        row(
            "restorable",
            "nothing yet; the first base is taken soon".to_owned(),
        );
    }
    for gap in &backups.gaps {
        row(
            "GAP",
            format!(
                "after {} until before {}: nothing committed after {} until then",
                gap.after, gap.before, gap.since
            ),
        );
    }
    if !backups.bases.is_empty() {
        let rows: Vec<Vec<String>> = backups
            .bases
            .iter()
            .map(|base| {
                let use_of = if base.usable {
                    "yes"
                } else {
                    "no: its log is not there"
                };
                vec![
                    base.number.to_string(),
                    base.at.to_string(),
                    base.lsn.clone(),
                    use_of.to_owned(),
                ]
            })
            .collect();
        text.push('\n');
        text.push_str(&output::table(&["BASE", "FROM", "PLACE", "USABLE"], &rows));
    }
    if let Some(window) = backups.windows.last() {
        text.push_str(&format!(
            "\nto restore: stoa db restore {name} --as {name}-before --at {}\n",
            window.until
        ));
    }
    text
}
