//! Signing in, contexts, tokens.

use std::io::{BufRead as _, Read as _};

use api::{CreateDeployToken, CreateToken};
use client::{Address, Client};

use crate::args::{Globals, LoginArgs, TokensCommand};
use crate::context::{Context, Contexts, DEFAULT};
use crate::contexts::what_counts;
use crate::failure::{Code, Failure};
use crate::output::{self, say};
use crate::session::{Session, check_token};
use crate::{device, oidc, terminal};

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
        let token = sign_in(&address, globals, args)?;
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

/// A token for this machine, by whatever was given.
fn sign_in(address: &Address, globals: &Globals, args: &LoginArgs) -> Result<String, Failure> {
    let client = |token| Client::new(address.clone(), token, globals.ca_file.clone());
    if let Some(claim) = &args.claim {
        let password = args
            .founder
            .as_ref()
            .map(|_| new_password("Password to have from now on: "))
            .transpose()?;
        let issued = client(None)?.claim(&api::Claim {
            token: claim.trim().to_owned(),
            email: args.founder.clone(),
            name: args.founder.as_ref().and(args.name.clone()),
            password,
        });
        return Ok(issued.map_err(explain_claim)?.token);
    }
    let session = if let Some(email) = &args.email {
        let body = api::CreateSession {
            email: email.clone(),
            password: password("Password: ")?,
        };
        client(None)?.session_create(&body).map_err(explain_password)?.1
    } else if let Some(token) = &args.invitation {
        let body = api::AcceptInvitation {
            token: token.trim().to_owned(),
            name: args.name.clone(),
            password: new_password("Password (yours, or the one to have from now on): ")?,
        };
        client(None)?
            .invitation_accept(&body)
            .map_err(explain_invitation)?
            .1
    } else if let Some(provider) = &args.provider {
        oidc::sign_in(&client(None)?, provider)?
    } else if args.token {
        return read_token();
    } else {
        return device::sign_in(&client(None)?, &device_name());
    };
    // The session was only to show who we are: what is kept is a token of its own name, which can be revoked alone.
    let signed_in = client(Some(session))?;
    let issued = signed_in.token_create(&CreateToken {
        name: device_name(),
        role: api::Role::Owner,
        org: None,
        scopes: None,
        lifetime_s: None,
    })?;
    signed_in.session_delete("current")?;
    Ok(issued.token)
}

/// What a token for this machine is called.
fn device_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host: String = host
        .chars()
        .filter(|letter| !letter.is_control())
        .take(60)
        .collect();
    format!("login on {host}")
}

/// Asked for where somebody types; else the first line of standard input.
pub(crate) fn password(question: &str) -> Result<String, Failure> {
    if terminal::is_typed() {
        return terminal::ask_hidden(question);
    }
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .take(4096)
        .read_line(&mut line)
        .map_err(|cause| Failure::local("could not read the password", &cause))?;
    let line = line.trim_end_matches(['\n', '\r']);
    if line.is_empty() {
        return Err(Failure::new(
            Code::Usage,
            "there is no password on standard input",
            "stoa login --email ADDRESS < FILE",
        ));
    }
    Ok(line.to_owned())
}

/// Typed twice, because nobody sees what is typed.
fn new_password(question: &str) -> Result<String, Failure> {
    let first = password(question)?;
    if terminal::is_typed() && first != terminal::ask_hidden("Again: ")? {
        return Err(Failure::new(
            Code::Usage,
            "the two are not the same; nothing was done",
            "repeat the command",
        ));
    }
    Ok(first)
}

fn explain_password(error: client::Error) -> Failure {
    let mut failure = Failure::from(error);
    if failure.code == Code::SignIn {
        "there is no such user with that password".clone_into(&mut failure.message);
        "try again, or ask an administrator: stoa users reset ADDRESS".clone_into(&mut failure.next);
    }
    failure
}

fn explain_invitation(error: client::Error) -> Failure {
    let mut failure = Failure::from(error);
    if failure.code == Code::SignIn {
        "this invitation was used, is too old, or is not for the user with that password"
            .clone_into(&mut failure.message);
        "ask for another one: stoa members invite ADDRESS".clone_into(&mut failure.next);
    }
    failure
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
    if terminal::is_typed() {
        text = terminal::ask_hidden("Token (not shown): ")?;
    } else {
        std::io::stdin()
            .take(4096)
            .read_to_string(&mut text)
            .map_err(|cause| Failure::local("could not read the token", &cause))?;
    }
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
    let name = globals.context.clone();
    let name = name.unwrap_or_else(|| contexts.current().to_owned());
    if !contexts.contexts.contains_key(&name) {
        return Err(Failure::new(
            Code::NotFound,
            format!("there is no context {name:?}"),
            "nothing is remembered under that name; make one: stoa login --local",
        ));
    }
    contexts.forget(&name);
    contexts.save()?;
    say(&format!(
        "forgot the context {name}; its token still counts until it is revoked: stoa tokens revoke ID\n{}",
        what_counts(&contexts)
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
        let name = match (&who.user, &who.token_name) {
            (Some(user), _) => format!(" ({})", user.email),
            (None, Some(name)) => format!(" ({name})"),
            (None, None) => String::new(),
        };
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
        TokensCommand::Ls { deploy } => {
            let place = &session.place;
            let all = match deploy {
                true => session.client.deploy_tokens(&place.org, &place.project)?,
                false => session.client.tokens()?,
            };
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
            scopes,
            deploy,
            expires,
        } => {
            let scopes = (!scopes.is_empty()).then(|| scopes.clone());
            let lifetime_s = Some(expires.as_ms() / 1000);
            let place = &session.place;
            let issued = if *deploy {
                let body = CreateDeployToken {
                    name: name.clone(),
                    role: *role,
                    scopes,
                    lifetime_s,
                };
                session
                    .client
                    .deploy_token_create(&place.org, &place.project, &body)?
            } else {
                session.client.token_create(&CreateToken {
                    name: name.clone(),
                    role: *role,
                    org: bound.then(|| place.org.clone()),
                    scopes,
                    lifetime_s,
                })?
            };
            if session.json {
                output::json(&issued)?;
            } else {
                say("shown this once; keep it safe");
                output::data(&format!("{}\n", issued.token))?;
            }
        }
        TokensCommand::Revoke { token, deploy } => {
            let place = &session.place;
            if *deploy {
                session
                    .client
                    .deploy_token_delete(&place.org, &place.project, token)?;
            } else {
                session.client.token_delete(token)?;
            }
            say(&format!("revoked {token}"));
            if session.json {
                output::json(&serde_json::json!({"token": token, "revoked": true}))?;
            }
        }
    }
    Ok(0)
}
