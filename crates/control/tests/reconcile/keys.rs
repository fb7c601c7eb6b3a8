//! Another master key, as an operation: it ends, one at a time, through a crash, and what runs keeps its secrets.

use control::{ControlError, EnvPath, keys, secrets};
use model::operation::Work;
use store::Secret;

use crate::world::{ROOT, World, succeeded};

fn set(world: &World, key: &str, value: &str) {
    let (key, value) = (key.parse().expect("a key"), Secret::from(value.to_owned()));
    secrets::set(world.control(), &ROOT, &EnvPath::default(), "shop", &key, &value).expect("set");
}

#[test]
fn a_rotation_is_one_operation_that_ends() {
    let mut world = World::with_shop();
    for n in 0..30 {
        set(&world, &format!("KEY_{n}"), "a value");
    }
    let before = keys::view(world.control(), &ROOT).expect("shown");
    assert!(before.older.is_empty());
    let asked = keys::rotate(world.control(), &ROOT).expect("accepted").operation;
    assert!(matches!(&asked.work, Work::RotateKey { from } if *from == before.current));
    let second = keys::rotate(world.control(), &ROOT);
    assert!(
        matches!(&second, Err(ControlError::State { next_step, .. }) if next_step.contains(&asked.id.to_string())),
        "{second:?}"
    );
    let done = world.settle(asked.id);
    succeeded(&done);
    let after = keys::view(world.control(), &ROOT).expect("shown");
    assert!(
        after.older.is_empty() && after.current != before.current,
        "{after:?}"
    );
    assert_eq!(world.parts().store.stale_count().expect("counted"), 0);
    // Asked for again once it ended, and the record says who asked.
    succeeded(
        &world.settle(
            keys::rotate(world.control(), &ROOT)
                .expect("accepted")
                .operation
                .id,
        ),
    );
    let records = control::audit::list(world.control(), &ROOT, None, 100).expect("records");
    let asked = records
        .iter()
        .filter(|record| matches!(&record.body, store::AuditBody::Begin(entry) if entry.action == "master_key.rotate"));
    assert_eq!(asked.count(), 3, "two that were accepted, one that was refused");
}

#[test]
fn canceled_it_leaves_everything_readable_and_the_next_one_ends_it() {
    let mut world = World::with_shop();
    set(&world, "TOKEN", "a value");
    let asked = keys::rotate(world.control(), &ROOT).expect("accepted").operation;
    control::operations::cancel(world.control(), &ROOT, &asked.id.to_string()).expect("asked");
    let ended = world.settle(asked.id);
    assert!(ended.state.is_settled());
    let deployed = world.deployed("shop", "good:2", None);
    succeeded(&deployed);
    succeeded(
        &world.settle(
            keys::rotate(world.control(), &ROOT)
                .expect("accepted")
                .operation
                .id,
        ),
    );
    assert_eq!(
        keys::view(world.control(), &ROOT).expect("shown").older,
        Vec::<String>::new()
    );
}

#[test]
fn a_file_full_of_keys_of_rotations_that_never_ended_is_emptied_by_the_next() {
    let mut world = World::with_shop();
    set(&world, "TOKEN", "a value");
    let (store, at) = (&world.parts().store, store::Now::at(world.now.as_ms()));
    while store.add_key(at).is_ok() {}
    assert!(store.key_ids().len() > 50);
    let asked = keys::rotate(world.control(), &ROOT).expect("accepted").operation;
    succeeded(&world.settle(asked.id));
    let after = keys::view(world.control(), &ROOT).expect("shown");
    assert!(after.older.is_empty(), "{after:?}");
    assert!(matches!(&asked.work, Work::RotateKey { from } if *from != after.current));
}
