//! `stoa-files DIRECTORY`: serves a static site on the port in `PORT`. Embedded by `build.rs`, which compiles this file
//! alone with the standard library, statically, so that it runs in any image, an empty one too.

#[path = "../src/files/mod.rs"]
mod files;

use std::process::ExitCode;

/// What the platform gives a web process that does not say otherwise.
const PORT: u16 = 8080;

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1) else {
        eprintln!("usage: stoa-files DIRECTORY");
        return ExitCode::from(2);
    };
    let port = std::env::var("PORT").ok().and_then(|text| text.parse().ok()).unwrap_or(PORT);
    let site = match files::Site::open(std::path::Path::new(&directory)) {
        Ok(site) => site,
        Err(error) => {
            eprintln!("cannot open {}: {error}", directory.to_string_lossy());
            return ExitCode::FAILURE;
        }
    };
    match std::net::TcpListener::bind(("0.0.0.0", port)) {
        Ok(listener) => files::serve(&listener, &site),
        Err(error) => {
            eprintln!("cannot listen on port {port}: {error}");
            ExitCode::FAILURE
        }
    }
}
