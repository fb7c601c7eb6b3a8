//! N16 to N22 and N29: hostile archives, each with a control that shows the attack is real.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic like tests")]

mod common;

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use common::{
    dir, ended, file, gnu_list, gnu_long, gzip, hard_link, header, member, naive_unpack, oci_layout, pax,
    raw, symlink, tarball,
};
use image::{Archive, ImageError, Images, Quota, Unpacked, unpack_source};

/// A place with a file outside of it that attacks aim at.
struct Place {
    home: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("outside")).unwrap();
        fs::write(home.path().join("outside/secret"), "secret").unwrap();
        fs::create_dir(home.path().join("naive")).unwrap();
        Self { home }
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.home.path().join(inside)
    }

    fn outside(&self) -> String {
        self.path("outside").display().to_string()
    }

    /// Everything outside as one text: any change shows.
    fn state(&self) -> String {
        let mut entries: Vec<String> = fs::read_dir(self.path("outside"))
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let found = fs::symlink_metadata(entry.path()).unwrap();
                let content = if found.is_file() {
                    fs::read_to_string(entry.path()).unwrap()
                } else {
                    String::new()
                };
                format!(
                    "{:?} {:o} {} {} {content}",
                    entry.file_name(),
                    found.mode(),
                    found.nlink(),
                    found.uid()
                )
            })
            .collect();
        entries.sort();
        entries.join("\n")
    }

    fn as_source(&self, archive: &[u8]) -> Result<Unpacked, ImageError> {
        let outcome = unpack_source(&mut &archive[..], &self.path("source"), &small());
        assert_eq!(outcome.is_ok(), self.path("source").exists());
        if outcome.is_ok() {
            image::remove_tree(&self.path("source")).unwrap();
        }
        outcome
    }

    /// As the layers of an image; gives the directories of the layers.
    fn as_layers(&self, layers: &[Vec<u8>]) -> Result<Vec<PathBuf>, ImageError> {
        for old in ["layout", "store"] {
            image::remove_tree(&self.path(old)).unwrap();
        }
        fs::create_dir(self.path("layout")).unwrap();
        oci_layout(&self.path("layout"), layers);
        let images = Images::open(&self.path("store")).unwrap();
        let id = images.import_archive(Archive::Path(&self.path("layout")), "x", &|_| {})?;
        Ok(images.root(id).unwrap().layers)
    }
}

fn small() -> Quota {
    Quota {
        bytes: 1 << 20,
        entries: 1000,
        ..Quota::default()
    }
}

/// N16, N17, N29: attacks that write, link or remove outside. Refused or harmless as layer and as source; GNU tar, told
/// to trust the archive, is led outside by each.
#[test]
fn nothing_is_written_linked_or_removed_outside() {
    type Attack = fn(outside: &str) -> Vec<u8>;
    let attacks: [(&str, Attack); 8] = [
        ("absolute path", |outside| {
            tarball(&[file(&format!("{outside}/new"), "x")])
        }),
        ("dot-dot", |_| tarball(&[file("../outside/new", "x")])),
        ("inner dot-dot", |_| {
            tarball(&[dir("a/"), file("a/../../outside/new", "x")])
        }),
        ("write through an absolute link", |outside| {
            tarball(&[symlink("link", outside), file("link/new", "x")])
        }),
        ("write through a relative link", |_| {
            tarball(&[symlink("link", "../outside"), file("link/new", "x")])
        }),
        ("overwrite through a final link", |outside| {
            tarball(&[
                symlink("link", outside),
                dir("link/"),
                file("link/secret", "overwritten"),
            ])
        }),
        ("link to a link", |_| {
            tarball(&[symlink("a", ".."), symlink("b", "a/outside"), file("b/new", "x")])
        }),
        ("hard link out, then write through it", |outside| {
            tarball(&[hard_link("stolen", &format!("{outside}/secret"))])
        }),
    ];
    for (name, attack) in attacks {
        let place = Place::new();
        let before = place.state();
        let archive = attack(&place.outside());
        let as_source = place.as_source(&archive);
        assert_eq!(place.state(), before, "{name} as source: {as_source:?}");
        let as_layer = place.as_layers(std::slice::from_ref(&archive));
        assert_eq!(place.state(), before, "{name} as layer: {as_layer:?}");
        // An absolute path is read as one below the root, as image tools do, and a directory replaces a link of its
        // name; all else is refused.
        let is_harmless = matches!(name, "absolute path" | "overwrite through a final link");
        assert_eq!(as_layer.is_ok(), is_harmless, "{name}: {as_layer:?}");
        naive_unpack(&archive, &place.path("naive"));
        assert_ne!(place.state(), before, "the control of {name} does nothing");
    }
}

#[test]
fn hard_links_stay_inside_and_refer_to_files() {
    let place = Place::new();
    for (name, link) in [
        ("dot-dot", hard_link("x", "../outside/secret")),
        ("through a link", hard_link("x", "link/secret")),
        ("absent", hard_link("x", "not/there")),
        ("directory", hard_link("x", "d")),
        ("itself", hard_link("x", "x")),
        ("root", hard_link("x", "/")),
    ] {
        let outside = place.outside();
        let archive = tarball(&[dir("d/"), file("f", "f"), symlink("link", &outside), link]);
        assert!(
            matches!(place.as_layers(&[archive]), Err(ImageError::Refused { .. })),
            "{name}"
        );
    }
    let layers = place.as_layers(&[tarball(&[
        dir("d/"),
        file("f", "f"),
        hard_link("d/same", "f"),
        hard_link("abs", "/f"),
    ])]);
    let layer = &layers.unwrap()[0];
    assert_eq!(
        fs::metadata(layer.join("d/same")).unwrap().ino(),
        fs::metadata(layer.join("abs")).unwrap().ino()
    );
    assert_eq!(fs::metadata(layer.join("f")).unwrap().nlink(), 3);
}

/// N17
#[test]
fn whiteouts_do_not_reach_through_links_or_upwards() {
    let place = Place::new();
    let before = place.state();
    let outside = place.outside();
    for (name, hostile) in [
        (
            "through a link",
            vec![symlink("link", &outside), file("link/.wh.secret", "")],
        ),
        (
            "opaque through a link",
            vec![symlink("link", &outside), file("link/.wh..wh..opq", "")],
        ),
        ("of the directory above", vec![dir("d/"), file("d/.wh...", "")]),
        ("of its own directory", vec![dir("d/"), file("d/.wh..", "")]),
        ("of nothing", vec![dir("d/"), file("d/.wh.", "")]),
        ("as a directory", vec![file(".wh.d/x", "")]),
        ("dot-dot", vec![file("../outside/.wh.secret", "")]),
    ] {
        let outcome = place.as_layers(&[tarball(&hostile)]);
        assert!(
            matches!(outcome, Err(ImageError::Refused { .. })),
            "{name}: {outcome:?}"
        );
        assert_eq!(place.state(), before);
    }
    // A careless applier removes what the name after the mark says, through the link.
    let careless = place.path("naive/link");
    std::os::unix::fs::symlink(&outside, &careless).unwrap();
    assert!(careless.join("secret").exists());
    let layers = place.as_layers(&[
        tarball(&[dir("d/"), file("d/f", "f"), dir("e/")]),
        tarball(&[
            file("d/.wh.f", ""),
            file(".wh.e", ""),
            dir("e/"),
            file("e/new", "n"),
            file(".wh..wh.plnk", ""),
        ]),
    ]);
    let top = &layers.unwrap()[1];
    assert!(
        fs::symlink_metadata(top.join("d/f"))
            .unwrap()
            .file_type()
            .is_char_device()
    );
    assert!(top.join("e/new").exists());
    let mut value = [0_u8; 2];
    rustix::fs::getxattr(top.join("e"), "trusted.overlay.opaque", value.as_mut_slice()).unwrap();
    assert_eq!(fs::read_dir(top).unwrap().count(), 2);
}

/// N18: the lower layer has a directory, the upper a link of that name and a file "in" it.
#[test]
fn a_second_layer_that_replaces_a_directory_by_a_link_gains_nothing() {
    let place = Place::new();
    let before = place.state();
    let outside = place.outside();
    let first = tarball(&[dir("d/"), file("d/f", "f")]);
    let separate = tarball(&[symlink("d", &outside)]);
    let third = tarball(&[file("d/new", "x"), file("d/secret", "overwritten")]);
    let layers = place.as_layers(&[first.clone(), separate, third]).unwrap();
    assert!(layers[2].join("d/new").exists() && !layers[2].join("d").is_symlink());
    assert_eq!(place.state(), before);
    let together = tarball(&[symlink("d", &outside), file("d/new", "x")]);
    assert!(matches!(
        place.as_layers(&[first, together.clone()]),
        Err(ImageError::Refused { .. })
    ));
    let replaced = tarball(&[
        dir("d/"),
        file("d/f", "f"),
        symlink("d", &outside),
        file("d/new", "x"),
    ]);
    assert!(matches!(
        place.as_layers(&[replaced]),
        Err(ImageError::Refused { .. })
    ));
    assert_eq!(place.state(), before);
    naive_unpack(&together, &place.path("naive"));
    assert_ne!(place.state(), before);
}

/// N19
#[test]
fn devices_pipes_set_id_bits_and_attributes_follow_the_policy() {
    let place = Place::new();
    let mut archive = Vec::new();
    let mut device = header(b'3', b"dev-null", b"", 0o666, 0);
    let mut fields = tar::Header::from_byte_slice(&device).clone();
    fields.set_device_major(1).unwrap();
    fields.set_device_minor(3).unwrap();
    fields.set_cksum();
    device.copy_from_slice(fields.as_bytes());
    let whiteout = header(b'3', b"smuggled-whiteout", b"", 0o666, 0);
    archive.extend(&device);
    archive.extend(whiteout);
    archive.extend(header(b'4', b"disk", b"", 0o660, 0));
    archive.extend(header(b'6', b"pipe", b"", 0o600, 0));
    let mut su = member(b'0', "su", "", b"program");
    su.mode = 0o6755;
    archive.extend(raw(&su));
    let mut sticky = dir("shared/");
    sticky.mode = 0o3777;
    archive.extend(raw(&sticky));
    archive.extend(pax(&[
        ("SCHILY.xattr.trusted.overlay.opaque", "y"),
        ("SCHILY.xattr.security.capability", "cap"),
        ("SCHILY.xattr.user.overlay.opaque", "y"),
        ("SCHILY.xattr.user.kept", "kept"),
        ("uid", "4000000000"),
    ]));
    archive.extend(raw(&dir("marked/")));
    let archive = ended(archive);

    let layers = place.as_layers(std::slice::from_ref(&archive)).unwrap();
    let layer = &layers[0];
    let names: Vec<_> = fs::read_dir(layer)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(fs::metadata(layer.join("su")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(
        fs::metadata(layer.join("shared")).unwrap().mode() & 0o7777,
        0o3777
    );
    let mut list = [0_u8; 1024];
    let length = rustix::fs::listxattr(layer.join("marked"), list.as_mut_slice()).unwrap();
    assert_eq!(String::from_utf8_lossy(&list[..length]), "user.kept\0");
    assert_eq!(fs::metadata(layer.join("marked")).unwrap().uid(), 65534);
    let images = Images::open(&place.path("store")).unwrap();
    let counts = images.inspect(images.resolve("x").unwrap()).unwrap().layers[0]
        .unpacked
        .unwrap();
    assert_eq!(
        (
            counts.dropped_nodes,
            counts.dropped_set_id,
            counts.dropped_attributes,
            counts.dropped_owners
        ),
        (4, 1, 3, 1)
    );

    assert!(matches!(
        place.as_source(&archive),
        Err(ImageError::Refused { .. })
    ));
    let mut su = member(b'0', "su", "", b"program");
    su.mode = 0o6755;
    unpack_source(&mut tarball(&[su]).as_slice(), &place.path("source"), &small()).unwrap();
    let found = fs::metadata(place.path("source/su")).unwrap();
    assert_eq!((found.mode() & 0o7777, found.uid()), (0o755, 0));
    // The control: a careless tool makes the device and the set-user-id program.
    naive_unpack(&archive, &place.path("naive"));
    assert!(
        fs::symlink_metadata(place.path("naive/dev-null"))
            .unwrap()
            .file_type()
            .is_char_device()
    );
    assert_ne!(fs::metadata(place.path("naive/su")).unwrap().mode() & 0o4000, 0);
}

/// N20: what two readers could understand differently is refused; what is accepted, GNU tar lists alike.
#[test]
fn ambiguous_headers_are_refused_and_the_rest_reads_as_gnu_tar_reads_it() {
    let with = |parts: &[Vec<u8>]| ended(parts.concat());
    let plain = |name: &str| raw(&file(name, "content"));
    let hidden = tarball(&[file("hidden", "payload")]);
    let hidden = &hidden[..1024];
    let carrier = |size: u64| [header(b'0', b"carrier", b"", 0o644, size), hidden.to_vec()].concat();
    let refused: Vec<(&str, Vec<u8>)> = vec![
        (
            "pax size hides an entry",
            with(&[pax(&[("size", "1024")]), carrier(512)]),
        ),
        (
            "pax size shows an entry",
            with(&[pax(&[("size", "512")]), carrier(1024)]),
        ),
        (
            "two pax headers",
            with(&[pax(&[("path", "a")]), pax(&[("path", "b")]), plain("c")]),
        ),
        (
            "one pax record twice",
            with(&[pax(&[("path", "a"), ("path", "b")]), plain("c")]),
        ),
        (
            "two GNU names",
            with(&[gnu_long(b'L', b"a"), gnu_long(b'L', b"b"), plain("c")]),
        ),
        (
            "GNU and pax name",
            with(&[gnu_long(b'L', b"a"), pax(&[("path", "b")]), plain("c")]),
        ),
        (
            "two GNU links",
            with(&[
                gnu_long(b'K', b"a"),
                gnu_long(b'K', b"b"),
                raw(&symlink("c", "d")),
            ]),
        ),
        (
            "global name",
            with(&[
                {
                    let mut global = pax(&[("path", "g")]);
                    global[156] = b'g';
                    let mut fields = tar::Header::from_byte_slice(&global[..512]).clone();
                    fields.set_cksum();
                    global[..512].copy_from_slice(fields.as_bytes());
                    global
                },
                plain("c"),
            ]),
        ),
        (
            "directory with content",
            with(&[
                header(b'5', b"d", b"", 0o755, 512),
                hidden[..512].to_vec(),
                plain("c"),
            ]),
        ),
        (
            "link with content",
            with(&[
                header(b'2', b"l", b"x", 0o777, 512),
                hidden[..512].to_vec(),
                plain("c"),
            ]),
        ),
        (
            "hard link with content",
            with(&[
                plain("a"),
                header(b'1', b"l", b"a", 0o644, 512),
                hidden[..512].to_vec(),
            ]),
        ),
        ("sparse", with(&[header(b'S', b"s", b"", 0o644, 0)])),
        (
            "pax sparse",
            with(&[
                pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.name", "s")]),
                plain("c"),
            ]),
        ),
        ("unknown kind", with(&[header(b'!', b"u", b"", 0o644, 0)])),
        ("NUL in a pax name", with(&[pax(&[("path", "a\0b")]), plain("c")])),
        ("empty name", with(&[header(b'0', b"", b"", 0o644, 0)])),
        (
            "malformed pax",
            with(&[
                {
                    let mut bad = pax(&[("path", "a")]);
                    bad[512] = b'x';
                    bad
                },
                plain("c"),
            ]),
        ),
        (
            "wrong checksum",
            with(&[{
                let mut bad = plain("c");
                bad[0] ^= 1;
                bad
            }]),
        ),
        (
            "negative size",
            with(&[{
                let mut bad = plain("c");
                bad[124..136].copy_from_slice(&[0xff; 12]);
                let mut fields = tar::Header::from_byte_slice(&bad[..512]).clone();
                fields.set_cksum();
                bad[..512].copy_from_slice(fields.as_bytes());
                bad
            }]),
        ),
        ("extension at the end", with(&[plain("c"), pax(&[("path", "a")])])),
        (
            "cut within an entry",
            [plain("c"), header(b'0', b"d", b"", 0o644, 5000), vec![0; 100]].concat(),
        ),
    ];
    let place = Place::new();
    for (name, archive) in &refused {
        let outcome = place.as_source(archive);
        let is_refused = matches!(
            outcome,
            Err(ImageError::Refused { .. } | ImageError::Quota { .. })
        );
        assert!(is_refused, "{name}: {outcome:?}");
    }
    // The control: two common readers do disagree on what such archives hold.
    let (_, two_faced) = &refused[2];
    let crate_reads: Option<Vec<String>> = tar::Archive::new(&two_faced[..])
        .entries()
        .unwrap()
        .map(|entry| {
            entry
                .ok()
                .map(|entry| String::from_utf8_lossy(&entry.path_bytes()).into_owned())
        })
        .collect();
    assert_ne!(crate_reads, gnu_list(two_faced));

    let long = "l/".to_owned() + &"n".repeat(180);
    let deep = format!("{}/leaf", vec!["d"; 120].join("/"));
    let accepted: Vec<(&str, Vec<u8>)> = vec![
        (
            "plain",
            with(&[
                raw(&dir("a/")),
                plain("a/b"),
                plain("./c"),
                raw(&symlink("s", "a")),
            ]),
        ),
        (
            "GNU long name",
            with(&[gnu_long(b'L', long.as_bytes()), plain("short")]),
        ),
        (
            "pax name",
            with(&[pax(&[("path", &long), ("mtime", "1.5")]), plain("short")]),
        ),
        (
            "pax size alone",
            with(&[
                pax(&[("size", "7")]),
                [header(b'0', b"z", b"", 0o644, 0), common::padded(b"content")].concat(),
                plain("y"),
            ]),
        ),
        ("deep", with(&[pax(&[("path", &deep)]), plain("x")])),
        (
            "old kind and closing slash",
            with(&[header(0, b"olddir/", b"", 0o755, 0), plain("olddir/f")]),
        ),
        ("same name twice", with(&[plain("same"), plain("same")])),
        (
            "nothing after the end counts",
            [with(&[plain("a")]), plain("b")].concat(),
        ),
    ];
    for (name, archive) in accepted {
        unpack_source(&mut archive.as_slice(), &place.path("source"), &small())
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut listed = gnu_list(&archive).unwrap();
        listed = listed
            .iter()
            .map(|entry| entry.trim_start_matches("./").to_owned())
            .collect();
        listed.sort();
        listed.dedup();
        let mut made = Vec::new();
        walk(&place.path("source"), &place.path("source"), &mut made);
        for entry in &listed {
            assert!(made.contains(entry), "{name}: {entry} of {made:?}");
        }
        let implied = made.iter().filter(|entry| !listed.contains(entry));
        assert!(
            implied
                .clone()
                .all(|entry| place.path("source").join(entry).is_dir()),
            "{name}: {made:?} {listed:?}"
        );
        image::remove_tree(&place.path("source")).unwrap();
    }
}

fn walk(root: &Path, here: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(here).unwrap() {
        let entry = entry.unwrap();
        found.push(entry.path().strip_prefix(root).unwrap().display().to_string());
        if entry.file_type().unwrap().is_dir() {
            walk(root, &entry.path(), found);
        }
    }
}

/// An archive of one file of zeros, made while it is read.
struct Bomb {
    head: Vec<u8>,
    left: u64,
}

impl Read for Bomb {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if !self.head.is_empty() {
            let count = self.head.len().min(buffer.len());
            buffer[..count].copy_from_slice(&self.head[..count]);
            self.head.drain(..count);
            return Ok(count);
        }
        let count = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        buffer[..count].fill(0);
        self.left -= count as u64;
        Ok(count)
    }
}

fn bomb(claimed: u64, sent: u64) -> Bomb {
    Bomb {
        head: header(b'0', b"zeros", b"", 0o644, claimed),
        left: sent,
    }
}

/// N21
#[test]
fn bombs_stop_at_the_quota_and_the_disk_is_given_back() {
    let place = Place::new();
    let squeeze = |mut bomb: Bomb| {
        let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
        std::io::copy(&mut bomb, &mut zstd).unwrap();
        zstd.finish().unwrap()
    };
    let gib = 1 << 30;
    let big = squeeze(bomb(2 * gib, 2 * gib));
    assert!(
        big.len() < 1 << 20,
        "the control: the bomb is small, {} bytes",
        big.len()
    );
    let many: Vec<u8> = (0..40)
        .flat_map(|n| raw(&member(b'0', &format!("f{n}"), "", &[0; 50_000])))
        .collect();
    // Zeros are an end mark: everything after it must still be bounded.
    let after_the_end = squeeze(Bomb {
        head: tarball(&[file("a", "a")]),
        left: 2 * gib,
    });
    for (name, archive) in [
        ("one file", big),
        ("many files", gzip(&ended(many))),
        ("after the end", after_the_end),
    ] {
        let outcome = place.as_source(&archive);
        assert!(
            matches!(
                outcome,
                Err(ImageError::Quota { .. } | ImageError::Refused { .. })
            ),
            "{name}: {outcome:?}"
        );
    }
    let nested = gzip(&gzip(&gzip(&tarball(&[file("a", "a")]))));
    assert!(place.as_source(&nested).is_err());
    for (name, magic) in [
        ("xz", &b"\xfd7zXZ\0\0"[..]),
        ("bzip2", b"BZh91AY"),
        ("zip", b"PK\x03\x04aa"),
    ] {
        let outcome = place.as_source(magic);
        assert!(
            matches!(&outcome, Err(ImageError::Unsupported { what, .. }) if what.contains(name)),
            "{outcome:?}"
        );
    }
}

/// N22
#[test]
fn entries_depth_and_names_are_bounded_in_time_and_memory() {
    let place = Place::new();
    let many: Vec<u8> = (0..2000)
        .flat_map(|n| header(b'0', format!("f{n}").as_bytes(), b"", 0o644, 0))
        .collect();
    let deep = vec!["d"; 10_000].join("/");
    let wide = "n".repeat(65_536);
    let part = "n".repeat(256);
    for (name, archive) in [
        ("many entries", ended(many)),
        (
            "depth in one name",
            ended([pax(&[("path", &deep)]), raw(&file("x", ""))].concat()),
        ),
        (
            "depth within the length of a name",
            ended([pax(&[("path", &deep[..2000])]), raw(&file("x", ""))].concat()),
        ),
        (
            "name of 64 KiB",
            ended([gnu_long(b'L', wide.as_bytes()), raw(&file("x", ""))].concat()),
        ),
        (
            "file name of 256",
            ended([gnu_long(b'L', part.as_bytes()), raw(&file("x", ""))].concat()),
        ),
    ] {
        let outcome = place.as_source(&archive);
        assert!(
            matches!(outcome, Err(ImageError::Quota { .. })),
            "{name}: {outcome:?}"
        );
    }
    // A name of 4 GiB: refused by its header, not read into memory.
    for kind in *b"LKxg" {
        let mut endless = Bomb {
            head: header(kind, b"long", b"", 0o644, 4 << 30),
            left: u64::MAX,
        };
        let outcome = unpack_source(&mut endless, &place.path("source"), &small());
        assert!(matches!(outcome, Err(ImageError::Quota { .. })), "{outcome:?}");
        assert!(endless.left > u64::MAX - (64 << 20));
    }
    // Ten million empty headers would be 5 GB; the thousand and first is refused.
    struct Same(Vec<u8>, usize);
    impl Read for Same {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let count = buffer.len().min(self.0.len() - self.1 % self.0.len());
            let start = self.1 % self.0.len();
            buffer[..count].copy_from_slice(&self.0[start..start + count]);
            self.1 += count;
            Ok(count)
        }
    }
    let mut same = Same(header(b'0', b"same", b"", 0o644, 0), 0);
    let outcome = unpack_source(&mut same, &place.path("source"), &small());
    assert!(
        matches!(outcome, Err(ImageError::Quota { unit: "entries", .. })),
        "{outcome:?}"
    );
    assert!(same.1 < 2 << 20);
}

/// Links and every eighth time a directory, all of the longest names, made while they are read; `is_same` repeats one
/// of each.
struct LongNames {
    left: u32,
    is_same: bool,
    ready: std::io::Cursor<Vec<u8>>,
}

impl Read for LongNames {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.ready.position() == self.ready.get_ref().len() as u64 && self.left > 0 {
            self.left -= 1;
            let is_dir = self.left.is_multiple_of(8);
            let number = if self.is_same {
                u32::from(is_dir)
            } else {
                self.left
            };
            let name = format!("{}/{number}", vec!["n".repeat(250); 16].join("/"));
            let what = if is_dir { dir("x") } else { symlink("x", "y") };
            let entry = [gnu_long(b'L', name.as_bytes()), raw(&what)].concat();
            let last = if self.left == 0 { ended(entry) } else { entry };
            self.ready = std::io::Cursor::new(last);
        }
        self.ready.read(buffer)
    }
}

/// N22: 64 MiB of names is what may be remembered until the end, of directories and links together; a repeated one
/// counts once.
#[test]
fn names_that_are_remembered_are_bounded_together() {
    let place = Place::new();
    for (is_same, expected) in [(true, "made"), (false, "bytes of directory and link names")] {
        let mut names = LongNames {
            left: 17_500,
            is_same,
            ready: std::io::Cursor::default(),
        };
        let found = match unpack_source(&mut names, &place.path("source"), &Quota::default()) {
            Ok(_) => "made".to_owned(),
            Err(ImageError::Quota { unit, .. }) => unit.to_owned(),
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!(found, expected);
        image::remove_tree(&place.path("source")).unwrap();
    }
}

/// N29: links of a source that lead out would be followed by whatever reads the source next.
#[test]
fn links_of_a_source_stay_inside_it() {
    let place = Place::new();
    for (name, links) in [
        ("absolute", vec![symlink("a", "/etc/passwd")]),
        ("upwards", vec![symlink("a", "../outside/secret")]),
        (
            "upwards from below",
            vec![dir("d/"), symlink("d/a", "../../outside/secret")],
        ),
        (
            "by way of another",
            vec![
                dir("d/"),
                symlink("d/up", ".."),
                symlink("a", "d/up/../outside/secret"),
            ],
        ),
        (
            "looks inside, is not",
            vec![symlink("d", "."), symlink("a", "d/d/../outside")],
        ),
        ("to itself", vec![symlink("a", "a")]),
        (
            "made by a hard link",
            vec![
                dir("d/"),
                dir("d/e/"),
                symlink("d/e/a", "../../f"),
                file("f", ""),
                hard_link("a", "d/e/a"),
            ],
        ),
    ] {
        let outcome = place.as_source(&tarball(&links));
        assert!(
            matches!(outcome, Err(ImageError::Refused { .. })),
            "{name}: {outcome:?}"
        );
    }
    let fine = tarball(&[
        dir("d/"),
        file("d/f", "f"),
        symlink("d/g", "f"),
        symlink("up", "d/../d/f"),
        symlink("later", "z"),
        symlink("dangling", "d/none"),
    ]);
    place.as_source(&fine).unwrap();
    let cut = &fine[..fine.len() - 1024];
    assert!(matches!(place.as_source(cut), Err(ImageError::Refused { .. })));
    let zipped = gzip(&fine);
    assert!(place.as_source(&zipped[..zipped.len() - 20]).is_err());
    let mut altered = zipped;
    let middle = altered.len() / 2;
    altered[middle] ^= 0x55;
    assert!(place.as_source(&altered).is_err());
    // The control: a careless unpack followed by a careless read gives the file away.
    naive_unpack(
        &tarball(&[symlink("requirements.txt", "../outside/secret")]),
        &place.path("naive"),
    );
    assert_eq!(
        fs::read_to_string(place.path("naive/requirements.txt")).unwrap(),
        "secret"
    );
}

/// F11, F12: no space and no inodes left are named, and everything is given back.
#[test]
fn a_full_disk_is_named_and_given_back() {
    let home = tempfile::tempdir().unwrap();
    let small_disk = home.path().join("disk");
    fs::create_dir(&small_disk).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount(
        "stoa-image-test",
        &small_disk,
        "tmpfs",
        flags,
        c"size=2m,nr_inodes=200",
    )
    .unwrap();
    let free = || {
        let found = rustix::fs::statvfs(&small_disk).unwrap();
        (found.f_bavail, found.f_ffree)
    };
    let before = free();
    let large = tarball(&[member(b'0', "large", "", &vec![1; 4 << 20])]);
    let many: Vec<u8> = (0..500).flat_map(|n| raw(&file(&format!("f{n}"), ""))).collect();
    for archive in [large, ended(many)] {
        let outcome = unpack_source(
            &mut archive.as_slice(),
            &small_disk.join("source"),
            &Quota::default(),
        );
        assert!(matches!(outcome, Err(ImageError::DiskFull { .. })), "{outcome:?}");
        assert_eq!(free(), before);
    }
    rustix::mount::unmount(&small_disk, rustix::mount::UnmountFlags::empty()).unwrap();
}

/// What lives on the same disk needs some of it: the last of it is not taken, though it would fit.
#[test]
fn a_reserve_of_the_disk_is_left() {
    let home = tempfile::tempdir().unwrap();
    let disk = home.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("stoa-image-test", &disk, "tmpfs", flags, c"size=40m").unwrap();
    for (mib, fits) in [(36, true), (39, false)] {
        let mut archive = bomb(mib << 20, (mib << 20) + 1024);
        let outcome = unpack_source(&mut archive, &disk.join("source"), &Quota::default());
        assert_eq!(outcome.is_ok(), fits, "{mib} MiB: {outcome:?}");
        assert!(
            fits || matches!(outcome, Err(ImageError::DiskFull { .. })),
            "{outcome:?}"
        );
        image::remove_tree(&disk.join("source")).unwrap();
    }
    // The control: it would have fitted.
    fs::write(disk.join("large"), vec![0; 39 << 20]).unwrap();
    rustix::mount::unmount(&disk, rustix::mount::UnmountFlags::empty()).unwrap();
}

/// Every third byte of a valid archive, changed: refused or unpacked inside, never a panic.
#[test]
fn altered_bytes_never_do_harm() {
    let place = Place::new();
    let before = place.state();
    let archive = ended(
        [
            pax(&[("path", "a/long"), ("mtime", "12.5")]),
            raw(&file("x", "y")),
            raw(&symlink("l", "a")),
            gnu_long(b'L', b"b/c"),
            raw(&file("z", "")),
        ]
        .concat(),
    );
    let mut refusals = 0;
    for at in (0..archive.len()).step_by(3) {
        let mut altered = archive.clone();
        altered[at] ^= [0x01, 0x80, 0xff][at / 3 % 3];
        refusals += u32::from(place.as_source(&altered).is_err());
    }
    assert!(refusals > 300, "{refusals}");
    assert_eq!(place.state(), before);
}
