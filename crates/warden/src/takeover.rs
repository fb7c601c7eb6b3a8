//! What a warden tells the program it becomes.
//!
//! Lives here: the words in the environment, and reading them on the other side of `exec`.
//! Does not live here: when it happens (`upgrade`), how descriptors are named (`inherit`).
//! Invariant: versioned and strict. Only the process that wrote the words may read them as its own: an environment that
//! somebody inherited by accident is an ordinary start.
//!
//! ```text
//! STOA_TAKEOVER=1;pid=4711;run=edge:4800,control:4801;retired=4712     with STOA_FDS=lock:5,api:6,http:7,https:8
//! STOA_TAKEOVER=1;rehearse                                             only say whether that would be understood
//! ```

use std::os::fd::OwnedFd;

use crate::inherit::inherited_fds;
use crate::lock::Lock;
use crate::process::Process;

/// The environment variable with the words.
pub const TAKEOVER_VARIABLE: &str = "STOA_TAKEOVER";

/// The version of the words, of the descriptors' names and of the children's arguments: binaries that agree in it can
/// replace each other.
pub const VERSION: u32 = 1;

/// The lock's name among the descriptors.
pub(crate) const LOCK: &str = "lock";

/// Why the words cannot be obeyed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{TAKEOVER_VARIABLE} holds {words:?}, which this program does not understand")]
pub struct TakeoverError {
    words: String,
}

/// What goes on in the new program.
#[derive(Debug)]
pub(crate) struct Takeover {
    pub(crate) lock: Lock,
    pub(crate) sockets: Vec<(String, OwnedFd)>,
    /// By the child's name.
    pub(crate) running: Vec<(String, Process)>,
    /// Edges that end by themselves.
    pub(crate) retired: Vec<Process>,
}

/// Processes by name, and the nameless.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub(crate) running: Vec<(String, u32)>,
    pub(crate) retired: Vec<u32>,
}

/// Whether this process is only asked if it would understand; it ends after its answer.
pub fn is_rehearsal() -> bool {
    std::env::var(TAKEOVER_VARIABLE).is_ok_and(|words| words == rehearsal())
}

/// Whether this process goes on in place of another program of the same number.
pub fn is_takeover() -> bool {
    std::env::var(TAKEOVER_VARIABLE).is_ok_and(|words| matches!(Numbers::read(&words), Ok(Some(_))))
}

pub(crate) fn rehearsal() -> String {
    format!("{VERSION};rehearse")
}

impl Numbers {
    pub(crate) fn write(&self) -> String {
        let running: Vec<String> = self
            .running
            .iter()
            .map(|(name, pid)| format!("{name}:{pid}"))
            .collect();
        let retired: Vec<String> = self.retired.iter().map(ToString::to_string).collect();
        let (running, retired) = (running.join(","), retired.join(","));
        format!(
            "{VERSION};pid={};run={running};retired={retired}",
            std::process::id()
        )
    }

    /// `None` when they are another process's.
    fn read(words: &str) -> Result<Option<Numbers>, TakeoverError> {
        let parsed = || -> Option<(u32, Numbers)> {
            let [version, pid, running, retired]: [&str; 4] =
                words.split(';').collect::<Vec<_>>().try_into().ok()?;
            (version == VERSION.to_string()).then_some(())?;
            let list = |text: &str, start: &str| -> Option<Vec<String>> {
                let text = text.strip_prefix(start)?;
                Some(
                    text.split(',')
                        .filter(|one| !one.is_empty())
                        .map(str::to_owned)
                        .collect(),
                )
            };
            let named = |one: String| {
                let (name, pid) = one.split_once(':')?;
                Some((name.to_owned(), pid.parse().ok()?))
            };
            let running: Option<_> = list(running, "run=")?.into_iter().map(named).collect();
            let retired: Option<_> = list(retired, "retired=")?
                .into_iter()
                .map(|pid| pid.parse().ok())
                .collect();
            let numbers = Numbers {
                running: running?,
                retired: retired?,
            };
            Some((pid.strip_prefix("pid=")?.parse().ok()?, numbers))
        };
        match parsed() {
            Some((pid, numbers)) => Ok((pid == std::process::id()).then_some(numbers)),
            None => Err(TakeoverError {
                words: words.to_owned(),
            }),
        }
    }
}

/// What this process was before it became this program; `None` at an ordinary start.
pub(crate) fn taken() -> Result<Option<Takeover>, TakeoverError> {
    let Ok(words) = std::env::var(TAKEOVER_VARIABLE) else {
        return Ok(None);
    };
    let Some(numbers) = Numbers::read(&words)? else {
        return Ok(None);
    };
    let refuse = || TakeoverError { words: words.clone() };
    let mut sockets = inherited_fds().map_err(|_| refuse())?;
    let position = sockets
        .iter()
        .position(|(name, _)| name == LOCK)
        .ok_or_else(refuse)?;
    let (_, lock) = sockets.swap_remove(position);
    // One that is no child of ours any more is started again as after any death.
    let running = numbers.running.into_iter();
    let running = running.filter_map(|(name, pid)| Some((name, Process::inherited(pid)?)));
    Ok(Some(Takeover {
        lock: lock.into(),
        sockets,
        running: running.collect(),
        retired: numbers
            .retired
            .into_iter()
            .filter_map(Process::inherited)
            .collect(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_read_as_they_were_written_and_strictly() {
        let all = Numbers {
            running: vec![("edge".to_owned(), 12), ("control".to_owned(), 13)],
            retired: vec![7, 8],
        };
        for numbers in [Numbers::default(), all] {
            assert_eq!(Numbers::read(&numbers.write()).unwrap(), Some(numbers));
        }
        assert_eq!(
            Numbers::read("1;pid=1;run=;retired=").unwrap(),
            None,
            "another process"
        );
        for bad in [
            "",
            "1",
            "2;pid=1;run=;retired=",
            "1;pid=1;run=edge;retired=",
            "1;pid=1;run=;retired=x",
            "1;rehearse",
        ] {
            assert!(Numbers::read(bad).is_err(), "{bad} was accepted");
        }
    }
}
