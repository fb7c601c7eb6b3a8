//! Images of the installation: list, get, forget.

use model::operation::{ImageSource, Work};
use model::{Action, Actor};

use crate::authorize::{self, Rights};
use crate::operations::{self, Accepted};
use crate::rehearsal;
use crate::{Control, ControlError};

/// All images.
///
/// # Errors
/// As the gate's, and the engine's.
pub fn list(control: &Control, actor: &Actor) -> Result<Vec<engine::ImageSummary>, ControlError> {
    may_read(control, actor)?;
    Ok(control.engine.images()?)
}

/// One image by name or digest.
///
/// # Errors
/// As the gate's, and the engine's.
pub fn view(control: &Control, actor: &Actor, name: &str) -> Result<engine::ImageFacts, ControlError> {
    may_read(control, actor)?;
    control
        .engine
        .find_image(name)?
        .ok_or_else(|| authorize::missing("image", name))
}

// Images belong to the installation, but whoever may see an app somewhere may also see what there is to deploy.
fn may_read(control: &Control, actor: &Actor) -> Result<(), ControlError> {
    control.read(|tx| Rights::of(tx, actor)?.demand_somewhere(Action::Read))
}

/// Gets an image under a name.
///
/// # Errors
/// As the gate's; `Invalid` for values that cannot be.
pub fn fetch(
    control: &Control,
    actor: &Actor,
    source: &ImageSource,
    name: &str,
) -> Result<Accepted, ControlError> {
    control.mutate(actor, "image.create", name, |tx| {
        authorize::installation(tx, actor, Action::Administer)?;
        check(source, name)?;
        if let ImageSource::Archive { upload } = source
            && tx.get::<store::rows::Upload>(&upload.to_string())?.is_none()
        {
            return Err(ControlError::invalid(
                "/archive/upload",
                "there is no such upload",
            ));
        }
        let work = Work::Image {
            source: source.clone(),
            name: name.to_owned(),
        };
        operations::accept(control, tx, actor, None, work)
    })
}

fn check(source: &ImageSource, name: &str) -> Result<(), ControlError> {
    let fits = |text: &str| {
        !text.is_empty()
            && text.len() <= 256
            && text.bytes().all(|b| b.is_ascii_graphic())
            && !text.starts_with('-')
    };
    if !fits(name) {
        return Err(ControlError::invalid(
            "/name",
            "1 to 256 visible ASCII characters, not beginning with -",
        ));
    }
    match source {
        ImageSource::Pull { reference, .. } if !fits(reference) => {
            return Err(ControlError::invalid("/pull/reference", "not an image reference"));
        }
        ImageSource::Debian { suite, packages } => {
            let package = |p: &String| {
                fits(p)
                    && p.bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"+-.:".contains(&b))
            };
            if !package(suite) || packages.len() > 500 || !packages.iter().all(package) {
                return Err(ControlError::invalid(
                    "/debian",
                    "a suite such as bookworm and names of packages",
                ));
            }
        }
        ImageSource::Pull { .. } | ImageSource::Archive { .. } | ImageSource::Host => {}
    }
    Ok(())
}

/// Forgets an image. What runs from it keeps running; releases that need it keep its bytes.
///
/// # Errors
/// As the gate's, and the engine's.
pub fn remove(control: &Control, actor: &Actor, name: &str) -> Result<(), ControlError> {
    let is_there = || {
        control.read(|tx| authorize::installation(tx, actor, Action::Administer))?;
        let found = control.engine.find_image(name)?;
        found.map(drop).ok_or_else(|| authorize::missing("image", name))
    };
    control.audited(actor, "image.delete", name, is_there())?;
    // Recorded before it is done: what was removed without a record could not be found out later.
    control.mutate(actor, "image.delete", name, |_| Ok(()))?;
    if rehearsal::is_on() {
        rehearsal::note("image", name, "delete");
        return Ok(());
    }
    Ok(control.engine.remove_image(name)?)
}
