//! The page on which people let a machine in that shows a code (RFC 8628, 3.3): for browsers, and without a script.
//!
//! Lives here: its HTML, and what a form of it does. Does not live here: who may approve what (`control::people::device`),
//! of which sites a form is taken (`credential`).
//! Invariants: looking decides nothing; every text that is not ours is escaped; a code is looked at for who is signed in
//! only, and counted as it is counted elsewhere.

use api::reference::escape;
use api::{DeviceDecision, DeviceSignIn, DeviceVerdict};
use control::Secret;
use control::people::device::Asked;
use control::people::{self, device, oidc};
use model::Actor;

use crate::answer::Reply;
use crate::call::Call;
use crate::credential;
use crate::html;
use crate::members::email;
use crate::people::wire_role;
use crate::refusal::Refusal;

/// Longest code that is carried along; those that count have nine letters.
const CODE_MAX: usize = 64;

pub(crate) fn view(call: &Call) -> Result<Reply, Refusal> {
    let code = given(call.query("user_code"));
    let Some(actor) = call.browser()? else {
        return sign_in_page(call, code, None);
    };
    let Some(code) = code else {
        return Ok(page(200, &code_form()));
    };
    match device::asked(call.control(), &actor, code) {
        Ok(asked) => Ok(page(200, &request(call, &actor, code, &asked)?)),
        Err(refused) => Ok(refusal_page(&refused.into())),
    }
}

pub(crate) fn sign_in(call: &Call) -> Result<Reply, Refusal> {
    let body: DeviceSignIn = call.needed_body()?;
    let code = given(body.user_code.as_deref());
    let password = Secret::from(body.password);
    let signed_in = email(&body.email).and_then(|email| {
        let (source, agent) = (&call.source, &call.agent);
        Ok(people::sign_in(call.control(), &email, &password, source, agent)?)
    });
    match signed_in {
        Ok(found) => {
            let cookie = found.as_ref().map(credential::of_session).transpose()?;
            Ok(Reply::Redirect {
                location: address(code),
                cookies: cookie.into_iter().collect(),
            })
        }
        Err(refusal) if call.is_dry() => Err(refusal),
        Err(refusal) => sign_in_page(call, code, Some(&refusal)),
    }
}

pub(crate) fn decide(call: &Call) -> Result<Reply, Refusal> {
    let body: DeviceDecision = call.needed_body()?;
    let (actor, code) = (call.actor()?, body.user_code.trim());
    let decided = match body.decision {
        DeviceVerdict::Approve => device::approve(call.control(), actor, code),
        DeviceVerdict::Deny => device::deny(call.control(), actor, code),
    };
    match (decided, body.decision) {
        (Ok(()), DeviceVerdict::Approve) => Ok(page(
            200,
            "<h1>Approved</h1>\n<p>That machine is signed in as you within seconds. What lets it in is one of your access \
             tokens: <code>stoa tokens ls</code> lists it, <code>stoa tokens revoke</code> ends it.</p>\n",
        )),
        (Ok(()), DeviceVerdict::Deny) => Ok(page(
            200,
            "<h1>Refused</h1>\n<p>That machine is told so, and its code is worth nothing.</p>\n",
        )),
        (Err(refused), _) if call.is_dry() => Err(refused.into()),
        (Err(refused), _) => Ok(refusal_page(&refused.into())),
    }
}

/// Where the page is, for a code.
pub(crate) fn address(code: Option<&str>) -> String {
    let mut address = api::endpoints::DEVICE_PAGE.path.to_owned();
    if let Some(code) = code {
        address.push_str("?user_code=");
        api::endpoint::escape_into(&mut address, code);
    }
    address
}

/// A code as it came in an address or a form; forms send empty fields.
pub(crate) fn given(code: Option<&str>) -> Option<&str> {
    code.map(str::trim)
        .filter(|code| !code.is_empty() && code.len() <= CODE_MAX)
}

fn sign_in_page(call: &Call, code: Option<&str>, refused: Option<&Refusal>) -> Result<Reply, Refusal> {
    let mut text = "<h1>Sign in</h1>\n<p>A machine asks to be signed in. Sign in to see which, and to say yes or no.</p>\n".to_owned();
    let status = match refused {
        None => 200,
        Some(refused) => {
            let why = match refused.status() {
                401 => "Address and password do not belong together.".to_owned(),
                _other => html::said(refused),
            };
            html::put(
                &mut text,
                format_args!("<p role=\"alert\"><strong>{}</strong></p>\n", escape(&why)),
            );
            refused.status()
        }
    };
    let hidden = code.map(hidden_code).unwrap_or_default();
    html::put(
        &mut text,
        format_args!(
            "<form method=\"post\" action=\"{}\">\n{hidden}\
             <p><label>Address<br><input type=\"email\" name=\"email\" required maxlength=\"254\" autocomplete=\"username\"></label></p>\n\
             <p><label>Password<br><input type=\"password\" name=\"password\" required maxlength=\"256\" autocomplete=\"current-password\"></label></p>\n\
             <p><button>Sign in</button></p>\n</form>\n",
            api::endpoints::DEVICE_PAGE_SIGN_IN.path
        ),
    );
    for name in oidc::names(call.control())? {
        let mut there = api::endpoints::OIDC_BEGIN.at(&[name.as_str()]);
        if let Some(code) = code {
            there.push_str("?user_code=");
            api::endpoint::escape_into(&mut there, code);
        }
        let (there, name) = (escape(&there), escape(name.as_str()));
        html::put(
            &mut text,
            format_args!("<p><a href=\"{there}\">Sign in at {name}</a></p>\n"),
        );
    }
    Ok(page(status, &text))
}

/// What a machine asks for, and the two buttons.
fn request(call: &Call, actor: &Actor, code: &str, asked: &Asked) -> Result<String, Refusal> {
    let account = people::own(call.control(), actor)?;
    let own = account.map(|account| account.user.email.to_string());
    let scopes = match &asked.wish.scopes {
        None => "all that you may do".to_owned(),
        Some(scopes) => {
            let names = scopes.iter().map(|one| api::document::right_name(*one));
            names.collect::<Vec<_>>().join(", ")
        }
    };
    let minutes = asked.life().as_ms().div_ceil(60_000);
    let rows = [
        ("Code", code.to_owned()),
        ("It calls itself", asked.wish.name.clone()),
        ("It asks from", asked.source.as_str().to_owned()),
        ("It would act as", own.unwrap_or_default()),
        ("With the role, at most", role_name(asked)),
        ("With the scopes", scopes),
        ("The code is good for", format!("{minutes} min")),
    ];
    let mut text = "<h1>Let this machine in?</h1>\n<table>\n".to_owned();
    for (name, value) in rows {
        let value = escape(&value);
        html::put(
            &mut text,
            format_args!("<tr><th scope=\"row\">{name}</th><td>{value}</td></tr>\n"),
        );
    }
    html::put(
        &mut text,
        format_args!(
            "</table>\n<p>Say yes only when you began this yourself, and the machine shows this code: who sends you a link \
             to this page wants to be signed in as you.</p>\n<form method=\"post\" action=\"{}\">\n{}\
             <p><button name=\"decision\" value=\"approve\">Approve</button> \
             <button name=\"decision\" value=\"deny\">Refuse</button></p>\n</form>\n",
            api::endpoints::DEVICE_PAGE.path,
            hidden_code(code)
        ),
    );
    Ok(text)
}

fn role_name(asked: &Asked) -> String {
    format!("{:?}", wire_role(asked.wish.role)).to_lowercase()
}

fn refusal_page(refusal: &Refusal) -> Reply {
    html::refusal(refusal, "Stoa: a machine to sign in", &code_form())
}

/// For who comes without a code, or with a wrong one.
fn code_form() -> String {
    format!(
        "<h1>Let a machine in</h1>\n<form method=\"get\" action=\"{}\">\n\
         <p><label>The code that it shows<br><input name=\"user_code\" required maxlength=\"{CODE_MAX}\" autocomplete=\"off\" \
         autocapitalize=\"characters\" spellcheck=\"false\"></label></p>\n<p><button>Go on</button></p>\n</form>\n",
        api::endpoints::DEVICE_PAGE.path
    )
}

fn hidden_code(code: &str) -> String {
    let code = escape(code);
    format!("<input type=\"hidden\" name=\"user_code\" value=\"{code}\">\n")
}

fn page(status: u16, main: &str) -> Reply {
    html::page(status, "Stoa: a machine to sign in", main)
}
