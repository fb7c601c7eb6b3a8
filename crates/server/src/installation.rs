//! The installation: what it is, whether it is well, what changes in it.

use std::time::{Duration, Instant};

use api::{Event, Health, NodePage, Server};
use control::{authorize, events as control_events, nodes, places};
use model::{Actor, Timestamp};

use crate::answer::Reply;
use crate::call::Call;
use crate::pages;
use crate::refusal::Refusal;
use crate::stream::{Events, Seen, Wake};

pub(crate) fn server(call: &Call) -> Result<Reply, Refusal> {
    let (about, settings) = (&call.shared.about, &call.control().settings);
    Reply::ok(&Server {
        version: about.version.clone(),
        data_dir: settings.data_dir.display().to_string(),
        domain: settings.domain.clone(),
        listeners: about.listeners.clone(),
        capabilities: nodes::capabilities(call.control()),
        read_only_since: control::disk::trouble(call.control()).map(|trouble| trouble.since),
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

pub(crate) fn node_list(call: &Call) -> Result<Reply, Refusal> {
    let all = nodes::list(call.control(), call.actor()?)?;
    let (page, next_page) = pages::cut(call, all, |node| node.name.clone())?;
    Reply::ok(&NodePage {
        items: page.into_iter().map(wire_node).collect(),
        next_page,
    })
}

pub(crate) fn node_view(call: &Call) -> Result<Reply, Refusal> {
    let wanted = call.parameter("node")?;
    let mut all = nodes::list(call.control(), call.actor()?)?.into_iter();
    let found = all.find(|node| node.name == wanted);
    Reply::ok(&wire_node(
        found.ok_or_else(|| authorize::missing("node", wanted))?,
    ))
}

fn wire_node(node: nodes::NodeView) -> api::Node {
    api::Node {
        name: node.name,
        state: "ready".to_owned(),
        kernel: node.kernel,
        processors: node.processors,
        memory_bytes: node.capacity.memory,
        memory_available_bytes: node.capacity.memory_available,
        disk_bytes: node.capacity.disk,
        disk_available_bytes: node.capacity.disk_available,
        instances: node.instances,
        capabilities: node.capabilities,
    }
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
    text.push_str(&crate::elsewhere::metrics(call.control()));
    match control::routes::requests(call.control()) {
        Ok(requests) => text.push_str(&crate::metrics::requests(&requests)),
        // What control itself counted is worth telling even while the edge restarts.
        Err(why) => tracing::warn!(why, "the edge did not tell its counters"),
    }
    match control::databases::watched(call.control()) {
        Ok(databases) => text.push_str(&crate::metrics::databases(&databases)),
        Err(cause) => tracing::warn!(%cause, "the store did not tell the databases"),
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

/// How often a stream says where it is while nothing comes that its reader may see.
const TELL_EVERY: Duration = Duration::from_secs(15);

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
    let kind = call.query("kind").map(str::to_owned);
    // Without following, the stream ends when a look finds nothing more.
    let ends = call.query("follow") == Some("false");
    let mut told: Option<Instant> = None;
    let look = Box::new(move || {
        let (changes, next) = control_events::watch(&shared.control, &actor, since, Duration::ZERO)?;
        let mut seen = Seen {
            is_end: ends && since == Some(next),
            ..Seen::default()
        };
        let has_moved = since.replace(next) != Some(next);
        for change in changes
            .into_iter()
            .filter(|change| kind.as_ref().is_none_or(|kind| *kind == change.kind))
        {
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
        // Who has seen nothing must know where to go on from, too; but not when each change of others happens.
        if seen.text.is_empty() && has_moved && told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            told = Some(Instant::now());
            seen.position(&next.to_string());
        }
        Ok(seen)
    });
    let wake = Wake::Changed(call.shared.changes.told());
    Ok(Reply::Events(Events::open(call, wake, look)?))
}
