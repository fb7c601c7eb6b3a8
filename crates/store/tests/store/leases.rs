//! Leases, fences, epochs, sequences.

use crate::{Place, refused, write};
use store::{Fence, Now, StoreError};

#[test]
fn one_holder_at_a_time_and_fences_grow() {
    let place = Place::new();
    let store = place.open();
    let first = write(&store, 1000, |tx| tx.lease("op-1", "worker-a", 500));
    let held = refused(&store, 1499, |tx| tx.lease("op-1", "worker-b", 500));
    assert!(
        matches!(&held, StoreError::Held { by, until_ms: 1500, .. } if by == "worker-a"),
        "{held}"
    );
    write(&store, 1400, |tx| tx.renew("op-1", first, 500));
    assert!(matches!(
        refused(&store, 1899, |tx| tx.lease("op-1", "worker-b", 500)),
        StoreError::Held { .. }
    ));
    let second = write(&store, 1900, |tx| tx.lease("op-1", "worker-b", 500));
    assert!(second > first);
    // The old holder finds out, whatever it tries.
    assert!(matches!(
        refused(&store, 1950, |tx| tx.renew("op-1", first, 500)),
        StoreError::LeaseLost { .. }
    ));
    assert!(matches!(
        refused(&store, 1950, |tx| tx.fenced("op-1", first)),
        StoreError::LeaseLost { .. }
    ));
    write(&store, 1950, |tx| tx.release("op-1", first));
    write(&store, 1950, |tx| tx.fenced("op-1", second));
    assert_eq!(
        store.read(|tx| tx.lease_holder("op-1")).unwrap(),
        Some(("worker-b".into(), second))
    );
    write(&store, 1960, |tx| tx.release("op-1", second));
    assert_eq!(store.read(|tx| tx.lease_holder("op-1")).unwrap(), None);
    let third = write(&store, 1970, |tx| tx.lease("op-1", "worker-a", 500));
    assert!(third > second);
}

#[test]
fn the_wall_clock_may_jump() {
    let place = Place::new();
    let store = place.open();
    let year_ms = 365 * 24 * 3600 * 1000;
    let now = |wall_ms, mono_ms| Now { wall_ms, mono_ms };
    let fence = store
        .write(now(year_ms, 10), |tx| tx.lease("op", "a", 100))
        .unwrap();
    for wall_ms in [2 * year_ms, year_ms - 86_400_000, 0] {
        let held = store.write(now(wall_ms, 60), |tx| tx.lease("op", "b", 100));
        assert!(matches!(held, Err(StoreError::Held { .. })));
        store
            .write(now(wall_ms, 60), |tx| tx.fenced("op", fence))
            .unwrap();
    }
    store.write(now(0, 110), |tx| tx.lease("op", "b", 100)).unwrap();
}

#[test]
fn a_lease_of_a_dead_process_is_free_at_once() {
    let place = Place::new();
    let store = place.open();
    let (epoch, fence) = (
        store.epoch(),
        write(&store, 1000, |tx| tx.lease("op", "a", 1_000_000)),
    );
    drop(store);
    let store = place.open();
    assert_eq!(store.epoch(), epoch + 1);
    assert!(matches!(
        refused(&store, 1001, |tx| tx.fenced("op", fence)),
        StoreError::LeaseLost { .. }
    ));
    let next = write(&store, 1001, |tx| tx.lease("op", "b", 1000));
    assert!(next > fence);
    assert_eq!(next, Fence(fence.0 + 1));
}

#[test]
fn numbers_are_given_once() {
    let place = Place::new();
    let store = place.open();
    assert_eq!(
        write(&store, 1, |tx| Ok((
            tx.next_number("a")?,
            tx.next_number("a")?,
            tx.next_number("b")?
        ))),
        (1, 2, 1)
    );
    drop(store);
    let store = place.open();
    assert_eq!(write(&store, 1, |tx| tx.next_number("a")), 3);
    drop(store);
    place.tamper("UPDATE sequence SET last = 0 WHERE name = 'a'");
    let refused = refused(&place.open(), 1, |tx| tx.next_number("a"));
    assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused}");
}
