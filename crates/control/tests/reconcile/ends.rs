//! Deleting: nothing is left, whatever was under way.

use control::{EnvPath, apps, operations, releases};
use engine::simulated::Behaviour;
use model::{App, Instance, Millis, OperationState, Release};
use store::Secret;
use store::rows::SecretVersion;

use crate::world::{ROOT, World, routed, succeeded};

fn nothing_is_left(world: &mut World) {
    world.quiet();
    assert!(world.all::<App>().is_empty());
    assert!(world.all::<Release>().is_empty());
    assert!(world.all::<SecretVersion>().is_empty());
    assert!(world.all::<Instance>().is_empty());
    assert!(world.edge.table().services.is_empty());
    assert!(world.engine.names().is_empty());
    world.until(Millis::seconds(60), "the host is empty", |world| {
        engine::Engine::observe(&*world.engine).expect("seen").is_empty()
    });
}

/// Releases and versions of secrets that nobody can want go; whatever a rollback may ask for stays.
#[test]
fn old_releases_and_secrets_go_and_a_rollback_still_finds_what_it_needs() {
    let mut world = World::with_shop();
    let path = EnvPath::default();
    let key: model::EnvKey = "KEY".parse().expect("a key");
    let manifest = "schema = 1\napp = \"shop\"\n[services.web]\nsecrets = [\"KEY\"]\n";
    let set = |world: &mut World, text: &str| {
        let value = Secret::from(text.to_owned());
        let set = control::secrets::set(world.control(), &ROOT, &path, "shop", &key, &value);
        let (_, follows) = set.expect("set");
        succeeded(&world.settle(follows.expect("a release follows").operation.id));
    };
    set(&mut world, "first");
    succeeded(&world.deployed("shop", "good:2", Some(manifest)));
    let made = plan::prune::KEEP as u64 + 5;
    for number in 0..made {
        set(&mut world, &format!("value-{number}"));
    }
    let newest = world.serving("shop").expect("serves");
    world.quiet();
    assert_eq!(world.all::<Release>().len() as u64, newest, "nothing went yet");
    world.now = world.now.plus(Millis::seconds(310));
    world.quiet();
    let mut left: Vec<u64> = world
        .all::<Release>()
        .iter()
        .map(|release| release.number)
        .collect();
    left.sort_unstable();
    // What ended not long ago is remembered with its release.
    let remembered = world
        .all_instances()
        .iter()
        .filter_map(|row| row.purpose.release())
        .count();
    assert!(left.len() <= plan::prune::KEEP + 1 + remembered, "{left:?}");
    assert!(left.contains(&newest));
    let versions = world.all::<SecretVersion>();
    assert!(
        versions.len() <= left.len() && !versions.is_empty(),
        "{} of {left:?}",
        versions.len()
    );
    let gone = releases::rollback(world.control(), &ROOT, &path, "shop", Some("v2"));
    assert_eq!(gone.expect_err("it went").code(), "not_found");
    // All the way back, one by one; each finds its secret.
    let served = world.app("shop").served_before.len();
    assert!(served >= plan::prune::KEEP, "{served}");
    for _ in 0..served {
        let back = releases::rollback(world.control(), &ROOT, &path, "shop", None).expect("accepted");
        succeeded(&world.settle(back.operation.id));
        world.quiet();
        let number = world.serving("shop").expect("serves");
        let value = format!("value-{}", made - (newest - number) - 1);
        let live = world.live_of("web");
        let workload = world.engine.workload(live[0].id).expect("it runs");
        assert_eq!(
            workload.env.get(&key).map(String::as_str),
            Some(value.as_str()),
            "v{number}"
        );
    }
    let end = releases::rollback(world.control(), &ROOT, &path, "shop", None);
    assert_eq!(end.expect_err("nothing before it").code(), "state");
}

#[test]
fn a_deleted_app_leaves_nothing() {
    let mut world = World::with_shop();
    let path = EnvPath::default();
    let key = "KEY".parse().expect("a key");
    let value = Secret::from("x".to_owned());
    control::secrets::set(world.control(), &ROOT, &path, "shop", &key, &value).expect("set");
    world.quiet();
    world.must_serve = false;
    let first = apps::delete(world.control(), &ROOT, &path, "shop", None)
        .expect("accepted")
        .operation;
    let second = apps::delete(world.control(), &ROOT, &path, "shop", None)
        .expect("accepted")
        .operation;
    assert_eq!(first.id, second.id);
    let refused = operations::cancel(world.control(), &ROOT, &first.id.to_string());
    assert_eq!(refused.expect_err("no way back").code(), "state");
    let refused = world.try_deploy("shop", "good:2", None);
    assert_eq!(refused.expect_err("it is being deleted").code(), "state");
    succeeded(&world.settle(first.id));
    nothing_is_left(&mut world);
    // Its name is free.
    world.create("shop");
    succeeded(&world.deployed("shop", "good:2", None));
    assert_eq!(routed(&world.edge.table()).len(), 1);
}

#[test]
fn deleting_ends_deploys_and_commands_under_way() {
    for looks in 0..5 {
        let mut world = World::with_shop();
        let path = EnvPath::default();
        world.must_serve = false;
        world.image(
            "slow",
            Behaviour {
                ready_after: None,
                ..Behaviour::default()
            },
        );
        let run = releases::run(world.control(), &ROOT, &path, "shop", &["x".to_owned()]).expect("accepted");
        let deploy = world.deploy("shop", "slow", None);
        let queued = world.deploy("shop", "good:2", None);
        for _ in 0..looks {
            world.tick();
        }
        let deletion = apps::delete(world.control(), &ROOT, &path, "shop", None).expect("accepted");
        succeeded(&world.settle(deletion.operation.id));
        for id in [run.operation.id, deploy.id, queued.id] {
            let state = world.operation(id).state;
            assert!(
                matches!(state, OperationState::Canceled { .. }),
                "{looks}: {state:?}"
            );
        }
        nothing_is_left(&mut world);
    }
}

#[test]
fn a_deletion_past_its_deadline_goes_on() {
    let mut world = World::with_shop();
    world.must_serve = false;
    world.image(
        "good:1",
        Behaviour {
            obeys_after: None,
            ..Behaviour::default()
        },
    );
    let deletion = apps::delete(world.control(), &ROOT, &EnvPath::default(), "shop", None).expect("accepted");
    world.tick();
    world.engine.fail_next(u32::MAX);
    world.now = deletion.operation.deadline;
    world.tick();
    assert!(matches!(
        world.operation(deletion.operation.id).state,
        OperationState::Failed { .. }
    ));
    world.engine.fail_next(0);
    nothing_is_left(&mut world);
}

#[test]
fn a_database_that_cannot_be_made_says_so_and_can_be_destroyed() {
    let mut world = World::new();
    let path = EnvPath::default();
    let wish = control::databases::Wish::default();
    let name = crate::world::name("main");
    let (_, made) =
        control::databases::create(world.control(), &ROOT, &path, &name, &wish).expect("accepted");
    let done = world.settle(made.operation.id);
    crate::world::failed(&done);
    let state = world.all::<model::Database>()[0].state.clone();
    assert!(matches!(state, model::DatabaseState::Failed { .. }), "{state:?}");
    let destroyed =
        control::databases::destroy(world.control(), &ROOT, &path, "main", None).expect("accepted");
    succeeded(&world.settle(destroyed.operation.id));
    world.now = world.now.plus(Millis::seconds(8 * 24 * 3600));
    world.tick();
    assert!(world.all::<model::Database>().is_empty());
}

#[test]
fn a_branch_ends_when_its_time_is_over_and_leaves_no_volume() {
    use engine::Engine as _;
    let mut world = World::new();
    let path = EnvPath::default();
    let wish = control::databases::Wish::default();
    let (parent, made) =
        control::databases::create(world.control(), &ROOT, &path, &crate::world::name("main"), &wish)
            .expect("accepted");
    crate::world::failed(&world.settle(made.operation.id));
    let early = control::databases::branch(
        world.control(),
        &ROOT,
        &path,
        "main",
        &crate::world::branch_wish("early"),
    );
    assert!(
        matches!(early, Err(control::ControlError::State { .. })),
        "the parent does not answer"
    );
    let mut branch = world.all::<model::Database>()[0].clone();
    branch.id = model::DatabaseId::fresh();
    branch.name = crate::world::name("preview");
    branch.expires_at = Some(world.now.plus(Millis::seconds(60)));
    branch.origin = Some(model::Origin {
        of: parent.row.id,
        name: parent.row.name.clone(),
        at: Some(world.now),
        lsn: Some("0/1".to_owned()),
        source: model::BranchSource::Live,
        shape: model::Shape::default(),
    });
    let written = world
        .parts()
        .store
        .write(store::Now::at(world.now.as_ms()), |tx| {
            tx.insert(&branch).map(drop)
        });
    written.expect("written");
    // What an operation that was given up in the middle left behind.
    let short = branch.id.short(26);
    for left in [
        format!("db-{short}"),
        format!("making-db-{short}"),
        format!("next-db-{short}"),
    ] {
        world.engine.create_volume(&left).expect("made");
    }
    world.tick();
    assert_eq!(
        world.all::<model::Database>().len(),
        2,
        "its time is not over yet"
    );
    world.now = world.now.plus(Millis::seconds(61));
    world.until(Millis::seconds(300), "the branch is gone", |world| {
        world.all::<model::Database>().len() == 1
    });
    let left = world.all::<model::Database>();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0].name.as_str(), "main");
    assert!(world.engine.volumes().expect("listed").is_empty());
    let ends = world.all::<model::Operation>();
    let ends = ends
        .iter()
        .filter(|one| matches!(one.work, model::operation::Work::DestroyDatabase { .. }));
    assert_eq!(ends.count(), 1, "its end was asked for once");
}
