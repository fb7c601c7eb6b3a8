//! The store of a Stoa that does not run: is every row as it was written, and what can be restored.
//!
//! Lives here: looking at it and repairing it for `stoa doctor`.
//! Does not live here: how rows are sealed, checked and restored (`store`).
//! Invariant: a repair begins with a copy of the files as they were.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use store::{AuditVerdict, MasterKey, Now, ReadTx, Store, StoreError};

use crate::doctor::{Check, Verdict};
use crate::places::Places;
use crate::{Failure, chain, print};

const NAME: &str = "store";

/// Reads everything once, when no running Stoa has it open.
pub(crate) fn check(data: &Path) -> Vec<Check> {
    let places = Places {
        data: data.to_path_buf(),
    };
    if !places.store().exists() {
        return vec![Check::good(NAME, "none yet")];
    }
    let Ok(_lock) = warden::Lock::take(data, warden::Taker::Command) else {
        return vec![Check::good(
            NAME,
            "in use by a running Stoa, which checks what it serves",
        )];
    };
    match open(&places) {
        Ok(store) => vec![objects(data, &store), audit(data, &store)],
        Err(cause) => vec![Check::bad(NAME, Verdict::Missing, chain(&cause), cause.next())],
    }
}

fn objects(data: &Path, store: &Store) -> Check {
    let health = match store.read(ReadTx::verify) {
        Ok(health) => health,
        Err(cause) => return Check::bad(NAME, Verdict::Missing, chain(&cause), cause.next()),
    };
    match &health.bad[..] {
        [] => Check::good(
            NAME,
            format!("all {} objects are as they were written", health.objects),
        ),
        [first, ..] => Check::bad(
            NAME,
            Verdict::Missing,
            format!(
                "{} of {} objects are damaged; {first}",
                health.bad.len(),
                health.objects
            ),
            format!("stoa doctor --repair --data-dir {}", data.display()),
        ),
    }
}

/// A log that was altered is no reason not to start: it is evidence, and nothing restores it.
fn audit(data: &Path, store: &Store) -> Check {
    const AUDIT: &str = "audit log";
    let head = control::audit::head_file(&control::Settings::new(data.to_path_buf()));
    match store.read(|tx| tx.audit_verify(Some(&head))) {
        Ok(AuditVerdict::Whole { records }) => {
            Check::good(AUDIT, format!("all {records} rows are as they were written"))
        }
        Ok(AuditVerdict::FirstBad { seq, why }) => Check::bad(
            AUDIT,
            Verdict::Warning,
            format!("row {seq} is not as it was written: {why}"),
            "keep a copy of the data directory as evidence; nothing can restore the row",
        ),
        Err(cause) => Check::bad(AUDIT, Verdict::Warning, chain(&cause), cause.next()),
    }
}

/// Restores what can be restored.
pub(crate) fn repair(data: &Path, json: bool) -> Result<ExitCode, Failure> {
    let places = Places {
        data: data.to_path_buf(),
    };
    if !places.store().exists() {
        let message = format!("there is no store in {}", data.display());
        return Err(Failure::new(
            message,
            "name its directory: stoa doctor --repair --data-dir DIR",
        ));
    }
    let _lock = warden::Lock::take(data, warden::Taker::Command).map_err(|cause| {
        let next = "end it with Ctrl-C or SIGTERM (applications go on), then: stoa doctor --repair";
        Failure::new(chain(&cause), next)
    })?;
    let failed = |cause: StoreError| Failure::new(chain(&cause), cause.next());
    let kept = copy(&places).map_err(|cause| {
        let message = format!("the store could not be copied before its repair: {cause}");
        Failure::new(message, "free some room on its disk, then: stoa doctor --repair")
    })?;
    let store = open(&places).map_err(failed)?;
    let repair = store.write(now(), store::WriteTx::repair).map_err(failed)?;
    let lost: Vec<String> = repair.lost.iter().map(ToString::to_string).collect();
    if json {
        let restored: Vec<_> = repair
            .restored
            .iter()
            .map(|(kind, id)| serde_json::json!({ "kind": kind, "id": id }))
            .collect();
        let told = serde_json::json!({ "restored": restored, "lost": lost, "copy": kept });
        print(&format!("{told}\n"))?;
    } else {
        let restored = repair
            .restored
            .iter()
            .map(|(kind, id)| format!("restored {kind} {id}\n"));
        let lost = lost.iter().map(|why| format!("lost     {why}\n"));
        print(&restored.chain(lost).collect::<String>())?;
        let (restored, lost) = (repair.restored.len(), repair.lost.len());
        eprintln!(
            "{restored} restored, {lost} lost; the files as they were: {}",
            kept.display()
        );
        match lost {
            0 => eprintln!("\nnext: stoa up"),
            _ => eprintln!(
                "\nnext: what is lost is gone from the store (the copy has what was left of it); create it anew after: stoa up"
            ),
        }
    }
    Ok(if repair.lost.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

fn now() -> Now {
    Now::at(model::Timestamp::now().as_ms())
}

fn open(places: &Places) -> Result<Store, StoreError> {
    let key = MasterKey::load(&places.master_key())?;
    Store::open(&places.store(), &key, now())
}

/// A folder beside the store's with its files as they are.
fn copy(places: &Places) -> std::io::Result<PathBuf> {
    let store = places.store();
    let from = store.parent().unwrap_or(&places.data);
    let to = places
        .data
        .join(format!("store-before-repair-{}", model::Timestamp::now().as_ms()));
    let mut builder = fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700).create(&to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(to)
}
