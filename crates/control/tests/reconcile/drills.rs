//! Drills as rows: one at a time, remembered for a while, and no verdict where none could be reached.

use control::databases::{Proof, Protection, Which};
use control::{ControlError, EnvPath, databases};
use model::drill::{Check, CheckKind, Outcome};
use model::{
    BackupTarget, Base, Database, Drill, DrillState, DrilledCopy, Millis, Operation, OperationState, Segment,
    TargetPlace,
};

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
    ask_of(world, Which::Local)
}

fn ask_of(world: &World, which: Which) -> Result<Operation, ControlError> {
    let accepted = databases::drill(world.control(), &ROOT, &EnvPath::default(), "main", which);
    accepted.map(|accepted| accepted.operation)
}

fn proof(world: &World) -> Proof {
    let view = databases::view(world.control(), &ROOT, &EnvPath::default(), "main");
    view.expect("seen").proof
}

fn drills(world: &World) -> Vec<Drill> {
    databases::drills(world.control(), &ROOT, &EnvPath::default(), "main").expect("listed")
}

fn protection(world: &World) -> Protection {
    let view = databases::view(world.control(), &ROOT, &EnvPath::default(), "main").expect("seen");
    view.proof.local.expect("it has a backup")
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

/// A target of this identity. Nothing is there, and nobody asks: no drill gets that far without a server.
fn target_of(world: &World, server: &str) {
    let row = BackupTarget {
        place: TargetPlace::Directory {
            path: "/nowhere".to_owned(),
        },
        server: server.to_owned(),
        fingerprint: String::new(),
        version: 1,
        key: Vec::new(),
        secret: Vec::new(),
        escrowed_at: None,
        since: world.now,
    };
    let now = store::Now::at(world.now.as_ms());
    let put = world.parts().store.write(now, |tx| {
        match tx.get::<BackupTarget>(store::rows::BACKUP_TARGET)? {
            Some(_) => tx.update(&row, store::Expect::Any).map(drop),
            None => tx.insert(&row).map(drop),
        }
    });
    put.expect("written");
}

/// Drills a copy to a verdict: whether the local one, and the one elsewhere, are protected then.
fn verdict(world: &mut World, which: Which, outcome: Outcome) -> (bool, bool) {
    let operation = ask_of(world, which).expect("accepted");
    world.settle(operation.id);
    judge(world, outcome);
    let found = proof(world);
    let is_protected = |one: Option<Protection>| matches!(one.expect("told"), Protection::Protected { .. });
    (is_protected(found.local), is_protected(found.target))
}

#[test]
fn each_copy_is_proven_for_itself() {
    use Outcome::{Failed, Passed};
    let (mut world, _) = furnished();
    assert!(proof(&world).target.is_none());
    assert!(matches!(
        ask_of(&world, Which::Target),
        Err(ControlError::NotFound { .. })
    ));
    target_of(&world, "one");
    assert_eq!(verdict(&mut world, Which::Target, Passed), (false, true));
    assert_eq!(verdict(&mut world, Which::Local, Passed), (true, true));
    assert_eq!(verdict(&mut world, Which::Target, Failed), (true, false));
    assert_eq!(verdict(&mut world, Which::Target, Passed), (true, true));
    assert_eq!(verdict(&mut world, Which::Local, Failed), (false, true));
    // The many of the one do not push out the other's.
    for _ in 0..plan::drill::REMEMBERED + 2 {
        let operation = ask(&world).expect("accepted");
        world.settle(operation.id);
    }
    let count = |world: &World| {
        let all = drills(world);
        let local = all.iter().filter(|drill| drill.copy == DrilledCopy::Local);
        (local.count(), all.len())
    };
    assert_eq!(
        count(&world),
        (plan::drill::REMEMBERED, plan::drill::REMEMBERED + 3)
    );
    // Another identity is another copy: nothing was proven of it, and what was of the one before goes with the next drill.
    target_of(&world, "another");
    assert!(matches!(proof(&world).target, Some(Protection::Unprotected { why }) if why == "no drill yet"));
    let operation = ask_of(&world, Which::Target).expect("accepted");
    world.settle(operation.id);
    assert_eq!(
        count(&world),
        (plan::drill::REMEMBERED, plan::drill::REMEMBERED + 1)
    );
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
