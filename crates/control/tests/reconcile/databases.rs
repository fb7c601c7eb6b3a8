//! Databases as far as no SQL is spoken.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use control::{EnvPath, databases, operations};
use engine::simulated::Behaviour;
use model::Database;
use store::{Now, StoreError};

use crate::world::{ROOT, World, name};

#[test]
fn the_engine_is_asked_for_a_version_while_others_may_write() {
    let mut world = World::with_shop();
    world.image("postgres:14", Behaviour::default());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (store, seen, at) = (world.parts().store.clone(), asked.clone(), world.now.as_ms());
    world.engine.on_asked(move |name| {
        if name == "postgres:14" {
            let written = store.write(Now::at(at), |_| Ok::<_, StoreError>(()));
            seen.lock().expect("no panic").push(written.is_ok());
        }
    });
    let path = EnvPath::default();
    let wish = databases::Wish {
        version: Some("14".to_owned()),
        ..databases::Wish::default()
    };
    databases::create(world.control(), &ROOT, &path, &name("main"), &wish).expect("accepted");
    let manifest = "schema = 1\napp = \"shop\"\n[services.web]\n[databases.more]\nengine = \"postgres\"\nversion = \"14\"\n";
    let deploy = world.deploy("shop", "good:2", Some(manifest));
    // Its worker waits for the database, so that no look may wait for that.
    let looked = world.take_reconciler().pass(world.now);
    looked.expect("a look at the world");
    let until = Instant::now() + Duration::from_secs(60);
    while world.all::<Database>().len() < 2 {
        assert!(Instant::now() < until, "both were asked for");
        std::thread::yield_now();
    }
    operations::cancel(world.control(), &ROOT, &deploy.id.to_string()).expect("asked");
    let asked = asked.lock().expect("no panic").clone();
    assert!(
        asked.len() >= 2 && asked.iter().all(|is_free| *is_free),
        "{asked:?}"
    );
    let absent = databases::Wish {
        version: Some("13".to_owned()),
        ..databases::Wish::default()
    };
    let refused = databases::create(world.control(), &ROOT, &path, &name("old"), &absent);
    assert_eq!(refused.expect_err("not to be had").code(), "invalid");
}
