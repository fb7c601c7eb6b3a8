//! Where things are below the data directory.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Letters of the mark; device and table names leave no more room.
const MARK_LETTERS: usize = 5;

/// Paths of one installation.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) data: PathBuf,
}

impl Places {
    /// The data directory, made when absent. For root alone: below it are files that the programs of instances own as
    /// they please, also as root and with the set-user-id bit.
    pub(crate) fn make(data: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(data)?;
        fs::set_permissions(data, fs::Permissions::from_mode(0o700))?;
        let places = Self {
            data: data.canonicalize()?,
        };
        for dir in [places.run(), places.certificates()] {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        Ok(places)
    }

    /// The data directory of an installation that should exist.
    pub(crate) fn find(data: &Path) -> io::Result<Self> {
        Ok(Self {
            data: data.canonicalize()?,
        })
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.data.join("run")
    }
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.run().join("api.sock")
    }
    pub(crate) fn edge_socket(&self) -> PathBuf {
        self.run().join("edge.sock")
    }
    pub(crate) fn listeners(&self) -> PathBuf {
        self.run().join("listeners.json")
    }
    /// Where the warden is asked to go over to another binary, and says how it goes.
    pub(crate) fn upgrade(&self) -> PathBuf {
        self.run().join("upgrade")
    }
    pub(crate) fn zones(&self) -> PathBuf {
        self.run().join("zones.json")
    }
    /// Where the edge tells control when doors were last used.
    pub(crate) fn doors(&self) -> PathBuf {
        self.run().join("doors")
    }
    pub(crate) fn edge_state(&self) -> PathBuf {
        self.data.join("edge")
    }
    pub(crate) fn certificates(&self) -> PathBuf {
        self.data.join("certificates")
    }
    pub(crate) fn store(&self) -> PathBuf {
        self.data.join("store").join("stoa.db")
    }
    pub(crate) fn master_key(&self) -> PathBuf {
        self.data.join("keys").join("master")
    }

    /// The short name that everything this installation makes on the host bears. Written once, so that a moved data
    /// directory keeps it.
    pub(crate) fn mark(&self) -> io::Result<String> {
        let path = self.data.join("mark");
        match fs::read_to_string(&path) {
            Ok(mark) => Ok(mark.trim().to_owned()),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                let digest = Sha256::digest(self.data.as_os_str().as_encoded_bytes());
                let letters = digest
                    .iter()
                    .map(|byte| char::from(b'a' + byte % 26))
                    .take(MARK_LETTERS);
                let mark: String = letters.collect();
                write_durably(&path, mark.as_bytes())?;
                Ok(mark)
            }
            Err(cause) => Err(cause),
        }
    }
}

/// Writes a file so that a crash leaves the old one or the new one.
pub(crate) fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    fs::write(&beside, content)?;
    fs::File::open(&beside)?.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(dir) => fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}
