//! Drills as rows: one at a time, remembered for a while, and no verdict where none could be reached.

use control::databases::Protection;
use control::{ControlError, EnvPath, databases};
use model::drill::{Check, CheckKind, Outcome};
use model::{Base, Database, Drill, DrillState, Millis, Operation, OperationState, Segment};

use crate::archives::{change, with_archive};
use crate::world::{ROOT, World, failed};

const MINUTE: Millis = Millis::seconds(60);

/// A database with a base in its row: the simulated engine speaks no SQL, so that no drill of it comes to a verdict.
fn furnished() -> (World, Database) {
    let mut world = World::with_shop();
    let database = with_archive(&mut world);
    let (image, at) = (database.image.clone().expect("an image"), world.now);
    change(&world, |_, row| {
        let base = Base {
            number: 1,
            stretch: 1,
            at,
            lsn: "0/3000060".parse().expect("a place"),
            last: Segment {
                timeline: 1,
                number: 3,
            },
            version: "15".to_owned(),
            image: image.clone(),
            manifest: Some(1),
        };
        row.archive.as_mut().expect("an archive").bases.push(base);
    });
    (world, database)
}

fn ask(world: &World) -> Result<Operation, ControlError> {
    databases::drill(world.control(), &ROOT, &EnvPath::default(), "main").map(|accepted| accepted.operation)
}

fn drills(world: &World) -> Vec<Drill> {
    databases::drills(world.control(), &ROOT, &EnvPath::default(), "main").expect("listed")
}

fn protection(world: &World) -> Protection {
    let view = databases::view(world.control(), &ROOT, &EnvPath::default(), "main").expect("seen");
    view.protection.expect("it has a backup")
}

/// Brings the newest drill to a verdict, as its worker would.
fn judge(world: &World, outcome: Outcome) {
    let mut drill = drills(world).remove(0);
    // What the list tells is by the machine's own clock.
    let at = model::Timestamp::now();
    drill.checks = vec![Check {
        kind: CheckKind::Read,
        outcome,
        said: "looked".to_owned(),
        took: Millis::new(1),
    }];
    drill.state = match outcome {
        Outcome::Failed => DrillState::Failed { at },
        Outcome::Passed | Outcome::LeftOut => DrillState::Passed { at },
    };
    let now = store::Now::at(world.now.as_ms());
    let written = world
        .parts()
        .store
        .write(now, |tx| tx.update_status(&drill, store::Expect::Any).map(drop));
    written.expect("written");
}

#[test]
fn what_could_not_be_done_is_no_verdict() {
    let (mut world, _) = furnished();
    let Protection::Unprotected { why } = protection(&world) else {
        panic!("protected without a drill")
    };
    assert_eq!(why, "no drill yet");
    let operation = ask(&world).expect("accepted");
    assert!(
        matches!(ask(&world), Err(ControlError::State { .. })),
        "two at once"
    );
    let settled = world.settle(operation.id);
    assert!(
        failed(&settled).message.contains("does not answer"),
        "{settled:?}"
    );
    let [drill] = drills(&world).try_into().expect("one");
    assert!(matches!(&drill.state, DrillState::Undone { why, .. } if why.contains("does not answer")));
    assert!(matches!(protection(&world), Protection::Unprotected { why } if why.contains("not done")));

    // A verdict counts until there is another one.
    for (outcome, is_protected) in [
        (Outcome::Passed, true),
        (Outcome::Failed, false),
        (Outcome::Passed, true),
    ] {
        let operation = ask(&world).expect("accepted");
        world.settle(operation.id);
        judge(&world, outcome);
        let found = protection(&world);
        assert_eq!(
            matches!(found, Protection::Protected { .. }),
            is_protected,
            "{found:?}"
        );
        let operation = ask(&world).expect("accepted");
        world.settle(operation.id);
        assert_eq!(protection(&world), found, "one that was not done changed it");
    }
}

#[test]
fn one_that_is_given_up_does_not_stay_under_way() {
    let (mut world, _) = furnished();
    let operation = ask(&world).expect("accepted");
    let canceled = control::operations::cancel(world.control(), &ROOT, &operation.id.to_string());
    canceled.expect("asked for");
    let settled = world.settle(operation.id);
    assert!(matches!(
        settled.state,
        OperationState::Canceled { .. } | OperationState::Failed { .. }
    ));
    assert!(matches!(drills(&world)[0].state, DrillState::Undone { .. }));
    ask(&world).expect("another one may begin");
}

#[test]
fn thirty_are_remembered_and_the_one_that_passed_last() {
    let (mut world, database) = furnished();
    for round in 0..34 {
        let operation = ask(&world).expect("accepted");
        world.settle(operation.id);
        if round == 0 {
            judge(&world, Outcome::Passed);
        }
    }
    let all = drills(&world);
    assert_eq!(all.len(), plan::drill::REMEMBERED);
    assert!(matches!(
        all.last().expect("the oldest").state,
        DrillState::Passed { .. }
    ));
    // They go with the database.
    let purge_at = world.now;
    change(&world, |_, row| {
        row.state = model::DatabaseState::Destroyed {
            purge_at,
            volume: format!("destroyed-{}", row.id.short(26)),
        };
    });
    world.until(MINUTE, "the data goes", |world| {
        world.all::<Database>().is_empty()
    });
    assert!(
        world.all::<Drill>().is_empty(),
        "drills of {} are left",
        database.name
    );
}
