//! What people do to a fleet: deploys of good and bad releases, and everything that can come in between.

use std::collections::BTreeMap;

use control::{Control, ControlError, EnvPath, apps, operations, releases};
use engine::simulated::{Behaviour, Simulated};
use engine::{Engine, Workload};
use model::operation::{Source, Work};
use model::{Actor, Condition, Exit, ImageDigest, InstanceId, Millis, Name, OperationId};

use crate::dice::Dice;
use crate::mirror::Mirror;

pub const ROOT: Actor = Actor::HostRoot { pid: 1 };
pub const APPS: [&str; 3] = ["shop", "api", "blog"];

/// Web images: how their workloads behave.
const NATURES: [&str; 12] = [
    "good", "good", "good", "good", "slow", "stubborn", "never", "dies", "later", "flaps", "refuses", "late",
];
/// Images of releases: how their release jobs end, and whether they must be got first.
const SOURCES: [&str; 8] = ["ok", "ok", "ok", "far", "far", "fails", "hangs", "missing"];

fn digest(name: &str) -> ImageDigest {
    let hash = name
        .bytes()
        .fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    format!("sha256:{hash:064x}").parse().expect("a digest")
}

/// Puts all images there.
pub fn images(engine: &Simulated) {
    let exit = |code| Exit::Code { code };
    let usual = Behaviour {
        ready_after: Some(Millis::new(1500)),
        obeys_after: Some(Millis::new(700)),
        ..Behaviour::default()
    };
    let all = [
        ("good", usual.clone()),
        (
            "slow",
            Behaviour {
                ready_after: Some(Millis::seconds(14)),
                ..usual.clone()
            },
        ),
        (
            "late",
            Behaviour {
                ready_after: Some(Millis::seconds(25)),
                ..usual.clone()
            },
        ),
        (
            "stubborn",
            Behaviour {
                obeys_after: None,
                ..usual.clone()
            },
        ),
        (
            "never",
            Behaviour {
                ready_after: None,
                ..usual.clone()
            },
        ),
        (
            "dies",
            Behaviour {
                exits: Some((Millis::new(400), exit(1))),
                ..usual.clone()
            },
        ),
        (
            "later",
            Behaviour {
                exits: Some((Millis::seconds(37), exit(2))),
                ..usual.clone()
            },
        ),
        (
            "flaps",
            Behaviour {
                flaps: Some((Millis::seconds(19), Millis::seconds(4))),
                ..usual.clone()
            },
        ),
        (
            "refuses",
            Behaviour {
                refuses: Some("no such program".to_owned()),
                ..usual.clone()
            },
        ),
        (
            "ok",
            Behaviour {
                exits: Some((Millis::seconds(2), exit(0))),
                ..usual.clone()
            },
        ),
        (
            "fails",
            Behaviour {
                exits: Some((Millis::seconds(1), exit(3))),
                ..usual.clone()
            },
        ),
        ("hangs", usual.clone()),
    ];
    for (name, behaviour) in all {
        engine.add_image(name, &digest(name), behaviour);
    }
}

/// Ways from one release to the next.
const WAYS: [&str; 7] = [
    "",
    "",
    "",
    "",
    "[rollout]\nstrategy = \"blue-green\"\n",
    "[rollout]\nstrategy = \"canary\"\nsteps = [\"20%:6s\", \"60%:9s\", \"100%\"]\n",
    "[rollout]\nstrategy = \"recreate\"\n",
];

/// Something people do.
#[derive(Debug, Clone)]
pub enum Deed {
    Deploy {
        app: &'static str,
        source: String,
        manifest: String,
    },
    Rollback {
        app: &'static str,
    },
    Restart {
        app: &'static str,
    },
    Scale {
        app: &'static str,
        web: u16,
        read: Option<u64>,
    },
    Run {
        app: &'static str,
    },
    Cancel {
        operation: OperationId,
    },
    Delete {
        app: &'static str,
    },
    Configure {
        app: &'static str,
        value: u64,
        read: Option<u64>,
    },
}

impl Deed {
    /// Whose it is.
    pub fn app(&self) -> Option<&'static str> {
        match self {
            Self::Deploy { app, .. }
            | Self::Rollback { app }
            | Self::Restart { app }
            | Self::Scale { app, .. }
            | Self::Run { app }
            | Self::Delete { app }
            | Self::Configure { app, .. } => Some(app),
            Self::Cancel { .. } => None,
        }
    }

    /// The app, and the generation of it that somebody has read.
    pub fn read(&self) -> Option<(&'static str, u64)> {
        match self {
            Self::Scale { app, read, .. } | Self::Configure { app, read, .. } => Some((app, (*read)?)),
            Self::Deploy { .. }
            | Self::Rollback { .. }
            | Self::Restart { .. }
            | Self::Run { .. }
            | Self::Cancel { .. }
            | Self::Delete { .. } => None,
        }
    }
}

pub struct People {
    dice: Dice,
    pulls: u64,
    /// What somebody read of each app, perhaps long ago.
    read: BTreeMap<&'static str, u64>,
}

impl People {
    pub fn new(seed: u64) -> Self {
        Self {
            dice: Dice::new(seed, 2),
            pulls: 0,
            read: BTreeMap::new(),
        }
    }

    /// What somebody wants next.
    pub fn choose(&mut self, mirror: &Mirror, engine: &Simulated) -> Deed {
        let app = self.dice.of(&APPS).copied().expect("some");
        let generation = generation(mirror, app);
        if !self.dice.one_in(3) {
            self.read.extend(generation.map(|generation| (app, generation)));
        }
        let read = self.read.get(app).copied().filter(|_| self.dice.one_in(2));
        match self.dice.roll(24) {
            0..=9 => self.deploy(engine, app),
            10 | 11 => Deed::Rollback { app },
            12 => Deed::Restart { app },
            13..=15 => Deed::Scale {
                app,
                web: u16::try_from(self.dice.roll(5)).expect("small"),
                read,
            },
            16 | 17 => Deed::Run { app },
            18..=20 => {
                let open = mirror
                    .operations
                    .values()
                    .filter(|operation| !operation.state.is_settled());
                let open: Vec<OperationId> = open.map(|operation| operation.id).collect();
                match self.dice.of(&open) {
                    Some(operation) => Deed::Cancel {
                        operation: *operation,
                    },
                    None => self.deploy(engine, app),
                }
            }
            21 if self.dice.one_in(3) => Deed::Delete { app },
            21 => self.deploy(engine, app),
            _ => Deed::Configure {
                app,
                value: self.dice.roll(1000),
                read,
            },
        }
    }

    fn deploy(&mut self, engine: &Simulated, app: &'static str) -> Deed {
        let nature = self.dice.of(&NATURES).copied().expect("some");
        let count = 1 + self.dice.roll(4);
        let has_worker = self.dice.one_in(3);
        let mut source = self
            .dice
            .of(&SOURCES)
            .map_or_else(String::new, |text| (*text).to_owned());
        let has_job = matches!(source.as_str(), "fails" | "hangs") || self.dice.one_in(3);
        if source == "far" {
            source = self.far(engine, Millis::new(500 + self.dice.clone().roll(70_000)));
        }
        let way = self.dice.of(&WAYS).copied().expect("some");
        Deed::Deploy {
            app,
            source,
            manifest: manifest(app, nature, count, has_worker, has_job) + way,
        }
    }

    /// An image that must be got first.
    pub fn far(&mut self, engine: &Simulated, takes: Millis) -> String {
        self.pulls += 1;
        let name = format!("far-{}", self.pulls);
        let behaviour = Behaviour {
            exits: Some((Millis::seconds(2), Exit::Code { code: 0 })),
            ..Behaviour::default()
        };
        engine.add_remote_image(&name, &digest(&name), takes, behaviour);
        name
    }
}

/// A release as people describe it.
pub fn manifest(app: &str, nature: &str, count: u64, has_worker: bool, has_job: bool) -> String {
    let mut text = format!(
        "schema = 1\napp = \"{app}\"\n[services.web]\nimage = \"{nature}\"\nport = 8080\nscale = {count}\n\
         stop_grace = \"5s\"\nhealth = {{ grace = \"20s\" }}\n"
    );
    if has_worker {
        text += "[services.worker]\nimage = \"good\"\ncommand = \"work\"\nstop_grace = \"5s\"\n";
    }
    if has_job {
        text += "[jobs.migrate]\ncommand = \"migrate\"\non = \"release\"\ntimeout = \"15s\"\n";
    }
    text
}

/// Does it. What is refused is refused: people see why.
pub fn act(control: &Control, deed: &Deed) -> Result<Option<OperationId>, ControlError> {
    let path = EnvPath::default();
    let accepted = match deed {
        Deed::Deploy {
            app,
            source,
            manifest,
        } => {
            let exists = apps::create(control, &ROOT, &path, &name(app));
            drop(exists);
            let source = Source::Image {
                image: source.clone(),
            };
            releases::deploy(control, &ROOT, &path, app, &source, Some(manifest))?
        }
        Deed::Rollback { app } => releases::rollback(control, &ROOT, &path, app, None)?,
        Deed::Restart { app } => releases::restart(control, &ROOT, &path, app)?,
        Deed::Scale { app, web, read } => {
            let counts = BTreeMap::from([(name("web"), *web)]);
            apps::scale(control, &ROOT, &path, app, &counts, *read)?
        }
        Deed::Run { app } => releases::run(control, &ROOT, &path, app, &["task".to_owned()])?,
        Deed::Cancel { operation } => {
            operations::cancel(control, &ROOT, &operation.to_string())?;
            return Ok(None);
        }
        Deed::Delete { app } => apps::delete(control, &ROOT, &path, app, None)?,
        Deed::Configure { app, value, read } => {
            let key = "SETTING".parse().expect("a key");
            let changes = BTreeMap::from([(key, Some(value.to_string()))]);
            let (_, accepted) = apps::configure(control, &ROOT, &path, app, &changes, *read)?;
            return Ok(accepted.map(|accepted| accepted.operation.id));
        }
    };
    Ok(Some(accepted.operation.id))
}

/// The generation of an app of that name, if there is one.
pub fn generation(mirror: &Mirror, app: &str) -> Option<u64> {
    let found = mirror.apps.values().find(|one| one.name.as_str() == app)?;
    mirror.generations.get(&found.id).copied()
}

/// What kinds of event an accepted deed is.
pub fn kinds(mirror: &Mirror, deed: &Deed) -> Vec<&'static str> {
    let is_moving = |app: &str| {
        let mut apps = mirror.apps.values();
        apps.any(|one| one.name.as_str() == app && one.rollout.is_some())
    };
    let deploys = || {
        let open = mirror.operations.values().filter(|one| !one.state.is_settled());
        let apps = open.filter_map(|one| match &one.work {
            Work::Deploy { app, .. } => Some(mirror.name(*app)),
            Work::Rollback { .. }
            | Work::Restart { .. }
            | Work::Scale { .. }
            | Work::Run { .. }
            | Work::DeleteApp { .. }
            | Work::CreateDatabase { .. }
            | Work::RotateDatabase { .. }
            | Work::RestartDatabase { .. }
            | Work::BranchDatabase { .. }
            | Work::ResetDatabase { .. }
            | Work::BackupDatabase { .. }
            | Work::DrillDatabase { .. }
            | Work::RestoreDatabase { .. }
            | Work::PromoteDatabase { .. }
            | Work::UpgradeDatabase { .. }
            | Work::DestroyDatabase { .. }
            | Work::VerifyTarget
            | Work::RotateKey { .. }
            | Work::Image { .. } => None,
        });
        apps.collect::<Vec<String>>()
    };
    let during = |app: &str, kind, moving| {
        if is_moving(app) {
            vec![kind, moving]
        } else {
            vec![kind]
        }
    };
    match deed {
        Deed::Deploy {
            app,
            source,
            manifest,
        } => {
            let image = |name: &str| manifest.contains(&format!("image = \"{name}\"\nport"));
            let open = deploys();
            let all = [
                (
                    "a good release",
                    image("good") && (source == "ok" || source.starts_with("far")),
                ),
                ("a slow start", image("slow") || image("late")),
                ("a hang", image("never") || source == "hangs"),
                (
                    "a bad release",
                    image("dies") || image("later") || image("refuses") || source == "fails",
                ),
                ("flapping health", image("flaps")),
                ("a program that ignores its stop signal", image("stubborn")),
                ("a release job", manifest.contains("[jobs.")),
                ("a blue-green release", manifest.contains("blue-green")),
                ("a canary", manifest.contains("canary")),
                ("a release that runs alone", manifest.contains("recreate")),
                ("an image that cannot be got", source == "missing"),
                (
                    "a deploy beside another of its app",
                    open.iter().any(|other| other == app),
                ),
                (
                    "deploys of several apps at once",
                    open.iter().any(|other| other != app),
                ),
                ("a deploy during a rollout", is_moving(app)),
            ];
            let met = all.into_iter().filter(|(_, is_met)| *is_met);
            met.map(|(kind, _)| kind).collect()
        }
        Deed::Rollback { app } => during(app, "a rollback", "a rollback during a rollout"),
        Deed::Restart { app } if is_moving(app) => vec!["a restart during a rollout"],
        Deed::Restart { .. } => Vec::new(),
        Deed::Scale { app, .. } => during(app, "a scale", "a scale during a rollout"),
        Deed::Run { .. } => vec!["a command"],
        Deed::Cancel { operation } => {
            let mut apps = mirror.apps.values();
            let moves = apps.any(|app| {
                let rollout = app.rollout.as_ref();
                rollout.is_some_and(|rollout| rollout.operation == *operation)
            });
            if moves {
                vec!["a cancel", "a cancel during a rollout"]
            } else {
                vec!["a cancel"]
            }
        }
        Deed::Delete { app } if deploys().iter().any(|other| other == app) => {
            vec!["a deletion", "a deletion during a deploy"]
        }
        Deed::Delete { .. } => vec!["a deletion"],
        Deed::Configure { .. } => vec!["a configuration changed"],
    }
}

/// A living instance, for an accident.
pub fn victim(mirror: &Mirror, dice: &mut Dice) -> Option<(u32, InstanceId)> {
    let live = mirror
        .instances
        .values()
        .filter(|row| matches!(row.condition, Condition::Ready { .. }));
    let mut live: Vec<(u32, InstanceId)> = live.map(|row| (row.uid_range, row.id)).collect();
    live.sort();
    dice.of(&live).copied()
}

/// Something with our mark that no row knows, as after the restore of an older store.
pub fn orphan(engine: &Simulated, of: InstanceId) -> Option<InstanceId> {
    let id = InstanceId::fresh();
    let workload = Workload {
        id,
        ..engine.workload(of)?
    };
    engine.ensure(&workload).ok().map(|_| id)
}

pub fn name(text: &str) -> Name {
    text.parse().expect("a name")
}
