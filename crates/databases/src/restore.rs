//! From a base and the log after it to a database as it was at one moment.
//!
//! Lives here: handing the log over, the replay, and what it got to.
//! Does not live here: which base and which log (`plan`), rows and names (`control`).
//! Invariants: the server itself refuses when the log ends before the target, and only when everything up to the target
//! is known to be in the log is that no refusal; what serves afterwards has nothing of the former cluster (`branch`).

use engine::{Engine, LineSink};
use model::{ImageDigest, Lsn, Reached, Resources, Segment, Shape, Target, Timestamp};

use crate::branch::{FirstStart, first_start};
use crate::inside::Inside;
use crate::psql::Psql;
use crate::template::Place;
use crate::{DatabaseError, archive, cluster};

/// A day of a busy server's log at the speed at which one process replays it; what takes longer is stuck.
pub(crate) const REPLAYS_WITHIN: std::time::Duration = std::time::Duration::from_secs(11 * 3600);
/// What the server says when the log held no commit after the target.
const ENDED_BEFORE: &str = "recovery ended before configured recovery target was reached";

/// A replay to be done.
pub struct Replay<'a> {
    /// The image of the base.
    pub image: &'a ImageDigest,
    /// Its major version.
    pub version: &'a str,
    /// The volume that holds a clone of the base, supplied with log.
    pub volume: &'a str,
    /// Limits of what it becomes.
    pub resources: Resources,
    /// Where to.
    pub target: Target,
    /// Everything up to the target is known to be in the log: when the log holds nothing later, its end is the target.
    pub is_proven: bool,
    /// Whether to go on: a replay may take hours.
    pub is_wanted: &'a dyn Fn() -> bool,
}

/// Puts the segments of a stretch into a clone of a base, ready to be replayed.
///
/// # Errors
/// `Gap` when one is not there.
pub fn supply(
    engine: &dyn Engine,
    stretch: &str,
    volume: &str,
    first: Segment,
    last: Segment,
) -> Result<(), DatabaseError> {
    let path = engine.volume_path(volume)?;
    archive::supply(engine, stretch, &path, first, last)?;
    ask_for_replay(engine, volume)
}

/// Has a clone of a base replay the log that is in it when it starts.
///
/// # Errors
/// When it cannot be written.
pub fn ask_for_replay(engine: &dyn Engine, volume: &str) -> Result<(), DatabaseError> {
    let path = engine.volume_path(volume)?;
    crate::manifest::remove(&path).map_err(DatabaseError::file("manifest"))?;
    let cluster = Inside::cluster(&path).map_err(DatabaseError::file("pgdata"))?;
    let signal = cluster.put("recovery.signal", b"").and_then(|()| cluster.sync());
    signal.map_err(DatabaseError::file("recovery.signal"))
}

/// Replays, takes from it what belongs to the former cluster, stops it and gives it an identifier of its own.
///
/// # Errors
/// `Short` when the log ends before the target; else when the server does not start or one of the changes is refused. The
/// volume stays for whoever called.
pub fn replay(
    engine: &dyn Engine,
    [first, second]: [Place; 2],
    replay: &Replay<'_>,
    lines: LineSink<'_>,
) -> Result<Reached, DatabaseError> {
    let start = |place: &Place, target: Target| {
        let start = FirstStart {
            place,
            image: replay.image,
            version: replay.version,
            volume: replay.volume,
            resources: replay.resources,
            command: cluster::replaying(replay.version, replay.resources, target),
            hostname: "restore",
            within: REPLAYS_WITHIN,
            is_wanted: replay.is_wanted,
            shape: &Shape::default(),
        };
        first_start(engine, &start, lines, reached)
    };
    match start(&first, replay.target) {
        Err(DatabaseError::Program { output, .. }) if output.contains(ENDED_BEFORE) => match replay.is_proven
        {
            // It goes on where it was and ends with the log: nothing in there is later than the target.
            true => start(&second, Target::Latest),
            false => Err(DatabaseError::Short {
                target: replay.target.to_string(),
                said: output,
            }),
        },
        done => done,
    }
}

pub(crate) fn reached(psql: Psql<'_>) -> Result<Reached, DatabaseError> {
    let sql = "SELECT coalesce(floor(extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000)::bigint::text, ''),\n\
               coalesce(pg_last_wal_replay_lsn()::text, '');\n";
    let printed = psql.run("postgres", sql)?;
    parse_reached(printed.trim()).ok_or_else(|| DatabaseError::Program {
        program: "psql",
        output: format!("it does not tell where the replay ended: {}", printed.trim()),
    })
}

fn parse_reached(printed: &str) -> Option<Reached> {
    let (at, lsn) = printed.split_once('|')?;
    let at = match at {
        "" => None,
        text => Some(Timestamp::from_ms(text.parse().ok()?)),
    };
    let lsn: Lsn = lsn.parse().ok()?;
    Some(Reached { at, lsn })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_replay_ended_is_understood_or_refused() {
        let reached = parse_reached("1795376400123|0/5000060").expect("understood");
        assert_eq!(reached.at.map(Timestamp::as_ms), Some(1_795_376_400_123));
        assert_eq!(parse_reached("|0/5000060").expect("understood").at, None);
        for wrong in ["", "|", "1795376400123|", "x|0/5000060"] {
            assert_eq!(parse_reached(wrong), None, "{wrong}");
        }
    }
}
