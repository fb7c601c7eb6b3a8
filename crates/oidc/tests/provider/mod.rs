//! npm's `oidc-provider` on loopback, and a browser in which somebody signs in there.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Where `cargo xtask judge` installs strangers' programs: below the target directory that this test is in.
fn modules() -> PathBuf {
    let test = std::env::current_exe().expect("this test has a file");
    let target = test
        .ancestors()
        .nth(3)
        .expect("a test lives in a target directory");
    let folder = target.join("judges/oidc");
    assert!(
        folder.join("installed").exists(),
        "the provider is not installed in {}; do it once: cargo xtask judge",
        folder.display()
    );
    folder.join("node_modules")
}

pub struct Running {
    child: Child,
    pub issuer: String,
}

impl Running {
    pub fn start(port: &str, callback: &str, keys: &str) -> Self {
        let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
        let mut programs = above.map(|folder| folder.join("crates/oidc/tests/provider/provider.mjs"));
        let program = programs
            .find(|file| file.exists())
            .expect("the program is in the repository");
        let mut child = Command::new("node")
            .arg(program)
            .arg(modules())
            .args([port, callback, keys])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("node is on this machine");
        let mut issuer = String::new();
        let out = child.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut issuer).expect("its address");
        Self {
            child,
            issuer: issuer.trim().to_owned(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

/// A browser in which somebody signs in at the provider; where it is sent in the end.
pub fn browse(address: &str, callback: &str, login: &str) -> String {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .max_redirects(0)
        .http_status_as_error(false)
        .build()
        .into();
    let mut cookies: BTreeMap<String, String> = BTreeMap::new();
    let mut next = address.to_owned();
    let mut form: Option<String> = None;
    for _ in 0..12 {
        let jar: Vec<String> = cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let jar = jar.join("; ");
        let mut answer = match form.take() {
            None => agent.get(&next).header("cookie", &jar).call(),
            Some(body) => agent
                .post(&next)
                .header("cookie", &jar)
                .header("content-type", "application/x-www-form-urlencoded")
                .send(body),
        }
        .expect("an answer");
        for value in answer.headers().get_all("set-cookie") {
            let pair = value
                .to_str()
                .expect("text")
                .split(';')
                .next()
                .expect("a pair")
                .to_owned();
            let (name, value) = pair.split_once('=').expect("a value");
            cookies.insert(name.to_owned(), value.to_owned());
        }
        if let Some(location) = answer.headers().get("location") {
            let location = location.to_str().expect("text").to_owned();
            if location.starts_with(callback) {
                return location;
            }
            next = match location.starts_with('/') {
                true => {
                    let origin = next.split('/').take(3).collect::<Vec<_>>().join("/");
                    format!("{origin}{location}")
                }
                false => location,
            };
            continue;
        }
        let page = answer.body_mut().read_to_string().expect("a page");
        form = Some(match page.contains("name=\"login\"") {
            true => format!("prompt=login&login={login}&password=x"),
            false => "prompt=consent".to_owned(),
        });
    }
    panic!("nobody was sent back from {address}");
}

#[allow(dead_code, reason = "two test programs share this file")]
pub fn parameter(address: &str, name: &str) -> Option<String> {
    let query = address.split_once('?')?.1;
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .find(|(known, _)| *known == name)
        .map(|(_, value)| value.to_owned())
}
