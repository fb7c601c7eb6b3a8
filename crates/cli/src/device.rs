//! Signing this machine in by a code, and approving the code of another one.

use std::time::{Duration, Instant};

use api::{CreateDevice, PollDevice};
use client::{Address, Client};
use serde_json::json;

use crate::args::LoginCommand;
use crate::failure::{Code, Failure};
use crate::output::{self, say};
use crate::places::show;
use crate::session::Session;
use crate::terminal;

/// What is added when we ask too often (RFC 8628, 3.5).
const SLOWER: Duration = Duration::from_secs(5);
/// The longest pause while the server cannot be reached.
const LONGEST: Duration = Duration::from_secs(60);

/// Shows a code and waits until somebody approves it; the token.
pub(crate) fn sign_in(client: &Client, name: &str) -> Result<String, Failure> {
    let device = client.device_create(&CreateDevice {
        name: name.to_owned(),
        role: None,
        scopes: None,
    })?;
    say(&format!(
        "the code of this machine is {}\nwhere you are signed in to {}: stoa login approve {}",
        device.user_code,
        client.address(),
        device.user_code
    ));
    if !matches!(client.address(), Address::Unix(_)) {
        say(&format!(
            "or in a browser: {}{}?user_code={}",
            client.address(),
            api::endpoints::DEVICE_PAGE.path,
            device.user_code
        ));
    }
    let body = PollDevice {
        device_code: device.device_code.clone(),
    };
    let until = Instant::now() + Duration::from_secs(device.expires_in_s);
    let mut interval = Duration::from_secs(device.interval_s.max(1));
    while Instant::now() < until {
        std::thread::sleep(interval);
        let refused = match client.device_token(&body) {
            Ok(issued) => return Ok(issued.token),
            Err(refused) => refused,
        };
        interval = match refused.problem().map(|problem| problem.code.as_str()) {
            Some("authorization_pending") => interval,
            Some("slow_down") => interval + SLOWER,
            // It may be restarting, or have much to do: the code is still good (RFC 8628, 3.5).
            Some("rate_limited" | "busy") | None => (interval * 2).min(LONGEST),
            Some("access_denied") => {
                return Err(Failure::new(
                    Code::Denied,
                    "somebody who is signed in refused to let this machine in",
                    "ask them, and begin again: stoa login",
                ));
            }
            Some("expired_token") => break,
            Some(_final) => return Err(refused.into()),
        };
    }
    Err(Failure::new(
        Code::SignIn,
        "nobody approved the code in time",
        "begin again: stoa login",
    ))
}

/// Why approving takes no way to sign in: it is done where one is signed in.
pub(crate) fn stands_alone() -> Failure {
    Failure::new(
        Code::Usage,
        "approving signs another machine in: it goes without ways to sign this one in",
        "stoa login approve CODE",
    )
}

/// `stoa login approve`.
pub(crate) fn approve(session: &Session, command: &LoginCommand) -> Result<u8, Failure> {
    let LoginCommand::Approve { code, deny, yes } = command;
    let asked = session.client.device(code)?;
    if *deny {
        session.client.device_deny(code)?;
        let refused = json!({"code": code, "approved": false});
        return show(session, &refused, &format!("refused {}", asked.name));
    }
    let role = format!("{:?}", asked.role).to_lowercase();
    say(&format!(
        "{:?}, asking from {}, would do what you may do, at most as {role}",
        asked.name, asked.source
    ));
    if let Some(scopes) = &asked.scopes {
        say(&format!("and only: {}", output::words(scopes)));
    }
    if !yes {
        terminal::agree("Is it you who asks there?", "stoa login approve CODE --yes")?;
    }
    session.client.device_approve(code)?;
    let approved = json!({"code": code, "approved": true});
    show(
        session,
        &approved,
        &format!("approved {}; end it with: stoa tokens ls", asked.name),
    )
}
