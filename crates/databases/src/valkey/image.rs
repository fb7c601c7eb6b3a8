//! The image with Valkey in it.

use engine::{Engine, FetchImage, LineSink, Reach};
use model::ImageDigest;
use model::operation::ImageSource;

use crate::DatabaseError;

/// The major version that Debian 13's packages carry; Debian 12 has none.
pub const USUAL_VERSION: &str = "8";
const SUITE: &str = "trixie";
/// The server, and `valkey-cli` with which it is spoken to.
const PACKAGES: [&str; 2] = ["valkey-server", "valkey-tools"];

fn name_of(version: &str) -> String {
    format!("valkey:{version}")
}

/// The image with Valkey in it that is there, and its major version.
///
/// # Errors
/// When the store cannot be read.
pub fn find_image(
    engine: &dyn Engine,
    version: Option<&str>,
) -> Result<Option<(ImageDigest, String)>, DatabaseError> {
    let asked = version.unwrap_or(USUAL_VERSION);
    let found = engine.find_image(&name_of(asked))?;
    Ok(found.map(|facts| (facts.digest, asked.to_owned())))
}

/// Whether an image of this version can be made here; any other must be in the store, as `valkey:N`.
#[must_use]
pub fn can_make(version: &str) -> bool {
    version == USUAL_VERSION
}

/// An image with Valkey in it, and its major version.
///
/// # Errors
/// When there is no such version or it cannot be got.
pub fn ensure_image(
    engine: &dyn Engine,
    version: Option<&str>,
    lines: LineSink<'_>,
) -> Result<(ImageDigest, String), DatabaseError> {
    if let Some(found) = find_image(engine, version)? {
        return Ok(found);
    }
    let asked = version.unwrap_or(USUAL_VERSION);
    if !can_make(asked) {
        return Err(DatabaseError::NoValkey {
            asked: asked.to_owned(),
            known: USUAL_VERSION,
        });
    }
    let source = ImageSource::Debian {
        suite: SUITE.to_owned(),
        packages: PACKAGES.map(str::to_owned).to_vec(),
    };
    lines("making the Valkey image from Debian packages (once; a minute or two)");
    let digest = engine.fetch_image(
        &FetchImage {
            source: &source,
            archive: None,
            name: &name_of(asked),
            reach: Reach::PublicOnly,
        },
        lines,
    )?;
    Ok((digest, asked.to_owned()))
}
