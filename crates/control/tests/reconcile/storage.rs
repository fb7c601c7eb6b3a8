//! Room on the disk: who has used up its own, or everybody's, is told so, and nobody else.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use control::{ControlError, EnvPath, databases, rehearsal};
use engine::Engine as _;
use model::{Bytes, Condition, Database, DatabaseState, Exit, Millis, Operation, StorageFull, Target};

use crate::upgrades::{answers, furnished};
use crate::world::{ROOT, World, branch_wish, failed, name};

/// A database as if it had been made: the simulated engine speaks no SQL.
fn with_database(world: &mut World) -> String {
    let wish = databases::Wish::default();
    let made = databases::create(world.control(), &ROOT, &EnvPath::default(), &name("main"), &wish);
    failed(&world.settle(made.expect("accepted").1.operation.id));
    let mut row = world.all::<Database>()[0].clone();
    row.state = DatabaseState::Active;
    row.image = Some(
        world
            .engine
            .find_image("good:1")
            .expect("looked")
            .expect("there")
            .digest,
    );
    row.version = Some("15".to_owned());
    row.size = Bytes::mi(1000);
    let written = world
        .parts()
        .store
        .write(store::Now::at(world.now.as_ms()), |tx| {
            tx.update_status(&row, store::Expect::Any).map(drop)
        });
    written.expect("written");
    format!("db-{}", row.id.short(26))
}

fn full(world: &mut World) -> Option<StorageFull> {
    let mut reconciler = control::reconcile::Reconciler::new(world.shared());
    reconciler.measure().expect("measured");
    world.all::<Database>()[0].full
}

#[test]
fn a_database_is_full_at_its_budget_and_again_free_with_a_gap() {
    let mut world = World::with_shop();
    let volume = with_database(&mut world);
    for (used, pool, expected) in [
        (10, 9000, None),
        (1000, 9000, Some(StorageFull::Budget)),
        (950, 9000, Some(StorageFull::Budget)),
        (10, 100, Some(StorageFull::Pool)),
    ] {
        world.engine.set_bytes(&volume, Bytes::mi(used));
        world.engine.set_pool_free(Bytes::mi(pool));
        assert_eq!(full(&mut world), expected, "{used} {pool}");
    }
    let view = databases::view(world.control(), &ROOT, &EnvPath::default(), "main").expect("seen");
    assert_eq!(view.used, Some(Bytes::mi(10)));
    // There is room again, but nobody could tell the server yet: the row goes on saying that it may have to be told.
    world.engine.set_pool_free(Bytes::mi(9000));
    assert_eq!(full(&mut world), Some(StorageFull::Pool));
}

#[test]
fn an_instance_that_writes_too_much_is_ended_named_and_replaced() {
    let mut world = World::with_shop();
    let old = world.live_of("web")[0].id;
    world.engine.set_bytes(&old.to_string(), Bytes::mi(4096));
    full_of_none(&mut world);
    assert!(
        world.live_of("web").iter().any(|one| one.id == old),
        "at its limit it may stay"
    );
    world.engine.set_bytes(&old.to_string(), Bytes::mi(4097));
    full_of_none(&mut world);
    world.must_serve = false;
    world.until(Millis::seconds(60), "another takes its place", |world| {
        world
            .live_of("web")
            .iter()
            .any(|one| one.id != old && matches!(one.condition, Condition::Ready { .. }))
    });
    let ended = world
        .all_instances()
        .into_iter()
        .find(|one| one.id == old)
        .expect("remembered");
    assert!(
        matches!(
            &ended.condition,
            Condition::Exited {
                exit: Exit::DiskFull,
                ..
            }
        ),
        "{ended:?}"
    );
}

fn full_of_none(world: &mut World) {
    let mut reconciler = control::reconcile::Reconciler::new(world.shared());
    reconciler.measure().expect("measured");
}

#[test]
fn a_pool_that_cannot_be_measured_and_one_that_breaks_us_keep_nobody_else_from_being_seen_to() {
    let mut world = World::with_shop();
    let volume = with_database(&mut world);
    let all: Vec<_> = world.live_of("web").iter().map(|one| one.id).collect();
    let big = all[0];
    for breaks in ["pool".to_owned(), volume.clone()] {
        world.engine.set_bytes(&big.to_string(), Bytes::mi(4096));
        world.engine.set_bytes(&volume, Bytes::mi(1000));
        world
            .engine
            .on_asked(move |name| assert_ne!(name, breaks, "it breaks"));
        full_of_none(&mut world);
    }
    // While the pool could not be measured, the database's own budget could; while the database could not, nothing changed.
    assert_eq!(full(&mut world), Some(StorageFull::Budget));
    world.engine.set_bytes(&big.to_string(), Bytes::mi(4097));
    full_of_none(&mut world);
    let seen = world.engine.observe().expect("seen");
    let one = seen.iter().find(|one| one.id == big).expect("there");
    assert!(
        matches!(
            one.phase,
            engine::Phase::Exited {
                exit: Exit::DiskFull,
                ..
            }
        ),
        "{one:?}"
    );
}

#[test]
fn one_that_takes_for_ever_to_measure_does_not_blind_the_watch_over_the_pool() {
    /// Longer than this is for ever.
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
    let mut world = World::with_shop();
    let volume = with_database(&mut world);
    let (is_measured, stop) = (
        std::sync::Arc::new(AtomicBool::new(false)),
        std::sync::Arc::new(AtomicBool::new(false)),
    );
    let (measured, end) = (is_measured.clone(), stop.clone());
    world.engine.on_asked(move |name| {
        while name == volume && !end.load(Ordering::SeqCst) {
            measured.store(true, Ordering::SeqCst);
            std::thread::yield_now();
        }
    });
    let reconciler = control::reconcile::Reconciler::new(world.shared());
    let until = Instant::now() + PATIENCE;
    let found = std::thread::scope(|scope| {
        scope.spawn(|| reconciler.run(&stop));
        while !is_measured.load(Ordering::SeqCst) && Instant::now() < until {
            std::thread::yield_now();
        }
        world.engine.set_pool_free(Bytes::mi(100));
        let mut found = None;
        while found.is_none() && Instant::now() < until {
            found = world.all::<Database>()[0].full;
            std::thread::yield_now();
        }
        stop.store(true, Ordering::SeqCst);
        found
    });
    assert!(is_measured.load(Ordering::SeqCst), "it was being measured");
    assert_eq!(found, Some(StorageFull::Pool));
}

/// Asks for what a refusal calls so.
fn ask(world: &World, what: &str) -> Result<(), ControlError> {
    let (control, path) = (world.control(), EnvPath::default());
    match what {
        "a new database" => {
            let wish = databases::Wish::default();
            databases::create(control, &ROOT, &path, &name("other"), &wish).map(drop)
        }
        "a branch" => databases::branch(control, &ROOT, &path, "main", &branch_wish("try")).map(drop),
        "a base" => databases::backup(control, &ROOT, &path, "main").map(drop),
        "an upgrade" => {
            let wish = databases::UpgradeWish {
                version: "16".to_owned(),
                keep: None,
                most: None,
            };
            databases::upgrade(control, &ROOT, &path, "main", &wish).map(drop)
        }
        "a restore" => {
            let (to, latest) = (name("restored"), Target::Latest);
            databases::restore(control, &ROOT, &path, "main", &to, latest).map(drop)
        }
        other => panic!("nobody asks for {other}"),
    }
}

#[test]
fn without_room_a_request_is_refused_and_nothing_is_made() {
    let (mut world, main) = furnished();
    world.until(Millis::seconds(60), "an answer", |world| answers(world, main.id));
    let others = ["a new database", "a branch", "a base", "an upgrade"];
    let all = [&others[..], &["a restore"]].concat();
    let count = |world: &World| (world.all::<Database>().len(), world.all::<Operation>().len());
    let before = count(&world);
    let check = |world: &World, what: &str, words: &str| {
        for done in [rehearsal::rehearsed(|| ask(world, what)).0, ask(world, what)] {
            let cause = done.expect_err(what);
            assert_eq!(cause.code(), "state");
            let said = cause.to_string();
            assert!(said.contains(&format!("{words}, and {what} needs ")), "{said}");
        }
        assert_eq!(count(world), before, "{what} left something");
    };
    let rehearse = |world: &World, what: &str| {
        let (done, _) = rehearsal::rehearsed(|| ask(world, what));
        done.unwrap_or_else(|cause| panic!("{what}: {cause}"));
    };
    for what in &all {
        world.engine.set_pool_free(Bytes::mi(100));
        world.engine.set_pool_inodes(None);
        check(&world, what, "the storage pool has 100Mi free");
        world.engine.set_pool_free(Bytes::mi(9000));
        world.engine.set_pool_inodes(Some(1999));
        check(&world, what, "the storage pool has 1999 inodes free");
        world.engine.set_pool_inodes(Some(3000));
        rehearse(&world, what);
    }
    // What is kept for those that run, only a restore may take.
    for (bytes, inodes, words) in [
        (200, 9000, "the storage pool has 200Mi free"),
        (9000, 2000, "the storage pool has 2000 inodes free"),
    ] {
        world.engine.set_pool_free(Bytes::mi(bytes));
        world.engine.set_pool_inodes(Some(inodes));
        others.iter().for_each(|what| check(&world, what, words));
        rehearse(&world, "a restore");
    }
}
