//! Upgrades as far as no SQL is spoken: what is refused, a server that does not run while one is under way, and that it runs
//! again whatever becomes of that.

use control::databases::{self, UpgradeWish};
use control::{ControlError, EnvPath, operations};
use model::{Condition, Database, DatabaseState, Millis, Operation, Purpose};

use crate::archives::with_archive;
use crate::world::{ROOT, World};

const MINUTE: Millis = Millis::seconds(60);

fn upgrade(world: &World, name: &str, version: &str, most: u64) -> Result<Operation, ControlError> {
    let wish = UpgradeWish {
        version: version.to_owned(),
        keep: None,
        most: Some(Millis::seconds(most)),
    };
    let accepted = databases::upgrade(world.control(), &ROOT, &EnvPath::default(), name, &wish)?;
    Ok(accepted.operation)
}

/// `main` at 15, which answers, and an image with 16.
fn furnished() -> (World, Database) {
    let mut world = World::with_shop();
    let mut main = with_archive(&mut world);
    let image = main.image.clone().expect("an image");
    world
        .engine
        .add_image("postgres:16", &image, engine::simulated::Behaviour::default());
    main.version = Some("15".to_owned());
    update(&world, &main);
    (world, main)
}

fn update(world: &World, row: &Database) {
    let now = store::Now::at(world.now.as_ms());
    let change = |tx: &store::WriteTx| tx.update(row, store::Expect::Any).map(drop);
    world.parts().store.write(now, change).expect("written");
}

fn load(world: &World, id: model::DatabaseId) -> Database {
    let mut all = world.all::<Database>().into_iter();
    all.find(|row| row.id == id).expect("there")
}

fn answers(world: &World, id: model::DatabaseId) -> bool {
    world.all_instances().into_iter().any(|row| {
        row.purpose == Purpose::Database { database: id } && matches!(row.condition, Condition::Ready { .. })
    })
}

#[test]
fn what_cannot_be_is_refused_with_what_can() {
    let (mut world, main) = furnished();
    world.until(MINUTE, "an answer", |world| answers(world, main.id));
    for (version, most, words) in [
        ("15", 60, "has PostgreSQL 15 already"),
        ("9", 60, "there is no PostgreSQL 9 here"),
        ("17", 60, "stoa db engines"),
        ("x", 60, "a major version"),
        ("16", 0, "between a second and a day"),
    ] {
        let refused = upgrade(&world, "main", version, most).expect_err(version);
        assert!(refused.to_string().contains(words), "{version}: {refused}");
    }
    assert!(matches!(
        upgrade(&world, "nowhere", "16", 60),
        Err(ControlError::NotFound { .. })
    ));
    let known = databases::versions(world.control(), &ROOT).expect("told");
    let known: Vec<&str> = known.iter().map(|one| one.version.as_str()).collect();
    assert_eq!(known, ["15", "16"]);
    upgrade(&world, "main", "16", 60).expect("accepted");
    let twice = upgrade(&world, "main", "16", 60).expect_err("one is under way");
    assert!(twice.to_string().contains("upgraded"), "{twice}");
    let ended = databases::destroy(world.control(), &ROOT, &EnvPath::default(), "main", None);
    assert!(
        matches!(ended, Err(ControlError::State { .. })),
        "ended meanwhile"
    );
}

#[test]
fn a_server_runs_again_when_the_operation_that_paused_it_is_over() {
    let (mut world, main) = furnished();
    world.until(MINUTE, "an answer", |world| answers(world, main.id));
    let operation = upgrade(&world, "main", "16", 60).expect("accepted");
    let mut paused = load(&world, main.id);
    paused.paused = Some(operation.id);
    update(&world, &paused);
    // As after a crash of ours: nothing but the store knows.
    world.crash();
    operations::cancel(world.control(), &ROOT, &operation.id.to_string()).expect("may be given up");
    assert!(world.settle(operation.id).state.is_settled());
    world.until(MINUTE, "an answer again", |world| answers(world, main.id));
    assert_eq!(load(&world, main.id).paused, None);
    world.until(MINUTE, "nothing else", |world| {
        let mut all = world.all::<Database>().into_iter();
        all.all(|row| row.id == main.id && row.state == DatabaseState::Active)
    });
}
