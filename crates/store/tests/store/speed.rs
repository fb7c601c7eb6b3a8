//! Many writers at once: nothing is lost, nothing is given twice. Prints the rates; asserts none.

use std::io::Write;
use std::time::Instant;

use crate::{App, Place, app, write};
use store::{ReadTx, Store, StoreError};

const THREADS: usize = 8;
const EACH: usize = 500;

fn timed(title: &str, commits: usize, work: impl FnOnce()) {
    let begun = Instant::now();
    work();
    println!(
        "{title}: {:.0} commits/s",
        commits as f64 / begun.elapsed().as_secs_f64()
    );
}

fn insert(store: &Store, id: &str) -> u64 {
    write(store, 1, |tx| {
        let number = tx.next_number("release")?;
        tx.insert(&App {
            image: "x".repeat(400),
            ..app(id, "p", id)
        })?;
        Ok(number)
    })
}

/// What any store that tells the truth is bound by; printed beside its rates, since disks differ by the minute.
fn bare_syncs(place: &Place) {
    let mut file = std::fs::File::create(place.file("bare")).unwrap();
    for _ in 0..EACH {
        file.write_all(&[7; 24 << 10]).unwrap();
        file.sync_all().unwrap();
    }
}

#[test]
fn eight_writers_lose_nothing() {
    let place = Place::new();
    let store = place.open();
    timed("the disk itself, 24 KiB and a sync", EACH, || bare_syncs(&place));
    timed("1 writer ", EACH, || {
        for n in 0..EACH {
            insert(&store, &format!("alone-{n}"));
        }
    });
    let mut numbers = Vec::new();
    timed("8 writers", THREADS * EACH, || {
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let store = &store;
                    scope.spawn(move || {
                        (0..EACH)
                            .map(|n| insert(store, &format!("{thread}-{n}")))
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            numbers.extend(writers.into_iter().flat_map(|writer| writer.join().unwrap()));
        });
    });
    numbers.sort_unstable();
    let all = (EACH + THREADS * EACH) as u64;
    assert_eq!(numbers, (EACH as u64 + 1..=all).collect::<Vec<_>>());
    assert_eq!(store.rev(), all);
    assert_eq!(store.read(|tx| tx.list::<App>("p")).unwrap().len() as u64, all);
    let begun = Instant::now();
    assert!(store.read(ReadTx::verify).unwrap().bad.is_empty());
    println!("verify of {all} objects: {:?}", begun.elapsed());
    let begun = Instant::now();
    for n in 0..EACH {
        assert!(
            store
                .read(|tx| tx.get::<App>(&format!("alone-{n}")))
                .unwrap()
                .is_some()
        );
    }
    println!("get: {:?} each", begun.elapsed() / EACH as u32);
    drop(store);
    let begun = Instant::now();
    let store = place.open();
    println!("open: {:?}", begun.elapsed());
    assert_eq!(store.rev(), all);
}

#[test]
fn a_refusal_takes_nothing_of_its_group_with_it() {
    let place = Place::new();
    let store = place.open();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let store = &store;
            scope.spawn(move || {
                for n in 0..100 {
                    let id = format!("{thread}-{n}");
                    let result = store.write(crate::at(1), |tx| -> Result<(), StoreError> {
                        tx.insert(&app(&id, "p", &id))?;
                        // Every second writer changes its mind after writing.
                        if n % 2 == 1 {
                            tx.need::<App>("never there")?;
                        }
                        Ok(())
                    });
                    assert_eq!(result.is_ok(), n % 2 == 0);
                    // What was acknowledged is seen by a reader at once.
                    assert_eq!(store.read(|tx| tx.get::<App>(&id)).unwrap().is_some(), n % 2 == 0);
                }
            });
        }
    });
    assert_eq!(
        store.read(|tx| tx.count::<App>("p")).unwrap(),
        THREADS as u64 * 50
    );
    assert_eq!(store.rev(), THREADS as u64 * 50);
    assert!(store.read(ReadTx::verify).unwrap().bad.is_empty());
}
