//! Documents: insert, find, list, page, update, delete, and who may do what when.

use crate::{App, Note, Place, app, at, get, key, refused, write};
use store::{Expect, MasterKey, Op, ReadTx, Store, StoreError};

#[test]
fn a_row_comes_back_as_it_was_written() {
    let place = Place::new();
    let store = place.open();
    let web = app("a1", "p1", "web");
    let inserted = write(&store, 10, |tx| tx.insert(&web));
    assert_eq!((inserted.generation, inserted.rev), (1, 1));
    drop(store);
    let store = place.open();
    let found = store.read(|tx| tx.need::<App>("a1")).unwrap();
    assert_eq!(found.row, web);
    assert_eq!(
        (found.generation, found.rev, found.created_ms, found.updated_ms),
        (1, 1, 10, 10)
    );
    let by_name = store.read(|tx| tx.find::<App>("p1", "web")).unwrap().unwrap();
    assert_eq!(by_name, found);
    assert_eq!(store.read(|tx| tx.find::<App>("p2", "web")).unwrap(), None);
    assert_eq!(store.read(|tx| tx.get::<Note>("a1")).unwrap(), None);
    assert!(matches!(
        store.read(|tx| tx.need::<App>("a9")),
        Err(StoreError::NotFound { .. })
    ));
}

#[test]
fn names_are_taken_once_per_parent_and_kind() {
    let place = Place::new();
    let store = place.open();
    write(&store, 1, |tx| tx.insert(&app("a1", "p1", "web")));
    write(&store, 1, |tx| tx.insert(&app("a2", "p2", "web")));
    write(&store, 1, |tx| {
        tx.insert(&Note {
            id: "a1".into(),
            text: "same id, other kind".into(),
        })
    });
    assert!(matches!(
        refused(&store, 1, |tx| tx.insert(&app("a3", "p1", "web"))),
        StoreError::NameTaken { .. }
    ));
    assert!(matches!(
        refused(&store, 1, |tx| tx.insert(&app("a1", "p1", "x"))),
        StoreError::Exists { .. }
    ));
    // A caller that swallows the refusal keeps a whole transaction.
    write(&store, 2, |tx| {
        let taken =
            tx.insert(&app("a3", "p1", "web")).is_err() && tx.update(&app("a2", "p1", "web"), None).is_err();
        assert!(taken);
        tx.insert(&app("a3", "p1", "worker"))
    });
    let names = store.read(|tx| tx.list::<App>("p1")).unwrap();
    assert_eq!(
        names.iter().map(|a| a.row.name.as_str()).collect::<Vec<_>>(),
        ["web", "worker"]
    );
    assert!(store.read(ReadTx::verify).unwrap().bad.is_empty());
}

#[test]
fn update_compares_and_sets() {
    let place = Place::new();
    let store = place.open();
    let mut web = app("a1", "p1", "web");
    write(&store, 1, |tx| tx.insert(&web));
    web.image = "two".into();
    assert_eq!(write(&store, 2, |tx| tx.update(&web, Some(1))), 2);
    let stale = refused(&store, 3, |tx| tx.update(&web, Some(1)));
    assert!(
        matches!(
            stale,
            StoreError::Conflict {
                expected: 1,
                found: 2,
                ..
            }
        ),
        "{stale}"
    );
    // Observed state: a new revision, the same generation.
    web.image = "seen".into();
    let rev = write(&store, 4, |tx| tx.update_status(&web, Some(2)));
    let found = store.read(|tx| tx.need::<App>("a1")).unwrap();
    assert_eq!(
        (found.generation, found.rev, found.created_ms, found.updated_ms),
        (2, rev, 1, 4)
    );
    assert!(matches!(
        refused(&store, 5, |tx| tx.update_status(&web, Expect::Rev(rev - 1))),
        StoreError::Conflict { .. }
    ));
    assert!(matches!(
        refused(&store, 5, |tx| tx.delete::<App>("a1", Some(1))),
        StoreError::Conflict { .. }
    ));
    assert!(matches!(
        refused(&store, 5, |tx| tx.update(&app("a9", "", ""), None)),
        StoreError::NotFound { .. }
    ));
    let gone = write(&store, 6, |tx| tx.delete::<App>("a1", Some(2)));
    assert_eq!(gone.row, web);
    assert_eq!(get(&store, "a1").unwrap(), None);
    assert_eq!(store.read(|tx| tx.count::<App>("p1")).unwrap(), 0);
    write(&store, 7, |tx| tx.insert(&web));
    assert!(store.read(ReadTx::verify).unwrap().bad.is_empty());
}

#[test]
fn a_move_changes_both_lists() {
    let place = Place::new();
    let store = place.open();
    write(&store, 1, |tx| tx.insert(&app("a1", "p1", "web")));
    write(&store, 1, |tx| tx.insert(&app("a2", "p1", "db")));
    write(&store, 2, |tx| tx.update(&app("a1", "p2", "site"), Some(1)));
    assert_eq!(store.read(|tx| tx.list::<App>("p1")).unwrap().len(), 1);
    assert_eq!(store.read(|tx| tx.list::<App>("p2")).unwrap()[0].row.name, "site");
    assert_eq!(store.read(ReadTx::list_all::<App>).unwrap().len(), 2);
}

#[test]
fn pages_walk_both_ways_without_gaps() {
    let place = Place::new();
    let store = place.open();
    write(&store, 1, |tx| {
        for n in 0..25 {
            tx.insert(&app(&format!("a{n}"), "p", &format!("n{n:02}")))?;
        }
        Ok(())
    });
    let (mut after, mut seen) = (String::new(), Vec::new());
    loop {
        let page = store.read(|tx| tx.page::<App>("p", &after, 10)).unwrap();
        seen.extend(page.rows.into_iter().map(|row| row.row.name));
        let Some(next) = page.next else { break };
        after = next;
    }
    let wanted: Vec<String> = (0..25).map(|n| format!("n{n:02}")).collect();
    assert_eq!(seen, wanted);
    let newest = store.read(|tx| tx.page_back::<App>("p", "", 10)).unwrap();
    assert_eq!(newest.rows[0].row.name, "n24");
    let older = store
        .read(|tx| tx.page_back::<App>("p", &newest.next.unwrap(), 100))
        .unwrap();
    assert_eq!((older.rows.len(), older.next), (15, None));
}

#[test]
fn a_refused_write_leaves_nothing_and_a_panic_hurts_nobody_else() {
    let place = Place::new();
    let store = place.open();
    let refused = store.write(at(1), |tx| -> Result<(), StoreError> {
        tx.insert(&app("a1", "p", "one"))?;
        tx.next_number("v")?;
        Err(StoreError::NotFound {
            kind: "x".into(),
            id: "y".into(),
        })
    });
    assert!(refused.is_err());
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        store.write(at(1), |tx| -> Result<(), StoreError> {
            tx.insert(&app("a1", "p", "one"))?;
            panic!("on purpose");
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(store.rev(), 0);
    assert_eq!(get(&store, "a1").unwrap(), None);
    assert_eq!(write(&store, 2, |tx| tx.next_number("v")), 1);
    let nested = store.write(at(3), |_| store.write(at(3), |_| Ok::<(), StoreError>(())));
    assert!(matches!(nested, Err(StoreError::Nested)));
}

#[test]
fn a_snapshot_does_not_move() {
    let place = Place::new();
    let store = place.open();
    write(&store, 1, |tx| tx.insert(&app("a1", "p", "one")));
    store
        .read(|tx| {
            let before = tx.rev()?;
            write(&store, 2, |w| w.insert(&app("a2", "p", "two")));
            assert_eq!(tx.list::<App>("p")?.len(), 1);
            assert_eq!(tx.rev()?, before);
            Ok::<_, StoreError>(())
        })
        .unwrap();
    assert_eq!(store.read(|tx| tx.list::<App>("p")).unwrap().len(), 2);
}

#[test]
fn the_log_has_every_change_in_its_transaction() {
    let place = Place::new();
    let store = place.open();
    let mut web = app("a1", "p", "web");
    write(&store, 1, |tx| tx.insert(&web));
    web.image = "two".into();
    write(&store, 2, |tx| tx.update(&web, None));
    write(&store, 3, |tx| tx.update_status(&web, None));
    write(&store, 4, |tx| tx.delete::<App>("a1", None));
    let changes = store.read(|tx| tx.changes_since(0, 100)).unwrap();
    let told: Vec<_> = changes
        .iter()
        .map(|c| (c.rev, c.op, c.generation, c.at_ms))
        .collect();
    assert_eq!(
        told,
        [
            (1, Op::Insert, 1, 1),
            (2, Op::Update, 2, 2),
            (3, Op::Status, 2, 3),
            (4, Op::Delete, 2, 4)
        ]
    );
    assert_eq!(changes[3].row::<App>().unwrap().unwrap(), web);
    assert!(changes[3].row::<Note>().is_none());
}

#[test]
fn one_process_one_key_one_program() {
    let place = Place::new();
    let store = place.open();
    let second = Store::open(&place.db(), &key(), at(1)).unwrap_err();
    assert!(
        matches!(&second, StoreError::InUse { pid, .. } if *pid == std::process::id().to_string()),
        "{second}"
    );
    let epoch = store.epoch();
    drop(store);
    let wrong = Store::open(&place.db(), &MasterKey::from_bytes([8; 32]), at(1)).unwrap_err();
    assert!(matches!(wrong, StoreError::WrongKey { .. }), "{wrong}");
    assert_eq!(place.open().epoch(), epoch + 1);

    let foreign = Place::new();
    foreign.tamper("CREATE TABLE theirs (x)");
    assert!(matches!(
        Store::open(&foreign.db(), &key(), at(1)),
        Err(StoreError::Foreign { .. })
    ));
    let text = Place::new();
    std::fs::write(
        text.db(),
        "not a database, but long enough to look like one to nobody",
    )
    .unwrap();
    assert!(matches!(
        Store::open(&text.db(), &key(), at(1)),
        Err(StoreError::Damaged { .. })
    ));
    let newer = Place::new();
    drop(newer.open());
    newer.tamper("PRAGMA user_version = 99");
    let refused = Store::open(&newer.db(), &key(), at(1)).unwrap_err();
    assert!(
        matches!(refused, StoreError::NewerSchema { found: 99, .. }),
        "{refused}"
    );
}

#[test]
fn a_backup_is_whole_and_opens_with_the_same_key() {
    let place = Place::new();
    let store = place.open();
    write(&store, 1, |tx| tx.insert(&app("a1", "p", "web")));
    let copy = place.file("copy.db");
    store.backup_to(&copy).unwrap();
    write(&store, 2, |tx| tx.insert(&app("a2", "p", "later")));
    let restored = Store::open(&copy, &key(), at(3)).unwrap();
    assert_eq!(restored.read(|tx| tx.list::<App>("p")).unwrap().len(), 1);
    assert!(restored.read(ReadTx::verify).unwrap().bad.is_empty());
    use std::os::unix::fs::PermissionsExt;
    for file in [place.db(), copy] {
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o077, 0);
    }
}
