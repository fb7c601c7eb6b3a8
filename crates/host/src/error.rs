//! From the errors of the four capabilities to the engine's.

use engine::EngineError;
use image::ImageError;
use volume::VolumeError;

/// The chain of causes in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

/// Whether the disk was the reason: the system's word, or the reserve that unpacking leaves.
pub(crate) fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(inner) = cause {
        let full = match inner.downcast_ref::<std::io::Error>() {
            Some(io) => io.kind() == std::io::ErrorKind::StorageFull,
            None => matches!(inner.downcast_ref(), Some(ImageError::DiskFull { .. })),
        };
        if full {
            return true;
        }
        cause = inner.source();
    }
    false
}

/// A failure of the host while `what` was being done.
pub(crate) fn host<E: std::error::Error + 'static>(what: &'static str) -> impl Fn(E) -> EngineError {
    move |cause| match is_full(&cause) {
        true => EngineError::Full(what.to_owned()),
        false => EngineError::Host {
            what: format!("could not {what}"),
            why: chain(&cause),
        },
    }
}

/// A failure about an image.
pub(crate) fn image(image: &str) -> impl Fn(ImageError) -> EngineError {
    let image = image.to_owned();
    move |cause| match is_full(&cause) {
        true => EngineError::Full(format!("the image {image} needs more")),
        false => EngineError::Image {
            image: image.clone(),
            why: chain(&cause),
            next_step: cause.next(),
        },
    }
}

/// A failure about a volume.
pub(crate) fn volume(volume: &str) -> impl Fn(VolumeError) -> EngineError {
    let volume = volume.to_owned();
    move |cause| match is_full(&cause) {
        true => EngineError::Full(format!("the volume {volume} needs more")),
        false => EngineError::Volume {
            volume: volume.clone(),
            why: chain(&cause),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_room_is_told_apart_from_what_was_sent() {
        let full = || ImageError::DiskFull {
            path: "/data/builds".into(),
        };
        assert!(matches!(host("unpack")(full()), EngineError::Full(_)));
        assert!(matches!(image("web:1")(full()), EngineError::Full(_)));
        let absent = ImageError::NotFound { name: "web:1".into() };
        assert!(matches!(image("web:1")(absent), EngineError::Image { .. }));
    }
}
