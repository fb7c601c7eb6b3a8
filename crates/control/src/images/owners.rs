//! Whose an image is.
//!
//! Lives here: what of the store of images counts for whom. Does not live here: who somebody is (`authorize`).
//! Invariant: the engine keeps one store for all, under names that everybody may have given; what somebody may use of it is
//! what a row or a release of his own says, never that it is there.

use std::collections::{BTreeMap, BTreeSet};

use model::operation::Work;
use model::{App, Environment, ImageDigest, Operation, Project, Realm, Release, Timestamp};
use store::rows::{ImageName, Step};
use store::{Expect, ReadTx, Row as _, WriteTx};

use crate::authorize::realm_of;
use crate::transact::all;
use crate::{Control, ControlError};

/// The image of the host's own toolchains. It holds nothing that is anybody's.
const HOST: &str = "host";

/// What may be known of the store of images.
pub(crate) struct Known {
    names: Vec<ImageName>,
    released: BTreeSet<ImageDigest>,
}

impl Known {
    /// Of the realms that count.
    pub(super) fn read(tx: &ReadTx, counts: &dyn Fn(Realm) -> bool) -> Result<Self, ControlError> {
        let (mut names, _) = all::<ImageName>(tx)?;
        names.retain(|name| counts(name.realm));
        // The narrowest comes first: what a project got under a name is what the name means there.
        names.sort_by_key(|name| std::cmp::Reverse(name.realm));
        let projects = all::<Project>(tx)?.0.into_iter();
        let projects = projects.filter(|project| counts(realm_of(project)));
        Ok(Self {
            names,
            released: released(tx, projects.map(|project| project.id.to_string()))?,
        })
    }

    pub(super) fn is_there(&self, digest: &ImageDigest) -> bool {
        self.released.contains(digest) || self.names.iter().any(|name| name.digest == *digest)
    }

    /// Whether an image counts that was asked for by this name.
    pub(crate) fn has(&self, name: &str, digest: &ImageDigest) -> bool {
        name == HOST || self.is_there(digest)
    }

    pub(super) fn names_of(&self, digest: &ImageDigest) -> Vec<String> {
        let own = self.names.iter().filter(|name| name.digest == *digest);
        let names: BTreeSet<String> = own.map(|name| name.name.clone()).collect();
        names.into_iter().collect()
    }

    /// What a name or digest means. Others may have given the name to another image since, or before.
    pub(super) fn find(
        &self,
        control: &Control,
        name: &str,
    ) -> Result<Option<engine::ImageFacts>, ControlError> {
        let found = control.engine.find_image(name)?;
        if let Some(found) = found
            && self.has(name, &found.digest)
        {
            return Ok(Some(found));
        }
        match self.names.iter().find(|own| own.name == name) {
            Some(own) => Ok(control.engine.find_image(own.digest.as_str())?),
            None => Ok(None),
        }
    }
}

/// The images of the releases of these projects.
fn released(
    tx: &ReadTx,
    projects: impl Iterator<Item = String>,
) -> Result<BTreeSet<ImageDigest>, ControlError> {
    let projects: BTreeSet<String> = projects.collect();
    let environments = all::<Environment>(tx)?.0.into_iter();
    let environments: BTreeSet<_> = environments
        .filter(|environment| projects.contains(&environment.project.to_string()))
        .map(|environment| environment.id)
        .collect();
    let mut images = BTreeSet::new();
    for app in all::<App>(tx)?.0 {
        if !environments.contains(&app.environment) {
            continue;
        }
        for (release, _) in crate::transact::under::<Release>(tx, &app.id.to_string())? {
            images.insert(release.row.image);
            images.extend(release.row.images.into_values());
        }
    }
    Ok(images)
}

/// Writes down whose an image is that was got under a name.
pub(crate) fn note(
    tx: &WriteTx,
    realm: Realm,
    name: &str,
    digest: &ImageDigest,
    now: Timestamp,
) -> Result<(), ControlError> {
    let row = ImageName {
        realm,
        name: name.to_owned(),
        digest: digest.clone(),
        created_at: now,
    };
    match tx.get::<ImageName>(&row.id())? {
        None => {
            tx.insert(&row)?;
        }
        Some(found) if found.row.digest == row.digest => {}
        Some(_) => {
            tx.update(&row, Expect::Any)?;
        }
    }
    Ok(())
}

/// Forgets what was written down of images that are no longer kept, and of places that are gone.
///
/// # Errors
/// When the store or the engine cannot be read.
pub(crate) fn collect(control: &Control) -> Result<(), ControlError> {
    let (names, places) = control.read(|tx| {
        let projects = tx.list_all::<Project>()?.into_iter();
        let orgs = tx.list_all::<model::Org>()?.into_iter();
        let mut places: BTreeSet<String> = projects.map(|found| found.row.id.to_string()).collect();
        places.extend(orgs.map(|found| found.row.id.to_string()));
        places.insert(Realm::Installation.key());
        Ok((tx.list_all::<ImageName>()?, places))
    })?;
    // Read after the rows: an image that was got in between is in the list.
    let kept: BTreeSet<ImageDigest> = control
        .engine
        .images()?
        .into_iter()
        .map(|image| image.digest)
        .collect();
    let is_over = |name: &ImageName| !(kept.contains(&name.digest) && places.contains(&name.realm.key()));
    let over: Vec<String> = names
        .iter()
        .filter(|found| is_over(&found.row))
        .map(|found| found.row.id().into_owned())
        .collect();
    if over.is_empty() {
        return Ok(());
    }
    control.write(|tx| {
        for id in &over {
            tx.delete::<ImageName>(id, Expect::Any)?;
        }
        Ok(())
    })
}

/// What [`adopt`] is called where it is remembered.
const ADOPTED: &str = "images have owners";

/// Writes down whose the images are that an earlier Stoa got, once: one that releases were made from by name is of their
/// projects; every other, and what the operator asked for, is everybody's as it was.
///
/// # Errors
/// When the store does not take it, or the engine cannot be read.
pub fn adopt(control: &Control) -> Result<(), ControlError> {
    if control.read(|tx| Ok(tx.get::<Step>(ADOPTED)?.is_some()))? {
        return Ok(());
    }
    let images = control.engine.images()?;
    control.write(|tx| {
        let now = control.now_of(tx);
        let (users, asked) = (users(tx)?, asked_for(tx)?);
        for image in &images {
            // Of all its names: a reference is kept in its long form, too.
            let mut of: BTreeSet<Realm> = image
                .names
                .iter()
                .filter_map(|name| users.get(name))
                .flatten()
                .copied()
                .collect();
            if of.is_empty() || image.names.iter().any(|name| asked.contains(name)) {
                of = BTreeSet::from([Realm::Installation]);
            }
            for (name, realm) in image
                .names
                .iter()
                .flat_map(|name| of.iter().map(move |realm| (name, realm)))
            {
                note(tx, *realm, name, &image.digest, now)?;
            }
        }
        tx.insert(&Step {
            name: ADOPTED.to_owned(),
            at: now,
        })?;
        Ok(())
    })
}

/// The names that releases were made from, as their notes and services have them, and where.
fn users(tx: &ReadTx) -> Result<BTreeMap<String, BTreeSet<Realm>>, ControlError> {
    let environments = all::<Environment>(tx)?.0.into_iter();
    let environments: BTreeMap<_, _> = environments.map(|one| (one.id, one.project)).collect();
    let projects = all::<Project>(tx)?.0.into_iter();
    let projects: BTreeMap<_, _> = projects.map(|one| (one.id, realm_of(&one))).collect();
    let apps = all::<App>(tx)?.0.into_iter();
    let apps: BTreeMap<_, _> = apps.map(|one| (one.id, one.environment)).collect();
    let mut users: BTreeMap<String, BTreeSet<Realm>> = BTreeMap::new();
    for release in all::<Release>(tx)?.0 {
        let project = apps.get(&release.app).and_then(|at| environments.get(at));
        let Some(realm) = project.and_then(|project| projects.get(project)) else {
            continue;
        };
        let direct = release.note.strip_prefix(super::FROM_IMAGE).map(str::to_owned);
        let services = release.services.values().filter_map(|one| one.image.clone());
        for name in services.chain(direct) {
            users.entry(name).or_default().insert(*realm);
        }
    }
    Ok(users)
}

/// The names that the operator asked for, as far as it is remembered.
fn asked_for(tx: &ReadTx) -> Result<BTreeSet<String>, ControlError> {
    let operations = all::<Operation>(tx)?.0.into_iter();
    Ok(operations
        .filter_map(|one| {
            let Work::Image { name, .. } = one.work else {
                return None;
            };
            Some(name)
        })
        .collect())
}
