//! `stoa logs`.

use api::LogLine;

use crate::args::LogsArgs;
use crate::failure::Failure;
use crate::output;
use crate::project;
use crate::session::Session;
use crate::stream;

pub(crate) fn logs(session: &Session, args: &LogsArgs) -> Result<u8, Failure> {
    let app = project::app(&args.of)?;
    let tail = args.tail.map(|tail| tail.to_string());
    let mut query: Vec<(&str, &str)> = Vec::new();
    let texts = [
        ("service", &args.service),
        ("instance", &args.instance),
        ("release", &args.release),
        ("since", &args.since),
        ("tail", &tail),
        ("grep", &args.grep),
    ];
    for (name, value) in texts {
        if let Some(value) = value {
            query.push((name, value));
        }
    }
    if args.follow {
        return follow(session, &app, &query);
    }
    let page = session.client.app_logs(&session.place, &app, &query)?;
    for line in &page.items {
        print(session, line)?;
    }
    Ok(0)
}

/// Shows lines until Ctrl-C. A server that restarts is come back to, from the last line on.
fn follow(session: &Session, app: &str, query: &[(&str, &str)]) -> Result<u8, Failure> {
    stream::follow(
        |position| {
            let kept = |name: &str| position.is_none() || !matches!(name, "since" | "tail");
            let mut query: Vec<_> = query.iter().copied().filter(|(name, _)| kept(name)).collect();
            query.extend(position.map(|position| ("since", position)));
            query.push(("follow", "true"));
            session.client.app_logs_follow(&session.place, app, &query)
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
