//! An app by the library: made, configured, watched, and told about.
//!
//! `STOA_API=http://127.0.0.1:7070 STOA_TOKEN=stoa_pat_... cargo run -p stoa-client --example tour`

use std::time::Duration;

use api::{CreateApp, PatchEnv, endpoints};
use client::{Client, Error, Next, Place};

/// How long a look at the event stream may take.
const LOOK: Duration = Duration::from_millis(200);
/// Looks until an event has to be there.
const LOOKS: usize = 100;

/// Makes an app, gives it a variable, sees both happen, and returns what it is now in a line.
pub fn tour(client: &Client, place: &Place, name: &str) -> Result<String, Box<dyn std::error::Error>> {
    let mut events = client.events(&endpoints::EVENT_WATCH, &[], &[("kind", "app")])?;
    let made = client.app_create(
        place,
        &CreateApp {
            name: name.to_owned(),
        },
    )?;
    let change = PatchEnv {
        set: [("LOG_LEVEL".to_owned(), "info".to_owned())].into(),
        unset: Vec::new(),
    };
    client.app_env_update(place, name, &change)?;
    let mut seen = Vec::new();
    for _ in 0..LOOKS {
        match events.next(LOOK)? {
            Next::Frame(frame) => {
                let event: api::Event = serde_json::from_str(&frame.data)?;
                if event.id == made.id {
                    seen.push(event.change);
                }
            }
            Next::Nothing => {}
            Next::End => break,
        }
        if seen.len() == 2 {
            break;
        }
    }
    // What is refused says which code it has and what to do next.
    match client.app_create(
        place,
        &CreateApp {
            name: name.to_owned(),
        },
    ) {
        Err(Error::Problem(problem)) => seen.push(problem.code),
        Err(other) => return Err(other.into()),
        Ok(_) => {}
    }
    let env = client.app_env(place, name)?.env;
    Ok(format!("{name}: {}; {} variable", seen.join(", "), env.len()))
}

#[allow(dead_code, reason = "the server's tests run the tour without it")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::var("STOA_API").unwrap_or_else(|_| api::DEFAULT_ADDRESS.to_owned());
    let client = Client::new(address.parse()?, std::env::var("STOA_TOKEN").ok(), None)?;
    let place = Place {
        org: "default".to_owned(),
        project: "default".to_owned(),
        environment: "production".to_owned(),
    };
    println!("{}", tour(&client, &place, "tour")?);
    Ok(())
}
