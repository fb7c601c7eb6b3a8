//! Images from outside: an OCI archive, and a real registry program on loopback; each is deployed and answers.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use journeys::{PATIENCE, Stoa, http, until};
use serde_json::{Value, json};

/// An OCI layout with one layer: the API of `examples/rust-api` and its libraries.
struct Layout {
    folder: PathBuf,
}

impl Layout {
    fn make(root: &Path) -> Result<Self> {
        let layout = Self {
            folder: root.join("layout"),
        };
        let files = root.join("layer");
        let program = journeys::rust_api()?;
        copy(&program, &files.join("bin/rust-api"))?;
        for library in [
            "lib64/ld-linux-x86-64.so.2",
            "lib/x86_64-linux-gnu/libc.so.6",
            "lib/x86_64-linux-gnu/libgcc_s.so.1",
        ] {
            copy(&Path::new("/").join(library), &files.join(library))?;
        }
        fs::create_dir_all(layout.folder.join("blobs/sha256"))?;
        let layer_file = root.join("layer.tar");
        tar(&layer_file, &files)?;
        let layer = layout.blob(&fs::read(&layer_file)?, "application/vnd.oci.image.layer.v1.tar")?;
        let config = json!({
            "architecture": "amd64", "os": "linux",
            "config": { "Cmd": ["/bin/rust-api"], "Env": ["GREETING=from an image"], "ExposedPorts": { "8080/tcp": {} } },
            "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
        });
        let config = layout.blob(
            config.to_string().as_bytes(),
            "application/vnd.oci.image.config.v1+json",
        )?;
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer] });
        let mut manifest = layout.blob(manifest.to_string().as_bytes(), kind)?;
        manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "1" });
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        fs::write(layout.folder.join("index.json"), index.to_string())?;
        fs::write(
            layout.folder.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )?;
        Ok(layout)
    }

    /// Stores bytes under their digest; their descriptor.
    fn blob(&self, bytes: &[u8], kind: &str) -> Result<Value> {
        let place = self.folder.join("blobs/sha256");
        let draft = place.join("draft");
        fs::write(&draft, bytes)?;
        let output = Command::new("sha256sum").arg(&draft).output()?;
        let text = String::from_utf8(output.stdout)?;
        let digest = text.split(' ').next().context("sha256sum says nothing")?;
        fs::rename(&draft, place.join(digest))?;
        Ok(json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len() }))
    }
}

/// Debian's registry on a port of its own, in a directory of the journey.
struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    fn start(root: &Path) -> Result<Self> {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let folder = root.join("registry");
        fs::create_dir_all(&folder)?;
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            folder.display()
        );
        let configuration = root.join("registry.yml");
        fs::write(&configuration, text)?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&configuration)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("could not start docker-registry")?;
        let registry = Self { child, address };
        let socket = registry.address.parse()?;
        until("the registry", PATIENCE, || {
            Ok(http::get(socket, "registry", "/v2/")
                .ok()
                .filter(|r| r.status == 200))
        })?;
        Ok(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn tar(archive: &Path, folder: &Path) -> Result<()> {
    let output = Command::new("tar")
        .arg("-cf")
        .arg(archive)
        .arg("-C")
        .arg(folder)
        .arg(".")
        .output()?;
    ensure!(
        output.status.success(),
        "tar: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("a file has a folder")?)?;
    fs::copy(from, to).with_context(|| format!("could not copy {}", from.display()))?;
    Ok(())
}

fn answers(stoa: &Stoa, app: &str) -> Result<()> {
    let page = stoa.get(&format!("{app}.localhost"), "/")?;
    ensure!(
        page.status == 200 && page.text().contains("from an image"),
        "{}: {}",
        page.status,
        page.text()
    );
    Ok(())
}

#[test]
fn an_archive_and_a_registry() -> Result<()> {
    let stoa = Stoa::start("images")?;
    let layout = Layout::make(stoa.root())?;

    let archive = stoa.root().join("image.tar");
    tar(&archive, &layout.folder)?;
    stoa.cli(&[
        "image",
        "import",
        &archive.to_string_lossy(),
        "--name",
        "imported",
    ])?
    .ok()?;
    stoa.cli(&["image", "inspect", "imported"])?
        .ok()?
        .says("/bin/rust-api")?;
    stoa.cli(&["deploy", "--app", "from-archive", "--image", "imported"])?
        .ok()?;
    answers(&stoa, "from-archive")?;

    let registry = Registry::start(stoa.root())?;
    let reference = format!("{}/team/rust-api:1", registry.address);
    let output = Command::new("skopeo")
        .args(["copy", "--insecure-policy", "--dest-tls-verify=false"])
        .arg(format!("oci:{}:1", layout.folder.display()))
        .arg(format!("docker://{reference}"))
        .output()?;
    ensure!(
        output.status.success(),
        "skopeo: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    stoa.cli(&["image", "pull", &reference, "--insecure", "--name", "pulled"])?
        .ok()?;
    stoa.cli(&["deploy", "--app", "from-registry", "--image", "pulled"])?
        .ok()?;
    answers(&stoa, "from-registry")?;

    // Pinned: what runs does not change with the registry, or with its absence.
    drop(registry);
    stoa.cli(&["restart", "--app", "from-registry"])?.ok()?;
    answers(&stoa, "from-registry")?;
    // A name may go; the image that a release runs stays.
    stoa.cli(&["image", "rm", "pulled"])?.ok()?;
    stoa.cli(&["restart", "--app", "from-registry"])?.ok()?;
    answers(&stoa, "from-registry")?;
    stoa.finish()
}

/// Control asks registries from the host, past the firewall that confines instances: what a manifest or a deploy names
/// must not lead it to the host's own services. The operator's own wish may.
#[test]
fn a_deploy_leads_nobody_to_services_of_the_host() -> Result<()> {
    let stoa = Stoa::start("image-reach")?;
    let service = TcpListener::bind(("127.0.0.1", 0))?;
    service.set_nonblocking(true)?;
    let reference = format!("{}/team/app:1", service.local_addr()?);
    let was_asked = || service.accept().is_ok();

    let folder = stoa.root().join("source");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("run"), "#!/bin/sh\n")?;
    let base = format!(
        "schema = 1\napp = \"base\"\n[build]\nbase = \"{reference}\"\n[services.web]\ncommand = [\"./run\"]\n"
    );
    let service_image = format!(
        "schema = 1\napp = \"own\"\n[services.web]\nimage = \"{reference}\"\ncommand = [\"./run\"]\n"
    );
    for manifest in [base, service_image] {
        fs::write(folder.join("stoa.toml"), manifest)?;
        stoa.cli(&["deploy", &folder.to_string_lossy()])?
            .exits(1)?
            .says("not at a public address")?;
        ensure!(!was_asked(), "the manifest led control to a service of the host");
    }
    stoa.cli(&["deploy", "--app", "direct", "--image", &reference])?
        .exits(1)?
        .says("stoa image pull")?;
    ensure!(!was_asked(), "the deploy led control to a service of the host");

    // The control: an operator's pull of the same reference gets there.
    let is_asked = std::thread::scope(|scope| {
        let pull = scope.spawn(|| stoa.cli(&["image", "pull", &reference]));
        let mut is_asked = false;
        until("the end of the operator's pull", PATIENCE, || {
            is_asked |= was_asked();
            Ok(pull.is_finished().then_some(()))
        })?;
        anyhow::Ok(is_asked)
    })?;
    ensure!(is_asked, "the probe cannot tell");
    stoa.finish()
}
