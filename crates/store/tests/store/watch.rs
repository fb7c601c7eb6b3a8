//! Watching: changes come in order, waiters wake, compaction says so.

use std::sync::mpsc;
use std::time::Duration;

use crate::{App, Place, app, write};
use store::{Op, ReadTx, StoreError};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_waiter_wakes_after_the_commit() {
    let place = Place::new();
    let store = place.open();
    let (told, hooks) = mpsc::channel();
    let subscription = store.subscribe(move |rev| told.send(rev).unwrap_or(()));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let rev = store.wait_change(0, LONG);
            store
                .read(|tx| tx.changes_since(0, 10))
                .map(|changes| (rev, changes.len()))
        });
        write(&store, 1, |tx| tx.insert(&app("a1", "p", "web")));
        assert_eq!(waiter.join().unwrap().unwrap(), (1, 1));
    });
    assert_eq!(hooks.recv_timeout(LONG).unwrap(), 1);
    drop(subscription);
    write(&store, 2, |tx| tx.update(&app("a1", "p", "web"), None));
    assert_eq!(store.wait_change(1, LONG), 2);
    // The hook is gone with its subscription, and its channel with the hook.
    assert!(hooks.recv_timeout(LONG).is_err());
    assert_eq!(store.wait_change(2, Duration::from_millis(1)), 2);
}

#[test]
fn a_reader_that_follows_sees_every_revision_once() {
    let place = Place::new();
    let store = place.open();
    const WRITERS: u64 = 4;
    const EACH: u64 = 50;
    let seen = std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let store = &store;
            scope.spawn(move || {
                for n in 0..EACH {
                    write(store, 1, |tx| {
                        tx.insert(&app(&format!("{writer}-{n}"), "p", &format!("{writer}-{n}")))
                    });
                }
            });
        }
        let follower = scope.spawn(|| {
            let mut seen = Vec::new();
            while (seen.len() as u64) < WRITERS * EACH {
                let last = seen.last().copied().unwrap_or(0);
                assert!(
                    store.wait_change(last, LONG) > last,
                    "a wake-up was lost after {last}"
                );
                seen.extend(
                    store
                        .read(|tx| tx.changes_since(last, 7))
                        .unwrap()
                        .iter()
                        .map(|c| c.rev),
                );
            }
            seen
        });
        follower.join().unwrap()
    });
    assert_eq!(seen, (1..=WRITERS * EACH).collect::<Vec<_>>());
}

#[test]
fn compaction_keeps_what_proves_the_living() {
    let place = Place::new();
    let store = place.open();
    write(&store, 1, |tx| tx.insert(&app("keep", "p", "keep")));
    write(&store, 2, |tx| tx.insert(&app("gone", "p", "gone")));
    for ms in 3..50 {
        write(&store, ms, |tx| {
            tx.update(&app("busy", "p", "busy"), None)
                .or_else(|_| tx.insert(&app("busy", "p", "busy")).map(|_| 1))
        });
    }
    write(&store, 50, |tx| tx.delete::<App>("gone", None));
    let rev = store.rev();
    // Too young to be removed.
    assert_eq!(write(&store, 60, |tx| tx.compact(10, 0)), 0);
    assert_eq!(
        store.read(|tx| tx.changes_since(0, 1000)).unwrap().len() as u64,
        rev
    );
    while write(&store, 60, |tx| tx.compact(0, 1000)) > 0 {}
    let refused = store.read(|tx| tx.changes_since(3, 10)).unwrap_err();
    assert!(
        matches!(refused, StoreError::Compacted { asked: 3, oldest } if oldest == rev),
        "{refused}"
    );
    assert_eq!(store.read(|tx| tx.changes_since(rev, 10)).unwrap(), []);
    let future = store.read(|tx| tx.changes_since(rev + 1, 10)).unwrap_err();
    assert!(matches!(future, StoreError::Compacted { .. }), "{future}");
    let health = store.read(ReadTx::verify).unwrap();
    assert_eq!((health.bad.len(), health.objects, health.changes), (0, 2, 2));
    drop(store);
    let store = place.open();
    assert_eq!(store.rev(), rev);
    write(&store, 61, |tx| tx.insert(&app("gone", "p", "gone")));
    let changes = store.read(|tx| tx.changes_since(rev, 10)).unwrap();
    assert_eq!(
        (changes.len(), changes[0].rev, changes[0].op),
        (1, rev + 1, Op::Insert)
    );
}
