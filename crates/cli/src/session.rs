//! Whom a command talks to, and about which place: flags, then the environment, then the context, then the defaults.

use std::path::Path;

use client::{Address, Client, Place};

use crate::args::Globals;
use crate::context::{Context, Contexts};
use crate::failure::{Code, Failure};
use crate::output::say;

/// One command's connection.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) place: Place,
    pub(crate) json: bool,
}

impl Session {
    /// As root on this machine, over its socket; no token goes along.
    pub(crate) fn on_host(globals: &Globals, data_dir: &Path) -> Result<Self, Failure> {
        let dir = std::path::absolute(data_dir)
            .map_err(|cause| Failure::local("could not find the data directory", &cause))?;
        let address = Address::Unix(dir.join(api::LOCAL_SOCKET));
        Ok(Self {
            client: Client::new(address, None, None)?,
            place: Place {
                org: "default".to_owned(),
                project: "default".to_owned(),
                environment: "production".to_owned(),
            },
            json: globals.json,
        })
    }

    /// Decides address, credential and place. Nothing is sent yet.
    pub(crate) fn open(globals: &Globals) -> Result<Self, Failure> {
        let contexts = Contexts::load()?;
        let context = choose(globals, &contexts)?;
        let text = globals
            .api
            .clone()
            .or_else(|| context.as_ref().map(|c| c.api.clone()));
        let address: Address = text
            .as_deref()
            .unwrap_or(api::DEFAULT_ADDRESS)
            .parse()
            .map_err(client::Error::from)?;
        let given = std::env::var("STOA_TOKEN")
            .ok()
            .filter(|token| !token.trim().is_empty());
        let token = match given {
            Some(token) => Some(token.trim().to_owned()),
            None => context.as_ref().and_then(|c| c.token.clone()),
        };
        if let Some(token) = &token {
            check_token(token)?;
            if address.is_exposed() {
                say(&format!(
                    "warning: the token goes to {address} unencrypted; use https or an SSH tunnel"
                ));
            }
        }
        let context = context.unwrap_or_default();
        let ca_file = globals.ca_file.clone().or(context.ca_file);

        let place = Place {
            org: globals
                .org
                .clone()
                .or(context.org)
                .unwrap_or_else(|| "default".to_owned()),
            project: globals
                .project
                .clone()
                .or(context.project)
                .unwrap_or_else(|| "default".to_owned()),
            environment: environment_in(globals, context.environment),
        };
        Ok(Self {
            client: Client::new(address, token, ca_file)?,
            place,
            json: globals.json,
        })
    }
}

/// Which environment a command is about, for those that ask no server.
pub(crate) fn environment(globals: &Globals) -> Result<String, Failure> {
    let context = choose(globals, &Contexts::load()?)?;
    Ok(environment_in(
        globals,
        context.and_then(|context| context.environment),
    ))
}

fn environment_in(globals: &Globals, of_context: Option<String>) -> String {
    let named = globals.environment.clone().or(of_context);
    named.unwrap_or_else(|| "production".to_owned())
}

/// A header can not carry it otherwise, and the error would come from far below.
pub(crate) fn check_token(token: &str) -> Result<(), Failure> {
    if token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err(Failure::new(
        Code::SignIn,
        "the access token has characters that no token has",
        "sign in: stoa login --local",
    ))
}

/// The context by name, or the current one; with another address given, only a context made for that address.
fn choose(globals: &Globals, contexts: &Contexts) -> Result<Option<Context>, Failure> {
    if let Some(name) = &globals.context {
        let found = contexts.contexts.get(name).cloned().ok_or_else(|| {
            let known: Vec<&str> = contexts.contexts.keys().map(String::as_str).collect();
            Failure::new(
                Code::NotFound,
                format!("there is no context {name:?}; there is: {}", known.join(", ")),
                format!("make it: stoa login --context {name} --local"),
            )
        })?;
        return match &globals.api {
            Some(api) if !same(api, &found.api) => Err(Failure::new(
                Code::Usage,
                format!("the context {name} is for {}, not for {api}", found.api),
                "leave one of --api and --context away",
            )),
            Some(_) | None => Ok(Some(found)),
        };
    }
    let current = contexts.contexts.get(contexts.current());
    Ok(match &globals.api {
        None => current.cloned(),
        Some(api) => current
            .into_iter()
            .chain(contexts.contexts.values())
            .find(|context| same(api, &context.api))
            .cloned(),
    })
}

fn same(one: &str, other: &str) -> bool {
    matches!((one.parse::<Address>(), other.parse::<Address>()), (Ok(one), Ok(other)) if one == other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contexts() -> Contexts {
        let context = |api: &str, token: &str| Context {
            api: api.to_owned(),
            token: Some(token.to_owned()),
            ..Context::default()
        };
        Contexts {
            current: "here".to_owned(),
            contexts: [
                ("here".to_owned(), context("http://127.0.0.1:7070", "a")),
                ("there".to_owned(), context("https://stoa.example.org", "b")),
            ]
            .into(),
        }
    }

    /// A token never goes to an address it was not made for.
    #[test]
    fn tokens_stay_with_their_address() {
        for (api, name, token) in [
            (None, None, Some("a")),
            (Some("http://127.0.0.1:7070/"), None, Some("a")),
            (Some("https://stoa.example.org:443"), None, Some("b")),
            (Some("https://evil.example.org"), None, None),
            (None, Some("there"), Some("b")),
        ] {
            let globals = Globals {
                api: api.map(str::to_owned),
                context: name.map(str::to_owned),
                ..Globals::default()
            };
            let chosen = choose(&globals, &contexts())
                .expect("a choice")
                .and_then(|c| c.token);
            assert_eq!(chosen.as_deref(), token, "{api:?} {name:?}");
        }
        let both = Globals {
            api: Some("https://evil.example.org".to_owned()),
            context: Some("there".to_owned()),
            ..Globals::default()
        };
        assert!(choose(&both, &contexts()).is_err());
    }
}
