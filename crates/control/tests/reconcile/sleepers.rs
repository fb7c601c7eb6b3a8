//! Databases that sleep, as far as no SQL is spoken: their server does not run, their door is told and leads nowhere, and
//! somebody at the door has it started and leads there.

use engine::Engine as _;
use model::{Asleep, Condition, Database, Millis, Purpose, Timestamp};

use crate::archives::with_archive;
use crate::world::World;

const MINUTE: Millis = Millis::seconds(60);

fn update(world: &World, row: &Database) {
    let now = store::Now::at(world.now.as_ms());
    let change = |tx: &store::WriteTx| tx.update(row, store::Expect::Any).map(drop);
    world.parts().store.write(now, change).expect("written");
}

fn load(world: &World, id: model::DatabaseId) -> Database {
    let mut all = world.all::<Database>().into_iter();
    all.find(|row| row.id == id).expect("there")
}

fn servers(world: &World, id: model::DatabaseId) -> usize {
    let rows = world.all_instances().into_iter();
    rows.filter(|row| row.purpose == Purpose::Database { database: id } && row.condition.is_live())
        .count()
}

fn is_ready(world: &World, id: model::DatabaseId) -> bool {
    world.all_instances().into_iter().any(|row| {
        row.purpose == Purpose::Database { database: id } && matches!(row.condition, Condition::Ready { .. })
    })
}

fn door(world: &World, id: model::DatabaseId) -> engine::Door {
    let names = world.engine.names();
    let mut doors = names.iter().flat_map(|network| &network.doors);
    doors
        .find(|door| door.key == id.to_string())
        .cloned()
        .expect("a door")
}

/// `main`, which answers and may sleep.
fn furnished() -> (World, Database) {
    let mut world = World::with_shop();
    let mut main = with_archive(&mut world);
    main.idle_stop = Some(MINUTE);
    update(&world, &main);
    world.until(MINUTE, "an answer", |world| is_ready(world, main.id));
    let main = load(&world, main.id);
    (world, main)
}

#[test]
fn who_knocks_wakes_it_and_is_led_to_it() {
    let (mut world, mut main) = furnished();
    let key = main.id.to_string();
    world.until(MINUTE, "a door that leads to it", |world| {
        door(world, main.id).target.is_some()
    });
    let named = world.engine.names().into_iter().flat_map(|network| network.names);
    assert!(
        named.into_iter().all(|(name, _)| name != "main.db"),
        "only its door has the name"
    );
    assert_eq!(door(&world, main.id).name, "main.db");

    // About to: who comes waits, and the server runs on.
    let asleep = |is_stopped, used| {
        let since = Timestamp::now();
        Some(Asleep {
            since,
            used,
            is_stopped,
        })
    };
    main.asleep = asleep(false, None);
    update(&world, &main);
    world.until(MINUTE, "a door that leads nowhere", |world| {
        door(world, main.id).target.is_none()
    });
    assert_eq!(servers(&world, main.id), 1);

    main.asleep = asleep(true, None);
    update(&world, &main);
    world.until(MINUTE, "no server", |world| servers(world, main.id) == 0);
    for _ in 0..5 {
        world.tick();
        assert_eq!(servers(&world, main.id), 0, "nobody wanted it");
    }

    world.engine.use_door(&key).expect("knocked");
    world.until(MINUTE, "it to be awake", |world| {
        is_ready(world, main.id) && door(world, main.id).target.is_some()
    });
    assert_eq!(load(&world, main.id).asleep, None);

    // A clock that goes back hides nobody: another time is another visit.
    let used = world.engine.last_used().expect("told")[&key];
    main = load(&world, main.id);
    main.asleep = asleep(true, Some(used.plus(Millis::seconds(3600))));
    update(&world, &main);
    world.until(MINUTE, "it to be awake again", |world| {
        load(world, main.id).asleep.is_none()
    });
    world.until(MINUTE, "its server", |world| is_ready(world, main.id));
}
