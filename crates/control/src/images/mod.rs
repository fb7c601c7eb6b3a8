//! Images: list, get, forget; and whose each of them is.
//!
//! Lives here: the use cases. Does not live here: whose an image is (`owners`), keeping their bytes (`engine`).
//! Invariant: an image that is others' and one that is not there are the same to whoever asks, lists or deploys.

mod owners;

use model::operation::{ImageSource, Work};
use model::{Action, Actor, OrgId, Project, Realm};
use store::rows::ImageName;

use crate::authorize::{self, Rights};
use crate::operations::{self, Accepted};
use crate::rehearsal;
use crate::{Control, ControlError};

pub use owners::adopt;
pub(crate) use owners::{collect, note};

/// How the note of a release begins that was made from an image; its name follows.
pub(crate) const FROM_IMAGE: &str = "image ";

/// The images that the actor may know of, each with the names that it has there: those of the projects and orgs he reads,
/// and those for everybody. Who reads the whole installation sees all there are, under all their names.
///
/// # Errors
/// As the gate's, and the engine's.
pub fn list(control: &Control, actor: &Actor) -> Result<Vec<engine::ImageSummary>, ControlError> {
    let known = control.read(|tx| known(tx, actor))?;
    let all = control.engine.images()?;
    let Some(known) = known else { return Ok(all) };
    let mut own: Vec<engine::ImageSummary> = all;
    own.retain(|image| known.is_there(&image.digest));
    for image in &mut own {
        image.names = known.names_of(&image.digest);
    }
    Ok(own)
}

/// One image by name or digest.
///
/// # Errors
/// As the gate's, and the engine's.
pub fn view(control: &Control, actor: &Actor, name: &str) -> Result<engine::ImageFacts, ControlError> {
    let known = control.read(|tx| known(tx, actor))?;
    let found = match &known {
        None => control.engine.find_image(name)?,
        Some(known) => known.find(control, name)?,
    };
    found.ok_or_else(|| authorize::missing("image", name))
}

/// What the actor may know of; `None`: everything.
fn known(tx: &store::ReadTx, actor: &Actor) -> Result<Option<owners::Known>, ControlError> {
    let rights = Rights::of(tx, actor)?;
    if rights.allow(Action::Read, Realm::Installation) {
        return Ok(None);
    }
    rights.demand_somewhere(Action::Read)?;
    let reads = |realm| realm == Realm::Installation || rights.allow(Action::Read, realm);
    owners::Known::read(tx, &reads).map(Some)
}

/// An image that may run in a project, by name or digest: one of its own releases or deploys, of its org, or for everybody.
///
/// # Errors
/// When the store or the engine cannot be read.
pub(crate) fn find(
    control: &Control,
    tx: &store::ReadTx,
    project: &Project,
    name: &str,
) -> Result<Option<engine::ImageFacts>, ControlError> {
    of_project(tx, project)?.find(control, name)
}

/// The images that may run in a project.
///
/// # Errors
/// When the store cannot be read.
pub(crate) fn of_project(tx: &store::ReadTx, project: &Project) -> Result<owners::Known, ControlError> {
    let home = authorize::realm_of(project);
    owners::Known::read(tx, &|realm: Realm| realm.covers(home))
}

/// Gets an image under a name, for all orgs or for one.
///
/// # Errors
/// As the gate's; `Invalid` for values that cannot be.
pub fn fetch(
    control: &Control,
    actor: &Actor,
    source: &ImageSource,
    name: &str,
    org: Option<&str>,
) -> Result<Accepted, ControlError> {
    control.mutate(actor, "image.create", name, |tx| {
        authorize::installation(tx, actor, Action::Administer)?;
        let org: Option<OrgId> = match org {
            Some(org) => Some(authorize::org(tx, actor, Action::See, org)?.row.id),
            None => None,
        };
        check(source, name)?;
        if let ImageSource::Archive { upload } | ImageSource::Directory { upload, .. } = source
            && tx.get::<store::rows::Upload>(&upload.to_string())?.is_none()
        {
            return Err(ControlError::invalid("/source/upload", "there is no such upload"));
        }
        if let ImageSource::Directory { over, .. } = source
            && control.engine.find_image(over)?.is_none()
        {
            return Err(ControlError::invalid(
                "/source/over",
                format!("there is no image {over} here; see: stoa image ls"),
            ));
        }
        let work = Work::Image {
            source: source.clone(),
            name: name.to_owned(),
            org,
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
        ImageSource::Directory { at, .. } => {
            let is_plain = |part: &str| !matches!(part, "." | "..");
            if !at.starts_with('/') || !fits(at) || !at.split('/').all(is_plain) {
                return Err(ControlError::invalid(
                    "/source/at",
                    "an absolute path of visible ASCII characters, without . and ..",
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
    remove_if(control, actor, name, None)
}

/// The same, if it is the content that the caller has seen.
///
/// # Errors
/// As [`remove`]; `Replaced` when the name leads to other content by now.
pub fn remove_if(
    control: &Control,
    actor: &Actor,
    name: &str,
    expected: Option<&str>,
) -> Result<(), ControlError> {
    let is_there = || {
        control.read(|tx| authorize::installation(tx, actor, Action::Administer))?;
        let found = control.engine.find_image(name)?;
        let found = found
            .ok_or_else(|| authorize::missing("image", name))?
            .digest
            .to_string();
        match expected {
            Some(expected) if expected != found => Err(ControlError::Replaced {
                expected: expected.to_owned(),
                found,
            }),
            Some(_) | None => Ok(()),
        }
    };
    control.audited(actor, "image.delete", name, is_there())?;
    // Recorded before it is done: what was removed without a record could not be found out later.
    control.mutate(actor, "image.delete", name, |tx| {
        for found in tx.list_all::<ImageName>()? {
            if found.row.name == name || found.row.digest.as_str() == name {
                let id = store::Row::id(&found.row).into_owned();
                tx.delete::<ImageName>(&id, store::Expect::Any)?;
            }
        }
        Ok(())
    })?;
    if rehearsal::is_on() {
        rehearsal::note("image", name, "delete");
        return Ok(());
    }
    Ok(control.engine.remove_image(name)?)
}
