//! Tiny apps by the dozen: a static web server of a few hundred kilobytes each, from one upload.
//!
//! Lives here: their manifests, asking for them, and what the API says of them. Does not live here: what is done to them.
//! Invariant: version N answers "N", whatever else its manifest says.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{Api, ENVIRONMENT, Stoa, until};

/// Versions that an upload holds.
const VERSIONS: u32 = 9;
/// Many starts at once on a loaded machine.
const SETTLES_WITHIN: Duration = Duration::from_secs(300);

/// The tiny apps of one Stoa.
#[derive(Debug, Clone)]
pub struct Fleet {
    api: Api,
    upload: String,
}

/// What one release of a tiny app is like.
#[derive(Debug, Clone)]
pub struct Tiny {
    version: u32,
    program: Option<String>,
    build: String,
    health: String,
    rest: String,
}

impl Tiny {
    /// One that answers with its version.
    #[must_use]
    pub fn version(version: u32) -> Self {
        Self {
            version,
            program: None,
            build: String::new(),
            health: "path = \"/\", interval = \"500ms\"".to_owned(),
            rest: String::new(),
        }
    }

    /// Lines for its service: `scale = 3`.
    #[must_use]
    pub fn with(mut self, lines: &str) -> Self {
        self.rest.push_str(lines);
        self.rest.push('\n');
        self
    }

    /// A script of busybox's shell instead of the server alone; `SERVE` in it begins the server.
    #[must_use]
    pub fn script(mut self, script: &str) -> Self {
        self.program = Some(script.to_owned());
        self
    }

    /// Lines for its build: `command = [...]`.
    #[must_use]
    pub fn build(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.build);
        self
    }

    /// Another health check than the usual.
    #[must_use]
    pub fn health(mut self, check: &str) -> Self {
        check.clone_into(&mut self.health);
        self
    }

    fn manifest(&self, app: &str) -> String {
        let version = self.version;
        let command = match &self.program {
            None => json!([
                "busybox",
                "httpd",
                "-f",
                "-p",
                "8080",
                "-h",
                format!("v{version}")
            ]),
            Some(script) => {
                let script = script.replace("SERVE", &format!("busybox httpd -f -p 8080 -h v{version}"));
                json!(["busybox", "sh", "-c", script])
            }
        };
        format!(
            "schema = 1\napp = \"{app}\"\n\n[build]\nbase = \"host\"\n{}\n\n[services.web]\ncommand = {command}\n\
             port = 8080\nhealth = {{ {} }}\n{}",
            self.build, self.health, self.rest
        )
    }
}

impl Fleet {
    /// Sends the upload.
    ///
    /// # Errors
    /// When it is refused.
    pub fn new(stoa: &Stoa) -> Result<Self> {
        let folder = stoa.root().join("apps/tiny");
        for version in 1..=VERSIONS {
            let documents = folder.join(format!("v{version}"));
            std::fs::create_dir_all(&documents)?;
            std::fs::write(documents.join("index.html"), version.to_string())?;
        }
        let archive = stoa.root().join("tiny.tar");
        let status = Command::new("tar")
            .args(["--create", "--file"])
            .arg(&archive)
            .arg("--directory")
            .arg(&folder)
            .arg(".")
            .status()?;
        ensure!(status.success(), "tar: {status}");
        let api = stoa.api()?;
        let reply = api.upload(&std::fs::read(&archive)?)?;
        let id = reply.body["id"].as_str();
        let upload =
            id.with_context(|| format!("the upload was answered {}: {}", reply.status, reply.body))?;
        Ok(Self {
            api,
            upload: upload.to_owned(),
        })
    }

    /// The API it asks.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Makes an app without a release.
    ///
    /// # Errors
    /// When it is refused.
    pub fn create(&self, app: &str) -> Result<()> {
        let made = self.api.call(
            "POST",
            &format!("{ENVIRONMENT}/apps"),
            Some(&json!({ "name": app })),
        )?;
        ensure!(made.status == 201, "{app}: {} {}", made.status, made.body);
        Ok(())
    }

    /// Begins to deploy a release; the operation.
    ///
    /// # Errors
    /// When it is not accepted.
    pub fn begin(&self, app: &str, tiny: &Tiny) -> Result<String> {
        let source = json!({ "kind": "upload", "upload": self.upload });
        let body = json!({ "source": source, "manifest": tiny.manifest(app) });
        self.api
            .begin("POST", &format!("{ENVIRONMENT}/apps/{app}/releases"), Some(&body))
    }

    /// Deploys a release, making the app if it is the first one.
    ///
    /// # Errors
    /// When it does not serve in the end.
    pub fn deploy(&self, app: &str, tiny: &Tiny) -> Result<()> {
        if self.app(app)?.is_none() {
            self.create(app)?;
        }
        let settled = self.api.settled(&self.begin(app, tiny)?)?;
        ensure!(settled["state"] == "succeeded", "{app}: {settled:#}");
        Ok(())
    }

    /// The app as the API shows it; nothing when there is none.
    ///
    /// # Errors
    /// When the API does not answer.
    pub fn app(&self, app: &str) -> Result<Option<Value>> {
        let reply = self.api.call("GET", &format!("{ENVIRONMENT}/apps/{app}"), None)?;
        match reply.status {
            200 => Ok(Some(reply.body)),
            404 => Ok(None),
            status => bail!("{app} was answered {status}: {}", reply.body),
        }
    }

    /// The release that serves, as `v3`.
    ///
    /// # Errors
    /// When there is no such app.
    pub fn serving(&self, app: &str) -> Result<Option<String>> {
        let seen = self.app(app)?.with_context(|| format!("no app {app}"))?;
        Ok(seen["serving"].as_str().map(str::to_owned))
    }

    /// Its instances, those that ended not long ago too.
    ///
    /// # Errors
    /// When the API does not answer.
    pub fn instances(&self, app: &str) -> Result<Vec<Value>> {
        let path = format!("{ENVIRONMENT}/apps/{app}/instances?limit=500");
        let page = self.api.get(&path)?;
        Ok(page["items"].as_array().cloned().unwrap_or_default())
    }

    /// Ids of those that are ready.
    ///
    /// # Errors
    /// As [`Fleet::instances`].
    pub fn ready(&self, app: &str) -> Result<Vec<String>> {
        let found = self.instances(app)?;
        let ready = found.iter().filter(|one| one["condition"] == "ready");
        Ok(ready
            .filter_map(|one| one["id"].as_str().map(str::to_owned))
            .collect())
    }

    /// Waits until it has so many instances, all ready and none beside them; their ids.
    ///
    /// # Errors
    /// When it does not get there.
    pub fn wait_ready(&self, app: &str, count: usize) -> Result<Vec<String>> {
        until(
            &format!("{count} ready instances of {app}"),
            SETTLES_WITHIN,
            || {
                let living = self.instances(app)?;
                let living: Vec<_> = living.iter().filter(|one| one["condition"] != "exited").collect();
                let ready = self.ready(app)?;
                if ready.len() == count && living.len() == count {
                    return Ok(Some(ready));
                }
                bail!("{living:#?}")
            },
        )
    }

    /// Sets how many instances it has, and waits for them.
    ///
    /// # Errors
    /// When they do not get ready.
    pub fn scale(&self, app: &str, count: usize) -> Result<Vec<String>> {
        let body = json!({ "services": { "web": count } });
        self.api
            .done("PUT", &format!("{ENVIRONMENT}/apps/{app}/scale"), Some(&body))?;
        self.wait_ready(app, count)
    }
}
