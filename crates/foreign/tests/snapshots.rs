//! Published files of well-known applications, written anew from their documentation, and what comes of them.
//!
//! `STOA_WRITE_SNAPSHOTS=1 cargo test -p stoa-foreign` writes what is said now; the diff shows it for review.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use foreign::{Beside, Form, ImportError, Imported};
use model::manifest::Manifest;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// Compares with the committed text, or writes it.
fn check(path: &Path, text: &str) {
    if std::env::var_os("STOA_WRITE_SNAPSHOTS").is_some() {
        std::fs::write(path, text).expect("written");
    }
    let known = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        known,
        text,
        "{}: review, then STOA_WRITE_SNAPSHOTS=1",
        path.display()
    );
}

/// What a person gets to see of an import: the file, what would run, and every remark.
fn told(name: &str, imported: &Imported) -> String {
    let file = imported.text(name);
    let again = Manifest::parse(&file).unwrap_or_else(|problems| panic!("{name}: {problems:?}\n{file}"));
    assert_eq!(
        again, imported.manifest,
        "{name}: what is written is what was read"
    );
    let mut text = format!("{file}\n##### a deploy would run\n");
    for line in imported.would_run() {
        let _ = writeln!(text, "{line}");
    }
    text.push_str("\n##### not taken over as it stood\n");
    for remark in &imported.remarks {
        let _ = writeln!(text, "{remark}");
    }
    text
}

fn import(form: Form, file: &Path) -> Result<Imported, ImportError> {
    let text = std::fs::read_to_string(file).expect("a file");
    let app = file
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    let app = app
        .to_lowercase()
        .trim_start_matches('.')
        .parse()
        .expect("a name");
    foreign::import(form, &text, &app, &Beside::default())
}

#[test]
fn compose_files_of_well_known_applications() {
    let mut seen = 0;
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder().join("compose"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    for file in files {
        seen += 1;
        let imported =
            import(Form::Compose, &file).unwrap_or_else(|error| panic!("{}: {error:?}", file.display()));
        assert!(
            !imported.would_run().is_empty(),
            "{}: nothing would run",
            file.display()
        );
        let name = file
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        check(&file.with_extension("txt"), &told(name, &imported));
    }
    assert!(seen >= 10, "only {seen} files");
}

#[test]
fn files_of_other_platforms() {
    for name in ["Procfile", "app.json", "fly.toml", "dotenv.env"] {
        let form = Form::of_file(name).expect("a known form");
        let file = folder().join("other").join(name);
        let imported = import(form, &file).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        check(
            &folder().join("other").join(format!("{name}.txt")),
            &told(name, &imported),
        );
    }
}

#[test]
fn no_value_that_looks_like_a_secret_gets_through() {
    for (file, secrets) in [
        ("compose/ghost.yaml", &["example"][..]),
        ("compose/wordpress.yaml", &["somewordpress"]),
        (
            "compose/umami.yaml",
            &["replace-me-with-a-random-string", "umami:umami"],
        ),
        ("compose/miniflux.yaml", &["test123", "secret@"]),
        ("compose/metabase.yaml", &["mysecretpassword"]),
        ("other/fly.toml", &["abc"]),
        ("other/dotenv.env", &["sk_live_1", "shop:pw"]),
    ] {
        let path = folder().join(file);
        let form = Form::of_file(file.rsplit('/').next().expect("a name")).expect("a form");
        let imported = import(form, &path).expect(file);
        let all = format!("{}{:?}", imported.text("x"), imported.remarks);
        for secret in secrets {
            let hits = all.matches(secret).count();
            // "example" is the value of a password in one file, and part of example.org in our own words.
            let allowed = all.matches("example.org").count() + all.matches("for example").count();
            assert!(
                hits <= allowed * usize::from(*secret == "example"),
                "{file}: {secret}"
            );
        }
    }
}
