//! The audit chain under attack: altered, removed, reordered, cut, each named at the first bad record.

use crate::{Place, at, key, refused, write};
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
