//! `stoa-keeper`: the parent of one instance for its whole life; and, under the name `stoa-init`, process 1 inside.
//!
//! Lives here: which of the two this process is.
//! Does not live here: making the container (`stoa-create`, a process of its own), restarting it (`control` decides).
//! Invariant: one thread, no async runtime, no buffer that grows with the instance's age. One keeper = one life of one
//! instance; it outlives the process that started it and dies only after its instance, leaving an exit record.
//!
//! ```text
//! born -> starting -> running -> ending -> (exit record) -> gone
//!             \--failed--> (exit record with the reason) -> gone
//! ```

mod exec;
mod init;
mod output;
mod start;
mod supervise;
mod sys;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    if args.next().is_some_and(|name| name == "stoa-init") {
        return init::run(args.collect());
    }
    match start::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
