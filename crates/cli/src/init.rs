//! `stoa init`: a short `stoa.toml` for a directory, or one made of another platform's file.
//!
//! Lives here: which files are read and written, and what is said about it. Does not live here: what other files mean
//! (`foreign`).

use std::io::Write as _;
use std::path::Path;

use foreign::{Beside, Form, ImportError, Imported};
use model::Name;
use model::manifest::{FILE, Manifest};

use crate::args::InitArgs;
use crate::failure::{Code, Failure};
use crate::output::{self, say};
use crate::project;

/// What we recognise by a file, and what the server makes of it.
const KINDS: [(&str, &str); 8] = [
    ("Procfile", "a Procfile: its lines are the services"),
    ("requirements.txt", "Python (requirements.txt)"),
    ("pyproject.toml", "Python (pyproject.toml)"),
    ("package.json", "Node (package.json)"),
    ("Cargo.toml", "Rust (Cargo.toml)"),
    ("main.py", "Python (main.py)"),
    ("app.py", "Python (app.py)"),
    ("index.html", "a static site"),
];

pub(crate) fn init(as_json: bool, args: &InitArgs) -> Result<u8, Failure> {
    if args.schema {
        output::json(&model::manifest::schema())?;
        return Ok(0);
    }
    project::need_dir(&args.dir)?;
    let named = args.app.clone().or_else(|| project::name_of(&args.dir));
    if let Some(file) = &args.from {
        return from(as_json, args, file, named);
    }
    let app = named.ok_or_else(nameless)?;
    let path = write(&args.dir, &Manifest::named(app.clone()).to_toml())?;
    let found = KINDS.iter().find(|(name, _)| args.dir.join(name).exists());
    match found {
        Some((_, kind)) => say(&format!("wrote {path} for the app {app}; found {kind}")),
        None => say(&format!(
            "wrote {path} for the app {app}; found no sign of how to run it: give [services.web] a command"
        )),
    }
    say("next: stoa deploy");
    if as_json {
        output::json(&serde_json::json!({"app": app, "file": path}))?;
    }
    Ok(0)
}

fn nameless() -> Failure {
    Failure::new(
        Code::Usage,
        "the directory's name does not make a name for an app",
        "name it: stoa init --app NAME",
    )
}

/// Writes the file where there is none; gives its path for people.
fn write(dir: &Path, text: &str) -> Result<String, Failure> {
    let path = dir.join(FILE);
    let mut file = std::fs::File::create_new(&path).map_err(|cause| match cause.kind() {
        std::io::ErrorKind::AlreadyExists => Failure::new(
            Code::Conflict,
            format!("{} is there already", path.display()),
            "edit it, then: stoa deploy",
        ),
        _ => Failure::local(format!("could not write {}", path.display()), &cause),
    })?;
    file.write_all(text.as_bytes())
        .map_err(|cause| Failure::local(format!("could not write {}", path.display()), &cause))?;
    Ok(path.display().to_string())
}

/// `--from FILE`: a manifest of another platform's file, and the list of what was not taken over.
fn from(as_json: bool, args: &InitArgs, file: &Path, named: Option<Name>) -> Result<u8, Failure> {
    let source = file
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let form = Form::of_file(source).ok_or_else(|| {
        Failure::new(
            Code::Usage,
            format!("{} is none of the files that can be read", file.display()),
            "give compose.yaml, Procfile, app.json, fly.toml or .env: stoa init --from FILE",
        )
    })?;
    let app = named.ok_or_else(nameless)?;
    let text = read(file)?;
    let imported = foreign::import(form, &text, &app, &beside(form, file, &args.dir)?)
        .map_err(|error| refused(file, error))?;
    let path = write(&args.dir, &imported.text(source))?;
    tell(&imported, file, &path);
    if as_json {
        output::json(&serde_json::json!({
            "app": imported.manifest.app,
            "file": path,
            "from": file,
            "would_run": imported.would_run(),
            "remarks": imported.remarks,
        }))?;
    }
    Ok(0)
}

fn read(file: &Path) -> Result<String, Failure> {
    let bytes = std::fs::read(file).map_err(|cause| {
        let code = match cause.kind() {
            std::io::ErrorKind::NotFound => Code::NotFound,
            _ => Code::Failed,
        };
        Failure::new(
            code,
            format!("could not read {}: {cause}", file.display()),
            "name the file: stoa init --from FILE",
        )
    })?;
    String::from_utf8(bytes).map_err(|_| {
        Failure::new(
            Code::Failed,
            format!("{} is not UTF-8 text", file.display()),
            "save it as UTF-8 and try again",
        )
    })
}

/// Compose replaces variables by what `.env` beside the file says; what runs is said by the Procfile of the directory.
fn beside(form: Form, file: &Path, dir: &Path) -> Result<Beside, Failure> {
    let mut beside = Beside::default();
    let (dotenv, procfile) = (file.with_file_name(".env"), dir.join("Procfile"));
    if form == Form::Compose && dotenv.exists() {
        beside.variables = foreign::variables(&read(&dotenv)?).map_err(|why| refused(&dotenv, why.into()))?;
    }
    if matches!(form, Form::AppJson | Form::Dotenv) && procfile.exists() {
        beside.procfile = Some(read(&procfile)?);
    }
    Ok(beside)
}

fn refused(file: &Path, error: ImportError) -> Failure {
    let (message, details) = match error {
        ImportError::Unreadable(why) => (format!("{}:{why}", file.display()), Vec::new()),
        ImportError::Nothing { remarks } => (
            format!("no stoa.toml can be made of {}", file.display()),
            remarks.iter().map(ToString::to_string).collect(),
        ),
    };
    let mut failure = Failure::new(
        Code::Failed,
        message,
        "mend the file and try again, or write a short one: stoa init",
    );
    failure.details = details;
    failure
}

fn tell(imported: &Imported, file: &Path, path: &str) {
    say(&format!(
        "wrote {path} for the app {} from {}",
        imported.manifest.app,
        file.display()
    ));
    say("a deploy would run:");
    for line in imported.would_run() {
        say(&format!("  {line}"));
    }
    if imported.remarks.is_empty() {
        say("everything was taken over");
    } else {
        say("not taken over as it stood (line:column):");
    }
    for remark in &imported.remarks {
        say(&format!("  {remark}"));
    }
    say(&format!("next: look at {path}, then: stoa deploy --plan"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_written_once_and_is_valid() {
        let dir = tempfile::tempdir().expect("a directory");
        let args = InitArgs {
            dir: dir.path().to_owned(),
            app: "shop".parse().ok(),
            from: None,
            schema: false,
        };
        init(false, &args).expect("written");
        let (_, manifest) = project::manifest(dir.path()).expect("valid").expect("there");
        assert_eq!(manifest.app.as_str(), "shop");
        assert_eq!(init(false, &args).expect_err("again").code, Code::Conflict);
    }

    #[test]
    fn a_compose_file_gets_the_variables_beside_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("compose.yaml");
        std::fs::write(
            &file,
            "services: {web: {image: 'x:${TAG}', ports: ['80:80'], tty: true}}",
        )
        .expect("written");
        std::fs::write(dir.path().join(".env"), "TAG=7\n").expect("written");
        let args = InitArgs {
            dir: dir.path().to_owned(),
            app: "shop".parse().ok(),
            from: Some(file),
            schema: false,
        };
        init(false, &args).expect("written");
        let (text, manifest) = project::manifest(dir.path()).expect("valid").expect("there");
        let web = manifest.services.values().next().expect("a service");
        assert_eq!((web.image.as_deref(), web.port), (Some("x:7"), Some(80)));
        assert!(
            text.starts_with("# Made from compose.yaml by stoa init.\n"),
            "{text}"
        );
    }

    #[test]
    fn what_can_not_be_read_leaves_no_file() {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, text, code) in [
            ("notes.txt", "x", Code::Usage),
            ("compose.yaml", "services: {db: {image: postgres}}", Code::Failed),
            ("fly.toml", "app = ", Code::Failed),
            ("app.json", "[]", Code::Failed),
            ("gone.yaml", "", Code::NotFound),
        ] {
            let file = dir.path().join(name);
            if code != Code::NotFound {
                std::fs::write(&file, text).expect("written");
            }
            let args = InitArgs {
                dir: dir.path().to_owned(),
                app: "shop".parse().ok(),
                from: Some(file),
                schema: false,
            };
            let failure = init(false, &args).expect_err(name);
            assert_eq!(failure.code, code, "{name}: {}", failure.message);
            assert!(!failure.next.is_empty(), "{name}");
            assert!(!dir.path().join(FILE).exists(), "{name}");
        }
    }
}
