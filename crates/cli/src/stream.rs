//! Following an event stream until Ctrl-C or its end.
//!
//! Lives here: coming back to a server that went away, from where the stream was. Does not live here: what frames mean.
//! Invariant: a frame is shown once, however often the server restarts meanwhile.

use std::time::Duration;

use client::{Error, Events, Next};

use crate::failure::{Code, Failure};
use crate::terminal;

/// How often Ctrl-C is looked at.
const GLANCE: Duration = Duration::from_millis(200);
/// How often we come back to a server that went away.
const RETURNS_MAX: u32 = 120;

/// Shows each frame that `open` gives. It is asked again after a break, with the id to go on from, if there is one yet.
pub(crate) fn follow<'c>(
    mut open: impl FnMut(Option<&str>) -> Result<Events<'c>, Error>,
    mut show: impl FnMut(&api::Frame) -> Result<(), Failure>,
) -> Result<u8, Failure> {
    terminal::catch_interrupt();
    let mut position: Option<String> = None;
    let mut returns = 0;
    loop {
        let stream = open(position.as_deref());
        let broken = match stream {
            Ok(mut events) => loop {
                if terminal::is_interrupted() {
                    break None;
                }
                let next = events.next(GLANCE);
                if let Some(id) = events.position() {
                    position = Some(id.to_owned());
                }
                match next {
                    Ok(Next::Nothing) => {}
                    Ok(Next::End) => break None,
                    Ok(Next::Frame(frame)) => {
                        returns = 0;
                        show(&frame)?;
                    }
                    Err(error) => break Some(error),
                }
            },
            Err(error) => Some(error),
        };
        match broken {
            None => {}
            Some(error) if error.is_passing() && returns < RETURNS_MAX => returns += 1,
            Some(error) => return Err(error.into()),
        }
        if terminal::is_interrupted() {
            return Ok(Code::Interrupted as u8);
        }
        std::thread::sleep(GLANCE);
    }
}
