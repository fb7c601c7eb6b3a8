//! Corruption: what is not as it was written is named and never served. Controls show that SQLite alone serves it.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;

use crate::{App, Dice, Place, app, at, get, key, refused, write};
use store::{ReadTx, Store, StoreError, WriteTx};

fn filled() -> Place {
    let place = Place::new();
    let store = place.open();
    write(&store, 1, |tx| {
        for n in 0..3 {
            tx.insert(&app(&format!("a{n}"), "p", &format!("name-{n}")))?;
        }
        Ok(())
    });
    place
}

fn plain(place: &Place, id: &str) -> Option<String> {
    let conn = rusqlite::Connection::open(place.db()).unwrap();
    conn.query_row("SELECT body FROM object WHERE id = ?1", [id], |row| row.get(0))
        .ok()
}

/// `a1` is refused by name in every way of reading; its neighbours are still served.
fn refuses_a1(place: &Place) {
    let store = place.open();
    let named = |result: Result<(), StoreError>| match result {
        Err(failure @ StoreError::Corrupt { .. }) => {
            assert!(failure.to_string().starts_with("app a1 is corrupt"), "{failure}");
            assert!(failure.next().contains("repair"));
        }
        Err(other) => panic!("another error: {other}"),
        Ok(()) => panic!("served"),
    };
    named(get(&store, "a1").map(|_| ()));
    named(store.read(|tx| tx.find::<App>("p", "name-1")).map(|_| ()));
    named(store.read(|tx| tx.list::<App>("p")).map(|_| ()));
    named(store.read(ReadTx::list_all::<App>).map(|_| ()));
    named(store.read(|tx| tx.page::<App>("p", "", 10)).map(|_| ()));
    named(Err(refused(&store, 5, |tx| {
        tx.update(&app("a1", "p", "name-1"), None)
    })));
    named(Err(refused(&store, 5, |tx| tx.delete::<App>("a1", None))));
    named(Err(refused(&store, 5, |tx| tx.insert(&app("a1", "p", "fresh")))));
    assert_eq!(get(&store, "a0").unwrap(), Some(app("a0", "p", "name-0")));
    let (good, bad) = store.read(ReadTx::list_all_intact::<App>).unwrap();
    assert_eq!(
        good.iter().map(|row| row.row.id.as_str()).collect::<Vec<_>>(),
        ["a0", "a2"]
    );
    assert_eq!(bad.len(), 1);
    let health = store.read(ReadTx::verify).unwrap();
    assert!(
        health
            .bad
            .iter()
            .any(|found| found.to_string().starts_with("app a1 ")),
        "{health:?}"
    );
    // One command restores it from the log.
    let repair = write(&store, 6, WriteTx::repair);
    assert_eq!(
        (repair.restored, repair.lost.len()),
        (vec![("app".into(), "a1".into())], 0)
    );
    assert!(store.read(ReadTx::verify).unwrap().bad.is_empty());
    assert_eq!(store.read(|tx| tx.list::<App>("p")).unwrap().len(), 3);
}

#[test]
fn an_altered_body() {
    let place = filled();
    place.tamper("UPDATE object SET body = replace(body, 'one', 'evil') WHERE id = 'a1'");
    assert!(plain(&place, "a1").unwrap().contains("evil"));
    refuses_a1(&place);
}

#[test]
fn every_altered_column() {
    for change in [
        "parent = 'q'",
        "generation = 9",
        "rev = 9",
        "created_ms = 9",
        "updated_ms = 9",
        "mac = x'00'",
    ] {
        let place = filled();
        place.tamper(&format!("UPDATE object SET {change} WHERE id = 'a1'"));
        let store = place.open();
        assert!(
            matches!(get(&store, "a1"), Err(StoreError::Corrupt { .. })),
            "{change}"
        );
        assert!(
            matches!(
                store.read(|tx| tx.list::<App>("p")),
                Err(StoreError::Corrupt { .. })
            ),
            "{change}"
        );
        assert!(!store.read(ReadTx::verify).unwrap().bad.is_empty(), "{change}");
    }
}

#[test]
fn swapped_rows() {
    let place = filled();
    place.tamper(
        "UPDATE object SET body = (SELECT body FROM object AS o WHERE o.id = 'a2'),
                           mac = (SELECT mac FROM object AS o WHERE o.id = 'a2') WHERE id = 'a1'",
    );
    assert!(plain(&place, "a1").unwrap().contains("name-2"));
    refuses_a1(&place);
}

#[test]
fn a_removed_row() {
    let place = filled();
    place.tamper("DELETE FROM object WHERE id = 'a1'");
    assert_eq!(plain(&place, "a1"), None);
    refuses_a1(&place);
}

#[test]
fn a_reverted_row() {
    let place = filled();
    place.tamper("CREATE TABLE old AS SELECT * FROM object WHERE id = 'a1'");
    write(&place.open(), 2, |tx| {
        tx.update(
            &App {
                image: "two".into(),
                ..app("a1", "p", "name-1")
            },
            None,
        )
    });
    place.tamper(
        "UPDATE object SET (generation, rev, updated_ms, mac, body)
             = (SELECT generation, rev, updated_ms, mac, body FROM old) WHERE id = 'a1'; DROP TABLE old",
    );
    assert!(plain(&place, "a1").unwrap().contains("one"));
    refuses_a1(&place);
    assert_eq!(get(&place.open(), "a1").unwrap().unwrap().image, "two");
}

#[test]
fn a_revived_row() {
    let place = filled();
    place.tamper("CREATE TABLE old AS SELECT * FROM object WHERE id = 'a1'");
    write(&place.open(), 2, |tx| tx.delete::<App>("a1", None));
    place.tamper("INSERT INTO object SELECT * FROM old; DROP TABLE old");
    let store = place.open();
    assert!(matches!(get(&store, "a1"), Err(StoreError::Corrupt { .. })));
    assert!(matches!(
        store.read(|tx| tx.list::<App>("p")),
        Err(StoreError::Corrupt { .. })
    ));
    write(&store, 3, WriteTx::repair);
    assert_eq!(get(&store, "a1").unwrap(), None);
    assert!(store.read(ReadTx::verify).unwrap().bad.is_empty());
}

#[test]
fn an_altered_or_missing_log_entry() {
    for tampering in [
        "UPDATE log SET body = '{}' WHERE rev = 2",
        "DELETE FROM log WHERE rev = 2",
    ] {
        let place = filled();
        place.tamper(tampering);
        let store = place.open();
        let changes = store.read(|tx| tx.changes_since(0, 10)).unwrap_err();
        assert!(
            matches!(&changes, StoreError::Corrupt { kind, id, .. } if kind == "log" && id == "2"),
            "{changes}"
        );
        assert!(!store.read(ReadTx::verify).unwrap().bad.is_empty());
        write(&store, 2, WriteTx::repair);
        assert!(store.read(ReadTx::verify).unwrap().bad.is_empty(), "{tampering}");
        assert_eq!(store.read(|tx| tx.changes_since(0, 10)).unwrap().len(), 3);
        assert!(get(&store, "a1").unwrap().is_some());
    }
    let place = filled();
    place.tamper("DELETE FROM log WHERE rev = 3");
    assert!(matches!(
        Store::open(&place.db(), &key(), at(1)),
        Err(StoreError::Damaged { .. })
    ));
}

#[test]
fn what_neither_can_prove_stays_refused() {
    let place = filled();
    place.tamper("UPDATE object SET body = '{}' WHERE id = 'a1'; UPDATE log SET body = '{}' WHERE id = 'a1'");
    let store = place.open();
    let repair = write(&store, 2, WriteTx::repair);
    assert!(!repair.lost.is_empty() && repair.restored.is_empty());
    assert!(matches!(get(&store, "a1"), Err(StoreError::Corrupt { .. })));
    assert!(get(&store, "a0").unwrap().is_some());
    // The others are listed again, and its name is free.
    assert_eq!(store.read(|tx| tx.list::<App>("p")).unwrap().len(), 2);
    write(&store, 3, |tx| tx.insert(&app("a9", "p", "name-1")));
}

#[test]
fn what_the_log_still_has_is_salvaged() {
    let place = filled();
    place.tamper(
        "UPDATE object SET body = '{}' WHERE id IN ('a0', 'a1'); UPDATE log SET body = '{}' WHERE id = 'a1'",
    );
    let salvage = place.open().read(ReadTx::salvage::<App>).unwrap();
    let mut told: Vec<App> = salvage.rows.into_iter().map(|found| found.row).collect();
    told.sort_by(|one, other| one.id.cmp(&other.id));
    assert_eq!(told, [app("a0", "p", "name-0"), app("a2", "p", "name-2")]);
    assert_eq!((salvage.bad.len(), salvage.lost), (2, ["a1".to_owned()].into()));
}

/// Everything the store would tell, or the first error.
fn tell(place: &Place) -> Result<BTreeMap<String, App>, StoreError> {
    let store = Store::open(&place.db(), &key(), at(9))?;
    store.read(|tx| {
        let mut told = BTreeMap::new();
        for n in 0..ROWS {
            let found = tx.get::<App>(&format!("id-{n}"))?;
            told.extend(found.map(|found| (found.row.id.clone(), found.row)));
        }
        let listed: BTreeMap<_, _> = tx
            .list::<App>("p")?
            .into_iter()
            .map(|row| (row.row.id.clone(), row.row))
            .collect();
        assert_eq!(listed, told, "two ways of reading differ");
        for change in tx.changes_since(0, 1000)? {
            let said: App = change.row().expect("an app")?;
            assert!(
                told.get(&said.id) == Some(&said) || said.image == "first",
                "the log tells something else"
            );
        }
        Ok(told)
    })
}

/// The control: what plain SQLite tells.
fn tell_plainly(place: &Place) -> Option<BTreeMap<String, App>> {
    let conn = rusqlite::Connection::open(place.db()).ok()?;
    let mut query = conn
        .prepare("SELECT id, parent, name, body FROM object WHERE kind = 'app'")
        .ok()?;
    let rows = query
        .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(3)?)))
        .ok()?;
    let rows: Vec<(String, String)> = rows.collect::<Result<_, _>>().ok()?;
    rows.into_iter()
        .map(|(id, body)| Some((id, serde_json::from_str(&body).ok()?)))
        .collect()
}

const ROWS: u64 = 60;
const TRIALS: u64 = 300;

#[test]
fn random_overwrites_are_never_served() {
    let original = Place::new();
    let store = original.open();
    let mut dice = Dice(u64::from(std::process::id()));
    for n in 0..ROWS {
        let row = App {
            image: "first".into(),
            ..app(&format!("id-{n}"), "p", &format!("name-{n}"))
        };
        write(&store, 1, |tx| tx.insert(&row));
        write(&store, 2, |tx| {
            tx.update(
                &App {
                    image: format!("sha256:{n:0300}"),
                    ..row.clone()
                },
                None,
            )
        });
    }
    drop(store);
    let truth = tell(&original).unwrap();
    let file = std::fs::read(original.db()).unwrap();
    let (mut named, mut harmless, mut fooled) = (0, 0, 0);
    for trial in 0..TRIALS {
        let place = Place::new();
        std::fs::write(place.db(), &file).unwrap();
        // A flipped byte, a 64-byte overwrite, or a page that was never written: past the header page's first
        // bytes, which SQLite itself refuses.
        let bytes = match trial % 3 {
            0 => vec![dice.below(256) as u8],
            1 => (0..64).map(|_| dice.below(256) as u8).collect(),
            _ => vec![0; 4096],
        };
        let mut offset = dice.below(file.len() as u64 - bytes.len() as u64 + 1);
        if bytes.len() == 4096 {
            offset -= offset % 4096;
        }
        let disk = std::fs::OpenOptions::new().write(true).open(place.db()).unwrap();
        disk.write_all_at(&bytes, offset).unwrap();
        drop(disk);
        // The control first: opening the store writes to the file.
        let copy = Place::new();
        std::fs::copy(place.db(), copy.db()).unwrap();
        if tell_plainly(&copy).is_some_and(|told| told != truth) {
            fooled += 1;
        }
        match tell(&place) {
            Ok(told) => {
                assert_eq!(
                    told,
                    truth,
                    "trial {trial}: {} bytes at {offset} were served",
                    bytes.len()
                );
                harmless += 1;
            }
            Err(failure) => {
                assert!(
                    matches!(
                        failure,
                        StoreError::Corrupt { .. }
                            | StoreError::Damaged { .. }
                            | StoreError::WrongKey { .. }
                            | StoreError::Foreign { .. }
                            | StoreError::NewerSchema { .. }
                    ),
                    "trial {trial}: {} bytes at {offset}: {failure:?}",
                    bytes.len()
                );
                named += 1;
            }
        }
    }
    println!(
        "{TRIALS} overwrites: {named} named, {harmless} hit nothing that was told, 0 served; plain SQLite was fooled {fooled} times"
    );
    assert!(fooled > 0, "the control proves nothing");
}
