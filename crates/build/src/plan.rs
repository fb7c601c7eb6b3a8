//! From what a source is to the steps that make its image.
//!
//! ```text
//! base -> languages' packages (cached by lock files) -> source -> the project's own build -> image
//! ```
//! Lives here: which steps, in which order, with which inputs; a pure value that can be read and compared.
//! Does not live here: running them (`run`), what the source is (`detect`).
//! Invariants: no shell, each step is one program and its arguments; packages come before the source, so that a change of
//! the source alone installs nothing again; everything ours lies below [`TOOLS`].

use std::collections::{BTreeMap, BTreeSet};

use model::Millis;
use model::manifest::Manifest;

use crate::detect::{Detected, Node, Python, Requirements, Site};
use crate::error::BuildError;

/// Where the source is inside.
pub(crate) const APP: &str = "/app";
/// Where what we add is.
pub(crate) const TOOLS: &str = "/app/.stoa";
/// The server for static sites.
pub(crate) const FILES: &str = "/app/.stoa/files";
/// The files of a source that is a site.
pub(crate) const SITE: &str = "/app/site";
/// Python with the app's packages.
const PYTHON: &str = "/app/.stoa/python";
/// Requirements that we wrote.
pub(crate) const LISTED: &str = ".stoa/requirements.txt";
/// Where the host image shows a Rust toolchain that its operator gave.
const RUST: &str = "/opt/toolchains/rust/bin";

/// Making an environment copies files.
const QUICK: Millis = Millis::seconds(300);
/// Packages may have to be compiled; half an hour is the time of a whole deploy.
const LONG: Millis = Millis::seconds(1500);

/// The image below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Base {
    /// As written.
    Named(String),
    /// Made of Debian packages.
    Debian {
        suite: String,
        packages: BTreeSet<String>,
    },
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) base: Base,
    pub(crate) steps: Vec<Step>,
    /// Directories with programs, before those of the base.
    pub(crate) paths: Vec<String>,
    /// Environment of the image.
    pub(crate) env: BTreeMap<String, String>,
    /// What the image runs when a service does not say.
    pub(crate) command: Option<Vec<String>>,
    /// A file of the source that gets the permission to be run.
    pub(crate) executable: Option<String>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    /// Nothing: the inputs alone are the layer.
    pub(crate) argv: Vec<String>,
    pub(crate) inputs: Inputs,
    /// Whether the server for static sites is put in, too.
    pub(crate) serves_files: bool,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) network: bool,
    pub(crate) timeout: Millis,
}

/// What of the source a step sees, beyond what earlier ones left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Inputs {
    /// Nothing new.
    Nothing,
    /// These files; those that are not there are left out.
    Files(Vec<String>),
    /// A file of ours.
    Written { file: String, text: String },
    /// All of it.
    Source,
    /// All of it that is for visitors.
    Site,
}

/// The steps for a source.
///
/// # Errors
/// When the manifest asks for Debian packages on a base that is not Debian.
pub(crate) fn plan(detected: &Detected, manifest: &Manifest, default_base: &str) -> Result<Plan, BuildError> {
    let base = base(detected, manifest, default_base)?;
    let mut plan = Plan {
        base,
        steps: Vec::new(),
        paths: Vec::new(),
        env: BTreeMap::new(),
        command: detected.found.commands.get("web").cloned(),
        executable: detected.executable.clone(),
    };
    let builds = commands(detected, manifest);
    if let Some(python) = &detected.python {
        plan.python(python);
    }
    if let Some(node) = &detected.node {
        plan.node(node, !builds.is_empty());
    }
    plan.source(detected);
    if detected
        .python
        .as_ref()
        .is_some_and(|python| python.installs_itself)
    {
        plan.add(Step {
            network: true,
            timeout: LONG,
            ..step("project", &pip(&["--no-deps", "."]))
        });
    }
    if let Some(krate) = detected.rust.as_ref().filter(|krate| krate.built.is_none()) {
        plan.rust(krate.has_lock);
    }
    for command in builds {
        plan.add(Step {
            argv: command,
            network: true,
            timeout: LONG,
            ..step("build", &[])
        });
    }
    Ok(plan)
}

fn base(detected: &Detected, manifest: &Manifest, default_base: &str) -> Result<Base, BuildError> {
    let build = &manifest.build;
    let named = match (&build.base, build.packages.is_empty()) {
        (Some(base), _) => base.as_str(),
        (None, true) => default_base,
        // Packages without a base ask for the one that has them.
        (None, false) => "debian:12",
    };
    let suite = match named.split_once(':') {
        Some(("debian", suite)) => suite,
        Some(_) => "",
        None if named == "debian" => "12",
        None => "",
    };
    if suite.is_empty() && !build.packages.is_empty() {
        return Err(BuildError::file(
            "stoa.toml",
            format!("build.packages are Debian packages, but build.base is {named:?}"),
            "write base = \"debian:12\", or leave base out",
        ));
    }
    if suite.is_empty() {
        return Ok(Base::Named(named.to_owned()));
    }
    let mut packages: BTreeSet<String> = build.packages.iter().cloned().collect();
    let mut need = |names: &[&str]| packages.extend(names.iter().map(|name| (*name).to_owned()));
    if detected.python.is_some() {
        need(&["python3", "python3-venv"]);
    }
    if detected.node.is_some() {
        need(&["nodejs", "npm"]);
    }
    if detected.rust.as_ref().is_some_and(|krate| krate.built.is_none()) {
        need(&["cargo", "gcc", "libc6-dev"]);
    }
    Ok(Base::Debian {
        suite: suite.to_owned(),
        packages,
    })
}

/// The project's own build: what the manifest says, else the script that Node projects have for it.
fn commands(detected: &Detected, manifest: &Manifest) -> Vec<Vec<String>> {
    if !manifest.build.commands.is_empty() {
        return manifest.build.commands.clone();
    }
    let has_build = detected.node.as_ref().is_some_and(|node| node.has_build);
    if has_build {
        vec![words(&["npm", "run", "build"])]
    } else {
        Vec::new()
    }
}

impl Plan {
    fn add(&mut self, step: Step) {
        self.steps.push(step);
    }

    fn python(&mut self, python: &Python) {
        let installs = python.requirements != Requirements::None || python.installs_itself;
        let mut venv = words(&["python3", "-m", "venv", PYTHON]);
        if !installs {
            // Quicker, and enough to have a `python`.
            venv.insert(3, "--without-pip".to_owned());
        }
        // An input, though an empty one: it makes the directory, owned by the step's user.
        let nothing = Inputs::Files(Vec::new());
        self.add(Step {
            argv: venv,
            inputs: nothing,
            timeout: QUICK,
            ..step("python", &[])
        });
        let install = |file: &str, inputs| Step {
            inputs,
            network: true,
            timeout: LONG,
            ..step("dependencies", &pip(&["-r", file]))
        };
        match &python.requirements {
            Requirements::None => {}
            Requirements::Files(files) => {
                self.add(install(
                    files.first().map_or("requirements.txt", String::as_str),
                    Inputs::Files(files.clone()),
                ));
            }
            Requirements::WithSource(file) => self.add(install(file, Inputs::Source)),
            Requirements::List(lines) => {
                let text = lines.iter().map(|line| format!("{line}\n")).collect();
                self.add(install(
                    LISTED,
                    Inputs::Written {
                        file: LISTED.to_owned(),
                        text,
                    },
                ));
            }
        }
        self.paths.push(format!("{PYTHON}/bin"));
        // Log lines are seen when they are printed, not when a buffer is full.
        self.env.insert("PYTHONUNBUFFERED".to_owned(), "1".to_owned());
    }

    fn node(&mut self, node: &Node, builds: bool) {
        self.env.insert("NODE_ENV".to_owned(), "production".to_owned());
        if !node.has_dependencies {
            return;
        }
        let command = if node.has_lock { "ci" } else { "install" };
        // What builds the project is a development dependency to npm.
        let kinds = if builds { "--include=dev" } else { "--omit=dev" };
        let argv = words(&["npm", command, kinds, "--no-audit", "--no-fund", "--no-progress"]);
        let files = [
            "package.json",
            "package-lock.json",
            "npm-shrinkwrap.json",
            ".npmrc",
        ];
        let inputs = if node.needs_source {
            Inputs::Source
        } else {
            Inputs::Files(words(&files))
        };
        self.add(Step {
            argv,
            inputs,
            network: true,
            timeout: LONG,
            ..step("dependencies", &[])
        });
        self.paths.push(format!("{APP}/node_modules/.bin"));
    }

    fn source(&mut self, detected: &Detected) {
        let inputs = match &detected.site {
            Some(Site::Source) => Inputs::Site,
            Some(Site::Directory(_)) | None => Inputs::Source,
        };
        let serves_files = detected.site.is_some();
        let is_there = self.steps.iter().any(|step| step.inputs == Inputs::Source);
        if !is_there || serves_files {
            self.add(Step {
                inputs,
                serves_files,
                ..step("source", &[])
            });
        }
    }

    fn rust(&mut self, has_lock: bool) {
        let mut argv = words(&["cargo", "install", "--path", ".", "--root", TOOLS, "--no-track"]);
        if has_lock {
            argv.push("--locked".to_owned());
        }
        let env = [("CARGO_HOME", "/tmp/cargo"), ("CARGO_TARGET_DIR", "/tmp/target")];
        let env = env
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        self.add(Step {
            argv,
            env,
            network: true,
            timeout: LONG,
            ..step("cargo", &[])
        });
    }

    /// Directories with programs while it is built.
    pub(crate) fn build_paths(&self) -> Vec<String> {
        let cargo = self.steps.iter().any(|step| step.name == "cargo");
        let rust = cargo.then(|| RUST.to_owned());
        self.paths.iter().cloned().chain(rust).collect()
    }
}

fn step(name: &'static str, argv: &[String]) -> Step {
    Step {
        name,
        argv: argv.to_vec(),
        inputs: Inputs::Nothing,
        serves_files: false,
        env: BTreeMap::new(),
        network: false,
        timeout: QUICK,
    }
}

fn pip(arguments: &[&str]) -> Vec<String> {
    let program = format!("{PYTHON}/bin/pip");
    let quiet = [
        "install",
        "--no-input",
        "--no-cache-dir",
        "--disable-pip-version-check",
        "--progress-bar=off",
    ];
    words(&[program.as_str()])
        .into_iter()
        .chain(words(&quiet))
        .chain(words(arguments))
        .collect()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
