//! Building archives, honest and hostile, byte by byte.
#![allow(dead_code, reason = "each test file uses a part of this")]

use std::io::Write;
use std::path::Path;
use std::process::Command;

/// One member: type flag, name, link, mode and content.
pub struct Member<'a> {
    pub kind: u8,
    pub name: &'a str,
    pub link: &'a str,
    pub mode: u32,
    pub content: &'a [u8],
}

/// A member with the usual mode.
pub fn member<'a>(kind: u8, name: &'a str, link: &'a str, content: &'a [u8]) -> Member<'a> {
    Member {
        kind,
        name,
        link,
        mode: if kind == b'5' { 0o755 } else { 0o644 },
        content,
    }
}

pub fn file<'a>(name: &'a str, content: &'a str) -> Member<'a> {
    member(b'0', name, "", content.as_bytes())
}

pub fn dir(name: &str) -> Member<'_> {
    member(b'5', name, "", b"")
}

pub fn symlink<'a>(name: &'a str, to: &'a str) -> Member<'a> {
    member(b'2', name, to, b"")
}

pub fn hard_link<'a>(name: &'a str, to: &'a str) -> Member<'a> {
    member(b'1', name, to, b"")
}

/// A raw header; nothing is checked.
pub fn header(kind: u8, name: &[u8], link: &[u8], mode: u32, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
    header.as_mut_bytes()[157..157 + link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
    header.as_mut_bytes()[156] = kind;
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

pub fn padded(content: &[u8]) -> Vec<u8> {
    let mut bytes = content.to_vec();
    bytes.resize(content.len().next_multiple_of(512), 0);
    bytes
}

pub fn raw(member: &Member<'_>) -> Vec<u8> {
    let mut bytes = header(
        member.kind,
        member.name.as_bytes(),
        member.link.as_bytes(),
        member.mode,
        member.content.len() as u64,
    );
    bytes.extend(padded(member.content));
    bytes
}

/// A whole archive.
pub fn tarball(members: &[Member<'_>]) -> Vec<u8> {
    ended(members.iter().flat_map(raw).collect())
}

pub fn ended(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend([0; 1024]);
    bytes
}

/// An extended header with these records.
pub fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut content = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length = (rest..)
            .find(|length| rest + length.to_string().len() == *length)
            .unwrap();
        content.extend(format!("{length} {key}={value}\n").into_bytes());
    }
    let mut bytes = header(b'x', b"PaxHeader", b"", 0o644, content.len() as u64);
    bytes.extend(padded(&content));
    bytes
}

/// A GNU long name ('L') or link ('K').
pub fn gnu_long(kind: u8, text: &[u8]) -> Vec<u8> {
    let mut bytes = header(kind, b"././@LongLink", b"", 0o644, text.len() as u64 + 1);
    let mut text = text.to_vec();
    text.push(0);
    bytes.extend(padded(&text));
    bytes
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// What GNU tar lists, names only and without closing slashes; nothing when it fails.
pub fn gnu_list(archive: &[u8]) -> Option<Vec<String>> {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("a.tar");
    std::fs::write(&path, archive).unwrap();
    let output = Command::new("tar")
        .args(["-P", "--quoting-style=literal", "-tf"])
        .arg(&path)
        .output()
        .unwrap();
    output.status.success().then(|| {
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(|line| line.trim_end_matches('/').to_owned())
            .collect()
    })
}

/// Unpacks as a careless tool would; says whether it was content.
pub fn naive_unpack(archive: &[u8], into: &Path) -> bool {
    let path = into.join("../naive.tar");
    std::fs::write(&path, archive).unwrap();
    let status = Command::new("tar")
        .args(["-P", "--keep-directory-symlink", "-xf"])
        .arg(&path)
        .arg("-C")
        .arg(into)
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    status.success()
}

/// An OCI layout directory with these plain layers; returns nothing but the directory's content.
pub fn oci_layout(at: &Path, layers: &[Vec<u8>]) {
    let blob = |bytes: &[u8]| {
        let digest = image::Digest::of(bytes);
        std::fs::create_dir_all(at.join("blobs/sha256")).unwrap();
        std::fs::write(at.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        digest
    };
    let diff_ids: Vec<String> = layers
        .iter()
        .map(|layer| image::Digest::of(layer).to_string())
        .collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Env": ["A=b"], "Cmd": ["/bin/true"], "ExposedPorts": {"80/tcp": {}}, "Entrypoint": null},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = config.to_string().into_bytes();
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| {
            let stored = gzip(layer);
            serde_json::json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": blob(&stored).to_string(), "size": stored.len()})
        })
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": blob(&config).to_string(), "size": config.len()},
        "layers": layers,
    });
    let manifest = manifest.to_string().into_bytes();
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": blob(&manifest).to_string(), "size": manifest.len()}],
    });
    std::fs::write(at.join("index.json"), index.to_string()).unwrap();
    std::fs::write(at.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}
