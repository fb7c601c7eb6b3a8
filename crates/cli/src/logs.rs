//! `stoa logs`.

use std::time::Duration;

use api::LogLine;
use client::Next;

use crate::args::LogsArgs;
use crate::failure::{Code, Failure};
use crate::output;
use crate::project;
use crate::session::Session;
use crate::terminal;

const GLANCE: Duration = Duration::from_millis(200);
/// How often we come back to a server that went away.
const RETURNS_MAX: u32 = 120;

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
    terminal::catch_interrupt();
    let mut position: Option<String> = None;
    let mut returns = 0;
    loop {
        match follow_once(session, app, query, &mut position, &mut returns) {
            Ok(()) => {}
            Err(Broken::Client(error)) if error.is_passing() && returns < RETURNS_MAX => returns += 1,
            Err(Broken::Client(error)) => return Err(error.into()),
            Err(Broken::Output(failure)) => return Err(failure),
        }
        if terminal::is_interrupted() {
            return Ok(Code::Interrupted as u8);
        }
        std::thread::sleep(GLANCE);
    }
}

enum Broken {
    Client(client::Error),
    Output(Failure),
}

fn follow_once(
    session: &Session,
    app: &str,
    query: &[(&str, &str)],
    position: &mut Option<String>,
    returns: &mut u32,
) -> Result<(), Broken> {
    let resumed = position.clone();
    let mut query: Vec<(&str, &str)> = match &resumed {
        Some(position) => {
            let kept = query
                .iter()
                .filter(|(name, _)| !matches!(*name, "since" | "tail"))
                .copied();
            kept.chain([("since", position.as_str())]).collect()
        }
        None => query.to_vec(),
    };
    query.push(("follow", "true"));
    let mut events = session
        .client
        .app_logs_follow(&session.place, app, &query)
        .map_err(Broken::Client)?;
    loop {
        if terminal::is_interrupted() {
            return Ok(());
        }
        match events.next(GLANCE).map_err(Broken::Client)? {
            Next::Nothing => {}
            Next::End => return Ok(()),
            Next::Frame(frame) => {
                *returns = 0;
                if frame.id.is_some() {
                    *position = frame.id;
                }
                if let Ok(line) = serde_json::from_str::<LogLine>(&frame.data) {
                    print(session, &line).map_err(Broken::Output)?;
                }
            }
        }
    }
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
