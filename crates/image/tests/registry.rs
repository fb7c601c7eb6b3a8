//! Pulling and pushing: against Debian's registry program, and against servers that lie.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic like tests")]

mod common;
#[path = "common/http.rs"]
mod http;
#[path = "common/net.rs"]
mod net;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::{dir, file, gzip, oci_layout, tarball};
use http::{RegistryProgram, Relay, Reply, Request, Server, reply};
use image::{
    Archive, Budget, Credentials, Digest, Freshness, ImageError, ImageId, Images, Progress, PullPolicy,
    Reach, Reference,
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Whatever is not needed goes at once.
const NOTHING: Budget = Budget {
    unused_bytes: 0,
    grace: Duration::ZERO,
};

fn quiet(_: Progress) {}

fn reference(host: &str, rest: &str) -> Reference {
    format!("{host}/{rest}").parse().unwrap()
}

/// Asks each time, gives up soon.
fn eager() -> PullPolicy {
    PullPolicy {
        freshness: Freshness::Always,
        attempts: 3,
        patience: Duration::from_secs(20),
        ..PullPolicy::default()
    }
}

fn images(home: &Path, name: &str) -> Images {
    Images::open(&home.join(name)).unwrap()
}

/// Content that does not compress, so that transfers are as long as they look.
fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut step = || {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 56) as u8
    };
    (0..length).map(|_| step()).collect()
}

fn sample(images: &Images, home: &Path) -> ImageId {
    let layout = home.join("sample");
    fs::create_dir(&layout).unwrap();
    let noise = [noise(3_000_000, 1), noise(400_000, 2)];
    let layers: Vec<Vec<u8>> = noise
        .iter()
        .enumerate()
        .map(|(number, noise)| {
            let name = format!("data/{number}");
            tarball(&[
                dir("data/"),
                common::member(b'0', &name, "", noise),
                file("data/x", "x"),
            ])
        })
        .collect();
    oci_layout(&layout, &layers);
    images
        .import_archive(Archive::Path(&layout), "sample", &quiet)
        .unwrap()
}

fn nothing_left(home: &Path, name: &str) {
    assert_eq!(
        fs::read_dir(home.join(name).join("tmp")).unwrap().count(),
        0,
        "temporary files are left"
    );
}

#[test]
fn what_is_pushed_comes_back_byte_for_byte() {
    let home = tempfile::tempdir().unwrap();
    let registry = RegistryProgram::start("");
    let here = images(home.path(), "here");
    let id = sample(&here, home.path());
    let name = reference(&registry.address, "team/app:v1");
    here.push(id, &name, &eager(), &quiet).unwrap();
    here.push(
        id,
        &reference(&registry.address, "team/app:again"),
        &eager(),
        &quiet,
    )
    .unwrap();

    let there = images(home.path(), "there");
    let told = std::sync::Mutex::new(0);
    let pulled = there.pull(&name, &eager(), &|news| {
        if matches!(news, Progress::Bytes { .. }) {
            *told.lock().unwrap() += 1;
        }
    });
    assert_eq!(pulled.unwrap(), id);
    assert!(*told.lock().unwrap() >= 2);
    assert_eq!(there.verify(id).unwrap(), []);
    assert_eq!(there.root(id).unwrap().layers.len(), 2);
    assert_eq!(there.resolve(&name.to_string()).unwrap(), id);
    let pinned = reference(&registry.address, &format!("team/app@{id}"));
    assert_eq!(there.pull(&pinned, &eager(), &quiet).unwrap(), id);

    // N28: the tag moves; who asked before keeps what was asked for, and only `Always` follows.
    let other = here.commit_layer(
        Some(id),
        &upper(home.path()),
        image::ImageConfig::default(),
        &Default::default(),
    );
    let other = other.unwrap();
    here.push(other, &name, &eager(), &quiet).unwrap();
    assert_eq!(there.pull(&name, &PullPolicy::default(), &quiet).unwrap(), id);
    assert_eq!(there.pull(&name, &eager(), &quiet).unwrap(), other);
    assert_eq!(there.root(id).unwrap().layers.len(), 2);
    nothing_left(home.path(), "there");

    for absent in ["team/app:none", "team/none:v1"] {
        let failure = there
            .pull(&reference(&registry.address, absent), &eager(), &quiet)
            .unwrap_err();
        assert!(matches!(failure, ImageError::Absent { .. }), "{failure}");
    }
    let wrong = reference(&registry.address, &format!("team/app@{}", Digest::of(b"x")));
    assert!(matches!(
        there.pull(&wrong, &eager(), &quiet),
        Err(ImageError::Absent { .. })
    ));
}

fn upper(home: &Path) -> std::path::PathBuf {
    let upper = home.join("upper");
    fs::create_dir(&upper).unwrap();
    fs::write(upper.join("new"), "new").unwrap();
    upper
}

#[test]
fn a_registry_with_a_password_is_let_in_with_it_only() {
    let home = tempfile::tempdir().unwrap();
    let registry = RegistryProgram::start("auth:\n  htpasswd:\n    realm: test\n    path: HOME/htpasswd\n");
    let here = images(home.path(), "here");
    let id = sample(&here, home.path());
    let name = reference(&registry.address, "app:v1");
    let policy = |password: Option<&str>| PullPolicy {
        credentials: password.map(|password| Credentials {
            user: "me".into(),
            password: password.into(),
        }),
        ..eager()
    };
    for refused in [None, Some("wrong")] {
        let failure = here.push(id, &name, &policy(refused), &quiet).unwrap_err();
        assert!(matches!(failure, ImageError::Unauthorized { .. }), "{failure}");
        assert!(!format!("{failure:?} {failure} {}", failure.next()).contains("wrong"));
    }
    here.push(id, &name, &policy(Some("secret")), &quiet).unwrap();
    let there = images(home.path(), "there");
    assert!(matches!(
        there.pull(&name, &policy(None), &quiet),
        Err(ImageError::Unauthorized { .. })
    ));
    assert_eq!(there.pull(&name, &policy(Some("secret")), &quiet).unwrap(), id);
    assert!(!format!("{:?}", policy(Some("secret"))).contains("secret"));
}

/// F33: a registry that breaks off is resumed, one that is gone is named.
#[test]
fn cut_transfers_resume_and_a_registry_that_is_away_is_named() {
    let home = tempfile::tempdir().unwrap();
    let registry = RegistryProgram::start("");
    let here = images(home.path(), "here");
    let id = sample(&here, home.path());
    here.push(id, &reference(&registry.address, "app:v1"), &eager(), &quiet)
        .unwrap();

    let relay = Relay::start(&registry.address, 2, 1_000_000);
    let there = images(home.path(), "there");
    let pulled = there
        .pull(&reference(&relay.address.to_string(), "app:v1"), &eager(), &quiet)
        .unwrap();
    assert_eq!((pulled, *relay.cut.lock().unwrap()), (id, 2));
    assert_eq!(there.verify(id).unwrap(), []);

    let hopeless = Relay::start(&registry.address, u32::MAX, 2_000);
    let third = images(home.path(), "third");
    let failure = third
        .pull(
            &reference(&hopeless.address.to_string(), "app:v1"),
            &eager(),
            &quiet,
        )
        .unwrap_err();
    assert!(matches!(failure, ImageError::Unreachable { .. }), "{failure}");
    drop(hopeless);
    let address = registry.address.clone();
    drop(registry);
    let failure = third
        .pull(&reference(&address, "app:v1"), &eager(), &quiet)
        .unwrap_err();
    assert!(
        matches!(&failure, ImageError::Unreachable { registry, .. } if *registry == address),
        "{failure}"
    );
    assert!(failure.next().contains(&address));
    nothing_left(home.path(), "third");
    third.gc(&[], NOTHING).unwrap();
    assert_eq!(third.usage().unwrap(), image::Usage::default());
}

/// An image as a hostile registry would serve it, before it changes something.
#[derive(Clone)]
struct Served {
    manifest: Vec<u8>,
    config: Vec<u8>,
    layer: Vec<u8>,
}

impl Served {
    fn honest() -> Self {
        Self::with_layer(&tarball(&[file("hello", "world")]))
    }

    fn with_layer(plain: &[u8]) -> Self {
        let layer = gzip(plain);
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            Digest::of(plain)
        );
        let mut served = Self {
            manifest: Vec::new(),
            config: config.into(),
            layer,
        };
        served.manifest = served.manifest_with(|_| {});
        served
    }

    fn manifest_with(&self, change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
        let mut manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(&self.config).to_string(), "size": self.config.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": Digest::of(&self.layer).to_string(), "size": self.layer.len()}],
        });
        change(&mut manifest);
        manifest.to_string().into_bytes()
    }

    fn answer(&self, request: &Request) -> Reply {
        let is = |bytes: &[u8]| request.path.ends_with(&Digest::of(bytes).to_string());
        if request.path.contains("/manifests/") {
            reply(200, self.manifest.clone()).with("Content-Type", MANIFEST)
        } else if is(&self.config) {
            reply(200, self.config.clone())
        } else if is(&self.layer) {
            reply(200, self.layer.clone())
        } else {
            reply(404, "")
        }
    }
}

/// Serves `served` changed by `twist`, pulls, and gives what came of it with nothing left behind.
fn pull_twisted(
    served: Served,
    wanted: &str,
    twist: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
) -> Result<ImageId, ImageError> {
    let home = tempfile::tempdir().unwrap();
    let images = images(home.path(), "store");
    let server = Server::start("127.0.0.1", move |request| twist(request, served.answer(request)));
    let outcome = images.pull(&reference(&server.host(), wanted), &eager(), &quiet);
    nothing_left(home.path(), "store");
    if outcome.is_err() {
        assert!(images.list().is_empty());
        images.gc(&[], NOTHING).unwrap();
        assert_eq!(images.usage().unwrap(), image::Usage::default());
    }
    outcome
}

fn is_layer(request: &Request, served: &Served) -> bool {
    request.path.ends_with(&Digest::of(&served.layer).to_string())
}

#[test]
fn the_honest_server_works() {
    pull_twisted(Served::honest(), "app:v1", |_, reply| reply).unwrap();
}

/// N23
#[test]
fn content_that_is_not_what_its_digest_says_is_refused() {
    let served = Served::honest();
    let twisted = served.clone();
    let failure = pull_twisted(served.clone(), "app:v1", move |request, mut reply| {
        if is_layer(request, &twisted) {
            reply.body[15] ^= 1;
        }
        reply
    });
    assert!(
        matches!(failure, Err(ImageError::DigestMismatch { .. })),
        "{failure:?}"
    );

    let wanted = format!("app@{}", Digest::of(b"what was agreed"));
    let failure = pull_twisted(served.clone(), &wanted, |_, reply| reply);
    assert!(
        matches!(failure, Err(ImageError::DigestMismatch { .. })),
        "{failure:?}"
    );

    let failure = pull_twisted(served.clone(), "app:v1", |request, reply| {
        let is_manifest = request.path.contains("/manifests/");
        if is_manifest {
            reply.with("Docker-Content-Digest", &Digest::of(b"another").to_string())
        } else {
            reply
        }
    });
    assert!(
        matches!(failure, Err(ImageError::DigestMismatch { .. })),
        "{failure:?}"
    );

    // The blob is what the manifest says, but not the layer the configuration says.
    let mut lying = served.clone();
    let true_diff = Digest::of(&tarball(&[file("hello", "world")])).to_string();
    lying.config = String::from_utf8(served.config.clone())
        .unwrap()
        .replace(&true_diff, &Digest::of(b"x").to_string())
        .into_bytes();
    lying.manifest = lying.manifest_with(|_| {});
    let failure = pull_twisted(lying, "app:v1", |_, reply| reply);
    assert!(
        matches!(failure, Err(ImageError::DigestMismatch { .. })),
        "{failure:?}"
    );
}

#[test]
fn lengths_that_lie_are_refused() {
    for (claimed, sent) in [(1_i64, 1_i64), (-1, -1), (0, 1), (0, -1), (1, 0)] {
        let served = Served::honest();
        let twisted = served.clone();
        let failure = pull_twisted(served, "app:v1", move |request, mut reply| {
            if is_layer(request, &twisted) && request.header("range").is_none() {
                let honest = reply.body.len() as i64;
                reply.body.resize((honest + sent) as usize, 0);
                reply.length = Some((honest + claimed) as usize);
            }
            reply
        });
        let is_named = matches!(
            failure,
            Err(ImageError::SizeMismatch { .. }
                | ImageError::DigestMismatch { .. }
                | ImageError::Unreachable { .. })
        );
        // Claiming the right length and sending more is cut off by HTTP itself: the image is whole.
        assert!(
            is_named || (claimed, sent) == (0, 1),
            "{claimed} {sent}: {failure:?}"
        );
    }
}

/// N25
#[test]
fn indexes_of_indexes_foreign_layers_and_ambiguous_documents_are_refused() {
    let served = Served::honest();
    let foreign = Served {
        manifest: served
            .manifest_with(|m| m["layers"][0]["urls"] = serde_json::json!(["http://169.254.169.254/x"])),
        ..served.clone()
    };
    let nondistributable = Served {
        manifest: served.manifest_with(|m| {
            m["layers"][0]["mediaType"] =
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip".into();
        }),
        ..served.clone()
    };
    let both = Served {
        manifest: served.manifest_with(|m| m["manifests"] = serde_json::json!([])),
        ..served.clone()
    };
    let two_layers = Served {
        manifest: served.manifest_with(|m| m["layers"] = serde_json::json!([])),
        ..served.clone()
    };
    for hostile in [foreign, nondistributable, both, two_layers] {
        let failure = pull_twisted(hostile, "app:v1", |_, reply| reply);
        assert!(matches!(failure, Err(ImageError::Refused { .. })), "{failure:?}");
    }
    let first_schema = Served {
        manifest: br#"{"schemaVersion":1,"fsLayers":[]}"#.to_vec(),
        ..served.clone()
    };
    let failure = pull_twisted(first_schema, "app:v1", |_, reply| reply);
    assert!(
        matches!(failure, Err(ImageError::Unsupported { .. })),
        "{failure:?}"
    );

    let platform = serde_json::json!({"os": "linux", "architecture": "amd64"});
    let index = |digest: Digest, size: usize, kind: &str, platform: &serde_json::Value| {
        serde_json::json!({"schemaVersion": 2, "mediaType": INDEX,
            "manifests": [{"mediaType": kind, "digest": digest.to_string(), "size": size, "platform": platform}]})
        .to_string()
        .into_bytes()
    };
    let serve_index = |outer: Vec<u8>, inner: Vec<u8>| {
        let served = served.clone();
        pull_twisted(served, "app:v1", move |request, honest| {
            if request.path.ends_with("/manifests/v1") {
                reply(200, outer.clone()).with("Content-Type", INDEX)
            } else if request.path.contains("/manifests/") {
                reply(200, inner.clone()).with("Content-Type", MANIFEST)
            } else {
                honest
            }
        })
    };
    let good = served.manifest.clone();
    let outer = index(Digest::of(&good), good.len(), MANIFEST, &platform);
    assert_eq!(
        serve_index(outer.clone(), good.clone()).unwrap().digest(),
        Digest::of(&good)
    );
    for kind in [INDEX, MANIFEST] {
        let nested = index(Digest::of(&outer), outer.len(), kind, &platform);
        let failure = serve_index(nested, outer.clone());
        assert!(matches!(failure, Err(ImageError::Refused { .. })), "{failure:?}");
    }
    let other = serde_json::json!({"os": "windows", "architecture": "amd64"});
    let failure = serve_index(
        index(Digest::of(&good), good.len(), MANIFEST, &other),
        good.clone(),
    );
    assert!(
        matches!(&failure, Err(ImageError::NoPlatform { offered, .. }) if offered == "windows/amd64"),
        "{failure:?}"
    );
    let failure = serve_index(
        index(Digest::of(&good), good.len() + 1, MANIFEST, &platform),
        good,
    );
    assert!(
        matches!(failure, Err(ImageError::SizeMismatch { .. })),
        "{failure:?}"
    );
}

#[test]
fn a_hostile_layer_is_refused_and_an_endless_answer_is_bounded() {
    let served = Served::with_layer(&tarball(&[file("../../evil", "x")]));
    let failure = pull_twisted(served, "app:v1", |_, reply| reply);
    assert!(matches!(failure, Err(ImageError::Refused { .. })), "{failure:?}");
    let long = Served {
        manifest: vec![b' '; 5 << 20],
        ..Served::honest()
    };
    let failure = pull_twisted(long, "app:v1", |_, reply| reply);
    assert!(matches!(failure, Err(ImageError::Quota { .. })), "{failure:?}");
}

const PUBLIC: &str = "198.51.100.7";
const OTHER_PUBLIC: &str = "203.0.113.9";
const PRIVATE: &str = "10.99.0.1";
const LINK_LOCAL: &str = "169.254.169.254";

/// Follows redirects as most clients do; says whether it got through.
fn naive_get(url: &str) -> bool {
    let status = std::process::Command::new("curl")
        .args(["-sfL", "--max-time", "20", "-o", "/dev/null", url])
        .status();
    status.unwrap().success()
}

/// N26: where a registry may send us, for each class of address; the victim must not even be connected to.
#[test]
fn redirects_lead_to_public_addresses_or_where_the_registry_is() {
    let all = [PUBLIC, OTHER_PUBLIC, PRIVATE, LINK_LOCAL];
    net::in_own_network(&all, || {
        let cases = [
            (PUBLIC, OTHER_PUBLIC, true),
            (PUBLIC, "127.0.0.1", false),
            (PUBLIC, PRIVATE, false),
            (PUBLIC, LINK_LOCAL, false),
            (PRIVATE, LINK_LOCAL, false),
            (PRIVATE, "127.0.0.1", false),
            (PRIVATE, PRIVATE, true),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", PRIVATE, false),
            ("127.0.0.1", LINK_LOCAL, false),
        ];
        for (at, to, is_followed) in cases {
            let served = Served::honest();
            let (layer, blob) = (served.clone(), served.clone());
            let victim = Server::start(to, move |_| reply(200, blob.layer.clone()));
            let place = format!("http://{}/blob", victim.host());
            let server = Server::start(at, move |request| {
                if is_layer(request, &layer) {
                    reply(307, "").with("Location", &place)
                } else {
                    served.answer(request)
                }
            });
            let home = tempfile::tempdir().unwrap();
            let images = images(home.path(), "store");
            let policy = PullPolicy {
                insecure: vec![server.host()],
                ..eager()
            };
            let outcome = images.pull(&reference(&server.host(), "app:v1"), &policy, &quiet);
            let reached = victim.requests();
            if is_followed {
                outcome.unwrap();
                assert_eq!(reached.len(), 1);
                assert!(reached[0].header("authorization").is_none());
            } else {
                assert!(
                    matches!(outcome, Err(ImageError::RedirectRefused { .. })),
                    "{at} -> {to}: {outcome:?}"
                );
                assert!(reached.is_empty(), "{at} -> {to}");
                // The control: the same redirect takes a careless client there.
                let layer = Digest::of(&Served::honest().layer);
                assert!(naive_get(&format!(
                    "http://{}/v2/app/blobs/{layer}",
                    server.host()
                )));
                assert_eq!(victim.requests().len(), 1);
            }
        }
    });
}

#[test]
fn a_tenants_registry_must_be_public_and_none_is_link_local() {
    net::in_own_network(&[PUBLIC, PRIVATE, LINK_LOCAL], || {
        for (at, reach, is_allowed) in [
            (PUBLIC, Reach::PublicOnly, true),
            (PRIVATE, Reach::PublicOnly, false),
            ("127.0.0.1", Reach::PublicOnly, false),
            (PRIVATE, Reach::Anywhere, true),
            (LINK_LOCAL, Reach::Anywhere, false),
        ] {
            let served = Served::honest();
            let server = Server::start(at, move |request| served.answer(request));
            let home = tempfile::tempdir().unwrap();
            let policy = PullPolicy {
                insecure: vec![server.host()],
                reach,
                attempts: 1,
                ..eager()
            };
            let outcome =
                images(home.path(), "store").pull(&reference(&server.host(), "app:v1"), &policy, &quiet);
            assert_eq!(outcome.is_ok(), is_allowed, "{at} {reach:?}: {outcome:?}");
            let is_said = matches!(outcome, Err(ImageError::NotPublic { .. }));
            assert_eq!(is_said, reach == Reach::PublicOnly && !is_allowed, "{outcome:?}");
            assert_eq!(server.requests().is_empty(), !is_allowed);
        }
    });
}

#[test]
fn redirects_to_other_schemes_without_end_or_with_credentials_are_refused() {
    for to in [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "http://user:pw@127.0.0.1/x",
        "http:",
        "gopher://x/",
        "",
        "\\\\x",
        "unix:/run/docker.sock",
    ] {
        let served = Served::honest();
        let layer = served.clone();
        let outcome = pull_twisted(served, "app:v1", move |request, honest| {
            if is_layer(request, &layer) {
                reply(302, "").with("Location", to)
            } else {
                honest
            }
        });
        assert!(
            matches!(outcome, Err(ImageError::RedirectRefused { .. })),
            "{to}: {outcome:?}"
        );
    }
    let served = Served::honest();
    let layer = served.clone();
    let outcome = pull_twisted(served, "app:v1", move |request, honest| {
        if is_layer(request, &layer) {
            reply(302, "").with("Location", &request.path)
        } else {
            honest
        }
    });
    assert!(
        matches!(outcome, Err(ImageError::RedirectRefused { .. })),
        "{outcome:?}"
    );
}

/// N27: neither a challenge nor a redirect takes credentials to another host.
#[test]
fn credentials_never_leave_their_host() {
    net::in_own_network(&[PUBLIC, OTHER_PUBLIC], || {
        let token = |_: &Request| reply(200, r#"{"token":"granted"}"#);
        let thief = Server::start(OTHER_PUBLIC, token);
        let realm = format!("Bearer realm=\"http://{}/token\",service=\"x\"", thief.host());
        let served = Served::honest();
        let elsewhere = format!("http://{}/blob", thief.host());
        let layer = served.clone();
        let server = Server::start(PUBLIC, move |request| match request.header("authorization") {
            Some("Bearer granted") if is_layer(request, &layer) => {
                reply(307, "").with("Location", &elsewhere)
            }
            Some("Bearer granted") => served.answer(request),
            _ => reply(401, "").with("WWW-Authenticate", &realm),
        });
        let home = tempfile::tempdir().unwrap();
        let images = images(home.path(), "store");
        let credentials = Some(Credentials {
            user: "me".into(),
            password: "hunter2".into(),
        });
        let policy = PullPolicy {
            insecure: vec![server.host()],
            credentials,
            attempts: 1,
            ..eager()
        };
        let name = reference(&server.host(), "app:v1");
        let outcome = images.pull(&name, &policy, &quiet);
        assert!(
            matches!(&outcome, Err(ImageError::CredentialsWouldLeave { to, .. }) if to == OTHER_PUBLIC),
            "{outcome:?}"
        );
        assert!(
            thief.requests().is_empty()
                && server
                    .requests()
                    .iter()
                    .all(|r| r.header("authorization").is_none())
        );

        // The control: allowed as a token host, it is asked, so the challenge was a working one; and the token still
        // stays with the registry when a redirect leads away.
        let allowed = PullPolicy {
            token_hosts: vec![thief.host()],
            ..policy.clone()
        };
        let outcome = images.pull(&name, &allowed, &quiet);
        assert!(outcome.is_err());
        let asked = thief.requests();
        assert!(
            asked[0].path.contains("scope=repository:app:pull") && asked[0].header("authorization").is_some()
        );
        assert!(
            asked[1..]
                .iter()
                .all(|request| request.header("authorization").is_none())
        );
        assert!(asked.iter().any(|request| request.path == "/blob"));

        // Without credentials, an anonymous token may come from anywhere public.
        let anonymous = PullPolicy {
            credentials: None,
            ..policy
        };
        let _cut_short_by_the_redirect = images.pull(&name, &anonymous, &quiet);
        assert!(
            server
                .requests()
                .iter()
                .any(|request| request.header("authorization") == Some("Bearer granted"))
        );
    });
}

#[test]
fn a_registry_without_encryption_is_asked_only_where_allowed() {
    net::in_own_network(&[PUBLIC], || {
        let served = Served::honest();
        let server = Server::start(PUBLIC, move |request| served.answer(request));
        let home = tempfile::tempdir().unwrap();
        let policy = PullPolicy {
            attempts: 1,
            ..eager()
        };
        let failure = images(home.path(), "store")
            .pull(&reference(&server.host(), "app:v1"), &policy, &quiet)
            .unwrap_err();
        assert!(
            matches!(failure, ImageError::PlainHttpRefused { .. }),
            "{failure}"
        );
        assert!(failure.next().contains("insecure"));
    });
}

/// F11: a disk that fills during a pull is a clean failure, and the space comes back.
#[test]
fn a_full_disk_fails_cleanly_and_gives_the_space_back() {
    let home = tempfile::tempdir().unwrap();
    let small = home.path().join("small");
    fs::create_dir(&small).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("stoa-image-test", &small, "tmpfs", flags, c"size=6m").unwrap();
    let served = Served::with_layer(&tarball(&[common::member(b'0', "zeros", "", &vec![0; 16 << 20])]));
    let server = Server::start("127.0.0.1", move |request| served.answer(request));
    let images = images(&small, "store");
    let free = || rustix::fs::statvfs(&small).unwrap().f_bavail;
    let before = free();
    let failure = images
        .pull(&reference(&server.host(), "app:v1"), &eager(), &quiet)
        .unwrap_err();
    assert!(matches!(failure, ImageError::DiskFull { .. }), "{failure:?}");
    images.gc(&[], NOTHING).unwrap();
    assert_eq!(free(), before);
    drop(images);
    rustix::mount::unmount(&small, rustix::mount::UnmountFlags::empty()).unwrap();
}
