//! Why a simulated world does not do what it was asked.

use crate::EngineError;

pub(super) fn judged(what: &str) -> EngineError {
    EngineError::Host {
        what: what.to_owned(),
        why: "failed as the test asked".to_owned(),
    }
}

pub(super) fn no_image(name: &str) -> EngineError {
    EngineError::Image {
        image: name.to_owned(),
        why: "not in the store".to_owned(),
        next_step: "see what is there: stoa image ls".to_owned(),
    }
}

pub(super) fn no_volume(name: &str) -> EngineError {
    EngineError::Volume {
        volume: name.to_owned(),
        why: "not in the pool".to_owned(),
    }
}
