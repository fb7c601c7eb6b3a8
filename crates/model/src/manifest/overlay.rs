//! `[environments.NAME]`: what differs in one environment.
//!
//! Lives here: merging an overlay into the file. Does not live here: what the merged file means; it is read like any.
//! Rule: tables are merged key by key; everything else, lists included, is replaced. A `[rollout]` that names its strategy
//! replaces the whole: settings of one strategy mean nothing to another.
//! Invariant: positions stay those of the text, so a problem of a merged file is told where it was written.

use toml::de::{DeTable, DeValue};

use super::keys::OVERLAY;
use super::reader::Section;
use crate::name::Name;

/// Each is read together with the whole file; nobody has more, and it bounds the work of a stranger's file.
const ENVIRONMENTS_MAX: usize = 50;

/// The environments that differ, each with the file as it is there.
pub(super) fn all<'t>(root: &Section<'t>) -> Vec<(Name, DeTable<'t>)> {
    let Some(section) = root.section("environments") else {
        return Vec::new();
    };
    if section.table.len() > ENVIRONMENTS_MAX {
        section.problem(format!("more than {ENVIRONMENTS_MAX} environments"), None);
        return Vec::new();
    }
    let mut merged = Vec::new();
    for (name, field) in section.entries::<Name>() {
        let Some(overlay) = field.section() else { continue };
        overlay.allow(&OVERLAY);
        let mut whole = root.table.clone();
        whole.remove("environments");
        let known = overlay.table.iter().filter(|(key, _)| {
            // What has its problem already, or may not differ, takes no part.
            OVERLAY.names().any(|known| known == key.get_ref().as_ref())
        });
        for (key, value) in known {
            let names_strategy = value
                .get_ref()
                .as_table()
                .is_some_and(|table| table.contains_key("strategy"));
            if key.get_ref() == "rollout" && names_strategy {
                whole.remove("rollout");
            }
            put(&mut whole, key.clone(), value.clone());
        }
        merged.push((name, whole));
    }
    merged
}

/// The file without what belongs to some environments only.
pub(super) fn base<'t>(root: &DeTable<'t>) -> DeTable<'t> {
    let mut base = root.clone();
    base.remove("environments");
    base
}

fn put<'t>(
    into: &mut DeTable<'t>,
    key: toml::Spanned<std::borrow::Cow<'t, str>>,
    value: toml::Spanned<DeValue<'t>>,
) {
    let under: Option<&mut DeValue<'t>> = into.get_mut(key.get_ref().as_ref()).map(toml::Spanned::get_mut);
    if let (Some(DeValue::Table(old)), DeValue::Table(new)) = (under, value.get_ref()) {
        for (key, value) in new {
            put(old, key.clone(), value.clone());
        }
        return;
    }
    into.remove(key.get_ref().as_ref());
    into.insert(key, value);
}
