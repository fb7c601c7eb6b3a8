//! Python: what must be installed, and how the app is started.

use std::collections::BTreeSet;
use std::path::Path;

use crate::error::BuildError;

/// A Python program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Python {
    pub(crate) requirements: Requirements,
    /// `pyproject.toml` declares commands, so the project itself is installed, too.
    pub(crate) installs_itself: bool,
    pub(crate) start: Option<Vec<String>>,
}

/// What pip installs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Requirements {
    /// Nothing.
    None,
    /// Files, the first of which names the others.
    Files(Vec<String>),
    /// Files that name parts of the source itself.
    WithSource(String),
    /// The dependencies in `pyproject.toml`.
    List(Vec<String>),
}

const REQUIREMENTS: &str = "requirements.txt";
const PROJECT: &str = "pyproject.toml";

/// Files that hold an app by convention.
const APPS: [&str; 7] = [
    "app.py",
    "main.py",
    "wsgi.py",
    "asgi.py",
    "server.py",
    "application.py",
    "run.py",
];

pub(super) fn look(dir: &Path) -> Result<Option<Python>, BuildError> {
    let project = super::text(dir, PROJECT)?;
    let mut installs_itself = false;
    let mut names = BTreeSet::new();
    let requirements = if super::has(dir, REQUIREMENTS) {
        let mut files = Files::default();
        files.follow(dir, REQUIREMENTS)?;
        names = files.names;
        if files.names_source {
            Requirements::WithSource(REQUIREMENTS.to_owned())
        } else {
            Requirements::Files(files.read)
        }
    } else if let Some(text) = &project {
        let read = read_project(text)?;
        installs_itself = read.has_scripts;
        names.extend(read.dependencies.iter().filter_map(|line| name_of(line)));
        if read.dependencies.is_empty() {
            Requirements::None
        } else {
            Requirements::List(read.dependencies)
        }
    } else if ["main.py", "app.py"].iter().any(|file| super::has(dir, file)) {
        Requirements::None
    } else {
        return Ok(None);
    };
    let start = start(dir, &names)?;
    Ok(Some(Python {
        requirements,
        installs_itself,
        start,
    }))
}

#[derive(Default)]
struct Files {
    read: Vec<String>,
    names: BTreeSet<String>,
    names_source: bool,
}

impl Files {
    /// Reads a requirements file and those it includes.
    fn follow(&mut self, dir: &Path, file: &str) -> Result<(), BuildError> {
        if self.read.iter().any(|read| read == file) {
            return Ok(());
        }
        let Some(text) = super::text(dir, file)? else {
            let why = "it is included, but not there";
            return Err(BuildError::file(
                file,
                why,
                "add it, or remove the line that includes it",
            ));
        };
        self.read.push(file.to_owned());
        for line in text.lines().map(str::trim) {
            let included = ["-r", "--requirement", "-c", "--constraint"]
                .iter()
                .find_map(|option| {
                    let rest = line.strip_prefix(option)?;
                    rest.starts_with([' ', '=', '\t']).then(|| rest[1..].trim())
                });
            if let Some(included) = included {
                let folder = file
                    .rsplit_once('/')
                    .map_or(String::new(), |(folder, _)| format!("{folder}/"));
                let path = format!("{folder}{included}");
                if included.starts_with('/') || included.contains("..") || included.contains("://") {
                    // Its place is not inside what would be copied, or not a file at all: pip shall say what it is.
                    self.names_source = true;
                } else {
                    self.follow(dir, &path)?;
                }
            } else if ["-e", "--editable", "."]
                .iter()
                .any(|sign| line.starts_with(sign))
                || line.contains("file:")
            {
                self.names_source = true;
            } else if let Some(name) = name_of(line) {
                self.names.insert(name);
            }
        }
        Ok(())
    }
}

/// The package that a requirement names: `Flask[async]>=2 ; python_version > "3"` is `flask`.
fn name_of(line: &str) -> Option<String> {
    let end = line
        .find(|letter: char| !letter.is_ascii_alphanumeric() && !"-_.".contains(letter))
        .unwrap_or(line.len());
    let name = line[..end].to_ascii_lowercase().replace(['_', '.'], "-");
    (!name.is_empty() && !name.starts_with('-')).then_some(name)
}

struct Project {
    dependencies: Vec<String>,
    has_scripts: bool,
}

fn read_project(text: &str) -> Result<Project, BuildError> {
    let next = "add a requirements.txt, or mend it";
    let table: toml::Table =
        toml::from_str(text).map_err(|error| BuildError::file(PROJECT, error.message(), next))?;
    let Some(project) = table.get("project").and_then(toml::Value::as_table) else {
        let is_poetry = table.get("tool").is_some_and(|tool| tool.get("poetry").is_some());
        if is_poetry {
            let why = "its dependencies are written for Poetry only";
            return Err(BuildError::file(
                PROJECT,
                why,
                "write requirements.txt: poetry export -o requirements.txt",
            ));
        }
        return Ok(Project {
            dependencies: Vec::new(),
            has_scripts: false,
        });
    };
    let listed = project.get("dependencies").and_then(toml::Value::as_array);
    let line = |value: &toml::Value| value.as_str().map(str::to_owned);
    let dependencies: Vec<String> = listed.into_iter().flatten().filter_map(line).collect();
    if let Some(bad) = dependencies
        .iter()
        .find(|line| name_of(line).is_none() || line.contains('\n'))
    {
        return Err(BuildError::file(
            PROJECT,
            format!("{bad:?} is not a dependency"),
            next,
        ));
    }
    let has_scripts = project
        .get("scripts")
        .and_then(toml::Value::as_table)
        .is_some_and(|scripts| !scripts.is_empty());
    Ok(Project {
        dependencies,
        has_scripts,
    })
}

/// A guess, in the order in which it is most likely right.
fn start(dir: &Path, names: &BTreeSet<String>) -> Result<Option<Vec<String>>, BuildError> {
    let uses = |name: &str| names.contains(name);
    let bind = "0.0.0.0:$PORT";
    if super::has(dir, "manage.py") && uses("django") {
        return Ok(Some(match folder_with(dir, "wsgi.py") {
            Some(project) if uses("gunicorn") => {
                words(&["gunicorn", "--bind", bind, &format!("{project}.wsgi")])
            }
            Some(_) | None => words(&["python3", "manage.py", "runserver", "--noreload", bind]),
        }));
    }
    let apps = apps(dir)?;
    let of = |kinds: &[&str]| apps.iter().find(|app| kinds.contains(&app.kind.as_str()));
    if let Some(app) =
        of(&["FastAPI", "Starlette", "Quart", "Litestar"]).filter(|_| uses("uvicorn") || uses("fastapi"))
    {
        return Ok(Some(words(&[
            "uvicorn",
            &app.spelled(),
            "--host",
            "0.0.0.0",
            "--port",
            "$PORT",
        ])));
    }
    if uses("gunicorn") {
        let app = of(&["Flask", "Bottle", "Falcon", "API", "App"]).map(App::spelled);
        let spelled = app
            .or_else(|| apps.first().map(App::spelled))
            .or_else(|| plain_app(dir));
        if let Some(spelled) = spelled {
            return Ok(Some(words(&["gunicorn", "--bind", bind, &spelled])));
        }
    }
    if let Some(app) = of(&["Flask"]) {
        let spelled = app.spelled();
        return Ok(Some(words(&[
            "flask", "--app", &spelled, "run", "--host", "0.0.0.0", "--port", "$PORT",
        ])));
    }
    Ok(["main.py", "app.py", "server.py"]
        .iter()
        .find(|file| super::has(dir, file))
        .map(|file| words(&["python3", file])))
}

/// An app object in a file.
struct App {
    module: String,
    variable: String,
    kind: String,
}

impl App {
    fn spelled(&self) -> String {
        format!("{}:{}", self.module, self.variable)
    }
}

/// Lines like `app = Flask(__name__)` at the left margin.
fn apps(dir: &Path) -> Result<Vec<App>, BuildError> {
    let mut apps = Vec::new();
    for file in APPS {
        let Some(text) = super::text(dir, file)? else {
            continue;
        };
        for line in text.lines() {
            let Some((variable, value)) = line.split_once('=') else {
                continue;
            };
            let variable = variable.split(':').next().unwrap_or_default().trim_end();
            let Some((path, _)) = value.trim_start().split_once('(') else {
                continue;
            };
            let kind = path.rsplit('.').next().unwrap_or_default();
            let is_word =
                |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            let is_app = matches!(variable, "app" | "application" | "api" | "server");
            if is_app && is_word(kind) {
                let module = file.trim_end_matches(".py").to_owned();
                apps.push(App {
                    module,
                    variable: variable.to_owned(),
                    kind: kind.to_owned(),
                });
            }
        }
    }
    Ok(apps)
}

/// `app.py` with a function or object `app`, whatever it is made of.
fn plain_app(dir: &Path) -> Option<String> {
    let has = |file: &str| super::has(dir, file);
    if has("app.py") {
        Some("app:app".to_owned())
    } else if has("wsgi.py") {
        Some("wsgi".to_owned())
    } else if has("main.py") {
        Some("main:app".to_owned())
    } else {
        None
    }
}

/// The one directory (a Django project) that has this file.
fn folder_with(dir: &Path, file: &str) -> Option<String> {
    let mut folders: Vec<String> = std::fs::read_dir(dir)
        .ok()?
        .flatten()
        .filter(|entry| entry.path().join(file).is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    folders.sort();
    folders.into_iter().next()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
