//! The audit chain under attack: altered, removed, reordered, cut, each named at the first bad record.

use crate::{Dice, Place, at, key, refused, write};
use serde_json::json;
use store::{AuditBody, AuditEntry, AuditVerdict, Store, StoreError};

fn entry(n: u64) -> AuditEntry {
    AuditEntry {
        actor: format!("user-{n}"),
        action: "app.deploy".into(),
        object: "app/web".into(),
        decision: "allowed".into(),
        detail: json!({"request_id": n}),
    }
}

/// Ten requests, each completed: twenty records. The head is sealed.
fn filled() -> Place {
    let place = Place::new();
    let store = place.open();
    for n in 0..10 {
        let seq = write(&store, n, |tx| tx.audit_begin(&entry(n)));
        write(&store, n, |tx| tx.audit_complete(seq, "done"));
    }
    store.read(|tx| tx.audit_seal_head(&place.file("head"))).unwrap();
    place
}

fn verdict(place: &Place) -> AuditVerdict {
    place
        .open()
        .read(|tx| tx.audit_verify(Some(&place.file("head"))))
        .unwrap()
}

fn first_bad(place: &Place) -> u64 {
    match verdict(place) {
        AuditVerdict::FirstBad { seq, .. } => seq,
        AuditVerdict::Whole { records } => panic!("{records} records believed"),
    }
}

#[test]
fn records_come_back_newest_first_and_complete_once() {
    let place = filled();
    let store = place.open();
    assert_eq!(
        store.read(|tx| tx.audit_verify(None)).unwrap(),
        AuditVerdict::Whole { records: 20 }
    );
    let page = store.read(|tx| tx.audit_list(None, 3)).unwrap();
    assert_eq!(page.iter().map(|r| r.seq).collect::<Vec<_>>(), [20, 19, 18]);
    assert_eq!(page[1].body, AuditBody::Begin(entry(9)));
    assert_eq!(
        page[0].body,
        AuditBody::Complete {
            of: 19,
            outcome: "done".into()
        }
    );
    let rest = store.read(|tx| tx.audit_list(Some(18), 100)).unwrap();
    assert_eq!((rest.len(), rest[16].seq), (17, 1));
    let begun = write(&store, 50, |tx| tx.audit_begin(&entry(50)));
    assert_eq!(store.read(|tx| tx.audit_unfinished(10)).unwrap(), [begun]);
    let done = write(&store, 51, |tx| tx.audit_complete(begun, "failed"));
    assert_eq!(write(&store, 52, |tx| tx.audit_complete(begun, "done")), done);
    assert!(matches!(
        refused(&store, 53, |tx| tx.audit_complete(done, "x")),
        StoreError::NotFound { .. }
    ));
    assert_eq!(
        store.read(|tx| tx.audit_verify(None)).unwrap(),
        AuditVerdict::Whole { records: 22 }
    );
}

#[test]
fn an_untouched_chain_verifies() {
    assert_eq!(verdict(&filled()), AuditVerdict::Whole { records: 20 });
}

#[test]
fn an_altered_record_is_named() {
    let place = filled();
    place.tamper("UPDATE audit SET record = replace(record, 'user-3', 'user-4') WHERE seq = 7");
    assert_eq!(first_bad(&place), 7);
    let listed = place.open().read(|tx| tx.audit_list(None, 100));
    assert!(matches!(listed, Err(StoreError::AuditBroken { seq: 7, .. })));
}

#[test]
fn a_removed_record_is_named() {
    let place = filled();
    place.tamper("DELETE FROM audit WHERE seq = 12");
    assert_eq!(first_bad(&place), 12);
    // Closing the gap does not help.
    place.tamper("UPDATE audit SET seq = seq - 1 WHERE seq > 12");
    assert_eq!(first_bad(&place), 12);
}

#[test]
fn reordered_records_are_named() {
    let place = filled();
    place.tamper(
        "UPDATE audit SET seq = 1000 WHERE seq = 5; UPDATE audit SET seq = 5 WHERE seq = 9;
         UPDATE audit SET seq = 9 WHERE seq = 1000",
    );
    assert_eq!(first_bad(&place), 5);
}

#[test]
fn a_completion_filed_elsewhere_is_named() {
    let place = filled();
    place.tamper("UPDATE audit SET completes = 2 WHERE seq = 4");
    assert_eq!(first_bad(&place), 4);
}

#[test]
fn a_cut_is_named_with_and_without_the_second_file() {
    let place = filled();
    place.tamper("DELETE FROM audit WHERE seq > 15");
    assert_eq!(first_bad(&place), 16);
    let without = place.open().read(|tx| tx.audit_verify(None)).unwrap();
    assert!(matches!(without, AuditVerdict::FirstBad { seq: 16, .. }));
}

#[test]
fn a_whole_store_set_back_is_found_by_the_second_file_only() {
    let place = Place::new();
    let store = place.open();
    write(&store, 1, |tx| tx.audit_begin(&entry(1)));
    store.backup_to(&place.file("old")).unwrap();
    write(&store, 2, |tx| tx.audit_begin(&entry(2)));
    store.read(|tx| tx.audit_seal_head(&place.file("head"))).unwrap();
    drop(store);
    std::fs::rename(place.file("old"), place.db()).unwrap();
    let store = place.open();
    // The control: the store by itself cannot know.
    assert_eq!(
        store.read(|tx| tx.audit_verify(None)).unwrap(),
        AuditVerdict::Whole { records: 1 }
    );
    let found = store
        .read(|tx| tx.audit_verify(Some(&place.file("head"))))
        .unwrap();
    assert!(matches!(found, AuditVerdict::FirstBad { seq: 2, .. }));
    // The evidence is not overwritten, not even by a chain that has grown again.
    let seal = |store: &Store| store.read(|tx| tx.audit_seal_head(&place.file("head")));
    assert!(matches!(
        seal(&store),
        Err(StoreError::AuditBroken { seq: 2, .. })
    ));
    write(&store, 3, |tx| tx.audit_begin(&entry(3)));
    assert!(matches!(
        seal(&store),
        Err(StoreError::AuditBroken { seq: 2, .. })
    ));
    let found = store
        .read(|tx| tx.audit_verify(Some(&place.file("head"))))
        .unwrap();
    assert!(matches!(found, AuditVerdict::FirstBad { seq: 2, .. }));
}

#[test]
fn a_forged_head_is_found() {
    let place = filled();
    let head = std::fs::read_to_string(place.file("head")).unwrap();
    std::fs::write(place.file("head"), head.replace(" 20 ", " 19 ")).unwrap();
    assert_eq!(first_bad(&place), 0);
    let again = Store::open(&place.db(), &key(), at(1)).unwrap();
    assert!(again.read(|tx| tx.audit_seal_head(&place.file("head"))).is_err());
}

/// One way to tamper, by what it does to the table `audit` of so many records; the first record that no longer fits.
struct Tampering {
    what: String,
    sql: String,
    first_bad: u64,
}

/// A seeded one. `heads` are the store's own ends of the chain, as they were after each record.
fn tampering(dice: &mut Dice, records: u64, heads: &[String]) -> Tampering {
    let at = 1 + dice.below(records);
    let other = 1 + (at - 1 + 1 + dice.below(records - 1)) % records;
    let (low, high) = (at.min(other), at.max(other));
    let swap = |low, high| {
        format!(
            "UPDATE audit SET seq = 9999 WHERE seq = {low}; UPDATE audit SET seq = {low} WHERE seq = {high};
             UPDATE audit SET seq = {high} WHERE seq = 9999;"
        )
    };
    let (what, sql, first_bad) = match dice.below(11) {
        0 => {
            let byte = 1 + dice.below(60);
            let change = format!(
                "UPDATE audit SET record = substr(record, 1, {byte} - 1)
                 || CASE substr(record, {byte}, 1) WHEN 'x' THEN 'y' ELSE 'x' END || substr(record, {byte} + 1)
                 WHERE seq = {at};"
            );
            ("a letter of a record", change, at)
        }
        1 => {
            let change = "replace(record, '\"at_ms\":', '\"at_ms\":1')";
            (
                "a time",
                format!("UPDATE audit SET record = {change} WHERE seq = {at};"),
                at,
            )
        }
        2 => {
            let bit = dice.below(32);
            let change = format!(
                "UPDATE audit SET hash = CAST(substr(hash, 1, {bit}) || CASE substr(hash, {bit} + 1, 1)
                 WHEN x'00' THEN x'01' ELSE x'00' END || substr(hash, {bit} + 2) AS BLOB) WHERE seq = {at};"
            );
            ("a byte of a hash", change, at)
        }
        3 => (
            "what it completes",
            format!("UPDATE audit SET completes = 7000 WHERE seq = {at};"),
            at,
        ),
        4 => ("a removal", format!("DELETE FROM audit WHERE seq = {at};"), at),
        5 => {
            let close = format!("UPDATE audit SET seq = seq - 1 WHERE seq > {at};");
            (
                "a removal, closed",
                format!("DELETE FROM audit WHERE seq = {at}; {close}"),
                at,
            )
        }
        6 => ("two in each other's place", swap(low, high), low),
        7 => ("a cut", format!("DELETE FROM audit WHERE seq >= {at};"), at),
        8 => {
            // The store's own head of that time fits the cut chain: only the second file knows better.
            let head = at
                .checked_sub(2)
                .and_then(|at| heads.get(usize::try_from(at).ok()?));
            let back = match head {
                Some(head) => {
                    format!("DELETE FROM meta WHERE key = 'audit_head'; INSERT INTO meta VALUES {head};")
                }
                None => "DELETE FROM meta WHERE key = 'audit_head';".to_owned(),
            };
            (
                "a cut with the head of that time",
                format!("DELETE FROM audit WHERE seq >= {at}; {back}"),
                at,
            )
        }
        9 => {
            let copy = 2 * dice.below(records / 2) + 1;
            let add = format!(
                "INSERT INTO audit SELECT {records} + 1, NULL, hash, record FROM audit WHERE seq = {copy};"
            );
            ("a copy at the end", add, records + 1)
        }
        _ => {
            // Another one's words under the right place, number and hash.
            let change = format!(
                "UPDATE audit SET record = (SELECT record FROM audit WHERE seq = {other}) WHERE seq = {at};"
            );
            ("the words of another", change, at)
        }
    };
    Tampering {
        what: format!("{what} (record {at}, other {other})"),
        sql,
        first_bad,
    }
}

/// N77: whatever is done to the chain is found, and the first record that does not fit is named.
#[test]
fn a_thousand_tamperings_are_all_found_and_named() {
    const TRIALS: u64 = 1200;
    const SEED: u64 = 77;
    let place = Place::new();
    let store = place.open();
    let plain = rusqlite::Connection::open(place.db()).unwrap();
    let mut heads = Vec::new();
    let sql = "SELECT '(''audit_head'', ''' || value || ''', x''' || hex(mac) || ''')' FROM meta WHERE key = 'audit_head'";
    for n in 0..24 {
        let seq = write(&store, n, |tx| tx.audit_begin(&entry(n)));
        heads.push(plain.query_row(sql, [], |row| row.get(0)).unwrap());
        write(&store, n, |tx| tx.audit_complete(seq, "done"));
        heads.push(plain.query_row(sql, [], |row| row.get(0)).unwrap());
    }
    store.read(|tx| tx.audit_seal_head(&place.file("head"))).unwrap();
    plain
        .execute_batch(
            "PRAGMA synchronous = OFF; CREATE TEMP TABLE kept AS SELECT * FROM audit;
             CREATE TEMP TABLE kept_head AS SELECT * FROM meta WHERE key = 'audit_head';",
        )
        .unwrap();
    let look = || {
        store
            .read(|tx| tx.audit_verify(Some(&place.file("head"))))
            .unwrap()
    };
    let mut dice = Dice(SEED);
    for trial in 0..TRIALS {
        let tampering = tampering(&mut dice, 48, &heads);
        plain.execute_batch(&tampering.sql).unwrap();
        let found = look();
        let named = matches!(found, AuditVerdict::FirstBad { seq, .. } if seq == tampering.first_bad);
        assert!(
            named,
            "seed {SEED}, trial {trial}: {}, first bad {}, found {found:?}",
            tampering.what, tampering.first_bad
        );
        plain
            .execute_batch(
                "DELETE FROM audit; INSERT INTO audit SELECT * FROM kept;
                 DELETE FROM meta WHERE key = 'audit_head'; INSERT INTO meta SELECT * FROM kept_head;",
            )
            .unwrap();
        // The control: put back as it was, it verifies; so what was found was the tampering.
        if trial % 100 == 0 {
            assert_eq!(look(), AuditVerdict::Whole { records: 48 });
        }
    }
}

/// The most memory this process ever used, in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Not a test: the process whose memory is looked at, because other tests share this one's.
#[test]
#[ignore = "run by the test of memory in a process of its own"]
fn child_that_verifies() {
    let Ok(dir) = std::env::var("STORE_AUDIT_DIR") else {
        return;
    };
    let store = Place::at(dir.into()).open();
    // What grows is the one walk's, SQLite's page cache included.
    let before = peak_kib();
    let found = store.read(|tx| tx.audit_verify(None)).unwrap();
    assert_eq!(found, AuditVerdict::Whole { records: 60_000 });
    eprintln!("grew {}", peak_kib() - before);
}

#[test]
fn verifying_takes_little_memory_however_long_the_log() {
    let place = Place::new();
    let store = place.open();
    for part in 0..6 {
        write(&store, part, |tx| {
            for n in 0..10_000 {
                let long = AuditEntry {
                    detail: json!({"text": "x".repeat(500)}),
                    ..entry(n)
                };
                tx.audit_begin(&long)?;
            }
            Ok(())
        });
    }
    drop(store);
    let bytes = std::fs::metadata(place.db()).unwrap().len();
    assert!(bytes > 36 << 20, "{bytes}");
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "audit::child_that_verifies",
            "--nocapture",
        ])
        .env("STORE_AUDIT_DIR", place.db().parent().unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stderr).into_owned();
    let grew: u64 = said
        .lines()
        .find_map(|line| line.strip_prefix("grew "))
        .unwrap_or_else(|| panic!("{said}"))
        .parse()
        .unwrap();
    println!("{} MiB of log, {grew} KiB of memory", bytes >> 20);
    assert!(grew < 8 << 10, "{grew} KiB for {} MiB of log", bytes >> 20);
}
