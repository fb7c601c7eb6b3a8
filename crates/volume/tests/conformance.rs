//! What `clone` and the rest promise, on each kind of file system.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Disk, Kind, describe, furnish, pattern, run};
use volume::{Capability, Options, Pool, VolumeError};

fn on_each(test: impl Fn(&Disk, &Pool)) {
    for kind in Kind::ALL {
        let disk = Disk::new(kind);
        let pool = disk.pool();
        assert_eq!(pool.capability(), kind.capability());
        test(&disk, &pool);
        drop(pool);
    }
}

#[test]
fn a_clone_is_equal_in_everything_and_then_independent() {
    on_each(|_, pool| {
        let original = pool.create("original").unwrap();
        furnish(&original);
        let before = describe(&original);
        let clone = pool.clone("original", "clone").unwrap();
        assert_eq!(describe(&clone), before);

        let sparse = fs::metadata(clone.join("sparse")).unwrap();
        assert!(sparse.blocks() * 512 < 1 << 20, "the hole was filled");

        fs::write(clone.join("text"), "changed").unwrap();
        let mut large = File::options().write(true).open(clone.join("large")).unwrap();
        large.seek(SeekFrom::Start(1 << 20)).unwrap();
        large.write_all(b"changed").unwrap();
        fs::remove_file(clone.join("sub/deeper/leaf")).unwrap();
        assert_eq!(describe(&original), before);

        let after = describe(&clone);
        fs::write(original.join("nothing"), "something").unwrap();
        fs::remove_dir_all(original.join("sub")).unwrap();
        assert_eq!(describe(&clone), after);
    });
}

#[test]
fn a_hundred_generations_and_each_can_go_alone() {
    const GENERATIONS: usize = 100;
    on_each(|_, pool| {
        let first = pool.create("g0").unwrap();
        fs::write(first.join("data"), pattern(200_000)).unwrap();
        for n in 1..=GENERATIONS {
            let path = pool.clone(&format!("g{}", n - 1), &format!("g{n}")).unwrap();
            fs::write(path.join(format!("own{n}")), n.to_string()).unwrap();
        }
        for n in 0..GENERATIONS {
            pool.remove(&format!("g{n}")).unwrap();
        }
        pool.settle();
        let last = pool.path(&format!("g{GENERATIONS}")).unwrap();
        assert_eq!(fs::read(last.join("data")).unwrap(), pattern(200_000));
        assert_eq!(fs::read_dir(&last).unwrap().count(), GENERATIONS + 1);
        assert_eq!(pool.list().unwrap(), [format!("g{GENERATIONS}")]);
    });
}

#[test]
fn what_a_crash_left_is_swept_and_what_is_complete_stays() {
    on_each(|disk, _| {
        // The pool of `on_each` holds the lock; a second one beside it is refused.
        let refused = Pool::open(&disk.root(), &Options::default());
        assert!(matches!(refused, Err(VolumeError::Locked { .. })));
    });
    for kind in Kind::ALL {
        let disk = Disk::new(kind);
        let pool = disk.pool();
        furnish(&pool.create("kept").unwrap());
        let kept = describe(&pool.path("kept").unwrap());
        drop(pool);
        let half = disk.root().join("making/half.1.0");
        fs::create_dir(&half).unwrap();
        furnish(&half);
        let gone = disk.root().join("trash/gone.1.0");
        fs::create_dir(&gone).unwrap();
        furnish(&gone);
        fs::write(disk.root().join("making/stray"), "file").unwrap();
        let pool = disk.pool();
        pool.settle();
        for place in ["making", "trash"] {
            assert_eq!(
                fs::read_dir(disk.root().join(place)).unwrap().count(),
                0,
                "{kind:?} {place}"
            );
        }
        assert_eq!(describe(&pool.path("kept").unwrap()), kept);
        assert_eq!(pool.list().unwrap(), ["kept"]);
    }
}

#[test]
fn a_full_pool_says_so_and_keeps_nothing_of_the_attempt() {
    on_each(|disk, pool| {
        let original = pool.create("original").unwrap();
        for n in 0..200 {
            fs::write(original.join(format!("file{n}")), pattern(20_000)).unwrap();
        }
        fill(&disk.mount().join("ballast"));
        match pool.clone("original", "clone") {
            Err(VolumeError::StorageFull { .. }) => {}
            // A btrfs snapshot needs almost no space.
            Ok(_) if pool.capability() == Capability::Snapshot => return,
            other => panic!("{other:?}"),
        }
        assert_eq!(pool.list().unwrap(), ["original"]);
        assert_eq!(fs::read_dir(disk.root().join("making")).unwrap().count(), 0);
        fs::remove_file(disk.mount().join("ballast")).unwrap();
        let clone = pool.clone("original", "clone").unwrap();
        assert_eq!(describe(&clone), describe(&original));
    });
}

/// Take all space, to the last block.
fn fill(path: &std::path::Path) {
    let mut file = File::create(path).unwrap();
    let mut size = 1 << 20;
    while size >= 512 {
        if file.write_all(&vec![1; size]).is_err() || file.sync_all().is_err() {
            size /= 2;
        }
    }
    run(&["sync", "-f", path.to_str().unwrap()]);
}

#[test]
fn an_open_file_outlives_its_volume() {
    on_each(|disk, pool| {
        let path = pool.create("v").unwrap();
        fs::write(path.join("data"), pattern(100_000)).unwrap();
        let mut open = File::open(path.join("data")).unwrap();
        pool.remove("v").unwrap();
        pool.remove("v").unwrap();
        pool.settle();
        assert!(!path.exists());
        assert_eq!(fs::read_dir(disk.root().join("trash")).unwrap().count(), 0);
        let mut content = Vec::new();
        open.read_to_end(&mut content).unwrap();
        assert_eq!(content, pattern(100_000));
        assert!(pool.create("v").unwrap().exists());
    });
}

#[test]
fn usage_tells_shared_from_private() {
    on_each(|_, pool| {
        let path = pool.create("v").unwrap();
        fs::write(path.join("data"), pattern(4 << 20)).unwrap();
        run(&["sync", "-f", path.to_str().unwrap()]);
        let alone = pool.usage("v").unwrap();
        assert_eq!((alone.files, alone.apparent_bytes), (1, 4 << 20));
        assert!(alone.allocated_bytes >= 4 << 20);
        assert_eq!(alone.shared_bytes, 0);
        let clone = pool.clone("v", "w").unwrap();
        run(&["sync", "-f", clone.to_str().unwrap()]);
        let shared = pool.usage("w").unwrap().shared_bytes;
        match pool.capability() {
            Capability::Copy => assert_eq!(shared, 0),
            Capability::Reflink | Capability::Snapshot => assert_eq!(shared, 4 << 20),
        }
        let capacity = pool.capacity().unwrap();
        assert!(capacity.free_bytes < capacity.total_bytes && capacity.growable_bytes == 0);
        // Only btrfs has no number of them.
        assert_eq!(
            capacity.free_inodes.is_none(),
            pool.capability() == Capability::Snapshot
        );
        fs::create_dir(path.join("folder")).unwrap();
        fs::hard_link(path.join("data"), path.join("folder/again")).unwrap();
        assert_eq!(volume::inodes(&path).unwrap(), 2);
    });
}

#[test]
fn names_and_links_do_not_lead_out() {
    on_each(|disk, pool| {
        for bad in ["", "..", "../x", "a/b", ".x", "a\0b"] {
            assert!(
                matches!(pool.create(bad), Err(VolumeError::BadName(_))),
                "{bad:?}"
            );
            assert!(
                matches!(pool.remove(bad), Err(VolumeError::BadName(_))),
                "{bad:?}"
            );
            assert!(matches!(pool.path(bad), Err(VolumeError::BadName(_))), "{bad:?}");
        }
        std::os::unix::fs::symlink("/etc", disk.root().join("volumes/evil")).unwrap();
        assert!(matches!(pool.path("evil"), Err(VolumeError::Missing { .. })));
        assert!(matches!(
            pool.clone("evil", "copy"),
            Err(VolumeError::Missing { .. })
        ));
        // Removing it removes the link.
        pool.remove("evil").unwrap();
        pool.settle();
        assert!(std::path::Path::new("/etc/passwd").exists());

        let path = pool.create("v").unwrap();
        std::os::unix::fs::symlink("/etc", path.join("out")).unwrap();
        let clone = pool.clone("v", "w").unwrap();
        assert!(clone.join("out").is_symlink());
        pool.remove("w").unwrap();
        pool.settle();
        assert!(std::path::Path::new("/etc/passwd").exists());
    });
}

#[test]
fn taken_and_absent_names_are_told_apart() {
    on_each(|_, pool| {
        pool.create("a").unwrap();
        fs::write(pool.path("a").unwrap().join("x"), "a").unwrap();
        assert!(matches!(pool.create("a"), Err(VolumeError::Exists { .. })));
        assert!(matches!(
            pool.clone("none", "b"),
            Err(VolumeError::Missing { .. })
        ));
        assert!(matches!(pool.usage("none"), Err(VolumeError::Missing { .. })));
        pool.clone("a", "b").unwrap();
        assert!(matches!(pool.clone("a", "b"), Err(VolumeError::Exists { .. })));
        assert!(matches!(pool.rename("a", "b"), Err(VolumeError::Exists { .. })));
        assert!(matches!(
            pool.rename("none", "c"),
            Err(VolumeError::Missing { .. })
        ));
        let renamed = pool.rename("b", "c").unwrap();
        assert_eq!(fs::read(renamed.join("x")).unwrap(), b"a");
        assert!(pool.contains("c").unwrap() && !pool.contains("b").unwrap());
        assert_eq!(pool.list().unwrap(), ["a", "c"]);
    });
}

#[test]
fn cloning_a_volume_that_changes_meanwhile_does_not_fail() {
    on_each(|_, pool| {
        let path = pool.create("live").unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    let file = path.join(format!("f{}", n % 50));
                    fs::write(&file, pattern(5000)).unwrap();
                    fs::remove_file(path.join(format!("f{}", (n + 25) % 50))).ok();
                    n += 1;
                }
            });
            for n in 0..10 {
                pool.clone("live", &format!("c{n}")).unwrap();
            }
            stop.store(true, Ordering::Relaxed);
        });
    });
}

#[test]
fn a_very_deep_tree_is_removed_and_too_deep_a_one_not_cloned() {
    on_each(|disk, pool| {
        let path = pool.create("deep").unwrap();
        let mut at = rustix::fs::open(&path, rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
        for _ in 0..1500 {
            rustix::fs::mkdirat(&at, "d", rustix::fs::Mode::RWXU).unwrap();
            let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
            at = rustix::fs::openat(&at, "d", flags, rustix::fs::Mode::empty()).unwrap();
        }
        drop(at);
        match pool.clone("deep", "copy") {
            Err(VolumeError::TooDeep { .. }) => {}
            Ok(_) if pool.capability() == Capability::Snapshot => pool.remove("copy").unwrap(),
            other => panic!("{other:?}"),
        }
        pool.remove("deep").unwrap();
        pool.settle();
        for place in ["making", "trash", "volumes"] {
            assert_eq!(
                fs::read_dir(disk.root().join(place)).unwrap().count(),
                0,
                "{place}"
            );
        }
    });
}

#[test]
fn a_read_only_pool_says_so() {
    on_each(|disk, pool| {
        pool.create("v").unwrap();
        disk.remount("ro");
        for outcome in [pool.create("w"), pool.clone("v", "w"), pool.rename("v", "w")] {
            assert!(
                matches!(outcome, Err(VolumeError::ReadOnly { .. })),
                "{outcome:?}"
            );
        }
        assert!(matches!(pool.remove("v"), Err(VolumeError::ReadOnly { .. })));
        assert_eq!(pool.list().unwrap(), ["v"]);
        disk.remount("rw");
        pool.clone("v", "w").unwrap();
    });
}

#[test]
fn clones_made_at_once_by_many_threads_are_all_right() {
    on_each(|_, pool| {
        furnish(&pool.create("original").unwrap());
        let expected = describe(&pool.path("original").unwrap());
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let expected = &expected;
                scope.spawn(move || {
                    for n in 0..3 {
                        let path = pool.clone("original", &format!("c{worker}-{n}")).unwrap();
                        assert_eq!(&describe(&path), expected);
                        // All race for this one; exactly one wins.
                        let _lost = pool.clone("original", "contested");
                    }
                });
            }
        });
        assert_eq!(pool.list().unwrap().len(), 14);
    });
}
