//! A full disk: no acknowledgement, reads go on, and it recovers by itself when there is space.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{App, app, at, key};
use store::{ReadTx, Store, StoreError};

/// A tiny file system of our own, unmounted when dropped.
struct Mount {
    dir: tempfile::TempDir,
}

impl Mount {
    fn point(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    fn tmpfs(size: &str) -> Option<Self> {
        let mount = Self {
            dir: tempfile::tempdir().expect("a temporary directory"),
        };
        std::fs::create_dir(mount.point()).expect("a mount point");
        mount.run(&[
            "mount",
            "-t",
            "tmpfs",
            "-o",
            &format!("size={size}"),
            "stoa-store-test",
        ])
    }

    fn ext4() -> Option<Self> {
        let mount = Self {
            dir: tempfile::tempdir().expect("a temporary directory"),
        };
        std::fs::create_dir(mount.point()).expect("a mount point");
        let image = mount.dir.path().join("image");
        let file = std::fs::File::create(&image).expect("an image file");
        file.set_len(8 << 20).expect("an image file");
        let image = image.to_str().expect("a plain name").to_owned();
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-m", "0", "-b", "1024", &image])
            .status();
        if !made.is_ok_and(|status| status.success()) {
            return None;
        }
        mount.run(&["mount", "-o", "loop", &image])
    }

    fn run(self, words: &[&str]) -> Option<Self> {
        let status = Command::new(words[0])
            .args(&words[1..])
            .arg(self.point())
            .status();
        status.is_ok_and(|status| status.success()).then_some(self)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(self.point()).status();
        assert!(
            done.is_ok_and(|status| status.success()) || std::thread::panicking(),
            "the test's mount stays"
        );
    }
}

fn insert(store: &Store, id: &str) -> Result<(), StoreError> {
    store.write(at(1), |tx| {
        tx.insert(&App {
            image: "x".repeat(3000),
            ..app(id, "p", id)
        })
        .map(|_| ())
    })
}

fn fill(path: &Path, leave: u64) {
    let free = rustix::fs::statvfs(path.parent().unwrap()).unwrap();
    let bytes = (free.f_bavail * free.f_frsize).saturating_sub(leave);
    std::fs::write(path, vec![0u8; bytes as usize]).unwrap();
}

/// Writes rows until the disk refuses; reads go on meanwhile and show what was acknowledged and nothing else.
fn write_until_refused(store: &Store, name: &str, acked: &mut Vec<String>) {
    for n in 0..10_000 {
        let id = format!("{name}-{n}");
        match insert(store, &id) {
            Ok(()) => acked.push(id),
            Err(failure) => {
                assert!(matches!(failure, StoreError::Full { .. }), "{failure:?}");
                assert!(failure.next().contains("free space"));
                let rows = store.read(|tx| tx.list::<App>("p")).unwrap();
                assert_eq!(rows.len(), acked.len());
                // Again on the connection opened after the failure.
                assert!(matches!(insert(store, &id), Err(StoreError::Full { .. })));
                return;
            }
        }
    }
    panic!("the disk never became full");
}

fn survives_a_full_disk(mount: &Mount) {
    let (db, filler) = (mount.point().join("stoa.db"), mount.point().join("filler"));
    let mut store = Store::open(&db, &key(), at(1)).unwrap();
    let mut acked = Vec::new();
    for round in 0..3 {
        fill(&filler, 200_000);
        write_until_refused(&store, &format!("{round}"), &mut acked);
        std::fs::remove_file(&filler).unwrap();
        insert(&store, &format!("{round}-after")).expect("recovers alone");
        acked.push(format!("{round}-after"));
        if round == 1 {
            drop(store);
            store = Store::open(&db, &key(), at(1)).unwrap();
        }
    }
    println!("{} acknowledged around three full disks", acked.len());
    assert_eq!(store.read(|tx| tx.list::<App>("p")).unwrap().len(), acked.len());
    assert!(store.read(ReadTx::verify).unwrap().bad.is_empty());
    // A backup that does not fit leaves nothing behind.
    fill(&filler, 20_000);
    let copy = mount.point().join("copy.db");
    assert!(matches!(store.backup_to(&copy), Err(StoreError::Full { .. })));
    assert!(!copy.exists() && !mount.point().join("copy.db.part").exists());
}

#[test]
fn a_full_tmpfs() {
    match Mount::tmpfs("3m") {
        Some(mount) => survives_a_full_disk(&mount),
        None => println!("SKIPPED: no right to mount a tmpfs"),
    }
}

#[test]
fn a_full_ext4() {
    match Mount::ext4() {
        Some(mount) => survives_a_full_disk(&mount),
        None => println!("SKIPPED: no right or tool to make an ext4 on a loop device"),
    }
}

#[test]
fn the_store_opens_and_deletes_on_a_full_disk() {
    let Some(mount) = Mount::tmpfs("96m") else {
        println!("SKIPPED: no right to mount a tmpfs");
        return;
    };
    let (db, filler) = (mount.point().join("stoa.db"), mount.point().join("filler"));
    let reserve = mount.point().join("stoa.db.reserve");
    let mut store = Store::open(&db, &key(), at(1)).unwrap();
    let delete = |store: &Store, id: &str| store.write(at(1), |tx| tx.delete::<App>(id, None));
    let mut acked = Vec::new();
    for round in 0..4 {
        fill(&filler, 0);
        write_until_refused(&store, &format!("{round}"), &mut acked);
        if round % 2 == 0 {
            assert!(store.release_reserve());
        } else {
            let epoch = store.epoch();
            drop(store);
            // Closing emptied the WAL: that room goes too.
            fill(&mount.point().join("closed"), 0);
            store = Store::open(&db, &key(), at(1)).expect("opens on its reserve");
            assert_eq!(store.epoch(), epoch + 1);
        }
        assert!(!reserve.exists());
        for gone in acked.drain(..) {
            delete(&store, &gone).expect("deletes on the reserve");
        }
        // The control: with the reserve spent, it cannot open.
        drop(store);
        fill(&mount.point().join("more"), 0);
        assert!(matches!(
            Store::open(&db, &key(), at(1)),
            Err(StoreError::Full { .. })
        ));
        for name in ["filler", "closed", "more"] {
            std::fs::remove_file(mount.point().join(name))
                .or_else(|cause| match cause.kind() {
                    std::io::ErrorKind::NotFound => Ok(()),
                    _ => Err(cause),
                })
                .unwrap();
        }
        store = Store::open(&db, &key(), at(1)).expect("opens");
        assert!(reserve.exists(), "the reserve is kept again");
        insert(&store, &format!("{round}-kept")).expect("recovers");
        acked.push(format!("{round}-kept"));
    }
    assert!(store.read(ReadTx::verify).unwrap().bad.is_empty());
}
