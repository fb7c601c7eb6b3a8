//! Text that a person gives by file or by standard input.

use std::io::Read as _;
use std::path::Path;

use crate::failure::Failure;

/// More than anything that is given so; what is longer is cut, and refused by who takes it.
const MOST: u64 = 1 << 20;

/// The text of a file; without one or with `-`, of standard input.
pub(crate) fn text(file: Option<&Path>, what: &str) -> Result<String, Failure> {
    let mut text = String::new();
    let file = file.filter(|file| *file != Path::new("-"));
    let (read, place) = match file {
        Some(file) => {
            let read = std::fs::File::open(file).and_then(|file| file.take(MOST).read_to_string(&mut text));
            (read, file.display().to_string())
        }
        None => (
            std::io::stdin().take(MOST).read_to_string(&mut text),
            "standard input".to_owned(),
        ),
    };
    read.map_err(|cause| Failure::local(format!("could not read {what} from {place}"), &cause))?;
    Ok(text)
}
