//! Housekeeping: what may still be wanted stays, what is damaged is waited for, and all else goes on.

use std::collections::BTreeSet;

use control::{EnvPath, releases};
use engine::Engine as _;
use engine::simulated::Behaviour;
use model::Millis;

use crate::world::{ROOT, World, succeeded};

/// The first look of a control keeps house.
fn keep_house(world: &mut World) {
    world.crash();
    world.tick();
}

#[test]
fn a_rollback_that_waits_for_its_turn_keeps_the_image_it_goes_back_to() {
    let mut world = World::with_shop();
    let first = world.release("shop", 1).image;
    for n in 2..plan::prune::KEEP + 4 {
        let reference = format!("next:{n}");
        world.image(&reference, Behaviour::default());
        succeeded(&world.deployed("shop", &reference, None));
    }
    let slow = Behaviour {
        ready_after: Some(Millis::seconds(3600)),
        ..Behaviour::default()
    };
    world.image("slow:1", slow);
    world.deploy("shop", "slow:1", None);
    world.tick();
    releases::rollback(world.control(), &ROOT, &EnvPath::default(), "shop", Some("v1")).expect("accepted");
    keep_house(&mut world);
    assert!(world.app("shop").rollout.is_some(), "the rollback waits");
    let kept = world.engine.kept_images();
    assert!(kept.contains(&first), "{kept:?}");
}

#[test]
fn a_damaged_row_of_any_kind_keeps_nothing_else_from_being_looked_after() {
    for kind in ["operation", "environment", "app", "release"] {
        let mut world = World::with_shop();
        world.must_serve = false;
        succeeded(&world.deployed("shop", "good:2", None));
        let image = world.release("shop", 2).image;
        assert!(
            !world.engine.kept_images().contains(&image),
            "there is something to do"
        );
        // Still what it says, but not as it was written.
        world.tamper(&format!(
            "UPDATE object SET body = body || ' ' WHERE kind = '{kind}'"
        ));
        world.tick();
        assert!(world.engine.kept_images().contains(&image), "{kind}");
    }
}

#[test]
fn templates_of_an_image_that_was_replaced_go_with_what_was_made_of_them() {
    let mut world = World::with_shop();
    world.image("postgres:15", Behaviour::default());
    let image = world
        .engine
        .find_image("postgres:15")
        .expect("looked")
        .expect("there");
    let current = format!("template-postgres-15-{}", image.digest.short());
    let spare = format!("spare-{current}");
    let old = [
        "template-postgres-15-0123456789ab",
        "spare-template-postgres-15-0123456789ab",
        "making-spare-template-postgres-15-0123456789ab",
        "template-postgres-14-0123456789ab",
    ];
    for name in old.into_iter().chain([current.as_str(), &spare]) {
        world.engine.create_volume(name).expect("made");
    }
    keep_house(&mut world);
    let left = world.engine.volumes().expect("listed");
    let left: BTreeSet<String> = left.into_iter().map(|volume| volume.name).collect();
    assert_eq!(left, [spare, current].into());
}
