//! Promoting as far as no SQL is spoken: what is refused, a failure before the names change, the way forward after.

use control::{ControlError, EnvPath, databases, operations};
use model::operation::Work;
use model::{
    Actor, Condition, Database, DatabaseId, DatabaseState, Instance, Millis, Operation, OperationId,
    OperationState, Origin, Promoted, Purpose, Replaced, Restored, Target, Timestamp,
};

use crate::archives::with_archive;
use crate::world::{ROOT, World, failed, name, succeeded};

const MINUTE: Millis = Millis::seconds(60);
/// The machine's own clock, which deadlines are counted from, stays behind.
const KEEP: Millis = Millis::seconds(300);

fn write(world: &World, change: impl Fn(&store::WriteTx) -> Result<(), store::StoreError> + Send + Sync) {
    let now = store::Now::at(world.now.as_ms());
    world.parts().store.write(now, change).expect("written");
}

fn insert<R: store::Row + Sync>(world: &World, row: &R) {
    write(world, |tx| tx.insert(row).map(drop));
}

fn update(world: &World, row: &Database) {
    write(world, |tx| tx.update(row, store::Expect::Any).map(drop));
}

fn load(world: &World, id: DatabaseId) -> Option<Database> {
    world.all::<Database>().into_iter().find(|row| row.id == id)
}

fn server(world: &World, id: DatabaseId) -> Option<Instance> {
    let mut all = world.all_instances().into_iter();
    all.find(|row| row.purpose == Purpose::Database { database: id } && row.condition.is_live())
}

fn answers(world: &World, id: DatabaseId) -> bool {
    server(world, id).is_some_and(|row| matches!(row.condition, Condition::Ready { .. }))
}

/// `main`, and `before` as if it had been restored from it a minute before; both answer.
fn furnished() -> (World, Database, Database) {
    let mut world = World::with_shop();
    let main = with_archive(&mut world);
    let mut before = main.clone();
    before.id = DatabaseId::fresh();
    before.name = name("before");
    before.archive = None;
    before.restored = Some(Restored {
        of: main.id,
        name: main.name.clone(),
        server: None,
        target: Target::Time { at: main.created_at },
        upgraded: None,
        reached: None,
    });
    insert(&world, &before);
    let ids = [main.id, before.id];
    world.until(MINUTE, "both answer", |world| {
        ids.iter().all(|id| answers(world, *id))
    });
    (world, main, before)
}

fn promote(world: &World, of: &str, new: &str, keep: Option<Millis>) -> Result<Operation, ControlError> {
    let path = EnvPath::default();
    let accepted = databases::promote(world.control(), &ROOT, &path, of, new, keep);
    accepted.map(|accepted| accepted.operation)
}

fn refused(world: &World, of: &str, new: &str) -> String {
    let refused = promote(world, of, new, None).expect_err("refused");
    assert!(!refused.next().is_empty(), "no next step: {refused}");
    refused.to_string()
}

#[test]
fn what_does_not_fit_is_refused() {
    let (world, main, before) = furnished();
    let with = |called: &str, change: &dyn Fn(&mut Database)| {
        let mut row = before.clone();
        (row.id, row.name) = (DatabaseId::fresh(), name(called));
        change(&mut row);
        insert(&world, &row);
    };
    with("branch", &|row| {
        row.origin = Some(Origin {
            of: main.id,
            name: main.name.clone(),
            at: None,
            lsn: None,
            source: model::BranchSource::Live,
            shape: model::Shape::default(),
        });
    });
    with("other", &|row| row.restored = None);
    with("new", &|row| row.state = DatabaseState::Creating);
    with("dead", &|_| {});
    with("broken", &|row| {
        row.state = DatabaseState::Failed { why: String::new() };
    });
    for (of, new, said) in [
        ("main", "branch", "is a branch"),
        ("main", "other", "no restore of main"),
        ("other", "before", "no restore of other"),
        ("main", "new", "still being restored"),
        ("main", "dead", "does not answer"),
        ("main", "broken", "does not answer"),
        ("main", "main", "its own place"),
        ("main", "nowhere", "nowhere"),
        ("nowhere", "before", "nowhere"),
    ] {
        let refused = refused(&world, of, new);
        assert!(refused.contains(said), "{new} in the place of {of}: {refused}");
    }
    for keep in [Millis::seconds(1), Millis::seconds(400 * 24 * 3600)] {
        let refused = promote(&world, "main", "before", Some(keep)).expect_err("refused");
        assert_eq!(refused.code(), "invalid");
    }
    // By id as well; and then neither may go, and nothing else may take the place.
    promote(&world, &main.id.to_string(), &before.id.to_string(), None).expect("accepted");
    assert!(refused(&world, "main", "before").contains("being promoted"));
    for one in ["main", "before"] {
        let path = EnvPath::default();
        let ended = databases::destroy(world.control(), &ROOT, &path, one, None);
        assert!(
            matches!(ended, Err(ControlError::State { .. })),
            "{one} may be ended"
        );
    }
}

#[test]
fn a_failure_before_the_names_change_changes_nothing() {
    let (mut world, main, before) = furnished();
    let operation = promote(&world, "main", "before", None).expect("accepted");
    // The simulated engine speaks no SQL.
    failed(&world.settle(operation.id));
    for was in [&main, &before] {
        let row = load(&world, was.id).expect("there");
        assert_eq!(
            (&row.name, &row.replaced, &row.promoted, row.expires_at),
            (&was.name, &None, &None, None)
        );
        assert!(answers(&world, was.id));
    }
    let again = promote(&world, "main", "before", None).expect("may be asked again");
    let canceled = operations::cancel(world.control(), &ROOT, &again.id.to_string());
    canceled.expect("may be given up");
    world.settle(again.id);
}

/// The rows as they are when the names have changed, with an operation that has come so far, its time over.
fn switched(world: &World, main: &Database, before: &Database) -> (Database, Operation) {
    let at = world.now;
    let mut old = main.clone();
    old.name = name("main-replaced-20261122-194000");
    old.image = None;
    old.expires_at = Some(at.plus(KEEP));
    old.replaced = Some(Replaced {
        was: name("main"),
        by: before.id,
        at,
        data_until: None,
    });
    update(world, &old);
    let mut new = before.clone();
    new.name = name("main");
    new.promoted = Some(Promoted {
        was: name("before"),
        instead_of: old.id,
        at,
    });
    update(world, &new);
    let operation = Operation {
        id: OperationId::fresh(),
        environment: Some(main.environment),
        work: Work::PromoteDatabase {
            database: new.id,
            of: old.id,
            keep: KEEP,
        },
        actor: Actor::System.describe(),
        created_at: at,
        deadline: Timestamp::from_ms(at.as_ms() - 1),
        state: OperationState::Running,
        step: "moving sessions".to_owned(),
        cancel: false,
        release: None,
        outcome: None,
        exit_code: None,
    };
    insert(world, &operation);
    (old, operation)
}

#[test]
fn once_the_names_have_changed_the_only_way_is_forward() {
    let (mut world, main, before) = furnished();
    // As after a crash of ours: nothing but the store knows, and its server is away.
    let (old, operation) = switched(&world, &main, &before);
    world.crash();
    let refused = operations::cancel(world.control(), &ROOT, &operation.id.to_string());
    assert!(matches!(refused, Err(ControlError::State { .. })), "given up");
    let done = world.settle(operation.id);
    succeeded(&done);
    let outcome = done.outcome.expect("told");
    assert!(outcome.contains("main-replaced-20261122-194000"), "{outcome}");
    assert!(outcome.contains("unprotected"), "{outcome}");
    assert_eq!(load(&world, before.id).expect("there").name, name("main"));

    let twice = promote(&world, "main", "before", None).expect_err("done already");
    assert!(twice.to_string().contains("has been main since"), "{twice}");
    assert!(twice.next().contains(old.name.as_str()), "{}", twice.next());
}

#[test]
fn what_was_replaced_is_kept_until_its_time_is_over() {
    let (mut world, main, before) = furnished();
    let (_, operation) = switched(&world, &main, &before);
    succeeded(&world.settle(operation.id));
    world.now = world.now.plus(Millis::seconds(200));
    world.quiet();
    assert_eq!(load(&world, main.id).expect("there").state, DatabaseState::Active);
    world.now = world.now.plus(KEEP);
    world.until(MINUTE, "its end", |world| {
        let row = load(world, main.id).expect("its data is kept as that of any other");
        matches!(row.state, DatabaseState::Destroyed { .. })
    });
    assert_eq!(
        load(&world, before.id).expect("there").state,
        DatabaseState::Active
    );
}

#[test]
fn a_server_that_is_told_to_end_is_started_again() {
    let (mut world, main, _) = furnished();
    let mut first = server(&world, main.id).expect("it runs");
    first.condition = Condition::Stopping { since: world.now };
    write(&world, |tx| {
        tx.update_status(&first, store::Expect::Any).map(drop)
    });
    world.until(MINUTE, "another one", |world| {
        answers(world, main.id) && server(world, main.id).is_some_and(|row| row.id != first.id)
    });
}
