//! `stoa logs` and `stoa db logs`.

use api::{LogLine, LogPage};

use crate::args::{LinesArgs, LogsArgs};
use crate::failure::Failure;
use crate::output;
use crate::project;
use crate::session::Session;
use crate::stream;

/// What a query asks for, beside who is asked.
type Query<'a> = [(&'a str, &'a str)];

pub(crate) fn logs(session: &Session, args: &LogsArgs) -> Result<u8, Failure> {
    let app = project::app(&args.of)?;
    let (client, place) = (&session.client, &session.place);
    let more = [("service", &args.service), ("release", &args.release)];
    show(
        session,
        &args.lines,
        &more,
        |query| client.app_logs(place, &app, query),
        |query| client.app_logs_follow(place, &app, query),
    )
}

pub(crate) fn of_database(session: &Session, name: &str, lines: &LinesArgs) -> Result<u8, Failure> {
    let (client, place) = (&session.client, &session.place);
    show(
        session,
        lines,
        &[],
        |query| client.database_logs(place, name, query),
        |query| client.database_logs_follow(place, name, query),
    )
}

fn show<'s>(
    session: &'s Session,
    lines: &LinesArgs,
    more: &[(&str, &Option<String>)],
    page: impl Fn(&Query<'_>) -> Result<LogPage, client::Error>,
    events: impl Fn(&Query<'_>) -> Result<client::Events<'s>, client::Error>,
) -> Result<u8, Failure> {
    let tail = lines.tail.map(|tail| tail.to_string());
    let texts = [
        ("instance", &lines.instance),
        ("since", &lines.since),
        ("tail", &tail),
        ("grep", &lines.grep),
    ];
    let query: Vec<(&str, &str)> = more
        .iter()
        .chain(&texts)
        .filter_map(|(name, value)| value.as_deref().map(|value| (*name, value)))
        .collect();
    if lines.follow {
        return follow(session, &query, events);
    }
    for line in &page(&query)?.items {
        print(session, line)?;
    }
    Ok(0)
}

/// Shows lines until Ctrl-C. A server that restarts is come back to, from the last line on.
fn follow<'s>(
    session: &'s Session,
    query: &Query<'_>,
    events: impl Fn(&Query<'_>) -> Result<client::Events<'s>, client::Error>,
) -> Result<u8, Failure> {
    stream::follow(
        |position| {
            let kept = |name: &str| position.is_none() || !matches!(name, "since" | "tail");
            let mut query: Vec<_> = query.iter().copied().filter(|(name, _)| kept(name)).collect();
            query.extend(position.map(|position| ("since", position)));
            query.push(("follow", "true"));
            events(&query)
        },
        |frame| match serde_json::from_str::<LogLine>(&frame.data) {
            Ok(line) => print(session, &line),
            // A frame of a newer server.
            Err(_) => Ok(()),
        },
    )
}

fn print(session: &Session, line: &LogLine) -> Result<(), Failure> {
    if session.json {
        return output::json_line(line);
    }
    output::data(&text(line))
}

fn text(line: &LogLine) -> String {
    let release = line.release.as_deref().unwrap_or("-");
    format!("{} {} {release} | {}\n", line.at, line.source, line.text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Timestamp;

    #[test]
    fn a_line_says_when_who_and_what() {
        let line = LogLine {
            at: Timestamp::from_ms(0),
            stream: "stdout".to_owned(),
            source: "web".to_owned(),
            instance: None,
            release: Some("v3".to_owned()),
            text: "ready".to_owned(),
        };
        assert_eq!(text(&line), "1970-01-01T00:00:00.000Z web v3 | ready\n");
    }
}
