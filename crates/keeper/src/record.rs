//! The two facts a keeper leaves on disk: what runs, and how it ended.
//!
//! Lives here: their fields and their text form (`stoa-record 1`, then one `key value` line each).
//! Does not live here: when they are written (the keeper) and what follows from them (`runtime`).
//! Invariant: unknown keys are skipped, so an old reader understands a new writer and the other way round.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cgroup::Group;
use crate::durable;

/// File of the running record, inside the instance's directory.
pub const RUNNING: &str = "record";
/// File of the exit record.
pub const EXIT: &str = "exit";
/// The keeper's socket.
pub const SOCKET: &str = "keeper.sock";
/// Locked by the keeper as long as it lives.
pub const KEEPER_LOCK: &str = "keeper.lock";

const HEADER: &str = "stoa-record 1";

/// A running instance. Identity is (pid, start time, boot), never a pid alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its id.
    pub id: String,
    /// Process 1 of the instance, as the host counts.
    pub pid: u32,
    /// Kernel start time of that process in clock ticks since boot.
    pub pid_start: u64,
    /// The keeper's pid.
    pub keeper_pid: u32,
    /// Kernel start time of the keeper.
    pub keeper_start: u64,
    /// The boot both belong to.
    pub boot_id: String,
    /// When the program was executed, milliseconds since 1970.
    pub started_at_ms: u64,
    /// First host id of its private range.
    pub uid_base: u32,
    /// Network namespace it was given.
    pub netns: Option<PathBuf>,
    /// Log directory.
    pub log_dir: PathBuf,
    /// Log label.
    pub log_label: String,
    /// Its control group.
    pub group: Group,
}

/// How an instance ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// Exit code; 128 + signal when a signal ended it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// It was killed because it exceeded its memory limit.
    pub oom: bool,
    /// How many of its processes were killed for memory over its life.
    pub oom_kills: u64,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// What went wrong beside the program itself, e.g. lines of log dropped on a full disk.
    pub error: Option<String>,
}

impl Running {
    /// Writes it atomically. Not synced: after a power cut nothing runs any more, and what is left of it counts as none.
    pub fn save(&self, dir: &Path) -> io::Result<()> {
        let mut text = Text::new();
        text.put("id", &self.id);
        text.put("pid", &self.pid.to_string());
        text.put("pid_start", &self.pid_start.to_string());
        text.put("keeper_pid", &self.keeper_pid.to_string());
        text.put("keeper_start", &self.keeper_start.to_string());
        text.put("boot_id", &self.boot_id);
        text.put("started_at_ms", &self.started_at_ms.to_string());
        text.put("uid_base", &self.uid_base.to_string());
        if let Some(netns) = &self.netns {
            text.put("netns", &netns.to_string_lossy());
        }
        text.put("log_dir", &self.log_dir.to_string_lossy());
        text.put("log_label", &self.log_label);
        text.put("group", &self.group.to_text());
        durable::replace(&dir.join(RUNNING), text.0.as_bytes())
    }

    /// Reads it; `None` when there is none, or only the rest of one that a power cut left.
    pub fn load(dir: &Path) -> io::Result<Option<Running>> {
        Fields::load(&dir.join(RUNNING), Running::from_fields)
    }

    fn from_fields(fields: &Fields) -> io::Result<Running> {
        Ok(Running {
            id: fields.text("id")?,
            pid: fields.number("pid")?,
            pid_start: fields.number("pid_start")?,
            keeper_pid: fields.number("keeper_pid")?,
            keeper_start: fields.number("keeper_start")?,
            boot_id: fields.text("boot_id")?,
            started_at_ms: fields.number("started_at_ms")?,
            uid_base: fields.number("uid_base")?,
            netns: fields.optional("netns").map(PathBuf::from),
            log_dir: PathBuf::from(fields.text("log_dir")?),
            log_label: fields.text("log_label")?,
            group: Group::from_text(&fields.text("group")?),
        })
    }
}

impl Exit {
    /// Writes it atomically and durably.
    pub fn save(&self, dir: &Path) -> io::Result<()> {
        let mut text = Text::new();
        text.put("code", &self.code.to_string());
        if let Some(signal) = self.signal {
            text.put("signal", &signal.to_string());
        }
        text.put("oom", if self.oom { "1" } else { "0" });
        text.put("oom_kills", &self.oom_kills.to_string());
        text.put("at_ms", &self.at_ms.to_string());
        if let Some(error) = &self.error {
            text.put("error", error);
        }
        durable::replace_durably(&dir.join(EXIT), text.0.as_bytes())
    }

    /// Reads it; `None` when there is none, or only the rest of one.
    pub fn load(dir: &Path) -> io::Result<Option<Exit>> {
        Fields::load(&dir.join(EXIT), Exit::from_fields)
    }

    fn from_fields(fields: &Fields) -> io::Result<Exit> {
        Ok(Exit {
            code: fields.number("code")?,
            signal: fields.optional("signal").and_then(|text| text.parse().ok()),
            oom: fields.optional("oom") == Some("1"),
            oom_kills: fields.number("oom_kills")?,
            at_ms: fields.number("at_ms")?,
            error: fields.optional("error").map(str::to_owned),
        })
    }
}

struct Text(String);

impl Text {
    fn new() -> Text {
        Text(format!("{HEADER}\n"))
    }

    fn put(&mut self, key: &str, value: &str) {
        self.0.push_str(key);
        self.0.push(' ');
        // One line per field: a line break in a value would forge a field.
        self.0
            .extend(value.chars().map(|c| if c == '\n' { ' ' } else { c }));
        self.0.push('\n');
    }
}

struct Fields(BTreeMap<String, String>);

impl Fields {
    /// Reads a record. One damaged instance must not hide the others: what is no whole record is none.
    fn load<T>(path: &Path, read: impl FnOnce(&Fields) -> io::Result<T>) -> io::Result<Option<T>> {
        let whole = fs::read_to_string(path).and_then(|text| read(&Fields::parse(&text)?));
        match whole {
            Ok(record) => Ok(Some(record)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn parse(text: &str) -> io::Result<Fields> {
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return Err(bad("not a record"));
        }
        let fields = lines.filter_map(|line| line.split_once(' '));
        Ok(Fields(
            fields
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        ))
    }

    fn optional(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    fn text(&self, key: &str) -> io::Result<String> {
        self.optional(key).map(str::to_owned).ok_or_else(|| bad(key))
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> io::Result<T> {
        self.text(key)?.parse().map_err(|_| bad(key))
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("damaged record: {what}"))
}

/// The current boot's id.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// Kernel start time of a process (clock ticks since boot), or `None` when it is gone or only a zombie.
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, so count from its closing parenthesis: state is field 3, start time field 22.
    let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ');
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_a_round_trip_and_unknown_keys() {
        let dir = tempfile::tempdir().unwrap();
        let exit = Exit {
            code: 137,
            signal: Some(9),
            oom: true,
            oom_kills: 2,
            at_ms: 5,
            error: Some("a\nb".into()),
        };
        exit.save(dir.path()).unwrap();
        let path = dir.path().join(EXIT);
        let text = fs::read_to_string(&path).unwrap() + "newer field\n";
        fs::write(&path, text).unwrap();
        let read = Exit::load(dir.path()).unwrap().unwrap();
        assert_eq!(
            read,
            Exit {
                error: Some("a b".into()),
                ..exit
            }
        );
        assert_eq!(Running::load(dir.path()).unwrap(), None);
    }

    /// ext4 and XFS may keep the new name and lose the content of a file that was not synced.
    #[test]
    fn the_rest_of_a_record_is_none() {
        let dir = tempfile::tempdir().unwrap();
        for rest in ["", "not a record", &format!("{HEADER}\nid a\npid x\n")] {
            fs::write(dir.path().join(RUNNING), rest).unwrap();
            fs::write(dir.path().join(EXIT), rest).unwrap();
            assert_eq!(Running::load(dir.path()).unwrap(), None, "{rest:?}");
            assert_eq!(Exit::load(dir.path()).unwrap(), None, "{rest:?}");
        }
    }

    #[test]
    fn our_own_start_time_is_known() {
        assert!(start_time(std::process::id()).is_some());
        assert_eq!(start_time(u32::MAX), None);
    }
}
