//! What is written, judged by the program it is written for. Kubernetes' own schemas: `cargo xtask judge`.

use std::path::Path;
use std::process::{Command, Output};

fn compose(text: &str) -> Output {
    let folder = std::env::temp_dir().join(format!("stoa-compose-{}-{}", std::process::id(), text.len()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("compose.yaml");
    std::fs::write(&file, text).expect("written");
    let output = Command::new("docker-compose")
        .arg("--file")
        .arg(&file)
        .arg("config")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("STRIPE_KEY", "sk")
        .env("MAIN_PASSWORD", "one")
        .env("OTHER_PASSWORD", "two")
        .output()
        .expect("docker-compose runs (cargo xtask packages)");
    std::fs::remove_dir_all(&folder).expect("removed");
    output
}

#[test]
fn docker_compose_accepts_what_is_exported() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/export/compose.yaml");
    let text = std::fs::read_to_string(path).expect("the snapshot");
    // Debian's docker-compose is from before the top-level name; it takes --project-name instead.
    let text = text.replacen("name: shop\n", "", 1);
    let said = compose(&text);
    let all = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    for expected in [
        "postgres://main:one@main:5432/main",
        "- --port=3000",
        "- info-",
        "published: 3000-3001",
        "- $$HOME",
        "5$$ $$(x) $${y}",
    ] {
        assert!(all.contains(expected), "{expected} is not in\n{all}");
    }
    // The judge must be able to find something, and secrets must be asked for.
    let planted = text.replacen("entrypoint:", "entripoint:", 1);
    assert!(!compose(&planted).status.success());
    let unset = text.replace("STRIPE_KEY:?", "NOBODY_SETS_THIS:?");
    assert!(!compose(&unset).status.success());
}
