//! How package clients of a build reach their registries: as the operator of this host has set it up.
//!
//! Lives here: which settings of the host a build may see. Does not live here: any address; without settings the clients use
//! their own.
//! Invariant: a closed list. Files of a person's home are never read, they may hold that person's tokens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Variables of the process that started Stoa; an operator sets them there on purpose.
const VARIABLES: [&str; 14] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_TRUSTED_HOST",
    "PIP_DEFAULT_TIMEOUT",
    "NPM_CONFIG_REGISTRY",
    "npm_config_registry",
];

/// Settings for everybody on this host, and where a client looks for them inside.
const FILES: [(&str, &str); 2] = [("/etc/pip.conf", "/etc/pip.conf"), ("/etc/npmrc", "/etc/npmrc")];

/// Authorities that this host trusts; our own images carry a copy of it.
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// How each client is told of it.
const BUNDLE_VARIABLES: [&str; 5] = [
    "SSL_CERT_FILE",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "CARGO_HTTP_CAINFO",
];

/// Settings of the host for package clients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Registries {
    pub(crate) env: BTreeMap<String, String>,
    /// Files on the host, and where they appear inside.
    pub(crate) files: Vec<(PathBuf, String)>,
}

impl Registries {
    /// The settings of this host. `has_our_bundle` says that the image carries the host's authorities.
    pub(crate) fn of_host(has_our_bundle: bool) -> Self {
        let set = |name: &&str| Some(((*name).to_owned(), std::env::var(name).ok()?));
        let mut env: BTreeMap<String, String> = VARIABLES.iter().filter_map(set).collect();
        if has_our_bundle && Path::new(BUNDLE).is_file() {
            env.extend(BUNDLE_VARIABLES.map(|name| (name.to_owned(), BUNDLE.to_owned())));
        }
        let files: Vec<(PathBuf, String)> = FILES
            .iter()
            .filter(|(host, _)| Path::new(host).is_file())
            .map(|(host, inside)| (PathBuf::from(host), (*inside).to_owned()))
            .collect();
        if files.iter().any(|(_, inside)| inside == "/etc/npmrc") {
            env.insert("npm_config_globalconfig".to_owned(), "/etc/npmrc".to_owned());
        }
        Self { env, files }
    }
}
