//! Structured logs on standard error: for people on a terminal, as JSON lines elsewhere when asked.

use tracing_subscriber::EnvFilter;

/// Begins logging. `STOA_LOG` filters (default `info`), `STOA_LOG_FORMAT=json` gives JSON lines.
pub(crate) fn start() {
    let filter = EnvFilter::try_from_env("STOA_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let is_json = std::env::var_os("STOA_LOG_FORMAT").is_some_and(|format| format == "json");
    let is_colored = std::env::var_os("NO_COLOR").is_none() && rustix::termios::isatty(std::io::stderr());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second start in the same process is a test's; the first one stands.
    let started = if is_json {
        builder.json().try_init()
    } else {
        builder.with_ansi(is_colored).with_target(false).try_init()
    };
    drop(started);
}
