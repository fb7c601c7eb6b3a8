//! `stoa events`.

use api::{Event, Frame};
use client::Next;

use crate::args::EventsArgs;
use crate::failure::Failure;
use crate::output;
use crate::session::Session;
use crate::stream;

/// Longer than the server waits between two heartbeats.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// What happened, and with `--follow` what happens from now on, until Ctrl-C.
pub(crate) fn events(session: &Session, args: &EventsArgs) -> Result<u8, Failure> {
    let since = args.since.map(|since| since.to_string());
    let kind = args.kind.as_deref().map(|kind| ("kind", kind));
    if args.follow {
        return stream::follow(
            |position| {
                let since = position.or(since.as_deref()).map(|since| ("since", since));
                let query: Vec<_> = kind.into_iter().chain(since).collect();
                session.client.events_watch(&query)
            },
            |frame| print(session, frame),
        );
    }
    let since = ("since", since.as_deref().unwrap_or(OLDEST));
    let query: Vec<_> = kind.into_iter().chain([since, ("follow", "false")]).collect();
    let mut events = session.client.events_watch(&query)?;
    loop {
        match events.next(PATIENCE)? {
            Next::Frame(frame) => print(session, &frame)?,
            Next::Nothing => {}
            Next::End => return Ok(0),
        }
    }
}

/// Before the first event that is kept.
const OLDEST: &str = "0";

fn print(session: &Session, frame: &Frame) -> Result<(), Failure> {
    // What does not read as an event is a frame of a newer server.
    match serde_json::from_str::<Event>(&frame.data) {
        Ok(event) if session.json => output::json_line(&event),
        Ok(event) => output::data(&text(&event)),
        Err(_) => Ok(()),
    }
}

fn text(event: &Event) -> String {
    let Event {
        revision,
        at,
        kind,
        id,
        name,
        change,
        ..
    } = event;
    match name.as_str() {
        "" => format!("{revision} {at} {change} {kind} {id}\n"),
        name => format!("{revision} {at} {change} {kind} {name} ({id})\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Timestamp;

    #[test]
    fn an_event_says_when_what_and_how_it_changed() {
        let mut event = Event {
            revision: 7,
            at: Timestamp::from_ms(0),
            kind: "app".to_owned(),
            id: "app_1".to_owned(),
            parent: "env_1".to_owned(),
            name: "shop".to_owned(),
            generation: 1,
            change: "insert".to_owned(),
        };
        assert_eq!(
            text(&event),
            "7 1970-01-01T00:00:00.000Z insert app shop (app_1)\n"
        );
        event.name.clear();
        assert_eq!(text(&event), "7 1970-01-01T00:00:00.000Z insert app app_1\n");
    }
}
