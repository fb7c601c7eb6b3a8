//! Logs of apps and databases, as a page or as a stream.

use std::sync::Arc;

use api::{LogLine, LogPage};
use control::logs::{self, Wanted};
use control::{Control, ControlError, EnvPath, LogRecord, LogStream};
use model::{Actor, InstanceId, Timestamp};

use crate::answer::Reply;
use crate::call::{Call, moment};
use crate::refusal::Refusal;
use crate::stream::{Events, Seen, Wake};

/// Lines when nobody says how many.
const TAIL: u64 = 200;
/// Lines of one look of a stream.
const STREAM_STEP: usize = 1000;

/// Lines of one app or database, for who may see them.
type Read = fn(&Control, &Actor, &EnvPath, &str, &Wanted) -> Result<Vec<LogRecord>, ControlError>;

pub(crate) fn of_app(call: &Call) -> Result<Reply, Refusal> {
    // What has no service is said of none.
    lines(call, call.parameter("app")?, logs::of_app, "-")
}

pub(crate) fn of_database(call: &Call) -> Result<Reply, Refusal> {
    let name = call.parameter("database")?;
    lines(call, name, logs::of_database, name)
}

fn lines(call: &Call, of: &str, read: Read, source: &str) -> Result<Reply, Refusal> {
    let mut wanted = wanted(call)?;
    let place = call.place()?;
    if !call.wants_events {
        let lines = if wanted.limit == 0 {
            Vec::new()
        } else {
            read(call.control(), call.actor()?, &place, of, &wanted)?
        };
        let items = lines.iter().map(|line| wire_line(line, source)).collect();
        return Reply::ok(&LogPage {
            items,
            next_page: String::new(),
        });
    }
    let follows = call.is_set("follow");
    let (shared, actor) = (Arc::clone(&call.shared), call.actor()?.clone());
    let (of, source) = (of.to_owned(), source.to_owned());
    let mut begun = Timestamp::now();
    let look = Box::new(move || {
        let mut seen = Seen::default();
        let lines = if wanted.limit == 0 {
            Vec::new()
        } else {
            read(&shared.control, &actor, &place, &of, &wanted)?
        };
        for line in &lines {
            seen.frame(&position(line), "line", &wire_line(line, &source));
        }
        if let Some(last) = lines.last() {
            wanted.after = Some((last.at, last.instance, last.sequence));
        } else if wanted.after.is_none() {
            // Nothing yet: from here on, only what comes later. A second of overlap for lines still on their way.
            wanted.since = Some(Timestamp::from_ms(begun.as_ms().saturating_sub(1000)));
            begun = Timestamp::now();
        }
        wanted.limit = STREAM_STEP;
        seen.is_end = !follows;
        Ok(seen)
    });
    Ok(Reply::Events(Events::open(call, Wake::Often, look)?))
}

fn wanted(call: &Call) -> Result<Wanted, Refusal> {
    let text = |name| {
        call.query(name)
            .filter(|value| !value.is_empty())
            .map(str::to_owned)
    };
    let instance = match call.query("instance") {
        None => None,
        Some(id) => Some(
            id.parse::<InstanceId>()
                .map_err(|why| Refusal::field("?instance", why.to_string()))?,
        ),
    };
    let tail = call.number("tail").unwrap_or(TAIL);
    let mut wanted = Wanted {
        service: text("service"),
        instance,
        release: text("release"),
        grep: text("grep"),
        limit: usize::try_from(tail).unwrap_or(usize::MAX),
        ..Wanted::default()
    };
    if let Some(since) = call.last_event_id.as_deref().or_else(|| call.query("since")) {
        if let Some(position) = parse_position(since) {
            wanted.after = Some(position);
            wanted.limit = STREAM_STEP;
        } else {
            let at = moment(since, Timestamp::now()).ok_or_else(|| {
                Refusal::field(
                    "?since",
                    "must be a time (RFC 3339), a span such as 1h, or the id of a frame",
                )
            })?;
            wanted.since = Some(at);
            if call.query("tail").is_none() {
                wanted.limit = logs::LIMIT;
            }
        }
    }
    Ok(wanted)
}

/// Where a line stands: time, instance, sequence. The `id` of its frame.
fn position(line: &LogRecord) -> String {
    format!("{}.{}.{}", line.at.as_ms(), line.instance, line.sequence)
}

fn parse_position(text: &str) -> Option<(Timestamp, InstanceId, u64)> {
    let mut parts = text.split('.');
    let at = Timestamp::from_ms(parts.next()?.parse().ok()?);
    let instance = parts.next()?.parse().ok()?;
    let sequence = parts.next()?.parse().ok()?;
    parts.next().is_none().then_some((at, instance, sequence))
}

fn wire_line(line: &LogRecord, source: &str) -> LogLine {
    let stream = match line.stream {
        LogStream::Stdout => "stdout",
        LogStream::Stderr => "stderr",
        LogStream::Platform => "stoa",
    };
    LogLine {
        at: line.at,
        stream: stream.to_owned(),
        source: line
            .key
            .split_once('/')
            .map_or(source, |(_, service)| service)
            .to_owned(),
        instance: Some(line.instance.to_string()),
        release: (!line.label.is_empty()).then(|| line.label.clone()),
        text: line.text.clone(),
    }
}
