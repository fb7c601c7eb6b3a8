//! What goes from the target elsewhere: what no promise needs any more, and what a crash left.
//!
//! Invariants: it leaves the catalogue before the target; what a catalogue names, and what another server or another program
//! put there, is never removed.

use std::collections::BTreeSet;

use ::backup::{BackupError, Catalogue, KeptBase, Key, Names, Target};
use model::{Bytes, Timestamp};
use plan::backup::{KEEP, Policy, upkeep};

use super::{gone, there};

/// Where a server's objects are.
#[derive(Clone, Copy)]
pub(super) struct Shelf<'a> {
    pub(super) target: &'a Target,
    pub(super) key: &'a Key,
    pub(super) names: &'a Names,
}

impl Shelf<'_> {
    pub(super) fn write(&self, catalogue: &Catalogue) -> Result<(), BackupError> {
        let name = self.names.catalogue(catalogue.database);
        self.target.put_document(self.key, &name, catalogue).map(drop)
    }

    /// Removes what the promise needs no more. Returns the catalogue that is there then.
    pub(super) fn expire(&self, known: &Catalogue, now: Timestamp) -> Result<Catalogue, BackupError> {
        let id = known.database;
        let mut next = needed(known, now);
        if next == *known {
            return Ok(next);
        }
        next.written_at = now;
        self.write(&next)?;
        let mut names: Vec<String> = gone(known, &next)
            .iter()
            .map(|(stretch, file)| self.names.file(id, *stretch, file))
            .collect();
        let is_gone = |base: &&KeptBase| next.bases.iter().all(|kept| kept.number != base.number);
        for base in known.bases.iter().filter(is_gone) {
            let listed = self.target.list(&self.names.base(id, base.number))?;
            names.extend(listed.into_iter().map(|object| object.name));
        }
        names.iter().try_for_each(|name| self.target.remove(name))?;
        Ok(next)
    }

    /// Removes what a crash left: what was put and is not named. Parts of a base that is still to be put are kept.
    pub(super) fn sweep(&self, catalogue: &Catalogue) -> Result<(), BackupError> {
        let id = catalogue.database;
        let mut named: BTreeSet<String> = [self.names.catalogue(id)].into();
        for stretch in &catalogue.stretches {
            let files = stretch.files.iter();
            named.extend(files.map(|file| self.names.file(id, stretch.number, file)));
        }
        let kept: Vec<String> = catalogue
            .bases
            .iter()
            .map(|base| self.names.base(id, base.number))
            .collect();
        let newest = catalogue.bases.iter().map(|base| base.number).max().unwrap_or(0);
        let bases = format!("{}base/", self.names.database(id));
        for object in self.target.list(&self.names.database(id))? {
            let of_base = object
                .name
                .strip_prefix(&bases)
                .and_then(|rest| rest.split('/').next());
            let is_later = of_base
                .and_then(|number| number.parse::<u64>().ok())
                .is_some_and(|number| number > newest);
            let is_kept = kept.iter().any(|prefix| object.name.starts_with(prefix));
            if !named.contains(&object.name) && !is_kept && !is_later {
                self.target.remove(&object.name)?;
            }
        }
        Ok(())
    }
}

/// What of a catalogue the promise needs.
fn needed(catalogue: &Catalogue, now: Timestamp) -> Catalogue {
    let (bases, stretches) = there(catalogue);
    let current = stretches.iter().map(|stretch| stretch.number).max().unwrap_or(0);
    let policy = Policy {
        keep: KEEP,
        every: KEEP,
        // Only time bounds it there: what room there is is the operator's.
        budget: Bytes::new(u64::MAX),
        is_short: false,
    };
    let found = upkeep(&bases, &stretches, current, policy, now);
    let mut next = catalogue.clone();
    next.bases.retain(|base| !found.bases.contains(&base.number));
    next.stretches
        .retain(|stretch| !found.stretches.contains(&stretch.number));
    for stretch in &mut next.stretches {
        stretch
            .files
            .retain(|file| !found.segments.contains(&(stretch.number, file.segment)));
    }
    next
}

#[cfg(test)]
mod tests {
    use ::backup::{KeptFile, KeptStretch, Manifest, Part};
    use model::backup::SEGMENT_BYTES;
    use model::{DatabaseId, Lsn, Segment};

    use super::*;

    const DAY: u64 = 24 * 3600 * 1000;

    fn segment(number: u64) -> Segment {
        Segment { timeline: 1, number }
    }

    /// A base and a segment each day, from the first on.
    fn after(days: u64) -> Catalogue {
        let base = |day: u64| KeptBase {
            number: day,
            stretch: 1,
            at: Timestamp::from_ms(day * DAY),
            lsn: Lsn::new(day * SEGMENT_BYTES + 40),
            last: segment(day),
            version: "15".to_owned(),
            image: format!("sha256:{}", "0".repeat(64)).parse().expect("a digest"),
            files: None,
            bytes: 5,
        };
        let file = |day: u64| KeptFile {
            segment: segment(day),
            written: Timestamp::from_ms(day * DAY + DAY / 2),
            bytes: 5,
            open_at: None,
        };
        Catalogue {
            database: DatabaseId::fresh(),
            name: "main".parse().expect("a name"),
            place: "a/b/c".to_owned(),
            size: Bytes::mi(1),
            memory: Bytes::mi(1),
            written_at: Timestamp::from_ms(1),
            stretches: vec![KeptStretch {
                number: 1,
                complete: None,
                files: (1..=days).map(file).collect(),
            }],
            bases: (1..=days).map(base).collect(),
        }
    }

    #[test]
    fn seven_days_stay_and_what_serves_them() {
        let bases =
            |catalogue: &Catalogue| -> Vec<u64> { catalogue.bases.iter().map(|base| base.number).collect() };
        let young = after(7);
        assert_eq!(needed(&young, Timestamp::from_ms(7 * DAY)), young);
        let old = after(12);
        let kept = needed(&old, Timestamp::from_ms(12 * DAY + 1));
        assert_eq!(bases(&kept), (5..=12).collect::<Vec<_>>());
        let went = gone(&old, &kept);
        let numbers: Vec<u64> = went.iter().map(|(_, file)| file.segment.number).collect();
        assert_eq!(numbers, [1, 2, 3, 4], "log that no base begins at");
        assert_eq!(
            needed(&kept, Timestamp::from_ms(12 * DAY + 1)),
            kept,
            "a second look"
        );
        // However old: the last is never given up.
        assert_eq!(bases(&needed(&after(1), Timestamp::from_ms(400 * DAY))), [1]);
    }

    /// What a catalogue names, and the catalogue, as real objects in a directory.
    fn put(shelf: &Shelf<'_>, catalogue: &mut Catalogue) {
        let id = catalogue.database;
        let put = |name: &str| {
            let sealed = ::backup::seal(shelf.key, name, &mut name.as_bytes()).expect("sealed");
            shelf.target.put(name, &sealed).expect("put");
            sealed.len() as u64
        };
        for stretch in &mut catalogue.stretches {
            for file in &mut stretch.files {
                file.bytes = put(&shelf.names.file(id, stretch.number, file));
            }
        }
        for base in &mut catalogue.bases {
            let parts = (0..3).map(|index: u64| {
                let name = shelf
                    .names
                    .part(id, base.number, index, &index.to_le_bytes(), shelf.key);
                let bytes = put(&name);
                Part { name, bytes }
            });
            let manifest = Manifest {
                parts: parts.collect(),
            };
            let name = shelf.names.manifest(id, base.number);
            let put = shelf.target.put_document(shelf.key, &name, &manifest);
            put.expect("put");
        }
        shelf.write(catalogue).expect("written");
    }

    fn names(shelf: &Shelf<'_>) -> BTreeSet<String> {
        let listed = shelf.target.list(::backup::ROOT).expect("listed");
        listed.into_iter().map(|object| object.name).collect()
    }

    /// All that is there opens, is what the catalogue there names, and is all that it names.
    fn check_whole(shelf: &Shelf<'_>, id: DatabaseId) -> Catalogue {
        let name = shelf.names.catalogue(id);
        let catalogue: Catalogue = shelf.target.document(shelf.key, &name).expect("a catalogue");
        let mut named: BTreeSet<String> = [name].into();
        for stretch in &catalogue.stretches {
            let files = stretch.files.iter();
            named.extend(files.map(|file| shelf.names.file(id, stretch.number, file)));
        }
        for base in &catalogue.bases {
            let name = shelf.names.manifest(id, base.number);
            let manifest: Manifest = shelf.target.document(shelf.key, &name).expect("a manifest");
            named.extend(manifest.parts.into_iter().map(|part| part.name));
            named.insert(name);
        }
        for name in &named {
            shelf.target.object(shelf.key, name).expect(name);
        }
        let there: BTreeSet<String> = names(shelf)
            .into_iter()
            .filter(|name| name.starts_with(&shelf.names.database(id)))
            .collect();
        assert_eq!(there, named);
        catalogue
    }

    #[test]
    fn what_is_too_old_goes_from_a_directory_and_nothing_that_is_needed() {
        let folder = tempfile::tempdir().expect("a directory");
        let target = Target::Directory(folder.path().to_owned());
        let key = Key::fresh().expect("a key");
        let (own, other) = (Names::of(&"1".repeat(32)), Names::of(&"2".repeat(32)));
        let shelf = |names| Shelf {
            target: &target,
            key: &key,
            names,
        };
        let (mut mine, mut foreign) = (after(12), after(12));
        put(&shelf(&own), &mut mine);
        put(&shelf(&other), &mut foreign);
        target.put("notes.txt", b"not ours").expect("put");
        let (shelf, id) = (shelf(&own), mine.database);
        let before = names(&shelf);

        let now = Timestamp::from_ms(12 * DAY + 1);
        let next = shelf.expire(&mine, now).expect("expired");
        assert_eq!(check_whole(&shelf, id), next);
        let numbers: Vec<u64> = next.bases.iter().map(|base| base.number).collect();
        assert_eq!(numbers, (5..=12).collect::<Vec<_>>());
        let went: BTreeSet<String> = before.difference(&names(&shelf)).cloned().collect();
        let is_old = |name: &String| {
            let of_base = (1..5).any(|number| name.starts_with(&own.base(id, number)));
            let of_log = (1..5).any(|number| *name == own.segment(id, 1, segment(number)));
            of_base || of_log
        };
        assert_eq!(went.len(), 4 * 4 + 4, "{went:?}");
        assert!(went.iter().all(is_old), "{went:?}");

        // A second look finds nothing to do, and a later one goes on from there: the last base is never given up.
        assert_eq!(shelf.expire(&next, now).expect("again"), next);
        let last = shelf
            .expire(&next, Timestamp::from_ms(400 * DAY))
            .expect("expired");
        assert_eq!(check_whole(&shelf, id), last);
        assert_eq!(last.bases.len(), 1);
        assert_eq!(
            folder.path().join("notes.txt").metadata().expect("there").len(),
            8
        );
        // The other server's are as they were.
        let theirs = Shelf {
            names: &other,
            ..shelf
        };
        assert_eq!(check_whole(&theirs, foreign.database), foreign);
    }

    #[test]
    fn what_a_crash_left_goes_and_parts_of_the_next_base_stay() {
        let folder = tempfile::tempdir().expect("a directory");
        let target = Target::Directory(folder.path().to_owned());
        let key = Key::fresh().expect("a key");
        let names_of = Names::of(&"1".repeat(32));
        let shelf = Shelf {
            target: &target,
            key: &key,
            names: &names_of,
        };
        let mut known = after(12);
        put(&shelf, &mut known);
        let id = known.database;
        // Killed between the catalogue and what it names no more.
        let next = needed(&known, Timestamp::from_ms(12 * DAY + 1));
        shelf.write(&next).expect("written");
        let open = names_of.open_segment(id, 1, segment(13), Timestamp::from_ms(1));
        let part = names_of.part(id, 13, 0, b"a part", &key);
        for name in [&open, &part] {
            target.put(name, b"put and not named").expect("put");
        }
        shelf.sweep(&next).expect("swept");
        assert!(names(&shelf).contains(&part), "a base would begin anew");
        target.remove(&part).expect("removed");
        assert_eq!(check_whole(&shelf, id), next);
    }
}
