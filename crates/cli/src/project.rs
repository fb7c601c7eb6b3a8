//! The directory somebody works in: its `stoa.toml` and which app it is.

use std::path::Path;

use model::manifest::{FILE, Manifest};

use crate::args::OfApp;
use crate::failure::{Code, Failure};

/// The text of a directory's manifest, and what it says; `None` when there is none.
pub(crate) fn manifest(dir: &Path) -> Result<Option<(String, Manifest)>, Failure> {
    let path = dir.join(FILE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => {
            return Err(Failure::local(
                format!("could not read {}", path.display()),
                &cause,
            ));
        }
    };
    let manifest = Manifest::parse(&text).map_err(|problems| {
        let mut failure = Failure::new(
            Code::Failed,
            format!("{} has {}", path.display(), count(problems.len(), "problem")),
            "mend the lines above and try again",
        );
        failure.details = problems.iter().map(ToString::to_string).collect();
        failure
    })?;
    Ok(Some((text, manifest)))
}

/// Refuses a directory that is not there before anything is concluded from what is not in it.
pub(crate) fn need_dir(dir: &Path) -> Result<(), Failure> {
    if dir.is_dir() {
        return Ok(());
    }
    Err(Failure::new(
        Code::Failed,
        format!("there is no directory {}", dir.display()),
        "name the app's directory; without a name it is the one you are in",
    ))
}

fn count(number: usize, what: &str) -> String {
    if number == 1 {
        format!("1 {what}")
    } else {
        format!("{number} {what}s")
    }
}

/// The app meant: `--app`, or that of `./stoa.toml`.
pub(crate) fn app(of: &OfApp) -> Result<String, Failure> {
    app_if_any(of)?.ok_or_else(|| {
        Failure::new(
            Code::Usage,
            "which app? there is no stoa.toml in this directory",
            "name it: --app NAME; see which there are: stoa apps ls",
        )
    })
}

/// The same for commands that can do without one.
pub(crate) fn app_if_any(of: &OfApp) -> Result<Option<String>, Failure> {
    if let Some(app) = &of.app {
        return Ok(Some(app.clone()));
    }
    Ok(manifest(Path::new("."))?.map(|(_, manifest)| manifest.app.to_string()))
}

/// A name for an app made from a directory's name: what can not be in a name becomes a hyphen.
pub(crate) fn name_of(dir: &Path) -> Option<model::Name> {
    let full = dir.canonicalize().ok()?;
    foreign::fitting(full.file_name()?.to_str()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_give_names() {
        let dir = tempfile::tempdir().expect("a directory");
        for (directory, name) in [
            ("Shop", Some("shop")),
            ("2 my_app!", Some("my-app")),
            ("123", None),
        ] {
            let path = dir.path().join(directory);
            std::fs::create_dir(&path).expect("made");
            assert_eq!(
                name_of(&path).map(|n| n.to_string()).as_deref(),
                name,
                "{directory}"
            );
        }
    }
}
