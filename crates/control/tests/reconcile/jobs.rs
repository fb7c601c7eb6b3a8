//! Release jobs and one-off commands.

use control::{EnvPath, releases};
use engine::simulated::Behaviour;
use model::{Exit, Millis};

use crate::world::{ROOT, World, failed, succeeded};

const MANIFEST: &str = "schema = 1\napp = \"shop\"\n[services.web]\nimage = \"good:2\"\n\
    [jobs.migrate]\ncommand = \"migrate\"\non = \"release\"\ntimeout = \"1m\"\n";

fn ends(code: i32) -> Behaviour {
    Behaviour {
        exits: Some((Millis::seconds(2), Exit::Code { code })),
        ..Behaviour::default()
    }
}

#[test]
fn a_release_job_opens_the_gate() {
    let mut world = World::with_shop();
    world.image("job", ends(0));
    let deploy = world.deploy("shop", "job", Some(MANIFEST));
    world.until(Millis::seconds(30), "the job runs", |world| {
        world.jobs().len() == 1
    });
    assert!(
        world.live_of("web").len() == 1,
        "nothing of the new release before its job"
    );
    succeeded(&world.settle(deploy.id));
    world.quiet();
    assert_eq!(world.answering(), ["v2".to_owned()].into());
    assert_eq!(world.jobs().len(), 1);
}

#[test]
fn a_failed_or_slow_release_job_keeps_the_old_release() {
    for (behaviour, said) in [
        (ends(3), "ended with exit code 3"),
        (Behaviour::default(), "took longer than 1m"),
    ] {
        let mut world = World::with_shop();
        world.image("job", behaviour);
        let done = world.deployed("shop", "job", Some(MANIFEST));
        let failure = failed(&done);
        assert_eq!(failure.code, "release_rejected");
        assert!(failure.message.contains(said), "{}", failure.message);
        assert!(failure.message.contains("v1 still serves"), "{}", failure.message);
        world.quiet();
        assert!(world.jobs().iter().all(|job| !job.condition.is_live()));
        assert_eq!((world.serving("shop"), world.live_of("web").len()), (Some(1), 1));
    }
}

/// The request to end may be lost with a crash of ours.
#[test]
fn a_job_is_ended_whatever_crashes() {
    let mut world = World::with_shop();
    world.image("job", Behaviour::default());
    let deploy = world.deploy("shop", "job", Some(MANIFEST));
    world.until(Millis::seconds(30), "the job runs", |world| {
        world.jobs().len() == 1
    });
    control::operations::cancel(world.control(), &ROOT, &deploy.id.to_string()).expect("asked");
    world.engine.fail_next(1);
    world.tick();
    world.crash();
    world.quiet();
    assert!(world.jobs().iter().all(|job| !job.condition.is_live()));
}

#[test]
fn one_off_commands_run_beside_deploys() {
    let mut world = World::with_shop();
    let path = EnvPath::default();
    let command = ["sleep".to_owned(), "forever".to_owned()];
    let run = releases::run(world.control(), &ROOT, &path, "shop", &command)
        .expect("accepted")
        .operation;
    world.until(Millis::seconds(30), "it runs", |world| {
        world
            .jobs()
            .iter()
            .any(|job| matches!(job.condition, model::Condition::Ready { .. }))
    });
    let workload = world.engine.workload(world.jobs()[0].id).expect("it runs");
    assert_eq!(workload.command, command);
    succeeded(&world.deployed("shop", "good:2", None));
    assert!(!world.operation(run.id).state.is_settled());
    world.engine.crash(world.jobs()[0].id, Exit::Code { code: 0 });
    succeeded(&world.settle(run.id));
    let again = releases::run(world.control(), &ROOT, &path, "shop", &command)
        .expect("accepted")
        .operation;
    world.tick();
    world.tick();
    world.now = again.deadline;
    let done = world.settle(again.id);
    assert_eq!(failed(&done).code, "deadline");
    world.quiet();
    let refused = releases::run(world.control(), &ROOT, &path, "shop", &[]);
    assert_eq!(refused.expect_err("nothing to run").code(), "invalid");
}

#[test]
fn the_image_under_a_running_command_is_kept_however_old() {
    let mut world = World::with_shop();
    let command = ["sleep".to_owned(), "forever".to_owned()];
    releases::run(world.control(), &ROOT, &EnvPath::default(), "shop", &command).expect("accepted");
    world.until(Millis::seconds(30), "it runs", |world| {
        world.jobs().iter().any(|job| job.condition.is_live())
    });
    let job = world.jobs()[0].id;
    let image = world.engine.workload(job).expect("it runs").image;
    let newer = plan::prune::KEEP + 2;
    for number in 0..newer {
        let reference = format!("newer:{number}");
        world.image(&reference, Behaviour::default());
        succeeded(&world.deployed("shop", &reference, None));
    }
    let kept = |world: &mut World| {
        world.now = world.now.plus(Millis::seconds(600));
        world.tick();
        world.engine.kept_images().contains(&image)
    };
    assert!(kept(&mut world), "its layers would go under it");
    world.engine.crash(job, Exit::Code { code: 0 });
    world.quiet();
    assert!(!kept(&mut world), "the control: such an old image goes");
}
