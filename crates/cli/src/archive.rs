//! The directory as an archive: what is sent to be built.
//!
//! Invariant: equal directories give equal bytes (names sorted; times, owners and odd modes left out), so that the
//! server can recognise what it has built before. Nothing outside the directory is read: links are sent as links.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use ignore::WalkBuilder;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::failure::{Code, Failure};

/// The media type of what [`pack`] makes.
pub(crate) const MEDIA_TYPE: &str = "application/gzip";
const DOCKERIGNORE: &str = ".dockerignore";
const STOAIGNORE: &str = ".stoaignore";

/// A packed directory.
pub(crate) struct Archive {
    /// At its beginning, ready to be sent.
    pub(crate) file: File,
    /// Files and links in it.
    pub(crate) entries: usize,
    /// Bytes to be sent.
    pub(crate) bytes: u64,
}

/// Packs a directory, without what `.gitignore`, `.dockerignore` and `.stoaignore` exclude.
pub(crate) fn pack(dir: &Path) -> Result<Archive, Failure> {
    let found = entries(dir)?;
    if found.is_empty() {
        return Err(Failure::new(
            Code::Failed,
            format!("there is nothing to deploy in {}", dir.display()),
            "check what .gitignore, .dockerignore and .stoaignore exclude",
        ));
    }
    write(dir, &found).map_err(|cause| Failure::local(format!("could not pack {}", dir.display()), &cause))
}

/// Packs all files and links of a directory.
pub(crate) fn pack_whole(dir: &Path) -> Result<Archive, Failure> {
    need_directory(dir, "name a directory whose files the image gets")?;
    let found = files(dir, WalkBuilder::new(dir).standard_filters(false).build())?;
    if found.is_empty() {
        return Err(Failure::new(
            Code::Failed,
            format!("{} is empty", dir.display()),
            "name a directory whose files the image gets",
        ));
    }
    write(dir, &found).map_err(|cause| Failure::local(format!("could not pack {}", dir.display()), &cause))
}

fn need_directory(dir: &Path, next_step: &str) -> Result<(), Failure> {
    match dir.is_dir() {
        true => Ok(()),
        false => Err(Failure::new(
            Code::Failed,
            format!("{} is not a directory", dir.display()),
            next_step,
        )),
    }
}

/// What is to be deployed.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    need_directory(dir, "name the directory of the app: stoa deploy DIR")?;
    let docker = dockerignore(dir)?;
    let root = dir.to_owned();
    let walk = WalkBuilder::new(dir)
        .standard_filters(false)
        .git_ignore(true)
        .require_git(false)
        .parents(true)
        .add_custom_ignore_filename(STOAIGNORE)
        .filter_entry(move |entry| {
            let path = entry.path().strip_prefix(&root).unwrap_or(entry.path());
            let is_dir = entry.file_type().is_some_and(|kind| kind.is_dir());
            entry.file_name() != ".git" && !docker.matched(path, is_dir).is_ignore()
        })
        .build();
    files(dir, walk)
}

/// Paths of files and links below the directory, relative and sorted.
fn files(dir: &Path, walk: ignore::Walk) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    for entry in walk {
        let entry = entry.map_err(|why| {
            Failure::new(
                Code::Failed,
                format!("could not read {}: {why}", dir.display()),
                "",
            )
        })?;
        // Sockets, pipes and devices are of no use elsewhere; directories come with their files.
        if entry
            .file_type()
            .is_some_and(|kind| kind.is_file() || kind.is_symlink())
        {
            found.push(entry.path().strip_prefix(dir).unwrap_or(entry.path()).to_owned());
        }
    }
    found.sort();
    Ok(found)
}

/// Docker's patterns count from the root of the directory, unlike git's: `*.md` is not `**/*.md`.
fn dockerignore(dir: &Path) -> Result<Gitignore, Failure> {
    let path = dir.join(DOCKERIGNORE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Gitignore::empty()),
        Err(cause) => {
            return Err(Failure::local(
                format!("could not read {}", path.display()),
                &cause,
            ));
        }
    };
    let wrong = |why: ignore::Error| {
        Failure::new(
            Code::Failed,
            format!("{}: {why}", path.display()),
            "mend the pattern",
        )
    };
    let mut builder = GitignoreBuilder::new("");
    for line in text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (not, pattern) = match line.strip_prefix('!') {
            Some(rest) => ("!", rest),
            None => ("", line),
        };
        let pattern = pattern.trim_start_matches("./").trim_start_matches('/');
        builder
            .add_line(None, &format!("{not}/{pattern}"))
            .map_err(wrong)?;
    }
    builder.build().map_err(wrong)
}

fn write(dir: &Path, found: &[PathBuf]) -> std::io::Result<Archive> {
    let file = tempfile::tempfile()?;
    // Fast: the way to the server is short for most, and processors are busy building.
    let mut tar = tar::Builder::new(GzEncoder::new(file, Compression::fast()));
    for path in found {
        let source = dir.join(path);
        let about = std::fs::symlink_metadata(&source)?;
        let mut header = tar::Header::new_gnu();
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        if about.is_symlink() {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            header.set_mode(0o777);
            tar.append_link(&mut header, path, std::fs::read_link(&source)?)?;
        } else {
            let is_executable = about.permissions().mode() & 0o111 != 0;
            header.set_mode(if is_executable { 0o755 } else { 0o644 });
            header.set_size(about.len());
            let content = File::open(&source)?;
            // A file that shrinks or grows meanwhile would shift all that follows; cutting and checking keeps the frame.
            let mut content = std::io::Read::take(content, about.len());
            tar.append_data(&mut header, path, &mut content)?;
            if content.limit() > 0 {
                return Err(std::io::Error::other(format!(
                    "{} changed while it was read",
                    source.display()
                )));
            }
        }
    }
    let mut file = tar.into_inner()?.finish()?;
    file.flush()?;
    let bytes = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(0))?;
    Ok(Archive {
        file,
        entries: found.len(),
        bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        dir
    }

    #[test]
    fn ignore_files_are_obeyed() {
        let dir = tree(&[
            (".gitignore", "/target\n*.log\ndist/\n"),
            (".dockerignore", "# comment\n*.md\ndocs\n!docs.txt\n"),
            (".stoaignore", "secret.txt\n!dist/\n"),
            (".git/config", ""),
            (".env.example", ""),
            ("README.md", ""),
            ("app/README.md", ""),
            ("app/x.log", ""),
            ("dist/index.html", ""),
            ("docs/a", ""),
            ("main.py", ""),
            ("secret.txt", ""),
            ("target/debug/x", ""),
        ]);
        let found = entries(dir.path()).expect("entries");
        let names: Vec<&str> = found.iter().filter_map(|path| path.to_str()).collect();
        assert_eq!(
            names,
            [
                ".dockerignore",
                ".env.example",
                ".gitignore",
                ".stoaignore",
                "app/README.md",
                "dist/index.html",
                "main.py"
            ]
        );
    }

    #[test]
    fn equal_directories_give_equal_bytes_and_links_stay_links() {
        let bytes = |dir: &Path| {
            let mut archive = pack(dir).expect("packed");
            let mut bytes = Vec::new();
            archive.file.read_to_end(&mut bytes).expect("read");
            assert_eq!(archive.bytes, bytes.len() as u64);
            bytes
        };
        let make = || {
            let dir = tree(&[("b", "2"), ("a/c", "3")]);
            std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).expect("linked");
            dir
        };
        let (one, other) = (make(), make());
        assert_eq!(bytes(one.path()), bytes(other.path()));
        let packed = bytes(one.path());
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(&packed[..]));
        let kinds: Vec<_> = tar
            .entries()
            .expect("a tar")
            .map(|e| e.expect("an entry").header().entry_type())
            .collect();
        assert_eq!(
            kinds,
            [
                tar::EntryType::Regular,
                tar::EntryType::Regular,
                tar::EntryType::Symlink
            ]
        );
    }

    #[test]
    fn nothing_to_deploy_is_said() {
        let dir = tree(&[(".gitignore", "*\n")]);
        assert!(pack(dir.path()).is_err_and(|failure| failure.message.contains("nothing to deploy")));
        assert!(pack(Path::new("/nowhere/at/all")).is_err());
    }
}
