//! Doing a plan's steps on an engine, one on top of the other.
//!
//! Lives here: getting the base, staging inputs, keys. Does not live here: what a step is confined to (the engine).
//! Invariants: a step's key covers everything that shapes its result, the scope it is for included, so that nobody finds the
//! steps of another's app in the cache; the source on disk is only read, but for one permission.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use engine::{
    BuildStep, Engine, EngineError, FetchImage, ImageFacts, LineSink, Reach, StepConfig, StepInput,
};
use model::operation::ImageSource;
use model::{Bytes, CpuMillis, ImageDigest, Resources};

use crate::Request;
use crate::digest::Digest;
use crate::error::BuildError;
use crate::plan::{APP, Base, FILES, Inputs, Plan, SITE, Step};
use crate::registries::Registries;

/// The server for static sites, as `build.rs` made it.
static FILE_SERVER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/stoa-files"));

/// What one step may use. Weight is low, so a step takes processors only when nobody else wants them; memory is what large
/// front-end builds are known to need and small hosts still have.
const LIMITS: Resources = Resources {
    cpu: CpuMillis::new(16_000),
    memory: Bytes::mi(2048),
    pids: 2048,
    // What a step may leave is bounded by the engine, which measures its layer.
    disk: Bytes::mi(32 * 1024),
};
/// Raised when the same step should give another result than before.
const FORMAT: &str = "stoa build 1";
/// The user of our own images, whose home and files it owns.
const USER: &str = "app";
/// What is there when an image says nothing.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Files of a site that are not for visitors.
const NOT_FOR_VISITORS: [&str; 6] = [
    "stoa.toml",
    "Procfile",
    "package.json",
    "package-lock.json",
    "node_modules",
    "Dockerfile",
];

/// One build on its way.
struct Run<'a> {
    engine: &'a dyn Engine,
    scope: &'a str,
    source: &'a Path,
    lines: LineSink<'a>,
    plan: &'a Plan,
    facts: ImageFacts,
    is_ours: bool,
    registries: Registries,
}

/// Does a plan and returns its image, and the name of the base for people.
pub(crate) fn run(
    engine: &dyn Engine,
    request: &Request<'_>,
    plan: &Plan,
    lines: LineSink<'_>,
) -> Result<(ImageDigest, (String, ImageDigest)), BuildError> {
    let (scope, source) = (request.scope, request.source);
    let (facts, base) = get_base(engine, request, &plan.base, lines)?;
    if let Some(file) = &plan.executable {
        let path = source.join(file);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(BuildError::disk(&path))?;
    }
    let is_ours = base == "host" || matches!(plan.base, Base::Debian { .. });
    let registries = Registries::of_host(is_ours);
    let mut image = facts.digest.clone();
    let run = Run {
        engine,
        scope,
        source,
        lines,
        plan,
        facts,
        is_ours,
        registries,
    };
    for (at, step) in plan.steps.iter().enumerate() {
        image = run.step(step, image, at + 1 == plan.steps.len())?;
    }
    let meant = run.facts.digest;
    Ok((image, (base, meant)))
}

fn get_base(
    engine: &dyn Engine,
    request: &Request<'_>,
    base: &Base,
    lines: LineSink<'_>,
) -> Result<(ImageFacts, String), BuildError> {
    let (name, source) = match base {
        Base::Named(name) if name == "host" => (name.clone(), ImageSource::Host),
        Base::Named(name) => (
            name.clone(),
            ImageSource::Pull {
                reference: name.clone(),
                insecure: false,
            },
        ),
        Base::Debian { suite, packages } if packages.is_empty() => (
            format!("debian:{suite}"),
            ImageSource::Debian {
                suite: suite.clone(),
                packages: Vec::new(),
            },
        ),
        Base::Debian { suite, packages } => {
            let mut digest = Digest::new("debian packages");
            digest.list(packages.iter().map(String::as_str));
            let name = format!("debian-{suite}-{:.12}", digest.hex());
            let packages: Vec<String> = packages.iter().cloned().collect();
            lines(&format!("base: Debian {suite} with {}", packages.join(", ")));
            (
                name,
                ImageSource::Debian {
                    suite: suite.clone(),
                    packages,
                },
            )
        }
    };
    // What we make of packages is the same for everybody; what has a name may be somebody's.
    let may_use =
        |facts: &ImageFacts| matches!(base, Base::Debian { .. }) || (request.may_use)(&name, &facts.digest);
    if let Some(facts) = engine.find_image(&name)?.filter(may_use) {
        return Ok((facts, name));
    }
    lines(&format!("base: getting {name}"));
    let digest = engine.fetch_image(
        &FetchImage {
            source: &source,
            archive: None,
            name: &name,
            reach: Reach::PublicOnly,
        },
        lines,
    )?;
    let facts = engine
        .find_image(digest.as_str())?
        .ok_or_else(|| EngineError::Image {
            image: name.clone(),
            why: "it was got, but is not there".to_owned(),
            next_step: "see what is there: stoa image ls".to_owned(),
        })?;
    Ok((facts, name))
}

impl Run<'_> {
    fn user(&self) -> String {
        if self.is_ours {
            USER.to_owned()
        } else {
            self.facts.user.clone().unwrap_or_else(|| "0".to_owned())
        }
    }

    /// Runs one step over an image and returns the image that results.
    fn step(&self, step: &Step, base: ImageDigest, is_last: bool) -> Result<ImageDigest, BuildError> {
        let shown = if step.argv.is_empty() {
            "copying".to_owned()
        } else {
            step.argv.join(" ")
        };
        (self.lines)(&format!("{}: {shown}", step.name));
        let staged = self.stage(step)?;
        let config = if is_last {
            self.config()
        } else {
            StepConfig::default()
        };
        let key = self.key(step, &base, &staged.inputs, &config)?;
        let wanted = BuildStep {
            name: step.name.to_owned(),
            base,
            inputs: staged.inputs.clone(),
            command: step.argv.clone(),
            env: self.env(step),
            workdir: APP.to_owned(),
            user: self.user(),
            key: Some(key),
            network: step.network,
            host_files: if step.network {
                self.registries.files.clone()
            } else {
                Vec::new()
            },
            resources: LIMITS,
            timeout: step.timeout,
            config,
        };
        let done = self
            .engine
            .build_step(&wanted, self.lines)
            .map_err(|error| match error {
                EngineError::Step { .. } if step.name == "cargo" => BuildError::Cargo(error),
                other => BuildError::Engine(other),
            })?;
        if done.cached {
            (self.lines)(&format!("{}: as before, nothing to do", step.name));
        }
        Ok(done.image)
    }

    fn env(&self, step: &Step) -> BTreeMap<String, String> {
        let mut env = step.env.clone();
        // What clients leave in their home is not part of the image: the temporary directory is not either.
        for (key, value) in [
            ("HOME", "/tmp"),
            ("TMPDIR", "/tmp"),
            ("npm_config_cache", "/tmp/npm"),
            ("npm_config_update_notifier", "false"),
        ] {
            env.insert(key.to_owned(), value.to_owned());
        }
        env.insert("PATH".to_owned(), self.path(&self.plan.build_paths()));
        if step.network {
            env.extend(self.registries.env.clone());
        }
        env
    }

    fn path(&self, first: &[String]) -> String {
        let base = self.facts.env.get("PATH").map_or(PATH, String::as_str);
        first
            .iter()
            .map(String::as_str)
            .chain([base])
            .collect::<Vec<_>>()
            .join(":")
    }

    fn config(&self) -> StepConfig {
        let mut env = self.plan.env.clone();
        env.insert("PATH".to_owned(), self.path(&self.plan.paths));
        StepConfig {
            command: self.plan.command.clone(),
            env,
            workdir: Some(APP.to_owned()),
            user: Some(self.user()),
        }
    }

    fn key(
        &self,
        step: &Step,
        base: &ImageDigest,
        inputs: &[StepInput],
        config: &StepConfig,
    ) -> Result<String, BuildError> {
        let mut digest = Digest::new(FORMAT);
        digest.text(self.scope);
        digest.text(base.as_str());
        digest.text(&self.user());
        digest.list(step.argv.iter().map(String::as_str));
        let env = self.env(step);
        // How a registry is reached does not shape what comes from it.
        let shaping = env
            .iter()
            .filter(|(key, _)| !self.registries.env.contains_key(*key));
        digest.list(shaping.flat_map(|(key, value)| [key.as_str(), value.as_str()]));
        for input in inputs {
            digest.text(&input.to);
            digest.tree(&input.from)?;
        }
        digest.list(config.command.iter().flatten().map(String::as_str));
        digest.list(
            config
                .env
                .iter()
                .flat_map(|(key, value)| [key.as_str(), value.as_str()]),
        );
        digest.list(config.workdir.iter().chain(&config.user).map(String::as_str));
        Ok(digest.hex())
    }

    /// Puts what a step sees where the engine can take it from.
    fn stage(&self, step: &Step) -> Result<Staged, BuildError> {
        let near = self.source.parent().unwrap_or(self.source);
        let place = tempfile::Builder::new()
            .prefix("stage-")
            .tempdir_in(near)
            .map_err(BuildError::disk(near))?;
        let app = place.path().join("app");
        let input = |from: &Path, to: String| StepInput {
            from: from.to_owned(),
            to,
        };
        let mut inputs = Vec::new();
        match &step.inputs {
            Inputs::Nothing => {}
            Inputs::Files(files) => {
                make_directory(&app)?;
                for file in files {
                    copy(&self.source.join(file), &app.join(file))?;
                }
                inputs.push(input(&app, APP.to_owned()));
            }
            Inputs::Written { file, text } => {
                let target = app.join(file);
                make_directory(target.parent().unwrap_or(&app))?;
                fs::write(&target, text).map_err(BuildError::disk(&target))?;
                inputs.push(input(&app, APP.to_owned()));
            }
            Inputs::Source => inputs.push(input(self.source, APP.to_owned())),
            Inputs::Site => inputs.extend(self.site()?),
        }
        if step.serves_files {
            let program = place.path().join("files");
            fs::write(&program, FILE_SERVER).map_err(BuildError::disk(&program))?;
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&program, mode).map_err(BuildError::disk(&program))?;
            inputs.push(input(&program, FILES.to_owned()));
        }
        Ok(Staged {
            inputs,
            _place: place,
        })
    }

    /// The entries of the source that visitors may see; what begins with a dot the server does not show.
    fn site(&self) -> Result<Vec<StepInput>, BuildError> {
        let mut inputs = Vec::new();
        for entry in fs::read_dir(self.source).map_err(BuildError::disk(self.source))? {
            let entry = entry.map_err(BuildError::disk(self.source))?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if !NOT_FOR_VISITORS.contains(&name.as_str()) {
                inputs.push(StepInput {
                    from: entry.path(),
                    to: format!("{SITE}/{name}"),
                });
            }
        }
        inputs.sort_by(|a, b| a.to.cmp(&b.to));
        Ok(inputs)
    }
}

/// Inputs of a step, and the directory they lie in for as long as it runs.
struct Staged {
    inputs: Vec<StepInput>,
    _place: tempfile::TempDir,
}

fn make_directory(path: &Path) -> Result<(), BuildError> {
    fs::create_dir_all(path).map_err(BuildError::disk(path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(BuildError::disk(path))
}

/// Copies a plain file, if it is there; a link could lead out of the source.
fn copy(from: &PathBuf, to: &Path) -> Result<(), BuildError> {
    if !from.symlink_metadata().is_ok_and(|facts| facts.is_file()) {
        return Ok(());
    }
    make_directory(to.parent().unwrap_or(to))?;
    fs::copy(from, to).map(drop).map_err(BuildError::disk(from))
}

#[cfg(test)]
mod tests {
    use engine::simulated::{Behaviour, Simulated};
    use model::manifest::Manifest;

    use super::*;

    /// A base that is somebody else's is told as one that nobody has.
    #[test]
    fn what_may_not_be_used_is_not_there() {
        let engine = Simulated::new();
        let theirs: ImageDigest = format!("sha256:{:064x}", 7).parse().expect("a digest");
        engine.add_image("theirs:1", &theirs, Behaviour::default());
        let manifest = Manifest::named("shop".parse().expect("a name"));
        let get = |named: &str, may_use: bool| {
            let request = Request {
                source: Path::new("/nowhere"),
                manifest: &manifest,
                scope: "app",
                default_base: "host",
                may_use: &|_, _| may_use,
            };
            let base = Base::Named(named.to_owned());
            let found = get_base(&engine, &request, &base, &|_| {});
            found
                .map(|(facts, _)| facts.digest)
                .map_err(|cause| cause.to_string().replace(named, "IMAGE"))
        };
        let absent = format!("sha256:{:064x}", 8);
        assert_eq!(get(theirs.as_str(), true), Ok(theirs.clone()));
        assert_eq!(get(theirs.as_str(), false), get(&absent, true));
        assert!(get(&absent, true).is_err());
    }
}
