//! Finding the program in the place and with the rights it will run with.
//!
//! Lives here: the search in `PATH`, and the words for a program that is not there.
//! Does not live here: executing it.
//! Invariant: called inside the container, as its user, so that the answer is the one exec will get.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};

/// The file to execute for `name`, or what to tell the user.
pub fn find(name: &str, path: &str) -> Result<CString, String> {
    if name.is_empty() {
        return Err("no program given".to_owned());
    }
    if name.contains('/') {
        return usable(Path::new(name)).map(|()| as_cstring(Path::new(name)));
    }
    let mut denied = None;
    for dir in path.split(':').filter(|dir| !dir.is_empty()) {
        let candidate = PathBuf::from(dir).join(name);
        match usable(&candidate) {
            Ok(()) => return Ok(as_cstring(&candidate)),
            Err(why) if candidate.is_file() => denied = denied.or(Some(why)),
            Err(_) => {}
        }
    }
    Err(denied.unwrap_or_else(|| format!("{name} was not found in the image (looked in {path})")))
}

fn usable(path: &Path) -> Result<(), String> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() => {}
        Ok(_) => return Err(format!("{} is not a file", path.display())),
        Err(error) => return Err(format!("{} is not there: {error}", path.display())),
    }
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).map_err(|_| {
        format!(
            "{} may not be executed by this user (its mode bits)",
            path.display()
        )
    })
}

fn as_cstring(path: &Path) -> CString {
    // A path that exists holds no NUL.
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

/// What a failed exec of an existing file means.
pub fn explain(path: &str, error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => format!("{path} needs an interpreter or loader that is not in the image"),
        Some(libc::ENOEXEC) => format!("{path} is not a program for this machine (and has no #! line)"),
        Some(_) | None => format!("{path} could not be executed: {error}"),
    }
}
