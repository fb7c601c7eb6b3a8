//! Idempotency keys: every answer they can get.

use crate::{Place, app, refused, write};
use store::{Begun, IDEMPOTENCY_KEPT_MS, Store, StoreError};

fn begin(store: &Store, ms: u64, key: &str, fingerprint: &[u8]) -> Begun {
    write(store, ms, |tx| tx.idempotency_begin("ann", key, fingerprint))
}

#[test]
fn the_first_answer_is_given_again_for_a_day() {
    let place = Place::new();
    let store = place.open();
    write(&store, 100, |tx| {
        assert!(matches!(
            tx.idempotency_begin("ann", "k1", b"print")?,
            Begun::Fresh
        ));
        tx.insert(&app("a1", "p", "web"))?;
        tx.idempotency_finish("ann", "k1", 201, b"{\"id\":\"a1\"}")
    });
    drop(store);
    let store = place.open();
    let Begun::Replay { status, answer } = begin(&store, 200, "k1", b"print") else {
        panic!("a replay")
    };
    assert_eq!((status, answer.expose()), (201, &b"{\"id\":\"a1\"}"[..]));
    assert!(matches!(begin(&store, 200, "k1", b"another"), Begun::Mismatch));
    // Somebody else's key of the same name is another key.
    assert!(matches!(
        write(&store, 200, |tx| tx.idempotency_begin("bob", "k1", b"x")),
        Begun::Fresh
    ));
    assert!(matches!(
        begin(&store, 100 + IDEMPOTENCY_KEPT_MS, "k1", b"print"),
        Begun::Replay { .. }
    ));
    assert!(matches!(
        begin(&store, 101 + IDEMPOTENCY_KEPT_MS, "k1", b"print"),
        Begun::Fresh
    ));
}

#[test]
fn a_request_in_progress_blocks_its_repetition_until_it_ends_or_dies() {
    let place = Place::new();
    let store = place.open();
    assert!(matches!(begin(&store, 1, "k", b"f"), Begun::Fresh));
    assert!(matches!(begin(&store, 2, "k", b"f"), Begun::InProgress));
    write(&store, 3, |tx| tx.idempotency_abandon("ann", "k"));
    assert!(matches!(begin(&store, 4, "k", b"f"), Begun::Fresh));
    drop(store);
    // The process died before the effect and its answer were committed: there was no effect.
    let store = place.open();
    assert!(matches!(begin(&store, 5, "k", b"f"), Begun::Fresh));
    // With the effect it is done, answered or not, whatever becomes of the process.
    write(&store, 6, |tx| tx.idempotency_commit("ann", "k"));
    assert!(matches!(begin(&store, 6, "k", b"f"), Begun::Done));
    write(&store, 6, |tx| tx.idempotency_abandon("ann", "k"));
    drop(store);
    let store = place.open();
    assert!(matches!(begin(&store, 6, "k", b"f"), Begun::Done));
    write(&store, 6, |tx| tx.idempotency_finish("ann", "k", 202, b"done"));
    // What is finished is not abandoned.
    write(&store, 7, |tx| tx.idempotency_abandon("ann", "k"));
    assert!(matches!(
        begin(&store, 8, "k", b"f"),
        Begun::Replay { status: 202, .. }
    ));
    let unknown = refused(&store, 9, |tx| {
        tx.idempotency_finish("ann", "never begun", 200, b"")
    });
    assert!(matches!(unknown, StoreError::NotFound { .. }));
}

#[test]
fn answers_are_not_readable_in_the_file() {
    let place = Place::new();
    let store = place.open();
    begin(&store, 1, "k", b"f");
    write(&store, 2, |tx| {
        tx.idempotency_finish("ann", "k", 201, b"stoa_pat_canary")
    });
    drop(store);
    let bytes = std::fs::read(place.db()).unwrap();
    assert!(!bytes.windows(15).any(|window| window == b"stoa_pat_canary"));
    place.tamper("UPDATE idempotency SET status = 500");
    let refused = refused(&place.open(), 3, |tx| tx.idempotency_begin("ann", "k", b"f"));
    assert!(matches!(refused, StoreError::Corrupt { .. }));
}
