//! What was chosen when Stoa was started.

use std::path::PathBuf;

use model::Millis;

/// Choices of the operator, and limits with their reasons.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The data directory.
    pub data_dir: PathBuf,
    /// Apps without a host of their own answer at `APP.DOMAIN`.
    pub domain: String,
    /// Port in the addresses shown to people, when it is not the scheme's own.
    pub http_port: u16,
    /// Builds at once: one per core.
    pub builds: usize,
    /// How long a deploy may take in all.
    pub deploy_deadline: Millis,
    /// How long anything else may take.
    pub operation_deadline: Millis,
    /// How long a draining instance may finish its requests.
    pub drain_bound: Millis,
    /// How long a destroyed database's volume is kept.
    pub volume_grace: Millis,
    /// Largest upload in bytes.
    pub upload_bytes: u64,
    /// The image that builds and runs sources whose manifest names none.
    pub default_base: String,
}

impl Settings {
    /// The defaults for a data directory.
    #[must_use]
    pub fn new(data_dir: PathBuf) -> Self {
        Self {
            data_dir,
            domain: "localhost".to_owned(),
            http_port: 80,
            builds: std::thread::available_parallelism().map_or(1, usize::from),
            deploy_deadline: Millis::seconds(30 * 60),
            operation_deadline: Millis::seconds(15 * 60),
            drain_bound: Millis::seconds(60),
            volume_grace: Millis::seconds(7 * 24 * 3600),
            upload_bytes: 2 << 30,
            default_base: "host".to_owned(),
        }
    }

    /// The address at which an app's default route answers.
    #[must_use]
    pub fn app_url(&self, host: &str) -> String {
        if self.http_port == 80 {
            format!("http://{host}/")
        } else {
            format!("http://{host}:{}/", self.http_port)
        }
    }
}
