//! Images in the engine's words.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use engine::{EngineError, FetchImage, ImageFacts, ImageSummary, LineSink};
use image::{
    Archive, Budget, DebianBase, DirectoryOptions, ImageError, ImageId, Progress, PullPolicy, Quota,
    Reference, Toolchain, Variant,
};
use model::operation::ImageSource;
use model::{ImageDigest, Timestamp};

use crate::{Host, error, users};

/// What images that nobody asked to keep may take: enough for the step cache of a few apps.
const UNUSED_BYTES: u64 = 5 << 30;
/// Between a step and the next, or the release that names its result, nobody holds an image. It takes moments.
const GRACE: Duration = Duration::from_secs(600);
/// What one uploaded source may hold: far above any source, far below what hurts a server.
const SOURCE: Quota = Quota {
    bytes: 4 << 30,
    entries: 500_000,
    name_bytes: 4096,
    depth: 128,
};

pub(crate) fn digest(id: ImageId) -> Result<ImageDigest, EngineError> {
    id.to_string()
        .parse()
        .map_err(error::host("read an image's digest"))
}

pub(crate) fn fetch(
    host: &Host,
    request: &FetchImage<'_>,
    lines: LineSink<'_>,
) -> Result<ImageDigest, EngineError> {
    let failed = error::image(request.name);
    let progress = |progress: Progress| match progress {
        Progress::Step(text) | Progress::Line(text) => lines(&text),
        Progress::Bytes { what, done, total } if done == total => lines(&format!("{what}: {total} bytes")),
        Progress::Bytes { .. } => {}
    };
    let id = match request.source {
        ImageSource::Pull { reference, insecure } => {
            let reference: Reference = reference.parse().map_err(&failed)?;
            let mut policy = PullPolicy {
                reach: match request.reach {
                    engine::Reach::Anywhere => image::Reach::Anywhere,
                    engine::Reach::PublicOnly => image::Reach::PublicOnly,
                },
                ..PullPolicy::default()
            };
            if *insecure {
                policy.insecure.push(reference.registry().to_owned());
            }
            host.images
                .pull(&reference, &policy, &progress)
                .map_err(&failed)?
        }
        ImageSource::Archive { .. } => {
            let Some(path) = request.archive else {
                return Err(EngineError::Image {
                    image: request.name.to_owned(),
                    why: "its archive is not there any more".to_owned(),
                    next_step: "import it again: stoa image import FILE".to_owned(),
                });
            };
            host.images
                .import_archive(Archive::Path(path), request.name, &progress)
                .map_err(&failed)?
        }
        ImageSource::Directory { over, at, .. } => lay_over(host, request, over, at)?,
        ImageSource::Debian { suite, packages } => {
            let names: Vec<&str> = packages.iter().map(String::as_str).collect();
            let base = DebianBase::extract(suite, &names);
            match host.images.create_debian_base(&base, &progress) {
                Ok(id) => id,
                // Some packages need their maintainer scripts; that takes longer.
                Err(ImageError::Tool { .. }) => {
                    lines("the quick way did not work for these packages; making a full base");
                    let base = DebianBase {
                        variant: Variant::Minbase,
                        ..base
                    };
                    host.images
                        .create_debian_base(&base, &progress)
                        .map_err(&failed)?
                }
                Err(cause) => return Err(failed(cause)),
            }
        }
        ImageSource::Host => host_image(host)?,
    };
    // A tenant's reference is known by itself. Given out as a name it would take that from an image of the operator's.
    let is_tenants =
        matches!(request.source, ImageSource::Pull { .. }) && request.reach == engine::Reach::PublicOnly;
    if !is_tenants {
        host.images.tag(request.name, id).map_err(&failed)?;
    }
    digest(id)
}

/// An uploaded directory over another image.
fn lay_over(host: &Host, request: &FetchImage<'_>, over: &str, at: &str) -> Result<ImageId, EngineError> {
    let failed = error::image(request.name);
    let below = host.images.resolve(over).map_err(error::image(over))?;
    let Some(archive) = request.archive else {
        return Err(EngineError::Image {
            image: request.name.to_owned(),
            why: "its directory is not there any more".to_owned(),
            next_step: "send it again: stoa image add NAME DIRECTORY --over IMAGE".to_owned(),
        });
    };
    let mut file = File::open(archive).map_err(error::host("open the upload"))?;
    let config = host.images.image_config(below).map_err(&failed)?;
    let options = DirectoryOptions {
        parent: Some(below),
        at: at.into(),
        ..DirectoryOptions::default()
    };
    host.images
        .image_from_source(&mut file, &SOURCE, config, &options)
        .map_err(&failed)
}

pub(crate) fn combine(
    host: &Host,
    below: &ImageDigest,
    above: &ImageDigest,
) -> Result<ImageDigest, EngineError> {
    let id = |digest: &ImageDigest| {
        host.images
            .resolve(digest.as_str())
            .map_err(error::image(digest.as_str()))
    };
    let both = host.images.combine(id(below)?, id(above)?);
    digest(both.map_err(error::image(above.as_str()))?)
}

fn host_image(host: &Host) -> Result<ImageId, EngineError> {
    let toolchains: Vec<Toolchain> = host
        .options
        .toolchains
        .iter()
        .map(|(name, path)| Toolchain {
            name: name.clone(),
            path: path.clone(),
        })
        .collect();
    host.images.host_image(&toolchains).map_err(error::image("host"))
}

/// Whether the highest layer that has something at a path has a file there.
pub(crate) fn has(host: &Host, image: &ImageDigest, path: &str) -> Result<bool, EngineError> {
    let of_image = |cause| error::image(image.as_str())(cause);
    let id = host.images.resolve(image.as_str()).map_err(of_image)?;
    let root = host.images.root(id).map_err(of_image)?;
    Ok(users::is_file(&root.layers, path))
}

pub(crate) fn find(host: &Host, name_or_digest: &str) -> Result<Option<ImageFacts>, EngineError> {
    let id = match host.images.resolve(name_or_digest) {
        Ok(id) => id,
        // The host's own toolchains need no asking for: they are here.
        Err(ImageError::NotFound { .. }) if name_or_digest == "host" => host_image(host)?,
        Err(ImageError::NotFound { .. }) => return Ok(None),
        Err(cause) => return Err(error::image(name_or_digest)(cause)),
    };
    let config = host
        .images
        .image_config(id)
        .map_err(error::image(name_or_digest))?;
    let port = |text: &String| match text.split_once('/') {
        Some((port, "tcp")) => port.parse().ok(),
        None => text.parse().ok(),
        Some(_) => None,
    };
    let full = |text: String| (!text.is_empty()).then_some(text);
    Ok(Some(ImageFacts {
        digest: digest(id)?,
        command: config.entrypoint.into_iter().chain(config.cmd).collect(),
        env: config
            .env
            .iter()
            .filter_map(|l| l.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect(),
        user: full(config.user),
        workdir: full(config.working_dir),
        ports: config.exposed_ports.iter().filter_map(port).collect(),
        labels: config.labels,
    }))
}

pub(crate) fn list(host: &Host) -> Result<Vec<ImageSummary>, EngineError> {
    host.images
        .list()
        .into_iter()
        .map(|summary| {
            Ok(ImageSummary {
                digest: digest(summary.id)?,
                names: summary.names.into_iter().collect(),
                bytes: summary.stored_bytes,
                created_at: Timestamp::from_ms(summary.stored_at_ms),
            })
        })
        .collect()
}

pub(crate) fn collect(host: &Host, keep: &[ImageDigest]) -> Result<u64, EngineError> {
    let keep: Vec<ImageId> = keep
        .iter()
        .filter_map(|digest| digest.as_str().parse().ok())
        .collect();
    let freed = host.images.gc(
        &keep,
        Budget {
            unused_bytes: UNUSED_BYTES,
            grace: GRACE,
        },
    );
    Ok(freed.map_err(error::host("collect the images"))?.bytes)
}

pub(crate) fn unpack_source(archive: &Path, into: &Path) -> Result<(), EngineError> {
    let mut file = File::open(archive).map_err(error::host("open the upload"))?;
    match image::unpack_source(&mut file, into, &SOURCE) {
        Ok(_) => Ok(()),
        Err(cause @ (ImageError::Io { .. } | ImageError::DiskFull { .. })) => {
            Err(error::host("unpack the upload")(cause))
        }
        Err(cause) => Err(EngineError::Source(error::chain(&cause))),
    }
}
