//! The last steps before the program, inside the container's first process.
//!
//! Lives here: checking the program, installing the seccomp filter, exec.
//! Does not live here: everything before (libcontainer).
//! Invariant: nothing runs between the filter and exec; libcontainer without its C library ignores a seccomp section, so
//! this is the only place where the filter comes from.

use std::ffi::CString;
use std::os::unix::ffi::OsStringExt;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};

use crate::{confine, program, seccomp, sys};

/// Cloned into the container's first process.
#[derive(Clone)]
pub struct Confined {
    /// Compiled before, where time and memory are no matter.
    pub filter: seccomp::Filter,
    /// Descriptor to tell a failure on; its closing by exec is the sign of success.
    pub status: i32,
    /// Descriptor of the reaper program, when one is wanted.
    pub reaper: Option<i32>,
}

impl Confined {
    fn tell(&self, text: &str) {
        sys::write_to(self.status, text.as_bytes());
    }

    fn argv(spec: &Spec) -> Vec<String> {
        spec.process()
            .as_ref()
            .and_then(|p| p.args().clone())
            .unwrap_or_default()
    }

    fn path(spec: &Spec) -> String {
        let env = spec
            .process()
            .as_ref()
            .and_then(|p| p.env().clone())
            .unwrap_or_default();
        let path = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH="));
        path.unwrap_or(confine::DEFAULT_PATH).to_owned()
    }
}

impl Executor for Confined {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let argv = Self::argv(spec);
        let name = argv.first().map(String::as_str).unwrap_or_default();
        program::find(name, &Self::path(spec)).map(drop).map_err(|why| {
            self.tell(&why);
            ExecutorValidationError::ArgValidationError(why)
        })
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let argv = Self::argv(spec);
        let name = argv.first().map(String::as_str).unwrap_or_default();
        let path = program::find(name, &Self::path(spec)).map_err(|why| {
            self.tell(&why);
            ExecutorError::Other(why)
        })?;
        let mut args: Vec<CString> = argv
            .into_iter()
            .filter_map(|arg| CString::new(arg).ok())
            .collect();
        let env: Vec<CString> = std::env::vars_os()
            .filter_map(|(name, value)| {
                let mut entry = name.into_vec();
                entry.push(b'=');
                entry.extend(value.into_vec());
                CString::new(entry).ok()
            })
            .collect();
        let shown = path.to_string_lossy().into_owned();
        if let Err(error) = self.filter.install() {
            self.tell(&format!("the system call filter could not be installed: {error}"));
            return Err(ExecutorError::Other(error));
        }
        let error = match self.reaper {
            Some(reaper) => {
                // It hands the descriptor's closing on to its child's exec.
                let _ = sys::keep_over_exec(self.status);
                let status = CString::new(self.status.to_string()).unwrap_or_default();
                let head = [c"stoa-init".to_owned(), status, path];
                args.splice(0..0, head);
                sys::execute_descriptor(reaper, &args, &env)
            }
            None => sys::execute(&path, &args, &env),
        };
        let why = program::explain(&shown, &error);
        self.tell(&why);
        Err(ExecutorError::Other(why))
    }
}
