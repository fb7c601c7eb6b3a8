//! The installation: what it is, whether it is well, what changes in it.

use std::time::Duration;

use api::{Event, Health, Server};
use control::{events as control_events, places};
use model::{Actor, Timestamp};

use crate::answer::Reply;
use crate::call::Call;
use crate::refusal::Refusal;
use crate::stream::{Events, Seen};

pub(crate) fn server(call: &Call) -> Result<Reply, Refusal> {
    let (about, settings) = (&call.shared.about, &call.control().settings);
    let engine = call.control().engine.capabilities();
    let capabilities = [
        ("engine", engine.engine.to_owned()),
        ("volume_clone", engine.clone),
        ("pool", engine.pool),
        ("limits", engine.limits),
    ];
    Reply::ok(&Server {
        version: about.version.clone(),
        data_dir: settings.data_dir.display().to_string(),
        domain: settings.domain.clone(),
        listeners: about.listeners.clone(),
        capabilities: capabilities
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    })
}

pub(crate) fn master_key(call: &Call) -> Result<Reply, Refusal> {
    let found = control::keys::view(call.control(), call.actor()?)?;
    Reply::ok(&api::MasterKey {
        current: found.current,
        older: found.older,
    })
}

pub(crate) fn rotate_master_key(call: &Call) -> Result<Reply, Refusal> {
    Reply::accepted(&control::keys::rotate(call.control(), call.actor()?)?.operation)
}

#[allow(clippy::unnecessary_wraps, reason = "has the form of a handler")]
pub(crate) fn health(_: &Call) -> Result<Reply, Refusal> {
    Reply::ok(&Health {
        status: "ok".to_owned(),
    })
}

pub(crate) fn readiness(call: &Call) -> Result<Reply, Refusal> {
    match places::orgs(call.control(), &Actor::System) {
        Ok(_) => Reply::ok(&Health {
            status: "ok".to_owned(),
        }),
        Err(cause) => {
            tracing::error!(%cause, "not ready");
            Err(Refusal::not_ready())
        }
    }
}

#[allow(clippy::unnecessary_wraps, reason = "has the form of a handler")]
pub(crate) fn metrics(call: &Call) -> Result<Reply, Refusal> {
    let mut text = call.shared.metrics.text();
    match call.control().edge.requests() {
        Ok(requests) => text.push_str(&crate::metrics::requests(&requests)),
        // What control itself counted is worth telling even while the edge restarts.
        Err(why) => tracing::warn!(why, "the edge did not tell its counters"),
    }
    Ok(Reply::Whole {
        media_type: "text/plain; version=0.0.4; charset=utf-8",
        body: text.into_bytes(),
    })
}

pub(crate) fn document(_: &Call) -> Result<Reply, Refusal> {
    Reply::ok(api::document::document())
}

#[allow(clippy::unnecessary_wraps, reason = "has the form of a handler")]
pub(crate) fn reference(_: &Call) -> Result<Reply, Refusal> {
    Ok(Reply::Whole {
        media_type: "text/html; charset=utf-8",
        body: api::reference::page().as_bytes().to_vec(),
    })
}

#[allow(clippy::unnecessary_wraps, reason = "has the form of a handler")]
pub(crate) fn reference_style(_: &Call) -> Result<Reply, Refusal> {
    Ok(Reply::Whole {
        media_type: "text/css; charset=utf-8",
        body: api::reference::STYLE.as_bytes().to_vec(),
    })
}

pub(crate) fn manifest_schema(_: &Call) -> Result<Reply, Refusal> {
    Reply::ok(&model::manifest::schema())
}

pub(crate) fn events(call: &Call) -> Result<Reply, Refusal> {
    let since = match call.last_event_id.as_deref().or_else(|| call.query("since")) {
        None => None,
        Some(text) => Some(
            text.parse::<u64>()
                .map_err(|_| Refusal::field("?since", "must be the revision of an event"))?,
        ),
    };
    let (shared, actor) = (std::sync::Arc::clone(&call.shared), call.actor()?.clone());
    let mut since = since;
    let look = Box::new(move || {
        let (changes, next) = control_events::watch(&shared.control, &actor, since, Duration::ZERO)?;
        since = Some(next);
        let mut seen = Seen::default();
        for change in changes {
            let event = Event {
                revision: change.rev,
                at: Timestamp::from_ms(change.at_ms),
                kind: change.kind,
                id: change.id,
                parent: change.parent,
                name: change.name,
                generation: change.generation,
                change: change.op.as_str().to_owned(),
            };
            seen.frame(&event.revision.to_string(), "event", &event);
        }
        Ok(seen)
    });
    Ok(Reply::Events(Events::open(call, look)?))
}
