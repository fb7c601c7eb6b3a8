//! The store: import, commit, cache, collection, damage.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic like tests")]

mod common;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use common::{dir, file, hard_link, oci_layout, symlink, tarball};
use image::{
    Archive, Budget, CommitOptions, DirectoryOptions, Fault, ImageConfig, ImageError, ImageId, Images,
    Origin, Times,
};

fn quiet(_: image::Progress) {}

/// Whatever is not needed goes at once.
const NOTHING: Budget = Budget {
    unused_bytes: 0,
    grace: std::time::Duration::ZERO,
};

fn import(images: &Images, home: &Path, name: &str, layers: &[Vec<u8>]) -> Result<ImageId, ImageError> {
    let layout = home.join(format!("layout-{name}"));
    fs::create_dir(&layout).unwrap();
    oci_layout(&layout, layers);
    images.import_archive(Archive::Path(&layout), name, &quiet)
}

fn base() -> Vec<u8> {
    tarball(&[
        dir("etc/"),
        file("etc/a", "one"),
        file("etc/b", "two"),
        dir("lib/"),
        file("lib/x", "x"),
        symlink("bin", "lib"),
    ])
}

#[test]
fn an_imported_image_has_its_layers_unpacked_and_survives_reopening() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().join("store");
    let images = Images::open(&root).unwrap();
    let second = tarball(&[
        file("etc/.wh.a", ""),
        dir("lib/"),
        file("lib/.wh..wh..opq", ""),
        file("lib/y", "y"),
    ]);
    let id = import(&images, home.path(), "web", &[base(), second]).unwrap();
    assert!(matches!(Images::open(&root), Err(ImageError::InUse { .. })));
    fs::write(root.join("tmp/left-over"), "x").unwrap();
    drop(images);

    let images = Images::open(&root).unwrap();
    assert!(!root.join("tmp/left-over").exists());
    assert_eq!(images.resolve("web").unwrap(), id);
    assert_eq!(images.resolve(&id.to_string()).unwrap(), id);
    let got = images.root(id).unwrap();
    assert_eq!(got.layers.len(), 2);
    assert!(got.binds.is_empty());
    assert_eq!(got.config.env, ["A=b"]);
    assert_eq!(got.config.exposed_ports.iter().collect::<Vec<_>>(), ["80/tcp"]);
    assert_eq!(fs::read_to_string(got.layers[0].join("etc/a")).unwrap(), "one");
    let whiteout = fs::symlink_metadata(got.layers[1].join("etc/a")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    let mut value = [0_u8; 4];
    let length = rustix::fs::lgetxattr(
        got.layers[1].join("lib"),
        "trusted.overlay.opaque",
        value.as_mut_slice(),
    )
    .unwrap();
    assert_eq!(&value[..length], b"y");
    assert_eq!(
        fs::metadata(&got.layers[0]).unwrap().permissions().mode() & 0o777,
        0o755
    );
    assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(images.list().len(), 1);
    let age = std::time::SystemTime::now()
        .duration_since(
            std::time::UNIX_EPOCH + std::time::Duration::from_millis(images.list()[0].stored_at_ms),
        )
        .unwrap();
    assert!(age.as_secs() < 3600, "stored {age:?} ago");
    assert_eq!(images.inspect(id).unwrap().summary.origin, Origin::Imported);
    assert_eq!(images.verify(id).unwrap(), []);
}

#[test]
fn an_opaque_root_hides_the_layers_below() {
    let home = tempfile::tempdir().unwrap();
    let images = Images::open(&home.path().join("store")).unwrap();
    let second = tarball(&[file(".wh..wh..opq", ""), file("only", "me")]);
    let id = import(&images, home.path(), "opaque", &[base(), second]).unwrap();
    let root = images.root(id).unwrap();
    assert_eq!(root.layers.len(), 1);
    assert!(root.layers[0].join("only").exists());
}

/// A second store reads what the first exported, and gets the same image.
#[test]
fn commit_gives_a_deterministic_layer_that_unpacks_to_the_same_tree_elsewhere() {
    let home = tempfile::tempdir().unwrap();
    let images = Images::open(&home.path().join("store")).unwrap();
    let base = import(&images, home.path(), "base", &[base()]).unwrap();
    let make_upper = |name: &str, shift: u32| {
        let upper = home.path().join(name);
        fs::create_dir_all(upper.join("opaque/deep")).unwrap();
        fs::create_dir(upper.join("proc")).unwrap();
        fs::write(upper.join("opaque/deep/file"), "content").unwrap();
        fs::hard_link(upper.join("opaque/deep/file"), upper.join("zlink")).unwrap();
        let long = "n".repeat(200);
        fs::write(upper.join(&long), "long").unwrap();
        std::os::unix::fs::symlink("t".repeat(300), upper.join("long-link")).unwrap();
        fs::set_permissions(upper.join(&long), fs::Permissions::from_mode(0o4755)).unwrap();
        let trusted = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(upper.join("opaque"), "trusted.overlay.opaque", b"y", trusted).unwrap();
        rustix::fs::setxattr(upper.join("opaque"), "trusted.overlay.origin", b"xyz", trusted).unwrap();
        rustix::fs::setxattr(upper.join("zlink"), "user.kept", b"value", trusted).unwrap();
        let mode = rustix::fs::Mode::empty();
        let whiteout = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, upper.join("gone"), whiteout, mode, 0).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            upper.join("null"),
            whiteout,
            mode,
            rustix::fs::makedev(1, 3),
        )
        .unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, upper.join("pipe"), rustix::fs::Mode::from(0o600)).unwrap();
        for path in [
            "",
            "opaque",
            "opaque/deep",
            "opaque/deep/file",
            "proc",
            "long-link",
            &long,
        ] {
            std::os::unix::fs::lchown(upper.join(path), Some(shift + 1000), Some(shift)).unwrap();
        }
        fs::set_permissions(upper.join(&long), fs::Permissions::from_mode(0o4755)).unwrap();
        upper
    };
    let options = |uid_shift| CommitOptions {
        uid_shift,
        times: Times::Set(1_700_000_000),
        exclude: vec!["proc".into(), "/absent/x".into()],
        ..CommitOptions::default()
    };
    let config = ImageConfig {
        cmd: vec!["/run".into()],
        ..ImageConfig::default()
    };
    let first = images
        .commit_layer(Some(base), &make_upper("u1", 0), config.clone(), &options(0))
        .unwrap();
    let second = images.commit_layer(
        Some(base),
        &make_upper("u2", 2_000_000),
        config.clone(),
        &options(2_000_000),
    );
    let second = second.unwrap();
    if first != second {
        for id in [first, second] {
            let top = images.inspect(id).unwrap().layers.last().unwrap().digest;
            let blob = home.path().join("store/blobs/sha256").join(top.hex());
            let out = std::process::Command::new("tar")
                .args(["--zstd", "-tvf"])
                .arg(blob)
                .output()
                .unwrap();
            println!("{}", String::from_utf8_lossy(&out.stdout));
        }
    }
    assert_eq!(first, second);
    assert!(!home.path().join("u1").exists());
    let root = images.root(first).unwrap();
    let top = root.layers.last().unwrap();
    assert_eq!(root.layers.len(), 2);
    assert!(!top.join("proc").exists() && !top.join("pipe").exists() && !top.join("null").exists());
    let long = fs::metadata(top.join("n".repeat(200))).unwrap();
    assert_eq!(
        (long.mode() & 0o7777, long.uid(), long.mtime()),
        (0o755, 1000, 1_700_000_000)
    );
    assert_eq!(images.verify(first).unwrap(), []);

    let archive = home.path().join("out.tar");
    images.export_oci(first, &archive).unwrap();
    let others = Images::open(&home.path().join("other")).unwrap();
    let there = others
        .import_archive(Archive::Path(&archive), "copy", &quiet)
        .unwrap();
    assert_eq!(there, first);
    let copied = others.root(there).unwrap();
    let copy = copied.layers.last().unwrap();
    assert!(
        fs::symlink_metadata(copy.join("gone"))
            .unwrap()
            .file_type()
            .is_char_device()
    );
    assert_eq!(
        fs::metadata(copy.join("zlink")).unwrap().ino(),
        fs::metadata(copy.join("opaque/deep/file")).unwrap().ino()
    );
    let diff = std::process::Command::new("diff")
        .args(["-r", "--no-dereference"])
        .arg(top)
        .arg(copy)
        .output()
        .unwrap();
    assert!(
        !String::from_utf8_lossy(&diff.stdout).contains("differ"),
        "{diff:?}"
    );
    let mut value = [0_u8; 16];
    let length = rustix::fs::getxattr(copy.join("zlink"), "user.kept", value.as_mut_slice()).unwrap();
    assert_eq!(&value[..length], b"value");

    let empty = home.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let same_layers = images
        .commit_layer(Some(base), &empty, config, &CommitOptions::default())
        .unwrap();
    assert_eq!(images.root(same_layers).unwrap().layers.len(), 1);
}

#[test]
fn a_directory_becomes_an_image_and_links_in_it_are_not_followed() {
    let home = tempfile::tempdir().unwrap();
    let images = Images::open(&home.path().join("store")).unwrap();
    let site = home.path().join("site");
    fs::create_dir_all(site.join("css")).unwrap();
    fs::write(site.join("index.html"), "hello").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", site.join("css/secret")).unwrap();
    let options = DirectoryOptions {
        at: "/srv/site".into(),
        owner: (1000, 1000),
        ..DirectoryOptions::default()
    };
    let id = images
        .image_from_dir(&site, ImageConfig::default(), &options)
        .unwrap();
    let again = images
        .image_from_dir(&site, ImageConfig::default(), &options)
        .unwrap();
    assert_eq!(id, again);
    let root = images.root(id).unwrap();
    let page = root.layers[0].join("srv/site/index.html");
    assert_eq!(fs::read_to_string(&page).unwrap(), "hello");
    assert_eq!(fs::metadata(&page).unwrap().uid(), 1000);
    assert!(root.layers[0].join("srv/site/css/secret").is_symlink());
    assert!(site.join("index.html").exists());
}

#[test]
fn two_images_become_one_with_the_files_of_both() {
    let home = tempfile::tempdir().unwrap();
    let images = Images::open(&home.path().join("store")).unwrap();
    let of = |name: &str, parent| {
        let dir = home.path().join(name);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(name), name).unwrap();
        fs::write(dir.join("whose"), name).unwrap();
        let config = ImageConfig {
            user: name.to_owned(),
            ..ImageConfig::default()
        };
        let options = DirectoryOptions {
            parent,
            ..DirectoryOptions::default()
        };
        images.image_from_dir(&dir, config, &options).unwrap()
    };
    let base = of("base", None);
    let (one, other, apart) = (of("one", Some(base)), of("other", Some(base)), of("apart", None));
    let layers = |below, above| {
        let both = images.combine(below, above).unwrap();
        assert_eq!(both, images.combine(below, above).unwrap());
        let root = images.root(both).unwrap();
        let names: Vec<String> = root
            .layers
            .iter()
            .map(|layer| fs::read_to_string(layer.join("whose")).unwrap())
            .collect();
        (names.join(" "), root.config.user)
    };
    // What both have is there once.
    assert_eq!(
        layers(one, other),
        ("base one other".to_owned(), "other".to_owned())
    );
    assert_eq!(
        layers(one, apart),
        ("base one apart".to_owned(), "apart".to_owned())
    );
    assert_eq!(images.combine(base, one).unwrap(), one);
}

#[test]
fn a_directory_does_not_hide_what_a_link_below_leads_to() {
    let home = tempfile::tempdir().unwrap();
    let images = Images::open(&home.path().join("store")).unwrap();
    let (base, more) = (home.path().join("base"), home.path().join("more"));
    fs::create_dir_all(base.join("usr/lib")).unwrap();
    fs::write(base.join("usr/lib/loader"), "needed").unwrap();
    std::os::unix::fs::symlink("usr/lib", base.join("lib")).unwrap();
    let parent = images
        .image_from_dir(&base, ImageConfig::default(), &DirectoryOptions::default())
        .unwrap();
    fs::create_dir_all(more.join("postgresql")).unwrap();
    fs::write(more.join("postgresql/program"), "new").unwrap();
    let laid = |at: &str| {
        let options = DirectoryOptions {
            parent: Some(parent),
            at: at.into(),
            ..DirectoryOptions::default()
        };
        images.image_from_dir(&more, ImageConfig::default(), &options)
    };
    let refused = laid("/lib").unwrap_err();
    assert!(refused.to_string().contains("usr/lib"), "{refused}");
    assert!(refused.next().contains("--at"), "{}", refused.next());
    laid("/usr/lib").unwrap();
    laid("/opt").unwrap();
}

#[test]
fn collection_spares_what_is_kept_named_by_import_or_within_the_budget() {
    let home = tempfile::tempdir().unwrap();
    let images = Images::open(&home.path().join("store")).unwrap();
    let imported = import(&images, home.path(), "imported", &[base()]).unwrap();
    let step = |name: &str| {
        let upper = home.path().join(name);
        fs::create_dir(&upper).unwrap();
        fs::write(upper.join(name), vec![7_u8; 100_000]).unwrap();
        let id = images
            .commit_layer(
                Some(imported),
                &upper,
                ImageConfig::default(),
                &CommitOptions::default(),
            )
            .unwrap();
        images.cache_put(name, id).unwrap();
        id
    };
    let (kept, old) = (step("kept"), step("old"));
    assert_eq!(images.cache_get("old").unwrap(), Some(old));
    assert_eq!(images.cache_get("other").unwrap(), None);
    let before = images.usage().unwrap();
    let none = images
        .gc(
            &[kept],
            Budget {
                unused_bytes: 1 << 30,
                ..NOTHING
            },
        )
        .unwrap();
    assert_eq!((none.images, none.blobs, none.layers), (0, 0, 0));
    let freed = images.gc(&[kept], NOTHING).unwrap();
    assert_eq!((freed.images, freed.layers), (1, 1));
    assert!(freed.bytes >= 100_000);
    let after = images.usage().unwrap();
    assert_eq!(
        before.blob_bytes + before.layer_bytes - freed.bytes,
        after.blob_bytes + after.layer_bytes
    );
    assert_eq!(images.cache_get("old").unwrap(), None);
    assert_eq!(images.cache_get("kept").unwrap(), Some(kept));
    images.root(kept).unwrap();
    images.root(imported).unwrap();
    images.remove("imported").unwrap();
    assert_eq!(images.gc(&[], NOTHING).unwrap().images, 2);
    assert_eq!(images.usage().unwrap(), image::Usage::default());
    assert_eq!(fs::read_dir(home.path().join("store/layers")).unwrap().count(), 0);
}

/// A step runs on an image for longer than the collector's interval, and what it leaves is named a moment later.
#[test]
fn collection_spares_what_is_held_and_what_was_just_made() {
    let home = tempfile::tempdir().unwrap();
    let images = Images::open(&home.path().join("store")).unwrap();
    let make = |name: &str| {
        let upper = home.path().join(name);
        fs::create_dir(&upper).unwrap();
        fs::write(upper.join(name), name).unwrap();
        images
            .commit_layer(None, &upper, ImageConfig::default(), &CommitOptions::default())
            .unwrap()
    };
    let id = make("base");
    let (hold, second) = (images.hold(id).unwrap(), images.hold(id).unwrap());
    let layers = images.root(id).unwrap().layers;
    drop(second);
    assert_eq!(images.gc(&[], NOTHING).unwrap(), image::Freed::default());
    assert_eq!(fs::read_to_string(layers[0].join("base")).unwrap(), "base");
    drop(hold);
    let patient = Budget {
        grace: std::time::Duration::from_secs(3600),
        ..NOTHING
    };
    assert_eq!(images.gc(&[], patient).unwrap(), image::Freed::default());
    assert_eq!(images.gc(&[], NOTHING).unwrap().images, 1);
    assert!(!layers[0].exists());
    assert!(matches!(images.hold(id), Err(ImageError::NotFound { .. })));
}

#[test]
fn callers_at_the_same_time_get_one_layer_each_once() {
    let home = tempfile::tempdir().unwrap();
    let images = Images::open(&home.path().join("store")).unwrap();
    let layout = home.path().join("layout");
    fs::create_dir(&layout).unwrap();
    let many: Vec<String> = (0..500).map(|n| format!("f{n}")).collect();
    let members: Vec<_> = many.iter().map(|name| file(name, "content")).collect();
    oci_layout(&layout, &[tarball(&members)]);
    let ids: Vec<ImageId> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|n| {
                let (images, layout) = (images.clone(), &layout);
                scope.spawn(move || {
                    let id = images
                        .import_archive(Archive::Path(layout), &format!("n{n}"), &quiet)
                        .unwrap();
                    images.gc(&[], NOTHING).unwrap();
                    images.root(id).unwrap();
                    id
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(fs::read_dir(home.path().join("store/tmp")).unwrap().count(), 0);
    assert_eq!(images.inspect(ids[0]).unwrap().summary.names.len(), 8);
}

/// F19: damage is named, and layers come back from their archives.
#[test]
fn damage_is_named_and_layers_are_restored() {
    let home = tempfile::tempdir().unwrap();
    let images = Images::open(&home.path().join("store")).unwrap();
    let id = import(&images, home.path(), "x", &[base()]).unwrap();
    let layer = images.root(id).unwrap().layers[0].clone();
    type Harm = fn(&Path);
    let harms: [(Harm, &str); 6] = [
        (|layer| fs::write(layer.join("etc/a"), "oNe").unwrap(), "/etc/a"),
        (|layer| fs::remove_file(layer.join("lib/x")).unwrap(), "/lib/x"),
        (
            |layer| fs::write(layer.join("lib/extra"), "").unwrap(),
            "/lib/extra",
        ),
        (
            |layer| fs::set_permissions(layer.join("etc"), fs::Permissions::from_mode(0o700)).unwrap(),
            "/etc",
        ),
        (
            |layer| std::os::unix::fs::chown(layer.join("etc/b"), Some(5), None).unwrap(),
            "/etc/b",
        ),
        (
            |layer| {
                fs::remove_file(layer.join("bin")).unwrap();
                std::os::unix::fs::symlink("etc", layer.join("bin")).unwrap();
            },
            "/bin",
        ),
    ];
    for (harm, expected) in harms {
        harm(&layer);
        let faults = images.verify(id).unwrap();
        assert!(
            matches!(faults.as_slice(), [Fault::LayerAltered { path, .. }] if path == expected),
            "{faults:?}"
        );
        assert_eq!(images.repair(id).unwrap(), faults);
        assert_eq!(images.verify(id).unwrap(), []);
    }
    let blob = images.inspect(id).unwrap().layers[0].digest;
    let path = home.path().join("store/blobs/sha256").join(blob.hex());
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(
        matches!(images.verify(id).unwrap().as_slice(), [Fault::BlobAltered { digest, .. }] if *digest == blob)
    );
    fs::remove_file(&path).unwrap();
    assert_eq!(images.verify(id).unwrap(), [Fault::BlobMissing { digest: blob }]);
    fs::write(&path, &bytes).unwrap();
    images.repair(id).unwrap();
    assert_eq!(
        images
            .import_archive(Archive::Path(&home.path().join("layout-x")), "x", &quiet)
            .unwrap(),
        id
    );
    assert_eq!(images.verify(id).unwrap(), []);
    let manifest = home.path().join("store/blobs/sha256").join(id.digest().hex());
    fs::write(&manifest, "{}").unwrap();
    assert!(matches!(images.root(id), Err(ImageError::DigestMismatch { .. })));
    assert!(images.list()[0].damage.is_some());
    assert!(matches!(
        images.repair(id).unwrap().as_slice(),
        [Fault::BlobAltered { .. }]
    ));
    assert_eq!(
        images
            .import_archive(Archive::Path(&home.path().join("layout-x")), "x", &quiet)
            .unwrap(),
        id
    );
    assert_eq!(images.verify(id).unwrap(), []);
}

/// N23: what does not match its digest is not imported, and leaves nothing.
#[test]
fn altered_archives_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let images = Images::open(&home.path().join("store")).unwrap();
    for (number, pick) in [0, 1, 2].into_iter().enumerate() {
        let layout = home.path().join(format!("l{number}"));
        fs::create_dir(&layout).unwrap();
        // Each time other content: a good blob that is there already is not read again.
        let content = format!("content {number}");
        oci_layout(&layout, &[tarball(&[file("x", &content)])]);
        let mut blobs: Vec<_> = fs::read_dir(layout.join("blobs/sha256"))
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        blobs.sort();
        let mut bytes = fs::read(&blobs[pick]).unwrap();
        let last = bytes.len() - 3;
        bytes[last] ^= 1;
        fs::write(&blobs[pick], bytes).unwrap();
        let refusal = images
            .import_archive(Archive::Path(&layout), "x", &quiet)
            .unwrap_err();
        assert!(matches!(refusal, ImageError::DigestMismatch { .. }), "{refusal}");
    }
    assert!(images.list().is_empty());
    images.gc(&[], NOTHING).unwrap();
    assert_eq!(images.usage().unwrap(), image::Usage::default());
}

#[test]
fn docker_save_archives_are_read_with_their_old_links() {
    let home = tempfile::tempdir().unwrap();
    let images = Images::open(&home.path().join("store")).unwrap();
    let layer = tarball(&[
        dir("etc/"),
        file("etc/hello", "from docker"),
        hard_link("etc/again", "etc/hello"),
    ]);
    let diff_id = image::Digest::of(&layer).to_string();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["sh"]}},"rootfs":{{"type":"layers","diff_ids":["{diff_id}","{diff_id}"]}}}}"#
    );
    let list = r#"[{"Config":"c.json","RepoTags":["a:b"],"Layers":["one/layer.tar","two/layer.tar"]}]"#;
    let saved = tarball(&[
        dir("one/"),
        common::member(b'0', "one/layer.tar", "", &layer),
        dir("two/"),
        symlink("two/layer.tar", "../one/layer.tar"),
        file("c.json", &config),
        file("manifest.json", list),
    ]);
    let id = images
        .import_archive(
            Archive::Reader(&mut common::gzip(&saved).as_slice()),
            "saved",
            &quiet,
        )
        .unwrap();
    let root = images.root(id).unwrap();
    assert_eq!(
        fs::read_to_string(root.layers[0].join("etc/again")).unwrap(),
        "from docker"
    );
    assert_eq!(root.config.cmd, ["sh"]);
    assert_eq!(images.verify(id).unwrap(), []);

    let hostile = tarball(&[
        symlink("c.json", "/etc/passwd"),
        file(
            "manifest.json",
            r#"[{"Config":"c.json","RepoTags":null,"Layers":[]}]"#,
        ),
    ]);
    assert!(
        images
            .import_archive(Archive::Reader(&mut hostile.as_slice()), "h", &quiet)
            .is_err()
    );
    let dots = tarball(&[file(
        "manifest.json",
        r#"[{"Config":"../../../../etc/passwd","RepoTags":null,"Layers":[]}]"#,
    )]);
    let refusal = images
        .import_archive(Archive::Reader(&mut dots.as_slice()), "h", &quiet)
        .unwrap_err();
    assert!(refusal.to_string().contains("leads out"), "{refusal}");
}
