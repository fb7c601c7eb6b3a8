//! The audit: who asked for what, what came of it, in a chain that shows every later change.
//!
//! Lives here: appending, listing, verifying, and the head kept in a second file.
//! Does not live here: what deserves a record (`control`), how it is shown (`server`).
//! Invariant: a record is never changed. What came of it is a record of its own that names the first. Each is
//! hashed, under the store's key, with the one before it, so altering, removing, reordering or cutting is found.

use std::path::Path;

use rusqlite::{Row as SqlRow, params};
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::ring::replace_file;
use crate::secret::{hex, unhex};
use crate::tx::{Keys, ReadTx, WriteTx, corrupt, number, to_db};

/// The largest page of records.
const MAX_PAGE: usize = 1000;
/// Records checked per query of a verification.
const VERIFY_STEP: i64 = 1000;

/// Somebody asked for something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Who: a user, a token, root on the host, the platform itself.
    pub actor: String,
    /// What they asked for: the operation's name.
    pub action: String,
    /// On what.
    pub object: String,
    /// What the gate said: `allowed`, `refused`.
    pub decision: String,
    /// Where from, request id, changed fields; never a secret.
    pub detail: serde_json::Value,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "record")]
pub enum AuditBody {
    /// Somebody asked for something.
    Begin(AuditEntry),
    /// What came of it.
    Complete {
        /// The record it completes.
        of: u64,
        /// How it ended.
        outcome: String,
    },
}

/// One record of the chain.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditRecord {
    /// Its place, from 1.
    pub seq: u64,
    /// When it was written.
    pub at_ms: u64,
    /// What it says.
    pub body: AuditBody,
    /// Its link, as hex.
    pub hash: String,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditVerdict {
    /// Everything fits.
    Whole {
        /// How many records there are.
        records: u64,
    },
    /// The first record that does not fit.
    FirstBad {
        /// Its place.
        seq: u64,
        /// What is wrong.
        why: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Stored {
    at_ms: u64,
    #[serde(flatten)]
    body: AuditBody,
}

/// The end of the chain as of some time.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Head {
    seq: u64,
    hash: [u8; 32],
}

const START: Head = Head {
    seq: 0,
    hash: [0; 32],
};

impl Head {
    fn print(&self) -> String {
        format!("{} {}", self.seq, hex(&self.hash))
    }

    fn parse(text: &str) -> Option<Self> {
        let (seq, hash) = text.split_once(' ')?;
        Some(Self {
            seq: seq.parse().ok()?,
            hash: *unhex(hash)?,
        })
    }
}

struct Link {
    seq: u64,
    completes: Option<u64>,
    hash: Vec<u8>,
    record: String,
}

fn read_link(row: &SqlRow<'_>) -> rusqlite::Result<Link> {
    let completes: Option<i64> = row.get(1)?;
    Ok(Link {
        seq: number(row, 0)?,
        completes: completes.map(|of| u64::try_from(of).unwrap_or(u64::MAX)),
        hash: row.get(2)?,
        record: row.get(3)?,
    })
}

const LINKS: &str = "SELECT seq, completes, hash, record FROM audit";

impl WriteTx {
    /// Records that somebody asked for something. Belongs into the transaction of the change.
    pub fn audit_begin(&self, entry: &AuditEntry) -> Result<u64, StoreError> {
        self.guard(self.chain(AuditBody::Begin(entry.clone()), None))
    }

    /// Records what came of it. A second completion changes nothing and returns the first one's place.
    pub fn audit_complete(&self, seq: u64, outcome: &str) -> Result<u64, StoreError> {
        let doing = || format!("reading audit record {seq}");
        let sql = "SELECT seq FROM audit WHERE completes = ?1";
        if let Some(done) = self.guard(self.first(sql, [to_db(seq)], |row| number(row, 0), doing))? {
            return Ok(done);
        }
        let sql = "SELECT 1 FROM audit WHERE seq = ?1 AND completes IS NULL";
        if self
            .guard(self.first(sql, [to_db(seq)], |_| Ok(()), doing))?
            .is_none()
        {
            return Err(StoreError::NotFound {
                kind: "audit record".into(),
                id: seq.to_string(),
            });
        }
        self.guard(self.chain(
            AuditBody::Complete {
                of: seq,
                outcome: outcome.into(),
            },
            Some(seq),
        ))
    }

    fn chain(&self, body: AuditBody, completes: Option<u64>) -> Result<u64, StoreError> {
        let head = self.audit_head()?;
        let seq = head.seq + 1;
        let stored = Stored {
            at_ms: self.now.wall_ms,
            body,
        };
        let record = serde_json::to_string(&stored).map_err(|cause| StoreError::Encode {
            kind: "audit record".into(),
            id: seq.to_string(),
            cause: std::sync::Arc::new(cause),
        })?;
        let hash = self.keys.integrity.link(&head.hash, seq, &record);
        let sql = "INSERT INTO audit (seq, completes, hash, record) VALUES (?1, ?2, ?3, ?4)";
        let values = params![to_db(seq), completes.map(to_db), hash, record];
        self.run(sql, values, || format!("writing audit record {seq}"))?;
        self.set_meta("audit_head", &Head { seq, hash }.print())?;
        Ok(seq)
    }
}

impl ReadTx {
    /// Records before a place (none: from the newest), newest first.
    pub fn audit_list(&self, before: Option<u64>, limit: usize) -> Result<Vec<AuditRecord>, StoreError> {
        let head = self.audit_head()?;
        let before = before.unwrap_or(u64::MAX).min(head.seq + 1);
        let limit = limit.min(MAX_PAGE) as u64;
        let first = before.saturating_sub(limit).max(1);
        let sql = format!("{LINKS} WHERE seq >= ?1 AND seq < ?2 ORDER BY seq");
        let doing = || "listing audit records".to_owned();
        // One earlier, whose hash the first one of the page continues.
        let links = self.all(
            &sql,
            [to_db(first.saturating_sub(1)), to_db(before)],
            read_link,
            doing,
        )?;
        let mut links = links.into_iter().peekable();
        let mut at = START;
        if first > 1 {
            let anchor = links
                .next()
                .filter(|link| link.seq == first - 1)
                .ok_or_else(|| gap(first - 1))?;
            at = Head {
                seq: anchor.seq,
                hash: hash_of(&anchor)?,
            };
        }
        let mut records = Vec::new();
        for link in links {
            let (next, stored) = self.follow(at, &link).map_err(|(seq, why)| broken(seq, why))?;
            let hash = hex(&next.hash);
            records.push(AuditRecord {
                seq: link.seq,
                at_ms: stored.at_ms,
                body: stored.body,
                hash,
            });
            at = next;
        }
        if at.seq + 1 != before && before > first {
            return Err(gap(at.seq + 1));
        }
        records.reverse();
        Ok(records)
    }

    /// Records begun and never completed: after a crash they are completed as interrupted.
    pub fn audit_unfinished(&self, limit: usize) -> Result<Vec<u64>, StoreError> {
        let sql = "SELECT seq FROM audit AS begun WHERE completes IS NULL
                   AND NOT EXISTS (SELECT 1 FROM audit WHERE completes = begun.seq) ORDER BY seq LIMIT ?1";
        let doing = || "reading unfinished audit records".to_owned();
        self.all(
            sql,
            [to_db(limit.min(MAX_PAGE) as u64)],
            |row| number(row, 0),
            doing,
        )
    }

    /// Walks the whole chain. With the second file, also finds an end cut off together with the store's own head.
    pub fn audit_verify(&self, sealed_head: Option<&Path>) -> Result<AuditVerdict, StoreError> {
        let sealed = match sealed_head.map(|path| read_head(&self.keys, path)).transpose() {
            Ok(sealed) => sealed.flatten(),
            Err(StoreError::AuditBroken { seq, why }) => return Ok(AuditVerdict::FirstBad { seq, why }),
            Err(failure) => return Err(failure),
        };
        let sql = format!("{LINKS} WHERE seq > ?1 ORDER BY seq LIMIT ?2");
        let mut at = START;
        loop {
            let doing = || "verifying the audit".to_owned();
            let links = self.all(&sql, [to_db(at.seq), VERIFY_STEP], read_link, doing)?;
            if links.is_empty() {
                break;
            }
            for link in links {
                match self.follow(at, &link) {
                    Ok((next, _)) => at = next,
                    Err((seq, why)) => return Ok(AuditVerdict::FirstBad { seq, why: why.into() }),
                }
                if sealed.is_some_and(|head| head.seq == at.seq && head.hash != at.hash) {
                    let why = "it is not the record the sealed head names".into();
                    return Ok(AuditVerdict::FirstBad { seq: at.seq, why });
                }
            }
        }
        let cut = |seq: u64| AuditVerdict::FirstBad {
            seq,
            why: "the records from here on are cut off".into(),
        };
        if sealed.is_some_and(|head| head.seq > at.seq) {
            return Ok(cut(at.seq + 1));
        }
        match self.audit_head() {
            Ok(head) if head == at => Ok(AuditVerdict::Whole { records: at.seq }),
            Ok(head) if head.seq > at.seq => Ok(cut(at.seq + 1)),
            Ok(_) | Err(StoreError::Corrupt { .. }) => Ok(AuditVerdict::FirstBad {
                seq: at.seq,
                why: "the store's own head does not fit it".into(),
            }),
            Err(failure) => Err(failure),
        }
    }

    /// Writes the end of the chain into a second file, sealed. Refuses when the file knows a longer or different
    /// chain: the evidence is not overwritten.
    pub fn audit_seal_head(&self, path: &Path) -> Result<(), StoreError> {
        let head = self.audit_head()?;
        if let Some(old) = read_head(&self.keys, path)? {
            if old == head {
                return Ok(());
            }
            if old.seq > head.seq {
                return Err(broken(head.seq + 1, "the records from here on are cut off"));
            }
            if old.seq > 0 {
                let sql = format!("{LINKS} WHERE seq = ?1");
                let doing = || format!("reading audit record {}", old.seq);
                let link = self
                    .first(&sql, [to_db(old.seq)], read_link, doing)?
                    .ok_or_else(|| gap(old.seq))?;
                if link.hash != old.hash {
                    return Err(broken(old.seq, "it is not the record the sealed head names"));
                }
            }
        }
        let text = head.print();
        let seal = hex(&self.keys.integrity.seal("audit head file").text(&text).tag());
        replace_file(path, format!("stoa-audit-head-1 {text} {seal}\n").as_bytes())
            .map_err(|cause| StoreError::io(format!("writing {}", path.display()), cause))
    }

    fn audit_head(&self) -> Result<Head, StoreError> {
        let Some(text) = self.meta("audit_head")? else {
            return Ok(START);
        };
        Head::parse(&text).ok_or_else(|| corrupt("meta", "audit_head", "it cannot be read"))
    }

    /// Checks that a record continues the chain.
    fn follow(&self, at: Head, link: &Link) -> Result<(Head, Stored), (u64, &'static str)> {
        let seq = at.seq + 1;
        if link.seq != seq {
            return Err((seq, "it is missing"));
        }
        let hash = self.keys.integrity.link(&at.hash, seq, &link.record);
        if link.hash != hash {
            return Err((seq, "its hash does not follow from it and the one before"));
        }
        let stored: Stored = serde_json::from_str(&link.record).map_err(|_| (seq, "it cannot be read"))?;
        let completes = match &stored.body {
            AuditBody::Begin(_) => None,
            AuditBody::Complete { of, .. } => Some(*of),
        };
        if completes != link.completes {
            return Err((seq, "it is filed under another record than it names"));
        }
        Ok((Head { seq, hash }, stored))
    }
}

fn hash_of(link: &Link) -> Result<[u8; 32], StoreError> {
    link.hash
        .as_slice()
        .try_into()
        .map_err(|_| broken(link.seq, "its hash cannot be read"))
}

fn gap(seq: u64) -> StoreError {
    broken(seq, "it is missing")
}

fn broken(seq: u64, why: &str) -> StoreError {
    StoreError::AuditBroken { seq, why: why.into() }
}

fn read_head(keys: &Keys, path: &Path) -> Result<Option<Head>, StoreError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(cause) if cause.kind() == std::io::ErrorKind::InvalidData => String::new(),
        Err(cause) => return Err(StoreError::io(format!("reading {}", path.display()), cause)),
    };
    let parsed = || {
        let (head, seal) = text
            .strip_prefix("stoa-audit-head-1 ")?
            .strip_suffix('\n')?
            .rsplit_once(' ')?;
        let fits = hex(&keys.integrity.seal("audit head file").text(head).tag()) == seal;
        if fits { Head::parse(head) } else { None }
    };
    parsed()
        .map(Some)
        .ok_or_else(|| broken(0, "the sealed head file was altered"))
}
