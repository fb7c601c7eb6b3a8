//! A corrupt row of the store is the trouble of what it is about, and of nobody else.

use control::{EnvPath, apps};
use engine::Engine;
use model::{Exit, Millis, Operation};
use store::WriteTx;

use crate::world::{ROOT, World, succeeded};

/// `shop` and `other` serve their first releases.
fn two_apps() -> World {
    let mut world = World::with_shop();
    world.create("other");
    succeeded(&world.deployed("other", "good:1", None));
    world.quiet();
    world
}

fn is_routed(world: &World, app: &str) -> bool {
    let table = world.edge.table();
    let hosts = table
        .services
        .iter()
        .filter(|service| !service.targets.is_empty());
    hosts
        .flat_map(|service| &service.routes)
        .any(|(host, _)| host.starts_with(app))
}

/// What a list says about each app's damage, by name.
fn listed(world: &World) -> std::collections::BTreeMap<String, Option<String>> {
    // Page by page of one each: what is corrupt must end no walk either.
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page = apps::list(world.control(), &ROOT, &EnvPath::default(), &after, 1);
        let (views, next) = page.expect("the others are listed");
        assert!(views.len() == 1 || next.is_none());
        all.extend(views);
        match next {
            Some(next) => after = next,
            None => break,
        }
    }
    all.into_iter()
        .map(|view| (view.app.row.name.to_string(), view.damage))
        .collect()
}

/// All that others need goes on: a deploy, a restart after a crash.
fn others_go_on(world: &mut World) {
    let done = world.deploy("other", "good:2", None);
    let done = settled(world, &done);
    succeeded(&done);
    let victim = world
        .live_of("web")
        .into_iter()
        .rfind(|row| row.address.is_some());
    world
        .engine
        .crash(victim.expect("the newest").id, Exit::Signal { signal: 9 });
    for _ in 0..20 {
        world.tick();
    }
    assert!(is_routed(world, "other"));
}

fn settled(world: &mut World, operation: &Operation) -> Operation {
    for _ in 0..200 {
        world.tick();
        if world.operation(operation.id).state.is_settled() {
            break;
        }
    }
    world.operation(operation.id)
}

/// The log knows what it was: it even goes on serving, and only changing it is refused.
#[test]
fn a_corrupt_app_serves_on_and_holds_up_nobody() {
    let mut world = two_apps();
    world.tamper(
        "UPDATE object SET body = replace(body, 'shop', 'evil') WHERE kind = 'app' AND name = 'shop'",
    );
    others_go_on(&mut world);
    assert!(is_routed(&world, "shop") && !is_routed(&world, "evil"));
    let seen = listed(&world);
    assert!(
        seen["shop"].as_ref().is_some_and(|why| why.contains("corrupt")),
        "{seen:?}"
    );
    assert_eq!(seen["other"], None, "{seen:?}");
    world.create("third");
    let done = world.deploy("third", "good:1", None);
    succeeded(&settled(&mut world, &done));
    world
        .try_deploy("shop", "good:2", None)
        .expect_err("it cannot be changed");
    repair(&mut world);
    let done = world.deployed("shop", "good:2", None);
    succeeded(&done);
}

#[test]
fn a_corrupt_instance_release_or_operation_holds_up_nobody_else() {
    for kind in ["instance", "release", "operation"] {
        let mut world = two_apps();
        let shop = world.app("shop").id;
        let before = world
            .live_of("web")
            .into_iter()
            .find(|row| row.purpose.app() == Some(shop));
        let before = before.expect("it runs").id;
        world.tamper(&format!(
            "UPDATE object SET updated_ms = updated_ms + 1 WHERE kind = '{kind}' AND (parent = '{shop}' OR kind = 'operation'
             AND id = (SELECT min(id) FROM object WHERE kind = 'operation'))"
        ));
        others_go_on(&mut world);
        if kind != "operation" {
            let seen = listed(&world);
            let why = seen["shop"].as_ref().expect("it is named");
            assert!(why.contains(kind) && why.contains("corrupt"), "{kind}: {why}");
            assert_eq!(seen["other"], None, "{kind}");
        }
        for _ in 0..100 {
            world.tick();
        }
        assert!(is_routed(&world, "shop"), "{kind}");
        assert!(!world.engine.removed().contains(&before), "{kind}: it was ended");
        repair(&mut world);
        succeeded(&world.deployed("shop", "good:2", None));
    }
}

/// Neither the table nor the log can tell: what it was about is left alone until a repair gives it up, and then goes.
#[test]
fn a_lost_app_is_left_alone_until_a_repair_gives_it_up() {
    let mut world = two_apps();
    let shop = world.live_of("web")[0].id;
    let id = world.app("shop").id;
    world.tamper(&format!(
        "UPDATE object SET body = '{{}}' WHERE id = '{id}'; UPDATE log SET body = '{{}}' WHERE id = '{id}'"
    ));
    world.must_serve = false;
    others_go_on(&mut world);
    for _ in 0..100 {
        world.tick();
    }
    let runs = |world: &World| {
        let seen = world.engine.observe().expect("seen");
        seen.iter().any(|one| one.id == shop)
    };
    assert!(runs(&world), "what cannot be told was ended");
    repair(&mut world);
    world.until(Millis::seconds(60), "what belongs to nobody goes", |world| {
        !runs(world)
    });
    world.tick();
    world.tick();
    assert!(world.all_instances().iter().all(|row| row.id != shop));
    // Its name is free.
    world.create("shop");
    apps::delete(world.control(), &ROOT, &EnvPath::default(), "shop", None).expect("accepted");
    world.quiet();
}

/// As `stoa doctor --repair` does it: Stoa is down meanwhile.
fn repair(world: &mut World) {
    let now = store::Now::at(world.now.as_ms());
    let store = &world.parts().store;
    store.write(now, WriteTx::repair).expect("repaired");
    world.crash();
}
