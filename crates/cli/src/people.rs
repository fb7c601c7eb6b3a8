//! Signing in, contexts, tokens.

use std::io::Read as _;

use api::CreateToken;
use client::{Address, Client};

use crate::args::{Globals, LoginArgs, TokensCommand};
use crate::context::{Context, Contexts, DEFAULT};
use crate::failure::{Code, Failure};
use crate::output::{self, say};
use crate::session::{Session, check_token};

/// `stoa login`: gets a credential, tries it, and only then remembers it.
pub(crate) fn login(globals: &Globals, args: &LoginArgs) -> Result<u8, Failure> {
    let mut contexts = Contexts::load()?;
    let name = globals.context.clone().unwrap_or_else(|| DEFAULT.to_owned());
    let text = globals
        .api
        .clone()
        .unwrap_or_else(|| api::DEFAULT_ADDRESS.to_owned());
    let (address, token) = if args.local {
        let dir = std::path::absolute(&args.data_dir)
            .map_err(|cause| Failure::local("could not find the data directory", &cause))?;
        (Address::Unix(dir.join(api::LOCAL_SOCKET)), None)
    } else {
        let address: Address = text.parse().map_err(client::Error::from)?;
        let token = match &args.claim {
            Some(claim) => {
                let issued = Client::new(address.clone(), None, globals.ca_file.clone())?.claim(claim.trim());
                issued.map_err(explain_claim)?.token
            }
            None => read_token()?,
        };
        (address, Some(token))
    };
    let who = Client::new(address.clone(), token.clone(), globals.ca_file.clone())?.whoami()?;
    let context = Context {
        api: address.to_string(),
        token,
        ca_file: globals.ca_file.clone(),
        org: globals.org.clone(),
        project: globals.project.clone(),
        environment: globals.environment.clone(),
    };
    contexts.contexts.insert(name.clone(), context);
    contexts.current.clone_from(&name);
    contexts.save()?;
    say(&format!(
        "signed in to {address} as {} (context {name})",
        who.actor
    ));
    if globals.json {
        output::json(&who)?;
    }
    Ok(0)
}

fn explain_claim(error: client::Error) -> Failure {
    let mut failure = Failure::from(error);
    if failure.code == Code::SignIn {
        "this claim token was used, is too old, or is another installation's"
            .clone_into(&mut failure.message);
        "restart `stoa up` for a fresh one, or as root on the machine: stoa login --local"
            .clone_into(&mut failure.next);
    }
    failure
}

fn read_token() -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .take(4096)
        .read_to_string(&mut text)
        .map_err(|cause| Failure::local("could not read the token", &cause))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(Failure::new(
            Code::Usage,
            "there is no token on standard input",
            "stoa login --token < FILE",
        ));
    }
    check_token(token)?;
    Ok(token.to_owned())
}

/// `stoa logout`.
pub(crate) fn logout(globals: &Globals) -> Result<u8, Failure> {
    let mut contexts = Contexts::load()?;
    let name = globals.context.clone().unwrap_or_else(|| {
        if contexts.current.is_empty() {
            DEFAULT.to_owned()
        } else {
            contexts.current.clone()
        }
    });
    if contexts.contexts.remove(&name).is_none() {
        return Err(Failure::new(
            Code::NotFound,
            format!("there is no context {name:?}"),
            "",
        ));
    }
    if contexts.current == name {
        contexts.current = contexts.contexts.keys().next().cloned().unwrap_or_default();
    }
    contexts.save()?;
    say(&format!(
        "forgot the context {name}; its token still counts until it is revoked: stoa tokens revoke ID"
    ));
    if globals.json {
        output::json(&serde_json::json!({"context": name, "forgotten": true}))?;
    }
    Ok(0)
}

/// `stoa whoami`.
pub(crate) fn whoami(session: &Session) -> Result<u8, Failure> {
    let who = session.client.whoami()?;
    if session.json {
        output::json(&who)?;
    } else {
        let name = who
            .token_name
            .as_deref()
            .map(|name| format!(" ({name})"))
            .unwrap_or_default();
        let bound = who
            .org
            .as_deref()
            .map(|org| format!(" of {org}"))
            .unwrap_or_default();
        let role = format!("{:?}", who.role).to_lowercase();
        output::data(&format!(
            "{}{name}, {role}{bound}, at {}\n",
            who.actor,
            session.client.address()
        ))?;
    }
    Ok(0)
}

/// `stoa tokens`.
pub(crate) fn tokens(session: &Session, command: &TokensCommand) -> Result<u8, Failure> {
    match command {
        TokensCommand::Ls => {
            let all = session.client.tokens()?;
            if session.json {
                output::json(&all)?;
                return Ok(0);
            }
            let rows: Vec<Vec<String>> = all
                .iter()
                .map(|token| {
                    let state = if token.revoked {
                        "revoked".to_owned()
                    } else {
                        format!("until {}", token.expires_at)
                    };
                    let used = token.last_used_at.map_or_else(|| "never".to_owned(), output::ago);
                    vec![
                        token.id.clone(),
                        token.name.clone(),
                        format!("{:?}", token.role).to_lowercase(),
                        state,
                        used,
                    ]
                })
                .collect();
            output::data(&output::table(&["TOKEN", "NAME", "ROLE", "STATE", "USED"], &rows))?;
        }
        TokensCommand::Create {
            name,
            role,
            bound,
            expires,
        } => {
            let body = CreateToken {
                name: name.clone(),
                role: *role,
                org: bound.then(|| session.place.org.clone()),
                lifetime_s: Some(expires.as_ms() / 1000),
            };
            let issued = session.client.token_create(&body)?;
            if session.json {
                output::json(&issued)?;
            } else {
                say("shown this once; keep it safe");
                output::data(&format!("{}\n", issued.token))?;
            }
        }
        TokensCommand::Revoke { token } => {
            session.client.token_delete(token)?;
            say(&format!("revoked {token}"));
            if session.json {
                output::json(&serde_json::json!({"token": token, "revoked": true}))?;
            }
        }
    }
    Ok(0)
}
