//! Poolers: one for each database that is to have one, and a name that always leads to somebody.

use std::net::Ipv4Addr;

use engine::Engine as _;
use model::{Condition, Database, DatabaseState, Exit, Instance, Millis, Pooler, Purpose};
use store::Secret;

use crate::archives::{change, with_archive};
use crate::world::World;

const MINUTE: Millis = Millis::seconds(60);

fn poolers(world: &World) -> Vec<Instance> {
    let all = world.all_instances().into_iter();
    all.filter(|row| row.condition.is_live())
        .filter(|row| match row.purpose {
            Purpose::Pooler { .. } => true,
            Purpose::Service { .. }
            | Purpose::Job { .. }
            | Purpose::Database { .. }
            | Purpose::Receiver { .. } => false,
        })
        .collect()
}

fn is_ready(row: &Instance) -> bool {
    matches!(row.condition, Condition::Ready { .. })
}

fn led_to(world: &World, name: &str) -> Vec<Ipv4Addr> {
    let networks = world.engine.names();
    let names = networks.iter().flat_map(|network| &network.names);
    let found = names.filter(|(known, _)| known == name);
    found.flat_map(|(_, addresses)| addresses.clone()).collect()
}

/// As `begin` leaves the row: the simulated engine speaks no SQL.
fn prepare(world: &World) {
    let image = world.engine.find_image("good:1").expect("looked").expect("there");
    change(world, |tx, row| {
        let tenant = store::rows::database_tenant(row.id);
        let password = Secret::from("looks".to_owned());
        let sealed = tx.seal(&tenant, store::rows::POOLER_PASSWORD, 1, &password);
        row.pooled = true;
        row.pooler = Some(Pooler {
            image: image.digest.clone(),
            version: "1.24.1".to_owned(),
            number: 1,
            sealed: sealed.expect("sealed").0,
        });
    });
}

#[test]
fn its_name_leads_to_the_server_whenever_it_takes_no_clients() {
    let mut world = World::with_shop();
    let database = with_archive(&mut world);
    change(&world, |_, row| row.pooled = true);
    let server = |world: &World| led_to(world, "main.db");
    world.until(MINUTE, "a name", |world| {
        !server(world).is_empty() && led_to(world, "pool.main.db") == server(world)
    });
    prepare(&world);
    let takes_clients = |world: &World| {
        let all = poolers(world);
        all.len() == 1
            && is_ready(&all[0])
            && led_to(world, "pool.main.db") == [all[0].address.expect("an address")]
    };
    world.until(MINUTE, "a pooler", takes_clients);
    assert_ne!(led_to(&world, "pool.main.db"), server(&world));
    // It knows its server by a name that stays.
    let lasting = format!("{}.id.db", database.id.short(26));
    assert_eq!(led_to(&world, &lasting), server(&world));
    let first = poolers(&world).remove(0);
    let workload = world.engine.workload(first.id).expect("it runs");
    let users = String::from_utf8_lossy(&workload.secrets[1].content).into_owned();
    assert!(users.contains("looks"), "{users}");
    let shown = format!("{:?} {:?}", workload.command, workload.env);
    assert!(!shown.contains("looks"), "{shown}");

    world.engine.crash(first.id, Exit::Code { code: 1 });
    world.until(MINUTE, "another pooler", |world| {
        takes_clients(world) && poolers(world)[0].id != first.id
    });
    // Turned off and on again before it has left: another one comes.
    let second = poolers(&world).remove(0);
    change(&world, |_, row| row.pooled = false);
    world.until(MINUTE, "that it leaves", |world| {
        matches!(poolers(world)[0].condition, Condition::Draining { .. })
    });
    change(&world, |_, row| row.pooled = true);
    world.until(MINUTE, "a third pooler", |world| {
        takes_clients(world) && poolers(world)[0].id != second.id
    });
    change(&world, |_, row| row.pooled = false);
    world.until(MINUTE, "its end", |world| poolers(world).is_empty());
    assert_eq!(led_to(&world, "pool.main.db"), server(&world));
}

#[test]
fn no_pooler_outlives_its_database() {
    let mut world = World::with_shop();
    with_archive(&mut world);
    prepare(&world);
    world.until(MINUTE, "a pooler", |world| poolers(world).iter().any(is_ready));
    let purge_at = world.now;
    change(&world, |_, row| {
        row.state = DatabaseState::Destroyed {
            purge_at,
            volume: format!("destroyed-{}", row.id.short(26)),
        };
    });
    world.until(MINUTE, "the data goes", |world| {
        world.all::<Database>().is_empty()
    });
    let rows = world.all_instances();
    assert!(
        rows.iter().all(|row| row.purpose.app().is_some()),
        "rows of it are left: {rows:?}"
    );
}
