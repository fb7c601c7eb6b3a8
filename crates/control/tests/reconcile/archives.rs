//! Archives: one receiver for each database that has one, into the stretch of now, and nothing of it at the end.

use control::{EnvPath, databases};
use engine::Engine as _;
use model::{Archive, Condition, Database, DatabaseState, Exit, Instance, Millis, Purpose};
use store::Secret;

use crate::world::{ROOT, World, failed, name};

const MINUTE: Millis = Millis::seconds(60);

/// A database as if it had been made and its archive begun: the simulated engine speaks no SQL.
pub fn with_archive(world: &mut World) -> Database {
    let wish = databases::Wish::default();
    let made = databases::create(world.control(), &ROOT, &EnvPath::default(), &name("main"), &wish);
    failed(&world.settle(made.expect("accepted").1.operation.id));
    let image = world.engine.find_image("good:1").expect("looked").expect("there");
    let now = world.now;
    change(world, |tx, row| {
        let tenant = store::rows::database_tenant(row.id);
        let password = Secret::from("feed".to_owned());
        let sealed = tx.seal(&tenant, store::rows::RECEIVER_PASSWORD, 1, &password);
        row.state = DatabaseState::Active;
        row.image = Some(image.digest.clone());
        row.version = Some("15".to_owned());
        row.archive = Some(Archive {
            stretch: 1,
            sealed: sealed.expect("sealed").0,
            version: 1,
            since: now,
            bases: Vec::new(),
            drilled: None,
            commits: model::Commits::Free,
            behind: None,
        });
    });
    world.all::<Database>()[0].clone()
}

pub fn change(world: &World, change: impl Fn(&store::WriteTx, &mut Database) + Send + Sync) {
    let mut row = world.all::<Database>()[0].clone();
    let now = store::Now::at(world.now.as_ms());
    let written = world.parts().store.write(now, |tx| {
        change(tx, &mut row);
        tx.update_status(&row, store::Expect::Any).map(drop)
    });
    written.expect("written");
}

/// Receivers that live, and into which stretch.
fn receivers(world: &World) -> Vec<(Instance, u64)> {
    let all = world.all_instances().into_iter();
    all.filter(|row| row.condition.is_live())
        .filter_map(|row| match row.purpose {
            Purpose::Receiver { stretch, .. } => Some((row, stretch)),
            Purpose::Service { .. }
            | Purpose::Job { .. }
            | Purpose::Database { .. }
            | Purpose::Pooler { .. } => None,
        })
        .collect()
}

fn receives(world: &World, stretch: u64) -> bool {
    match receivers(world).as_slice() {
        [(row, into)] => *into == stretch && matches!(row.condition, Condition::Ready { .. }),
        _ => false,
    }
}

#[test]
fn a_receiver_runs_for_each_archive_and_ends_with_its_stretch() {
    let mut world = World::with_shop();
    let database = with_archive(&mut world);
    world.until(MINUTE, "a receiver", |world| receives(world, 1));
    let first = receivers(&world).remove(0).0;
    let workload = world.engine.workload(first.id).expect("it runs");
    assert_eq!(
        workload.volumes[0].volume,
        format!("wal-{}-000001", database.id.short(26))
    );
    let key: model::EnvKey = "PGPASSWORD".parse().expect("a key");
    assert_eq!(workload.env.get(&key).map(String::as_str), Some("feed"));
    assert!(
        !workload.command.iter().any(|word| word.contains("feed")),
        "{:?}",
        workload.command
    );

    world.engine.crash(first.id, Exit::Code { code: 1 });
    world.until(MINUTE, "another receiver", |world| {
        receives(world, 1) && receivers(world)[0].0.id != first.id
    });
    change(&world, |_, row| {
        if let Some(archive) = &mut row.archive {
            archive.stretch = 2;
        }
    });
    for _ in 0..100 {
        world.tick();
        assert!(receivers(&world).len() < 2, "two at once");
    }
    assert!(receives(&world, 2), "{:?}", receivers(&world));
}

#[test]
fn nothing_of_a_backup_outlives_the_kept_data_of_its_database() {
    let mut world = World::with_shop();
    let database = with_archive(&mut world);
    world.until(MINUTE, "a receiver", |world| receives(world, 1));
    let short = database.id.short(26);
    for left in [
        format!("wal-{short}-000001"),
        format!("base-{short}-000001"),
        format!("making-base-{short}"),
        format!("drilled-{short}-01"),
    ] {
        world.engine.create_volume(&left).expect("made");
    }
    // As its end leaves the row; the worker that does it waits for a server, which moves only with this test's looks.
    let purge_at = world.now.plus(Millis::seconds(7 * 24 * 3600));
    change(&world, |_, row| {
        row.state = DatabaseState::Destroyed {
            purge_at,
            volume: format!("destroyed-{}", row.id.short(26)),
        };
    });
    world.until(MINUTE, "its receiver ends", |world| receivers(world).is_empty());
    let kept = world.engine.volumes().expect("listed");
    assert_eq!(
        kept.len(),
        4,
        "it can be restored for as long as its data is kept: {kept:?}"
    );
    world.now = world.now.plus(Millis::seconds(8 * 24 * 3600));
    world.until(MINUTE, "the data goes", |world| {
        world.all::<Database>().is_empty()
    });
    assert!(world.engine.volumes().expect("listed").is_empty());
    let rows = world.all_instances();
    assert!(
        rows.iter().all(|row| row.purpose.app().is_some()),
        "rows of it are left: {rows:?}"
    );
}
