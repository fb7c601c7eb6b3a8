//! Structured logs on standard error: for people on a terminal, as JSON lines elsewhere when asked.

use tracing_subscriber::EnvFilter;

/// Says how, also to our children: `json` gives JSON lines.
pub(crate) const FORMAT: &str = "STOA_LOG_FORMAT";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// An object a line.
    Json,
}

impl Format {
    pub(crate) fn of_environment() -> Self {
        match std::env::var_os(FORMAT).is_some_and(|format| format == "json") {
            true => Self::Json,
            false => Self::Text,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Begins logging. `STOA_LOG` filters (default `info`).
pub(crate) fn start(format: Format) {
    let filter = EnvFilter::try_from_env("STOA_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let is_colored = std::env::var_os("NO_COLOR").is_none() && rustix::termios::isatty(std::io::stderr());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second start in the same process is a test's; the first one stands.
    let started = match format {
        Format::Json => builder.json().try_init(),
        Format::Text => builder.with_ansi(is_colored).with_target(false).try_init(),
    };
    drop(started);
}
