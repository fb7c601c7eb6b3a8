//! The store's layers under the kernel's own overlay: what is stored is what an instance sees.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic like tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{dir, file, oci_layout, symlink, tarball};
use image::{Archive, CommitOptions, ImageConfig, Images, Root};

/// A mounted overlay, unmounted when it goes.
struct Mounted {
    at: PathBuf,
    upper: PathBuf,
}

impl Mounted {
    fn new(home: &Path, name: &str, root: &Root) -> Self {
        let place = |part: &str| {
            let path = home.join(name).join(part);
            fs::create_dir_all(&path).unwrap();
            path
        };
        let (at, upper, work) = (place("at"), place("upper"), place("work"));
        // Overlay wants the topmost first.
        let lower: Vec<String> = root
            .layers
            .iter()
            .rev()
            .map(|layer| layer.display().to_string())
            .collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={},redirect_dir=off,metacopy=off",
            lower.join(":"),
            upper.display(),
            work.display()
        );
        let options = std::ffi::CString::new(options).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("overlay", &at, "overlay", flags, options.as_c_str()).unwrap();
        Self { at, upper }
    }

    fn names(&self, inside: &str) -> Vec<String> {
        let entries = fs::read_dir(self.at.join(inside)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn removals_replacements_and_opaque_directories_survive_the_round_trip() {
    let home = tempfile::tempdir().unwrap();
    let images = Images::open(&home.path().join("store")).unwrap();
    fs::create_dir(home.path().join("layout")).unwrap();
    let first = tarball(&[
        dir("etc/"),
        file("etc/a", "a"),
        file("etc/b", "b"),
        dir("old/"),
        file("old/x", "x"),
        dir("gone/"),
        file("gone/y", "y"),
        file("becomes-dir", "f"),
        dir("becomes-file/"),
        file("becomes-file/z", "z"),
        symlink("bin", "etc"),
    ]);
    let second = tarball(&[
        file("etc/.wh.a", ""),
        dir("old/"),
        file("old/.wh..wh..opq", ""),
        file("old/new", "n"),
    ]);
    oci_layout(&home.path().join("layout"), &[first, second]);
    let id = images
        .import_archive(Archive::Path(&home.path().join("layout")), "x", &|_| {})
        .unwrap();

    let mounted = Mounted::new(home.path(), "one", &images.root(id).unwrap());
    assert_eq!(mounted.names("etc"), ["b"]);
    assert_eq!(mounted.names("old"), ["new"]);
    fs::remove_dir_all(mounted.at.join("gone")).unwrap();
    fs::remove_file(mounted.at.join("etc/b")).unwrap();
    fs::write(mounted.at.join("etc/c"), "c").unwrap();
    fs::remove_file(mounted.at.join("becomes-dir")).unwrap();
    fs::create_dir(mounted.at.join("becomes-dir")).unwrap();
    fs::write(mounted.at.join("becomes-dir/inner"), "i").unwrap();
    fs::remove_dir_all(mounted.at.join("becomes-file")).unwrap();
    fs::write(mounted.at.join("becomes-file"), "now a file").unwrap();
    fs::remove_dir_all(mounted.at.join("old")).unwrap();
    fs::create_dir(mounted.at.join("old")).unwrap();
    fs::write(mounted.at.join("old/newer"), "n").unwrap();
    let upper = mounted.upper.clone();
    drop(mounted);

    let check = |images: &Images, id, name: &str| {
        let mounted = Mounted::new(home.path(), name, &images.root(id).unwrap());
        assert_eq!(
            mounted.names(""),
            ["becomes-dir", "becomes-file", "bin", "etc", "old"]
        );
        assert_eq!(mounted.names("etc"), ["c"]);
        assert_eq!(mounted.names("old"), ["newer"]);
        assert_eq!(mounted.names("becomes-dir"), ["inner"]);
        assert_eq!(
            fs::read_to_string(mounted.at.join("becomes-file")).unwrap(),
            "now a file"
        );
    };
    let built = images
        .commit_layer(
            Some(id),
            &upper,
            ImageConfig::default(),
            &CommitOptions::default(),
        )
        .unwrap();
    check(&images, built, "two");
    // Elsewhere the layers are unpacked from their archives, and must show the same.
    let archive = home.path().join("out.tar");
    images.export_oci(built, &archive).unwrap();
    let others = Images::open(&home.path().join("other")).unwrap();
    let copy = others
        .import_archive(Archive::Path(&archive), "copy", &|_| {})
        .unwrap();
    assert_eq!(copy, built);
    check(&others, copy, "three");
}

/// N24: whatever an image says about itself is data.
#[test]
fn a_million_variables_and_hostile_labels_are_only_data() {
    let home = tempfile::tempdir().unwrap();
    let images = Images::open(&home.path().join("store")).unwrap();
    let upper = home.path().join("upper");
    fs::create_dir(&upper).unwrap();
    fs::write(upper.join("x"), "x").unwrap();
    let config = ImageConfig {
        env: (0..1_000_000).map(|n| format!("K{n}=$(id)")).collect(),
        labels: [(
            "dev.stoa.binds".to_owned(),
            r#"[{"source":"/","target":"/host"}]"#.to_owned(),
        )]
        .into(),
        ..ImageConfig::default()
    };
    let notes = [("../../etc/passwd".to_owned(), "; rm -rf /\n\u{1b}[31m".to_owned())];
    let options = CommitOptions {
        notes: notes.into(),
        ..CommitOptions::default()
    };
    let id = images
        .commit_layer(None, &upper, config.clone(), &options)
        .unwrap();
    let root = images.root(id).unwrap();
    assert!(root.binds.is_empty());
    assert_eq!(root.config, config);
    assert_eq!(images.inspect(id).unwrap().summary.notes.len(), 1);
    drop(images);
    assert_eq!(
        Images::open(&home.path().join("store"))
            .unwrap()
            .root(id)
            .unwrap()
            .config,
        config
    );
}
