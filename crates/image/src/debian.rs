//! Bases made from Debian packages by `mmdebstrap`.
//!
//! Lives here: the specification, its key, running mmdebstrap, entering the result.
//! Does not live here: what an extracted root lacks to work (`debian_finish`), the host's sources (`apt`).
//! Invariant: the same specification on the same host gives the cached image; packages are named, never text for a shell.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::commit::StoredLayer;
use crate::digest::{Digest, ImageId};
use crate::error::{ImageError, Result};
use crate::names::Origin;
use crate::oci::{self, ImageConfig, Platform};
use crate::pack::Shape;
use crate::progress::Progress;
use crate::store::Images;
use crate::tree::Tree;
use crate::{apt, debian_finish, tool};

/// A slow mirror and maintainer scripts on a loaded machine stay below this.
const LIMIT: Duration = Duration::from_secs(30 * 60);
/// Raised when the same packages should give another root than before.
const FORMAT: u32 = 1;
/// What every program expects: C library, shell, basic tools, certificates, zones, names of services.
const ALWAYS: [&str; 8] = [
    "base-files",
    "base-passwd",
    "ca-certificates",
    "coreutils",
    "dash",
    "libc-bin",
    "netbase",
    "tzdata",
];
/// Where Debian keeps the hook that makes `/bin` and its like links into `/usr`.
const MERGED_USR: &str = "/usr/share/mmdebstrap/hooks/merged-usr";

/// How much of Debian a base is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// The packages and what they depend on, extracted: small and fast; no apt, no maintainer scripts.
    Extract,
    /// A working Debian with apt, in which maintainer scripts have run.
    Minbase,
}

/// What a base is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DebianBase {
    /// Release, as number (`12`) or code name (`bookworm`).
    pub suite: String,
    /// Packages besides what every base has.
    pub packages: Vec<String>,
    /// How much of Debian.
    pub variant: Variant,
    /// Mirror; the host's own sources when none is given.
    pub mirror: Option<String>,
}

impl DebianBase {
    /// An extracted base with these packages.
    pub fn extract(suite: &str, packages: &[&str]) -> Self {
        let packages = packages.iter().map(|package| (*package).to_owned()).collect();
        Self {
            suite: suite.into(),
            packages,
            variant: Variant::Extract,
            mirror: None,
        }
    }

    /// Checked, sorted, code name in place of the number.
    fn canonical(&self) -> Result<Self> {
        let suite = match self.suite.as_str() {
            "11" => "bullseye",
            "12" => "bookworm",
            "13" => "trixie",
            name => name,
        };
        if suite.is_empty() || !suite.bytes().all(|byte| byte.is_ascii_lowercase()) {
            return Err(refused(&self.suite, "a release is a number or a code name"));
        }
        let mut packages = self.packages.clone();
        packages.sort_unstable();
        packages.dedup();
        for package in &packages {
            let is_inner =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte);
            let is_first = package.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
            if !is_first || !(2..=128).contains(&package.len()) || !package.bytes().all(is_inner) {
                return Err(refused(package, "it is no name of a Debian package"));
            }
        }
        if let Some(mirror) = &self.mirror {
            let is_web = mirror.starts_with("http://") || mirror.starts_with("https://");
            let is_plain = mirror
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && !b"[]\"'\\#".contains(&byte));
            if !is_web || !is_plain {
                return Err(refused(mirror, "a mirror is an http or https address"));
            }
        }
        Ok(Self {
            suite: suite.into(),
            packages,
            variant: self.variant,
            mirror: self.mirror.clone(),
        })
    }

    fn is_extract(&self) -> bool {
        match self.variant {
            Variant::Extract => true,
            Variant::Minbase => false,
        }
    }
}

fn refused(what: &str, why: &str) -> ImageError {
    ImageError::refused(format!("{:?}", what.chars().take(80).collect::<String>()), why)
}

impl Images {
    /// Makes a base from Debian packages, or gives the one made before. Needs root, mmdebstrap and a mirror.
    pub fn create_debian_base(&self, spec: &DebianBase, progress: &dyn Fn(Progress)) -> Result<ImageId> {
        let spec = spec.canonical()?;
        let own_certificates = debian_finish::certificates_only_here();
        let identity = (FORMAT, Platform::here(), &spec, Digest::of(&own_certificates));
        let key = format!("debian-base {}", Digest::of(&oci::write(&identity)));
        let _alone = self.store.alone_with(key.clone());
        if let Some(id) = self.cache_get(&key)? {
            return Ok(id);
        }
        let place = self.store.temporary();
        let sources = match &spec.mirror {
            Some(mirror) => vec![format!("deb {mirror} {} main", spec.suite)],
            None => apt::sources_for(&spec.suite)?,
        };
        progress(Progress::Step(format!(
            "making a base from Debian packages ({})",
            spec.suite
        )));
        mmdebstrap(&spec, &sources, &place.path, progress)?;
        progress(Progress::Step("preparing the root".into()));
        let tree = Tree::open(&place.path)?;
        debian_finish::finish(&tree, spec.is_extract(), &sources, &own_certificates, progress)?;
        progress(Progress::Step("storing the root".into()));
        let layer = self.store.layer_from_tree(&place.path, &Shape::default())?;
        let notes = BTreeMap::from([
            ("suite".to_owned(), spec.suite.clone()),
            ("packages".to_owned(), spec.packages.join(",")),
            ("variant".to_owned(), format!("{:?}", spec.variant).to_lowercase()),
        ]);
        let id = self.store.compose(
            None,
            layer.iter().map(StoredLayer::parts),
            base_config(),
            Origin::Debian,
            Vec::new(),
            notes,
        )?;
        self.tag(&name(&spec, &key), id)?;
        self.cache_put(&key, id)?;
        Ok(id)
    }
}

/// `debian:12` for the plain base; with packages, `debian:12-` and the beginning of the key.
fn name(spec: &DebianBase, key: &str) -> String {
    let release = match spec.suite.as_str() {
        "bullseye" => "11",
        "bookworm" => "12",
        "trixie" => "13",
        name => name,
    };
    let end = &Digest::of(key.as_bytes()).hex()[..12];
    match (spec.packages.is_empty(), spec.variant) {
        (true, Variant::Extract) => format!("debian:{release}"),
        (true, Variant::Minbase) => format!("debian:{release}-minbase"),
        (false, Variant::Extract | Variant::Minbase) => format!("debian:{release}-{end}"),
    }
}

fn base_config() -> ImageConfig {
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    ImageConfig {
        env: vec![path.into(), "LANG=C.UTF-8".into()],
        cmd: vec!["/bin/sh".into()],
        ..ImageConfig::default()
    }
}

fn mmdebstrap(spec: &DebianBase, sources: &[String], into: &Path, progress: &dyn Fn(Progress)) -> Result<()> {
    let mut packages: Vec<&str> = spec.packages.iter().map(String::as_str).collect();
    let variant = if spec.is_extract() {
        packages.extend(ALWAYS);
        "extract"
    } else {
        packages.extend(["ca-certificates"]);
        "minbase"
    };
    packages.sort_unstable();
    packages.dedup();
    if !tool::is_there("mmdebstrap") {
        return Err(ImageError::ToolMissing { tool: "mmdebstrap" });
    }
    // In a pid namespace that ends with us, or a child of it would go on writing. Not in a mount namespace: that would pin
    // every other mount of the machine for as long; what it leaves mounted below its target is released with that.
    let mut command = tool::command("setpriv");
    command
        .args([
            "--pdeathsig",
            "KILL",
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
        ])
        .args(["mmdebstrap", "--mode=root", "--format=directory"])
        .arg(format!("--variant={variant}"));
    if Path::new(MERGED_USR).is_dir() {
        command.arg(format!("--hook-dir={MERGED_USR}"));
    }
    let dump = tool::command("apt-config")
        .arg("dump")
        .output()
        .map(|output| output.stdout)
        .unwrap_or_default();
    for setting in apt::settings(&String::from_utf8_lossy(&dump)) {
        command.arg(format!("--aptopt={setting}"));
    }
    command.arg("--aptopt=Acquire::Languages \"none\";");
    // The directory above is for root alone, so apt's own user could not write there.
    command.arg("--aptopt=APT::Sandbox::User \"root\";");
    command
        .arg(format!("--include={}", packages.join(",")))
        .arg(&spec.suite)
        .arg(into)
        .args(sources);
    tool::run("mmdebstrap", command, LIMIT, progress)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_packages_releases_and_mirrors_pass() {
        let base = |suite: &str, package: &str| DebianBase::extract(suite, &[package]).canonical();
        base("12", "libstdc++6").unwrap();
        assert_eq!(base("12", "ab").unwrap(), base("bookworm", "ab").unwrap());
        for bad in [
            "",
            "a",
            "-x",
            "--setup-hook=x",
            "a b",
            "a,b",
            "?essential",
            "~e",
            "a;b",
            "$(id)",
            "A",
            "./x.deb",
            "a/b",
        ] {
            assert!(base("12", bad).is_err(), "{bad}");
        }
        for bad in ["", "-x", "../x", "a b", "12.1"] {
            assert!(base(bad, "python3").is_err(), "{bad}");
        }
        for bad in [
            "file:///etc",
            "http://x y",
            "http://x\n",
            "ftp://x",
            "copy:/x",
            "http://a [trusted=yes]",
        ] {
            let spec = DebianBase {
                mirror: Some(bad.into()),
                ..DebianBase::extract("12", &[])
            };
            assert!(spec.canonical().is_err(), "{bad}");
        }
    }
}
