//! `Procfile`: `NAME: COMMAND` lines. `release:` becomes the job that runs before traffic.

use std::collections::BTreeSet;

use model::manifest::Manifest;
use model::spec::{Job, JobTrigger};
use model::{Millis, Name, Resources};

use crate::draft::{Draft, bare_service};
use crate::remark::{At, Report, Unreadable};

const TEXT_MAX: usize = 64 << 10;
/// The manifest's own default.
pub(crate) const JOB_TIMEOUT: Millis = Millis::seconds(600);
const RELEASE: &str = "release";

pub(crate) fn import(text: &str, app: &Name, report: &Report) -> Result<Option<Manifest>, Unreadable> {
    let mut draft = Draft::new(app.clone(), report);
    read(text, &mut draft)?;
    if draft.manifest.services.is_empty() {
        report.unsupported(At::new(1, 1), "", "it names no process that could be taken over");
        return Ok(None);
    }
    Ok(draft.finish())
}

/// What the Procfile beside another file says; its remarks are told as one's of that file.
pub(crate) fn beside(text: &str, app: &Name, report: &Report) -> Option<Manifest> {
    let own = Report::default();
    let mut draft = Draft::new(app.clone(), &own);
    let outcome = read(text, &mut draft);
    let manifest = draft.manifest;
    for remark in own.into_remarks() {
        let path = format!("Procfile:{}", remark.at.line);
        let message = format!("{}: {}", remark.path, remark.message);
        report.add(remark.kind, At::new(1, 1), &path, message);
    }
    match outcome {
        Ok(()) => Some(manifest),
        Err(why) => {
            let message = format!("{why}; it is not read, so what it names does not run");
            report.unsupported(At::new(1, 1), "Procfile", message);
            None
        }
    }
}

fn read(text: &str, draft: &mut Draft<'_>) -> Result<(), Unreadable> {
    if text.len() > TEXT_MAX {
        let message = format!("is longer than {} KiB", TEXT_MAX >> 10);
        return Err(Unreadable::new(At::new(1, 1), message));
    }
    for (index, line) in text.lines().enumerate() {
        let at = At::new(index + 1, 1);
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((key, command)) = line.split_once(':') else {
            return Err(Unreadable::new(at, "there is no \":\" between name and command"));
        };
        let key = key.trim();
        let Some(words) = draft.line(at, key, command) else {
            continue;
        };
        draft.mention_words(at, key, &words);
        if key == RELEASE {
            if !draft.manifest.jobs.is_empty() {
                return Err(Unreadable::new(at, "release is there twice"));
            }
            if let Ok(name) = RELEASE.parse() {
                draft.manifest.jobs.insert(name, release_job(words));
            }
            continue;
        }
        let Some(name) = draft.name(at, key, key) else {
            continue;
        };
        let mut service = bare_service();
        service.command = Some(words);
        if draft.manifest.services.insert(name, service).is_some() {
            return Err(Unreadable::new(at, format!("{key} is there twice")));
        }
    }
    Ok(())
}

pub(crate) fn release_job(command: Vec<String>) -> Job {
    Job {
        command,
        on: JobTrigger::Release,
        resources: Resources::default(),
        uses: BTreeSet::new(),
        secrets: BTreeSet::new(),
        timeout: JOB_TIMEOUT,
    }
}
