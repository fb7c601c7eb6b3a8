//! Process 1 of an instance: starts the program, passes signals on, reaps orphans.
//!
//! Lives here: the reaper's loop.
//! Does not live here: anything about the instance; this runs inside it, confined like the program.
//! Invariant: ends when the program ends, with its code (128 + signal); the kernel then ends everything else inside.
//!
//! Arguments: REPORT PATH ARGV... where REPORT is a descriptor for the errno of a failed exec.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

use rustix::process::{Pid, Signal, WaitOptions};

use crate::sys;

pub fn run(args: Vec<OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let report = args.next().and_then(|text| text.to_str()?.parse::<i32>().ok());
    let mut rest = args.filter_map(|arg| CString::new(arg.into_vec()).ok());
    let (Some(report), Some(path)) = (report, rest.next()) else {
        return ExitCode::from(125);
    };
    let argv: Vec<CString> = rest.collect();
    sys::set_close_on_exec(report);
    // Before the child exists: an unblocked SIGCHLD would be lost, and we would wait for it for ever.
    sys::block_signals();
    let Ok(child) = sys::spawn_child(&path, &argv, report) else {
        return ExitCode::from(125);
    };
    // Now only the child holds it: its exec, or its end, tells our starter.
    sys::close(report);
    loop {
        let signal = sys::wait_signal();
        if signal == libc::SIGCHLD {
            if let Some(code) = reap(child) {
                return ExitCode::from(code);
            }
        } else if let Some(signal) = Signal::from_named_raw(signal) {
            // Gone already: its SIGCHLD is on the way.
            let _ = rustix::process::kill_process(child, signal);
        }
    }
}

fn reap(child: Pid) -> Option<u8> {
    let mut ended = None;
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid == child {
            let code = status
                .exit_status()
                .or_else(|| status.terminating_signal().map(|s| 128 + s));
            ended = Some(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(255));
        }
    }
    ended
}
