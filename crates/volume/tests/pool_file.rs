//! The pool file: made, found again, grown, and gone when closed.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use common::{Disk, Kind, describe, furnish, pattern};
use volume::{Backing, Capability, Grown, Options, Pool, PoolFile, VolumeError};

const MIB: u64 = 1 << 20;

/// A directory whose pool is unmounted at the end, also after a panic.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("pool")
    }

    fn open(&self) -> Pool {
        Pool::open(
            &self.root(),
            &Options {
                backing: Backing::File(small()),
            },
        )
        .unwrap()
    }

    fn is_mounted(&self) -> bool {
        fs::read_to_string("/proc/self/mounts")
            .unwrap()
            .contains(self.root().to_str().unwrap())
    }

    /// As a reboot would; commands of other tests may hold copies of our descriptors for a moment.
    fn unmount(&self) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while let Err(e) =
            rustix::mount::unmount(self.root().join("mnt"), rustix::mount::UnmountFlags::empty())
        {
            assert!(std::time::Instant::now() < deadline, "{e}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    fn loop_devices(&self) -> usize {
        let image = self.root().join("pool.img");
        let blocks = fs::read_dir("/sys/block").unwrap();
        let files =
            blocks.filter_map(|b| fs::read_to_string(b.unwrap().path().join("loop/backing_file")).ok());
        files.filter(|f| Path::new(f.trim_end()) == image).count()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mount = self.root().join("mnt");
        let _closed_already = rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::DETACH);
    }
}

fn small() -> PoolFile {
    PoolFile {
        size_bytes: 320 * MIB,
        grow_below_bytes: 100 * MIB,
        step_bytes: 128 * MIB,
        keep_free_bytes: MIB,
    }
}

#[test]
fn it_is_made_found_again_after_a_crash_and_gone_when_closed() {
    let place = Place::new();
    let pool = place.open();
    assert_eq!(pool.capability(), Capability::Reflink);
    assert!(pool.explain().contains("30 %"), "{}", pool.explain());
    furnish(&pool.create("v").unwrap());
    let expected = describe(&pool.path("v").unwrap());
    let inode = File::open(place.root().join("pool.img"))
        .unwrap()
        .metadata()
        .unwrap();
    assert!(
        std::os::unix::fs::MetadataExt::blocks(&inode) * 512 >= 320 * MIB,
        "its space is reserved"
    );

    // Control dies: the mount stays, so that instances go on.
    drop(pool);
    assert!(place.is_mounted());
    let pool = place.open();
    assert_eq!(place.loop_devices(), 1);
    assert_eq!(describe(&pool.path("v").unwrap()), expected);
    drop(pool);

    // Reboot: the file is all that is left; found without being asked for.
    place.unmount();
    let pool = Pool::open(&place.root(), &Options::default()).unwrap();
    assert_eq!(describe(&pool.clone("v", "w").unwrap()), expected);

    let held = File::open(pool.path("v").unwrap().join("text")).unwrap();
    assert!(matches!(pool.close(), Err(VolumeError::Busy { .. })));
    drop(held);
    place.open().close().unwrap();
    assert!(!place.is_mounted());
    assert_eq!(place.loop_devices(), 0);
}

#[test]
fn it_grows_by_steps_while_in_use() {
    let place = Place::new();
    let pool = place.open();
    let path = pool.create("v").unwrap();
    let before = pool.capacity().unwrap();
    assert!(before.growable_bytes > 0);
    assert_eq!(pool.maintain().unwrap(), Grown::NotNeeded);
    let eat = before.free_bytes - 50 * MIB;
    let file = File::create(path.join("data")).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, eat).unwrap();
    drop(file);
    assert_eq!(pool.maintain().unwrap(), Grown::By(128 * MIB));
    let after = pool.capacity().unwrap();
    assert!(
        after.total_bytes > before.total_bytes + 120 * MIB,
        "{before:?} {after:?}"
    );
    fs::write(path.join("more"), pattern(100 << 20)).unwrap();
    pool.close().unwrap();
    // A step that a crash ended between file and file system is finished at the next open.
    let image = File::options()
        .write(true)
        .open(place.root().join("pool.img"))
        .unwrap();
    let size = image.metadata().unwrap().len();
    image.set_len(size + 64 * MIB).unwrap();
    let pool = place.open();
    assert!(pool.capacity().unwrap().total_bytes > after.total_bytes + 60 * MIB);
    assert_eq!(
        fs::read(pool.path("v").unwrap().join("more")).unwrap(),
        pattern(100 << 20)
    );
    pool.close().unwrap();
}

#[test]
fn it_does_not_take_the_hosts_reserve() {
    let place = Place::new();
    let options = PoolFile {
        grow_below_bytes: u64::MAX,
        keep_free_bytes: u64::MAX,
        ..small()
    };
    let pool = Pool::open(
        &place.root(),
        &Options {
            backing: Backing::File(options),
        },
    )
    .unwrap();
    assert_eq!(pool.maintain().unwrap(), Grown::HostFull);
    assert_eq!(pool.capacity().unwrap().growable_bytes, 0);
    pool.close().unwrap();
}

#[test]
fn it_promises_only_what_it_can_grow_by() {
    let place = Place::new();
    let open = |options| {
        let backing = Backing::File(options);
        Pool::open(&place.root(), &Options { backing }).unwrap()
    };
    // The host has room, but not for a whole step.
    let options = PoolFile {
        grow_below_bytes: u64::MAX,
        step_bytes: 1 << 50,
        ..small()
    };
    let pool = open(options);
    assert_eq!(pool.maintain().unwrap(), Grown::HostFull);
    assert_eq!(pool.capacity().unwrap().growable_bytes, 0);
    assert!(pool.available().unwrap() < 320 * MIB);
    pool.close().unwrap();
    // It would have to grow and cannot.
    let options = PoolFile {
        grow_below_bytes: u64::MAX,
        ..small()
    };
    let pool = open(options);
    let before = fs::metadata(place.root().join("pool.img")).unwrap().len();
    rustix::mount::unmount(place.root().join("mnt"), rustix::mount::UnmountFlags::DETACH).unwrap();
    assert!(pool.maintain().is_err());
    let capacity = pool.capacity().unwrap();
    assert!(capacity.growable_bytes > 0 && capacity.growable_bytes % small().step_bytes == 0);
    assert_eq!(pool.available().unwrap(), capacity.free_bytes);
    assert_eq!(fs::metadata(place.root().join("pool.img")).unwrap().len(), before);
    drop(pool);
}

#[test]
fn a_host_without_space_gets_no_half_made_pool() {
    let disk = Disk::new(Kind::Ext4);
    let outcome = Pool::open(
        &disk.root(),
        &Options {
            backing: Backing::File(small()),
        },
    );
    assert!(
        matches!(outcome, Err(VolumeError::StorageFull { .. })),
        "{outcome:?}"
    );
    let left: Vec<_> = fs::read_dir(disk.root())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["lock"]);
    // Without a pool file it works on what there is.
    assert_eq!(disk.pool().capability(), Capability::Copy);
}

#[test]
fn it_takes_at_most_half_of_what_the_host_has_free() {
    let disk = Disk::sized(Kind::Ext4, 900);
    let options = Options {
        backing: Backing::File(PoolFile::default()),
    };
    let pool = Pool::open(&disk.root(), &options).unwrap();
    let size = fs::metadata(disk.root().join("pool.img")).unwrap().len();
    assert!((320 * MIB..450 * MIB).contains(&size), "{size}");
    pool.close().unwrap();
}

#[test]
fn clones_outlive_a_power_cut() {
    // XFS_IOC_GOINGDOWN without flushing the log: what is not durable yet is lost, as by a cut.
    const GOING_DOWN: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
    const WITHOUT_LOG: u32 = 2;
    for trial in 0..5 {
        let place = Place::new();
        let pool = place.open();
        furnish(&pool.create("original").unwrap());
        common::run(&["sync", "-f", place.root().join("mnt").to_str().unwrap()]);
        let expected = describe(&pool.path("original").unwrap());
        for n in 0..=trial {
            pool.clone("original", &format!("clone{n}")).unwrap();
        }
        pool.rename("clone0", "renamed").unwrap();
        pool.create("empty").unwrap();
        pool.remove("original").unwrap();
        let device = File::open(place.root().join("mnt")).unwrap();
        // Control: this was never synced, so the cut must lose it, or it was no cut.
        fs::write(place.root().join("mnt/unsynced"), "lost").unwrap();
        going_down::<GOING_DOWN>(&device, WITHOUT_LOG);
        drop(device);
        drop(pool);
        place.unmount();
        let pool = place.open();
        assert!(!place.root().join("mnt/unsynced").exists());
        let mut names: Vec<String> = (1..=trial).map(|n| format!("clone{n}")).collect();
        names.extend(["empty".into(), "renamed".into()]);
        assert_eq!(pool.list().unwrap(), names);
        for name in names.iter().filter(|n| *n != "empty") {
            assert_eq!(
                describe(&pool.path(name).unwrap()),
                expected,
                "{name} in trial {trial}"
            );
        }
        pool.close().unwrap();
    }
}

#[test]
fn copies_outlive_a_power_cut_too() {
    // The same call on ext4.
    const GOING_DOWN: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
    const WITHOUT_LOG: u32 = 2;
    let disk = Disk::new(Kind::Ext4);
    let pool = disk.pool();
    furnish(&pool.create("original").unwrap());
    let expected = describe(&pool.path("original").unwrap());
    pool.clone("original", "clone").unwrap();
    pool.remove("original").unwrap();
    pool.settle();
    fs::write(disk.mount().join("unsynced"), "lost").unwrap();
    let device = File::open(disk.mount()).unwrap();
    going_down::<GOING_DOWN>(&device, WITHOUT_LOG);
    drop(device);
    drop(pool);
    disk.detach();
    disk.attach();
    assert!(!disk.mount().join("unsynced").exists(), "control: it was a cut");
    let pool = disk.pool();
    assert_eq!(pool.list().unwrap(), ["clone"]);
    assert_eq!(describe(&pool.path("clone").unwrap()), expected);
}

#[allow(unsafe_code)]
fn going_down<const OPCODE: rustix::ioctl::Opcode>(file: &File, how: u32) {
    // SAFETY: the opcode reads one u32.
    unsafe { rustix::ioctl::ioctl(file, rustix::ioctl::Setter::<OPCODE, u32>::new(how)) }.unwrap();
}
