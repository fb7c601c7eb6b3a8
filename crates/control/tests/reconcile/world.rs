//! A small world around the reconciler: a real store, the simulated engine, an edge that remembers what it was told,
//! and a time that the test moves. Every look is followed by the checks that must hold in any state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use control::planted::Turn;
use control::reconcile::Reconciler;
use control::routes::{EdgeLink, RouteTable};
use control::{Control, ControlError, EnvPath, Parts, Settings, apps, operations, places, releases};
use engine::simulated::{Behaviour, Simulated};
use engine::{Engine, Phase};
use model::operation::Source;
use model::{
    Actor, App, Condition, ImageDigest, Instance, InstanceId, Millis, Name, Operation, OperationState,
    Purpose, Release, Timestamp,
};
use store::rows::ImageName;
use store::{MasterKey, Now, Row as _, Store, StoreError};

/// How long a worker may take in real time on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
pub const TICK: Millis = Millis::new(500);

pub const ROOT: Actor = Actor::HostRoot { pid: 1 };

/// An edge that obeys at once.
#[derive(Default)]
pub struct Edge {
    table: Mutex<RouteTable>,
    busy: Mutex<BTreeSet<InstanceId>>,
    process: AtomicU64,
    refusing: AtomicU64,
    publishes: AtomicU64,
    obeyed: Mutex<Vec<RouteTable>>,
}

impl Edge {
    pub fn table(&self) -> RouteTable {
        self.table.lock().expect("no panic").clone()
    }
    pub fn set_busy(&self, ids: impl IntoIterator<Item = InstanceId>) {
        *self.busy.lock().expect("no panic") = ids.into_iter().collect();
    }
    /// Refuses the next tables.
    pub fn refuse(&self, tables: u64) {
        self.refusing.store(tables, Ordering::SeqCst);
    }
    /// Another process, with the table that lay on the disk.
    pub fn replace(&self, table: RouteTable) {
        *self.table.lock().expect("no panic") = table;
        self.process.fetch_add(1, Ordering::SeqCst);
    }
    /// Every table it ever obeyed.
    pub fn obeyed(&self) -> Vec<RouteTable> {
        self.obeyed.lock().expect("no panic").clone()
    }
    pub fn publishes(&self) -> u64 {
        self.publishes.load(Ordering::SeqCst)
    }
}

impl EdgeLink for Edge {
    fn publish(&self, table: &RouteTable) -> Result<(), String> {
        if self.refusing.load(Ordering::SeqCst) > 0 {
            self.refusing.fetch_sub(1, Ordering::SeqCst);
            return Err("refused as the test asked".to_owned());
        }
        self.publishes.fetch_add(1, Ordering::SeqCst);
        *self.table.lock().expect("no panic") = table.clone();
        self.obeyed.lock().expect("no panic").push(table.clone());
        Ok(())
    }
    fn busy(&self, instances: &[InstanceId]) -> Result<BTreeSet<InstanceId>, String> {
        let busy = self.busy.lock().expect("no panic");
        Ok(instances.iter().filter(|id| busy.contains(id)).copied().collect())
    }
    fn requests(&self) -> Result<Vec<control::routes::Requests>, String> {
        Ok(Vec::new())
    }
    fn generation(&self) -> u64 {
        self.process.load(Ordering::SeqCst)
    }
}

pub fn routed(table: &RouteTable) -> BTreeSet<InstanceId> {
    let targets = table.services.iter().flat_map(|service| &service.targets);
    targets.map(|target| target.id).collect()
}

pub struct World {
    dir: tempfile::TempDir,
    pub engine: Arc<Simulated>,
    pub edge: Arc<Edge>,
    control: Option<Arc<Control>>,
    parts: Option<Parts>,
    reconciler: Option<Reconciler>,
    pub now: Timestamp,
    /// Once true, some instance must be routed after every look.
    pub must_serve: bool,
    _turn: Turn,
}

impl World {
    pub fn new() -> Self {
        Self::within(Turn::beside_others())
    }

    /// For a test that plants defects.
    pub fn alone() -> Self {
        Self::within(Turn::alone())
    }

    fn within(turn: Turn) -> Self {
        let mut world = Self {
            _turn: turn,
            dir: tempfile::tempdir().expect("a directory"),
            engine: Arc::new(Simulated::new()),
            edge: Arc::default(),
            control: None,
            parts: None,
            reconciler: None,
            now: Timestamp::now(),
            must_serve: false,
        };
        world.engine.set_now(world.now);
        world.open();
        places::found(world.control()).expect("founded");
        world
    }

    fn open(&mut self) {
        let key = MasterKey::from_bytes([7; 32]);
        let path = self.dir.path().join("stoa.db");
        let now = Now::at(Timestamp::now().as_ms());
        let store = Store::open(&path, &key, now).expect("the store opens");
        let parts = Parts::new(
            Arc::new(store),
            Arc::clone(&self.engine) as Arc<dyn Engine>,
            Arc::clone(&self.edge) as Arc<dyn EdgeLink>,
            Settings::new(self.dir.path().to_owned()),
        );
        let control = Arc::new(Control::new(parts.clone()));
        self.parts = Some(parts);
        self.reconciler = Some(Reconciler::new(Arc::clone(&control)));
        self.control = Some(control);
    }

    /// The reconciler, for a test that runs it by itself.
    pub fn take_reconciler(&mut self) -> Reconciler {
        self.reconciler.take().expect("open")
    }

    pub fn shared(&self) -> Arc<Control> {
        Arc::clone(self.control.as_ref().expect("open"))
    }

    /// What it is made of, for what no use case shows.
    pub fn parts(&self) -> &Parts {
        self.parts.as_ref().expect("open")
    }

    pub fn control(&self) -> &Control {
        self.control.as_ref().expect("open")
    }

    /// Control dies and comes back: only the store, the engine and the edge remember.
    pub fn crash(&mut self) {
        self.wait_workers();
        self.reconciler = None;
        self.control = None;
        self.parts = None;
        self.open();
    }

    /// Control ends, something changes its store behind its back, and it comes back.
    pub fn tamper(&mut self, sql: &str) {
        self.wait_workers();
        self.reconciler = None;
        self.control = None;
        self.parts = None;
        // From outside, as damage comes: SQL lives in `store` only.
        let changed = std::process::Command::new("python3")
            .args([
                "-c",
                "import sqlite3, sys; sqlite3.connect(sys.argv[1]).executescript(sys.argv[2])",
            ])
            .arg(self.dir.path().join("stoa.db"))
            .arg(sql)
            .status();
        assert!(changed.expect("python3 runs").success(), "{sql}");
        self.open();
    }

    /// Waits until no worker is at work: each holds the installation.
    pub fn wait_workers(&self) {
        let control = self.control.as_ref().expect("open");
        let until = Instant::now() + PATIENCE;
        while Arc::strong_count(control) > 2 {
            assert!(Instant::now() < until, "a worker does not end");
            self.parts().bell.wait(u64::MAX, Duration::ZERO);
            std::thread::yield_now();
        }
    }

    /// One look that may fail.
    pub fn try_pass(&mut self) -> Result<(), ControlError> {
        self.engine.set_now(self.now);
        let before = routed(&self.edge.table());
        let asked = self.engine.asked_to_end();
        let result = self.reconciler.as_mut().expect("open").pass(self.now);
        self.wait_workers();
        if result.is_ok() {
            self.check(&before, &asked);
        }
        result
    }

    pub fn pass(&mut self) {
        self.try_pass().expect("a look at the world");
    }

    /// What must hold after every look.
    fn check(&self, before: &BTreeSet<InstanceId>, asked: &BTreeSet<InstanceId>) {
        let now = routed(&self.edge.table());
        let seen: BTreeMap<InstanceId, Phase> = self
            .engine
            .observe()
            .expect("seen")
            .into_iter()
            .map(|one| (one.id, one.phase))
            .collect();
        let rows = self.all_instances();
        for id in now.difference(before) {
            match seen.get(id) {
                Some(Phase::Running {
                    ready: Some(Ok(())), ..
                }) => {}
                other => panic!("{id} gets requests though it is {other:?}"),
            }
            let row = rows
                .iter()
                .find(|row| row.id == *id)
                .expect("routed ones have rows");
            assert!(
                matches!(row.condition, Condition::Ready { .. }),
                "{id} gets requests: {row:?}"
            );
        }
        let all_asked = self.engine.asked_to_end();
        for id in all_asked.difference(asked) {
            assert!(!before.contains(id), "{id} was ended while it got requests");
        }
        assert!(now.is_disjoint(&all_asked), "requests go to what was told to end");
        for (id, starts) in self.engine.starts() {
            assert_eq!(starts, 1, "{id} was started more than once");
        }
        if self.must_serve {
            assert!(!now.is_empty(), "nothing serves any more");
        }
    }

    pub fn tick(&mut self) {
        self.pass();
        self.now = self.now.plus(TICK);
    }

    /// Looks until `is_so`, for at most `within`.
    pub fn until(&mut self, within: Millis, what: &str, is_so: impl Fn(&Self) -> bool) {
        let end = self.now.plus(within);
        while !is_so(self) {
            assert!(
                self.now < end,
                "not within {within}: {what}\n{:#?}\n{:#?}",
                self.operations(),
                self.all_instances()
            );
            self.tick();
        }
    }

    pub fn settle(&mut self, id: model::OperationId) -> Operation {
        self.until(Millis::seconds(300), "the operation settles", |world| {
            world.operation(id).state.is_settled()
        });
        self.operation(id)
    }

    /// Looks until nothing is left to do: no operation, nothing on its way up or down.
    pub fn quiet(&mut self) {
        self.until(Millis::seconds(600), "all is quiet", |world| {
            let is_still = |row: &Instance| match row.condition {
                Condition::Ready { .. } | Condition::Exited { .. } => true,
                Condition::Starting { .. }
                | Condition::Unready { .. }
                | Condition::Draining { .. }
                | Condition::Stopping { .. } => false,
            };
            world.operations().iter().all(|op| op.state.is_settled())
                && world.all_instances().iter().all(is_still)
        });
        self.tick();
        self.tick();
    }

    pub fn all<R: store::Row>(&self) -> Vec<R> {
        let rows = self.parts().store.read(|tx| match tx.list_all::<R>() {
            Err(store::StoreError::Corrupt { .. }) => tx.salvage::<R>().map(|salvage| salvage.rows),
            rows => rows,
        });
        rows.expect("rows").into_iter().map(|found| found.row).collect()
    }

    pub fn all_instances(&self) -> Vec<Instance> {
        self.all()
    }

    pub fn operations(&self) -> Vec<Operation> {
        self.all()
    }

    pub fn operation(&self, id: model::OperationId) -> Operation {
        operations::view(self.control(), &ROOT, &id.to_string(), Duration::ZERO)
            .expect("the operation")
            .row
    }

    pub fn app(&self, app: &str) -> App {
        let all = self.all::<App>();
        all.into_iter()
            .find(|row| row.name.as_str() == app)
            .expect("the app")
    }

    pub fn release(&self, app: &str, number: u64) -> Release {
        let app = self.app(app).id;
        let all = self.all::<Release>();
        all.into_iter()
            .find(|row| row.app == app && row.number == number)
            .expect("the release")
    }

    /// Number of the release that serves.
    pub fn serving(&self, app: &str) -> Option<u64> {
        let serving = self.app(app).serving?;
        let all = self.all::<Release>();
        all.iter()
            .find(|row| row.id == serving.release)
            .map(|row| row.number)
    }

    /// Releases that the edge sends requests to.
    pub fn answering(&self) -> BTreeSet<String> {
        let table = self.edge.table();
        let targets = table.services.iter().flat_map(|service| &service.targets);
        targets.map(|target| target.release.clone()).collect()
    }

    pub fn live_of(&self, service: &str) -> Vec<Instance> {
        let mut all = self.all_instances();
        all.retain(|row| {
            let is_here =
                matches!(&row.purpose, Purpose::Service { service: of, .. } if of.as_str() == service);
            is_here && row.condition.is_live()
        });
        all
    }

    pub fn jobs(&self) -> Vec<Instance> {
        let mut all = self.all_instances();
        all.retain(|row| matches!(row.purpose, Purpose::Job { .. }));
        all
    }

    pub fn create(&self, app: &str) {
        apps::create(self.control(), &ROOT, &EnvPath::default(), &name(app)).expect("created");
    }

    /// An image whose workloads behave so, which the operator got for all.
    pub fn image(&self, reference: &str, behaviour: Behaviour) {
        let digest = self.registry(reference, behaviour);
        let row = ImageName {
            realm: model::Realm::Installation,
            name: reference.to_owned(),
            digest,
            created_at: self.now,
        };
        let now = Now::at(self.now.as_ms());
        let noted: Result<(), StoreError> = self.parts().store.write(now, |tx| {
            match tx.get::<ImageName>(&row.id())? {
                Some(_) => {
                    tx.update(&row, store::Expect::Any)?;
                }
                None => {
                    tx.insert(&row)?;
                }
            }
            Ok(())
        });
        noted.expect("noted");
    }

    /// An image whose workloads behave so, which whoever asks for it gets from a registry.
    pub fn registry(&self, reference: &str, behaviour: Behaviour) -> ImageDigest {
        let hash = reference
            .bytes()
            .fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let digest: ImageDigest = format!("sha256:{hash:064x}").parse().expect("a digest");
        self.engine.add_image(reference, &digest, behaviour);
        digest
    }

    pub fn try_deploy(
        &self,
        app: &str,
        image: &str,
        manifest: Option<&str>,
    ) -> Result<Operation, ControlError> {
        let source = Source::Image {
            image: image.to_owned(),
        };
        let accepted = releases::deploy(self.control(), &ROOT, &EnvPath::default(), app, &source, manifest)?;
        Ok(accepted.operation)
    }

    pub fn deploy(&self, app: &str, image: &str, manifest: Option<&str>) -> Operation {
        self.try_deploy(app, image, manifest).expect("accepted")
    }

    /// Deploys and waits for the end.
    pub fn deployed(&mut self, app: &str, image: &str, manifest: Option<&str>) -> Operation {
        let accepted = self.deploy(app, image, manifest);
        self.settle(accepted.id)
    }

    /// A world in which `shop` v1 serves.
    pub fn with_shop() -> Self {
        Self::new().stocked()
    }

    /// The same, for a test that plants defects.
    pub fn alone_with_shop() -> Self {
        Self::alone().stocked()
    }

    fn stocked(self) -> Self {
        let mut world = self;
        world.image("good:1", Behaviour::default());
        world.image("good:2", Behaviour::default());
        world.create("shop");
        let done = world.deployed("shop", "good:1", None);
        succeeded(&done);
        world.quiet();
        world.must_serve = true;
        world
    }
}

pub fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

pub fn branch_wish(text: &str) -> control::databases::BranchWish {
    control::databases::BranchWish {
        name: name(text),
        source: model::BranchSource::Live,
        shape: model::Shape::default(),
        lives: None,
        idle_stop: control::databases::IDLE_STOP,
    }
}

#[track_caller]
pub fn succeeded(operation: &Operation) {
    assert!(
        matches!(operation.state, OperationState::Succeeded { .. }),
        "{operation:#?}"
    );
}

#[track_caller]
pub fn failed(operation: &Operation) -> &model::Failure {
    match &operation.state {
        OperationState::Failed { failure, .. } => failure,
        other => panic!("{other:?}"),
    }
}
