//! Upgrades as far as no SQL is spoken: what is refused, a server that does not run while one is under way, and that it runs
//! again whatever becomes of that.

use control::databases::{self, UpgradeWish};
use control::{ControlError, EnvPath, operations, releases};
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
pub fn furnished() -> (World, Database) {
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

pub fn answers(world: &World, id: model::DatabaseId) -> bool {
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

/// Any operation that stays open will do: workers of databases wait for what this world does only after them.
#[test]
fn a_server_does_not_run_while_an_operation_pauses_it_and_runs_again_when_that_is_over() {
    let (mut world, main) = furnished();
    world.until(MINUTE, "an answer", |world| answers(world, main.id));
    let path = EnvPath::default();
    let run = releases::run(world.control(), &ROOT, &path, "shop", &["x".to_owned()]).expect("accepted");
    let id = run.operation.id;
    let mut paused = load(&world, main.id);
    paused.paused = Some(id);
    update(&world, &paused);
    world.until(MINUTE, "its end", |world| !answers(world, main.id));
    // As after a crash of ours: nothing but the store knows.
    world.crash();
    let later = world.now.plus(Millis::seconds(30));
    world.until(MINUTE, "half a minute", |world| world.now >= later);
    assert!(!answers(&world, main.id), "it runs while it is paused");
    operations::cancel(world.control(), &ROOT, &id.to_string()).expect("may be given up");
    assert!(world.settle(id).state.is_settled());
    world.until(MINUTE, "an answer again", |world| answers(world, main.id));
    assert_eq!(load(&world, main.id).paused, None);
}

#[test]
fn what_an_upgrade_began_goes_when_that_is_over() {
    let (mut world, main) = furnished();
    let mut begun = main.clone();
    begun.id = model::DatabaseId::fresh();
    begun.name = crate::world::name("main-upgrade-20261130-120000");
    begun.state = DatabaseState::Creating;
    begun.archive = None;
    begun.restored = Some(model::Restored {
        of: main.id,
        name: main.name.clone(),
        server: None,
        target: model::Target::Latest,
        upgraded: Some("15".to_owned()),
        reached: None,
    });
    let now = store::Now::at(world.now.as_ms());
    let written = world.parts().store.write(now, |tx| tx.insert(&begun).map(drop));
    written.expect("written");
    world.until(MINUTE, "its end", |world| {
        let all = world.all::<Database>();
        all.len() == 1 && all[0].id == main.id && all[0].state == DatabaseState::Active
    });
}

#[test]
fn a_deploy_upgrades_nothing_and_says_so() {
    let (mut world, main) = furnished();
    for (version, words) in [
        (
            "16",
            "main has PostgreSQL 15, stoa.toml wants 16; it stays until: stoa db upgrade main --to 16",
        ),
        (
            "14",
            "main has PostgreSQL 15, stoa.toml wants 14; it stays, write 15 there",
        ),
    ] {
        let manifest = format!(
            "schema = 1\napp = \"shop\"\n[services.web]\n[databases.main]\nengine = \"postgres\"\nversion = \"{version}\"\nbackup_level = \"sync\"\n"
        );
        let deploy = world.deploy("shop", "good:2", Some(&manifest));
        crate::world::succeeded(&world.settle(deploy.id));
        let (log, ..) = operations::log(world.control(), &ROOT, &deploy.id.to_string(), 0).expect("a log");
        assert!(log.iter().any(|line| line.contains(words)), "{log:#?}");
    }
    let row = load(&world, main.id);
    assert_eq!(
        (row.version.as_deref(), row.level),
        (Some("15"), model::Level::Sync)
    );
}
