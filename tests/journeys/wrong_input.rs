//! Wrong input at each verb gives a message with the next step and leaves nothing behind.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use anyhow::{Result, ensure};
use journeys::{Answer, Application, Stoa};

/// Runs something wrong; what is on the host must be the same afterwards.
fn wrong(stoa: &Stoa, code: i32, says: &str, run: impl FnOnce() -> Result<Answer>) -> Result<()> {
    let before = stoa.census();
    run()?.exits(code)?.says(says)?.has_next_step()?;
    let after = stoa.census();
    let new: Vec<_> = after.difference(&before).collect();
    ensure!(new.is_empty(), "left behind: {new:#?}");
    Ok(())
}

#[test]
fn manifests() -> Result<()> {
    let stoa = Stoa::start("wrong-manifest")?;
    let app = Application::copy("probe", stoa.root())?;
    let good = fs::read_to_string(app.folder().join("stoa.toml"))?;
    for (old, new, says) in [
        ("health =", "helth =", "did you mean health"),
        ("schema = 1", "schema = 7", "schema"),
        ("port = 8080", "port = 80800", "port"),
        ("app = \"probe\"", "app = \"No Such Name!\"", "name"),
        (
            "command = \"python3 server.py\"",
            "command = \"python3 server.py | tee log\"",
            "without a shell",
        ),
        ("port = 8080", "port = 8080\nuses = [\"nowhere\"]", "nowhere"),
        ("[env]", "[env", "stoa.toml"),
    ] {
        app.write("stoa.toml", &good.replace(old, new))?;
        wrong(&stoa, 1, says, || stoa.deploy(&app)).map_err(|error| error.context(format!("{new:?}")))?;
    }
    let apps = stoa.cli(&["apps", "ls", "--json"])?.ok()?.items()?;
    ensure!(apps.is_empty(), "an app was made of a wrong manifest: {apps:?}");
    stoa.finish()
}

#[test]
fn things_that_are_not_there() -> Result<()> {
    let stoa = Stoa::start("wrong-names")?;
    let empty = stoa.root().join("empty");
    fs::create_dir_all(&empty)?;
    let missing: [&[&str]; 10] = [
        &["releases", "--app", "nowhere"],
        &["rollback", "--app", "nowhere"],
        &["logs", "--app", "nowhere"],
        &["ps", "--app", "nowhere"],
        &["scale", "--app", "nowhere", "web=2"],
        &["restart", "--app", "nowhere"],
        &["env", "ls", "--app", "nowhere"],
        &["secrets", "ls", "--app", "nowhere"],
        &["db", "info", "nowhere"],
        &["image", "inspect", "nowhere"],
    ];
    for arguments in missing {
        wrong(&stoa, 3, "nowhere", || stoa.cli(arguments))?;
    }
    wrong(&stoa, 1, "nothing to deploy", || {
        stoa.cli_in(&empty, &["deploy"], b"")
    })?;
    stoa.cli(&["deplyo"])?.exits(2)?.says("deploy")?;
    stoa.cli(&["scale", "--app", "x", "web=many"])?
        .exits(2)?
        .says("web=3")?;
    stoa.finish()
}

#[test]
fn nobody_comes_in_without_a_token() -> Result<()> {
    let mut stoa = Stoa::prepare("wrong-token")?;
    stoa.up()?;
    let api = stoa.api_url();
    let as_person = |arguments: &[&str]| stoa.cli_of_person(arguments);
    let login = |claim: &str| as_person(&["login", "--api", &api, "--claim", claim]);
    as_person(&["status", "--api", &api])?.exits(4)?.has_next_step()?;
    login("stoa_claim_nonsense")?.exits(4)?.has_next_step()?;
    let claim = stoa.claim_token()?;
    login(&claim)?.ok()?;
    as_person(&["whoami"])?.ok()?.says("owner")?;
    // It works once.
    login(&claim)?.exits(4)?.has_next_step()?;
    as_person(&["logout"])?.ok()?;
    as_person(&["whoami", "--api", &api])?.exits(4)?.has_next_step()?;
    let data_dir = stoa.data_dir();
    as_person(&["login", "--local", "--data-dir", &data_dir.to_string_lossy()])?.ok()?;
    as_person(&["whoami"])?.ok()?;
    stoa.finish()
}

#[test]
fn a_missing_secret() -> Result<()> {
    let stoa = Stoa::start("wrong-secret")?;
    let app = Application::copy("probe", stoa.root())?;
    app.replace(
        "stoa.toml",
        "port = 8080",
        "port = 8080\nsecrets = [\"STRIPE_KEY\"]",
    )?;
    let answer = stoa.deploy(&app)?;
    ensure!(answer.code != 0, "it was deployed without its secret");
    answer.says("STRIPE_KEY")?.says("stoa secrets set STRIPE_KEY")?;
    stoa.cli_in(app.folder(), &["secrets", "set", "STRIPE_KEY"], b"sk-journey")?
        .ok()?;
    stoa.deploy(&app)?.ok()?;
    let environment = stoa.get(&app.host(), "/environment")?.text();
    ensure!(
        environment.contains("\"STRIPE_KEY\": \"sk-journey\""),
        "the secret was not delivered"
    );
    let seen = stoa
        .cli(&["secrets", "ls", "--app", "probe", "--json"])?
        .ok()?
        .stdout
        + &stoa.log();
    ensure!(!seen.contains("sk-journey"), "the secret is shown");
    stoa.finish()
}

#[test]
fn images_that_cannot_be_had() -> Result<()> {
    let stoa = Stoa::start("wrong-image")?;
    // A port that nobody has: taken and given back.
    let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let reference = format!("127.0.0.1:{port}/nobody/nothing:1");
    wrong(&stoa, 1, &reference, || {
        stoa.cli(&["image", "pull", &reference, "--insecure"])
    })?;
    let garbage = stoa.root().join("garbage.tar");
    fs::write(&garbage, b"this is no archive")?;
    let garbage = garbage.to_string_lossy().into_owned();
    wrong(&stoa, 1, "archive", || {
        stoa.cli(&["image", "import", &garbage, "--name", "garbage"])
    })?;
    wrong(&stoa, 1, "no-such-package-anywhere", || {
        stoa.cli(&[
            "image",
            "base",
            "create",
            "debian:12",
            "--packages",
            "no-such-package-anywhere",
        ])
    })?;
    let images = stoa.cli(&["image", "ls", "--json"])?.ok()?.items()?;
    ensure!(images.is_empty(), "an image was made of nothing: {images:?}");
    stoa.finish()
}

#[test]
fn a_port_in_use_names_its_holder() -> Result<()> {
    let taken = TcpListener::bind(("127.0.0.1", 0))?;
    let address = taken.local_addr()?.to_string();
    let stoa = Stoa::prepare("wrong-port")?;
    let data_dir = stoa.data_dir();
    let ports = [
        "--api",
        address.as_str(),
        "--http",
        "127.0.0.1:0",
        "--https",
        "127.0.0.1:0",
    ];
    let mut arguments = vec!["up", "--data-dir", data_dir.to_str().unwrap_or_default()];
    arguments.extend(ports);
    let answer = stoa.cli(&arguments)?;
    ensure!(answer.code != 0, "it started on a port that is taken");
    answer
        .says(&address)?
        .says(&std::process::id().to_string())?
        .has_next_step()?;
    ensure!(stoa.census().is_empty(), "left behind: {:#?}", stoa.census());
    stoa.finish()
}

/// Addresses that nobody else has, for a `stoa up` that must not start.
const PORTS: [&str; 6] = [
    "--api",
    "127.0.0.1:0",
    "--http",
    "127.0.0.1:0",
    "--https",
    "127.0.0.1:0",
];

/// Runs something that must be refused with a next step; what it said.
fn refused(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "it started");
    ensure!(said.contains("next:"), "no next step: {said}");
    Ok(said)
}

#[test]
fn no_root() -> Result<()> {
    let stoa = Stoa::prepare("wrong-user")?;
    let binary = stoa.root().join("stoa");
    fs::copy(Stoa::binary(), &binary)?;
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))?;
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&binary)
        .arg("up")
        .args(PORTS);
    let said = refused(
        command
            .arg("--data-dir")
            .arg(stoa.root().join("nobody"))
            .current_dir("/"),
    )?;
    ensure!(said.contains("root"), "{said}");
    stoa.finish()
}

#[test]
fn a_full_disk() -> Result<()> {
    let stoa = Stoa::prepare("wrong-disk")?;
    let small = SmallDisk::mount(&stoa)?;
    let mut command = Command::new(Stoa::binary());
    let said = refused(
        command
            .arg("up")
            .args(PORTS)
            .arg("--data-dir")
            .arg(small.0.join("data")),
    )?;
    ensure!(
        said.contains("free") || said.contains("space") || said.contains("room"),
        "{said}"
    );
    drop(small);
    ensure!(stoa.census().is_empty(), "left behind: {:#?}", stoa.census());
    stoa.finish()
}

/// Runs a program in a mount namespace where the kernel says that it allows no user namespaces.
const WITHOUT_USER_NAMESPACES: &str = "\
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def must(result):
    if result != 0: sys.exit(os.strerror(ctypes.get_errno()))
must(libc.unshare(0x20000))
must(libc.mount(None, b'/', None, 0x44000, None))
must(libc.mount(sys.argv[1].encode(), b'/proc/sys/user/max_user_namespaces', None, 0x1000, None))
os.execv(sys.argv[2], sys.argv[2:])
";

#[test]
fn an_unsupported_kernel() -> Result<()> {
    let stoa = Stoa::prepare("wrong-kernel")?;
    let zero = stoa.root().join("zero");
    fs::write(&zero, "0\n")?;
    let mut command = Command::new("python3");
    command
        .args(["-c", WITHOUT_USER_NAMESPACES])
        .arg(&zero)
        .arg(Stoa::binary())
        .arg("up")
        .args(PORTS);
    let said = refused(command.arg("--data-dir").arg(stoa.data_dir()))?;
    ensure!(
        said.contains("user namespaces") && said.contains("sysctl"),
        "{said}"
    );
    ensure!(stoa.census().is_empty(), "left behind: {:#?}", stoa.census());
    // The control: nothing but that file stood in the way.
    let doctor = stoa
        .cli(&[
            "doctor",
            "--json",
            "--data-dir",
            &stoa.data_dir().to_string_lossy(),
        ])?
        .json()?;
    let checks = doctor["checks"].as_array().cloned().unwrap_or_default();
    let good = checks
        .iter()
        .find(|check| check["name"] == "user namespaces")
        .is_some_and(|c| c["verdict"] == "ok");
    ensure!(good, "{doctor:#}");
    stoa.finish()
}

/// A file system without room.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(stoa: &Stoa) -> Result<Self> {
        let place = stoa.root().join("small");
        fs::create_dir_all(&place)?;
        let options = ["-t", "tmpfs", "-o", "size=64k,mode=0711", "none"];
        let status = Command::new("mount").args(options).arg(&place).status()?;
        ensure!(status.success(), "could not mount a small file system");
        let disk = Self(place);
        let filled = fs::write(disk.0.join("fill"), vec![0; 128 << 10]);
        ensure!(filled.is_err(), "the small disk is not small");
        Ok(disk)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
