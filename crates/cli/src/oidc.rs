//! Identity providers: setting them, links with them, and signing in by a browser on this machine.
//!
//! Lives here: waiting on 127.0.0.1 for the browser to come back (RFC 8252, 7.3). Does not live here: what a provider is
//! believed (the server).
//! Invariant: only a browser that comes to the path of our own challenge is heard, and what it brings is worth nothing
//! without the verifier, which never leaves this process but to the server.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use api::{FetchSession, LinkIdentity, PutIdentityProvider};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use client::{Address, Client};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::args::{IdentitiesCommand, ProvidersCommand};
use crate::failure::{Code, Failure};
use crate::output::{self, say};
use crate::people;
use crate::places::show;
use crate::session::Session;

/// The server forgets a browser that is on its way after this.
const LIFE: Duration = Duration::from_secs(600);
/// A browser sends its few lines at once; some open connections that they do not use.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
const HEAD_MAX: usize = 8 << 10;

/// `stoa providers`.
pub(crate) fn providers(session: &Session, command: &ProvidersCommand) -> Result<u8, Failure> {
    let client = &session.client;
    match command {
        ProvidersCommand::Ls => {
            let all = client.identity_providers()?;
            if session.json {
                output::json(&all)?;
                return Ok(0);
            }
            let rows = all.iter().map(|one| {
                vec![
                    one.name.clone(),
                    one.issuer.clone(),
                    one.client_id.clone(),
                    one.redirect.clone(),
                ]
            });
            output::data(&output::table(
                &["PROVIDER", "ISSUER", "CLIENT", "REDIRECT"],
                &rows.collect::<Vec<_>>(),
            ))?;
            Ok(0)
        }
        ProvidersCommand::Info { name } => {
            let one = client.identity_provider(name)?;
            if session.json {
                output::json(&one)?;
                return Ok(0);
            }
            let secret = if one.has_secret {
                "sealed"
            } else {
                "none: a public client"
            };
            let lines = [
                ("provider", one.name.as_str()),
                ("id", &one.id),
                ("issuer", &one.issuer),
                ("client", &one.client_id),
                ("secret", secret),
                ("redirect", &one.redirect),
                ("made", &output::ago(one.created_at)),
            ];
            output::data(&lines.map(|(name, value)| format!("{name:<9} {value}\n")).concat())?;
            Ok(0)
        }
        ProvidersCommand::Set {
            name,
            issuer,
            client_id,
            origin,
            public,
        } => {
            let client_secret = match public {
                true => None,
                false => Some(people::password("Secret of the client: ")?),
            };
            let body = PutIdentityProvider {
                issuer: issuer.clone(),
                client_id: client_id.clone(),
                client_secret,
                origin: origin.clone(),
            };
            let set = client.identity_provider_put(name.as_str(), &body)?;
            let said = format!(
                "set {}; register this redirect address there: {}\nthen: stoa login --provider {}",
                set.name, set.redirect, set.name
            );
            show(session, &set, &said)
        }
        ProvidersCommand::Rm { name } => {
            client.identity_provider_delete(name)?;
            let removed = json!({"provider": name, "removed": true});
            show(session, &removed, &format!("removed {name}"))
        }
    }
}

/// `stoa identities`.
pub(crate) fn identities(session: &Session, command: &IdentitiesCommand) -> Result<u8, Failure> {
    let client = &session.client;
    match command {
        IdentitiesCommand::Ls => {
            let all = client.identities()?;
            if session.json {
                output::json(&all)?;
                return Ok(0);
            }
            let rows = all.iter().map(|one| {
                let since = output::ago(one.created_at);
                vec![one.id.clone(), one.provider.clone(), one.subject.clone(), since]
            });
            output::data(&output::table(
                &["IDENTITY", "PROVIDER", "ACCOUNT", "LINKED"],
                &rows.collect::<Vec<_>>(),
            ))?;
            Ok(0)
        }
        IdentitiesCommand::Link { provider } => {
            let own = client.whoami()?.user;
            if !own.is_some_and(|user| user.has_password) {
                return Err(Failure::new(
                    Code::Denied,
                    "only a user with a password links accounts",
                    "sign in as one: stoa login --email ADDRESS",
                ));
            }
            let (browser, code) = Browser::visit(client, provider)?;
            let linked = client.identity_create(&LinkIdentity {
                code,
                verifier: browser.verifier,
                password: people::password("Your password here: ")?,
            })?;
            let said = format!("linked {} at {}", linked.subject, linked.provider);
            show(session, &linked, &said)
        }
        IdentitiesCommand::Rm { identity } => {
            client.identity_delete(identity)?;
            let removed = json!({"identity": identity, "removed": true});
            show(session, &removed, &format!("ended {identity}"))
        }
    }
}

/// Signs in at a provider, by a browser on this machine; the text of the session.
pub(crate) fn sign_in(client: &Client, provider: &str) -> Result<String, Failure> {
    let (browser, code) = Browser::visit(client, provider)?;
    let body = FetchSession {
        code,
        verifier: browser.verifier,
    };
    Ok(client.oidc_session_create(&body)?.1)
}

/// What waits for a browser to come back.
struct Browser {
    listener: TcpListener,
    verifier: String,
    challenge: String,
}

impl Browser {
    /// Says where the browser has to go, and waits for what it brings back.
    fn visit(client: &Client, provider: &str) -> Result<(Self, String), Failure> {
        if let Address::Unix(_) = client.address() {
            return Err(Failure::new(
                Code::Usage,
                "a browser cannot reach the server by its socket",
                "name the address that the provider knows: --api URL",
            ));
        }
        // What is refused is refused here, and not in the browser.
        client.oidc_check(provider)?;
        let browser = Self::begin()?;
        let port = browser.listener.local_addr();
        let port = port.map_err(|cause| Failure::local("could not wait for a browser", &cause))?;
        say(&format!(
            "open this on this machine, within ten minutes:\n{}/v1/oidc/{provider}?port={}&challenge={}",
            client.address(),
            port.port(),
            browser.challenge
        ));
        let code = browser.wait()?;
        Ok((browser, code))
    }

    fn begin() -> Result<Self, Failure> {
        let failed = |cause: std::io::Error| Failure::local("could not wait for a browser", &cause);
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|why| failed(std::io::Error::other(why.to_string())))?;
        let verifier = BASE64.encode(random);
        Ok(Self {
            listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?,
            challenge: BASE64.encode(Sha256::digest(verifier.as_bytes())),
            verifier,
        })
    }

    /// What the browser brings: the code.
    fn wait(&self) -> Result<String, Failure> {
        let until = Instant::now() + LIFE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec {
                tv_sec: left.as_secs().cast_signed(),
                tv_nsec: 0,
            };
            let mut waiting = [PollFd::new(&self.listener, PollFlags::IN)];
            match poll(&mut waiting, Some(&timeout)) {
                Ok(0) => {
                    return Err(Failure::new(
                        Code::SignIn,
                        "no browser came back in time",
                        "begin again: stoa login --provider NAME",
                    ));
                }
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(why) => return Err(Failure::local("could not wait for a browser", &why.into())),
            }
            // A connection that broke, or of somebody else, is not what we wait for.
            let came = self
                .listener
                .accept()
                .ok()
                .and_then(|(stream, _)| self.hear(stream));
            match came {
                Some(Brought::Code(code)) => return Ok(code),
                Some(Brought::Error(code)) => {
                    return Err(Failure::new(
                        Code::SignIn,
                        format!("the provider signed nobody in ({code})"),
                        "begin again: stoa login --provider NAME",
                    ));
                }
                None => {}
            }
        }
    }

    fn hear(&self, mut stream: TcpStream) -> Option<Brought> {
        stream.set_read_timeout(Some(READ_TIMEOUT)).ok()?;
        let mut head = Vec::new();
        let mut part = [0; 1024];
        while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < HEAD_MAX {
            match stream.read(&mut part) {
                Ok(0) | Err(_) => return None,
                Ok(read) => head.extend_from_slice(&part[..read]),
            }
        }
        let brought = brought(&head, &self.challenge);
        let (status, said) = match &brought {
            None => ("404 Not Found", "There is nothing here."),
            Some(Brought::Code(_)) => ("200 OK", "Done here: go back to the terminal."),
            Some(Brought::Error(_)) => ("200 OK", "That did not work: the terminal says why."),
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\ncache-control: no-store\r\n\
             connection: close\r\n\r\n{said}",
            said.len()
        );
        // Only for people: what counts was heard.
        drop(stream.write_all(answer.as_bytes()));
        brought
    }
}

/// What a browser that came back brings.
#[derive(Debug, PartialEq, Eq)]
enum Brought {
    Code(String),
    Error(String),
}

fn brought(head: &[u8], challenge: &str) -> Option<Brought> {
    let line = std::str::from_utf8(head).ok()?.lines().next()?;
    let target = line.strip_prefix("GET /")?.split(' ').next()?;
    let query = target.strip_prefix(challenge)?.strip_prefix('?')?;
    // Ours: digits and letters.
    let is_ours = |value: &&str| {
        !value.is_empty()
            && value
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let (name, value) = query.split_once('=')?;
    let value = Some(value).filter(is_ours)?.to_owned();
    match name {
        "code" => Some(Brought::Code(value)),
        "error" => Some(Brought::Error(value)),
        _other => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_browser_is_heard() {
        let head = |target: &str| format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n");
        let of = |target: &str| brought(head(target).as_bytes(), "abc");
        assert_eq!(of("/abc?code=0f1e"), Some(Brought::Code("0f1e".to_owned())));
        assert_eq!(
            of("/abc?error=not_linked"),
            Some(Brought::Error("not_linked".to_owned()))
        );
        for other in [
            "/",
            "/abc",
            "/ab?code=0f1e",
            "/abcd?code=0f1e",
            "/abc?code=",
            "/abc?code=a%20b",
            "/abc?other=1",
            "/favicon.ico",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
        assert_eq!(brought(b"POST /abc?code=1 HTTP/1.1\r\n\r\n", "abc"), None);
        assert_eq!(brought(b"\xff\xfe", "abc"), None);
    }

    #[test]
    fn a_verifier_is_as_rfc_7636_wants_it() {
        let browser = Browser::begin().expect("a port");
        let other = Browser::begin().expect("a port");
        assert_eq!((browser.verifier.len(), browser.challenge.len()), (43, 43));
        assert_ne!(browser.verifier, other.verifier);
    }
}
