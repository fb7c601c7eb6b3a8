//! `stoa init`: a short `stoa.toml` for a directory.

use std::io::Write as _;

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
    let path = args.dir.join(FILE);
    let app = args
        .app
        .clone()
        .or_else(|| project::name_of(&args.dir))
        .ok_or_else(|| {
            Failure::new(
                Code::Usage,
                "the directory's name does not make a name for an app",
                "name it: stoa init --app NAME",
            )
        })?;
    let text = Manifest::named(app.clone()).to_toml();
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
    let found = KINDS.iter().find(|(name, _)| args.dir.join(name).exists());
    match found {
        Some((_, kind)) => say(&format!(
            "wrote {} for the app {app}; found {kind}",
            path.display()
        )),
        None => say(&format!(
            "wrote {} for the app {app}; found no sign of how to run it: give [services.web] a command",
            path.display()
        )),
    }
    say("next: stoa deploy");
    if as_json {
        output::json(&serde_json::json!({"app": app, "file": path}))?;
    }
    Ok(0)
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
            schema: false,
        };
        init(false, &args).expect("written");
        let (_, manifest) = project::manifest(dir.path()).expect("valid").expect("there");
        assert_eq!(manifest.app.as_str(), "shop");
        assert_eq!(init(false, &args).expect_err("again").code, Code::Conflict);
    }
}
