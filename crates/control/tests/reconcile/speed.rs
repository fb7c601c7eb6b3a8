//! A look at many apps costs little, and none when nothing changes.

use std::time::{Duration, Instant};

use crate::world::{World, name, routed};

const APPS: usize = 200;

#[test]
fn a_look_that_finds_nothing_changes_nothing() {
    let mut world = World::with_shop();
    world.tick();
    let (rev, publishes, calls) = (
        world.parts().store.rev(),
        world.edge.publishes(),
        world.engine.calls(),
    );
    let rings = world.parts().bell.wait(u64::MAX, Duration::ZERO);
    for _ in 0..20 {
        world.tick();
    }
    assert_eq!(world.parts().store.rev(), rev);
    assert_eq!(world.edge.publishes(), publishes);
    assert_eq!(world.engine.calls(), calls);
    assert_eq!(world.parts().bell.wait(u64::MAX, Duration::ZERO), rings);
}

/// Whatever is waited for, the same facts do not ring the bell again.
#[test]
fn waiting_is_no_busy_loop() {
    let mut world = World::with_shop();
    let never = engine::simulated::Behaviour {
        ready_after: None,
        ..Default::default()
    };
    world.image("good:1", never);
    world.must_serve = false;
    let counts = std::collections::BTreeMap::from([(name("web"), 3)]);
    let path = control::EnvPath::default();
    control::apps::scale(world.control(), &crate::world::ROOT, &path, "shop", &counts, None)
        .expect("accepted");
    for _ in 0..6 {
        world.pass();
    }
    let rings = world.parts().bell.wait(u64::MAX, Duration::ZERO);
    for _ in 0..10 {
        world.pass();
    }
    assert_eq!(world.parts().bell.wait(u64::MAX, Duration::ZERO), rings);
}

/// 200 apps at once: ordered, no deadlock; then a quiet look is measured for the record.
#[test]
fn two_hundred_apps() {
    let mut world = World::new();
    world.image("good:1", engine::simulated::Behaviour::default());
    for app in 0..APPS {
        world.create(&format!("app-{app}"));
        world.deploy(&format!("app-{app}"), "good:1", None);
    }
    world.quiet();
    assert_eq!(routed(&world.edge.table()).len(), APPS);
    let begin = Instant::now();
    for _ in 0..20 {
        world.pass();
    }
    println!("a quiet look at {APPS} apps takes {:?}", begin.elapsed() / 20);
    let begin = Instant::now();
    world.crash();
    world.pass();
    println!("coming back with {APPS} apps takes {:?}", begin.elapsed());
    assert_eq!(routed(&world.edge.table()).len(), APPS);
}

/// The loop itself, with the clock of the machine: it hears of a deploy, serves it and ends when told.
#[test]
fn the_loop_hears_works_and_ends() {
    let mut world = World::new();
    world.image("good:1", engine::simulated::Behaviour::default());
    world.create("shop");
    let reconciler = world.take_reconciler();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| reconciler.run(&stop));
        let operation = world.deploy("shop", "good:1", None);
        let wait = Duration::from_secs(60);
        let id = operation.id.to_string();
        let done = control::operations::view(world.control(), &crate::world::ROOT, &id, wait);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        crate::world::succeeded(&done.expect("the operation").row);
    });
}
