//! Identity providers, browsers that go to one and come back, and links.

use api::reference::escape;
use api::{FetchSession, IdentityPage, IdentityProviderPage, LinkIdentity, PutIdentityProvider};
use control::Secret;
use control::people::oidc::{self, Arrived, Coming, Onward, Program, Wanted};
use model::{Identity, IdentityProvider};

use crate::answer::Reply;
use crate::call::{Call, name};
use crate::pages;
use crate::refusal::Refusal;
use crate::sessions::signed_in;
use crate::{credential, device_page, html};

const TITLE: &str = "Stoa: sign in";
/// What a browser that was signed in sees: there is no console yet.
const SIGNED_IN: &str = "<h1>Signed in</h1>\n<p>This browser is signed in, and may let a machine in at \
                         <a href=\"/device\">/device</a>. What can be done here is in <a href=\"/docs\">the reference</a>.</p>\n";
/// Providers' codes have up to 2 KiB; what is longer is none.
const CODE_MAX: usize = 4096;

pub(crate) fn provider_list(call: &Call) -> Result<Reply, Refusal> {
    let all = oidc::providers(call.control(), call.actor()?)?;
    let (page, next_page) = pages::cut(call, all, |provider| provider.row.id.to_string())?;
    Reply::ok(&IdentityProviderPage {
        items: page.iter().map(|provider| wire(&provider.row)).collect(),
        next_page,
    })
}

pub(crate) fn provider_view(call: &Call) -> Result<Reply, Refusal> {
    let found = oidc::provider(call.control(), call.actor()?, call.parameter("provider")?)?;
    Reply::tagged(200, &wire(&found.row), found.generation)
}

pub(crate) fn provider_put(call: &Call) -> Result<Reply, Refusal> {
    let body: PutIdentityProvider = call.needed_body()?;
    let provider = name(call.parameter("provider")?, "")?;
    let wanted = Wanted {
        issuer: body.issuer,
        client_id: body.client_id,
        client_secret: body.client_secret.map(Secret::from),
        origin: body.origin,
    };
    let found = oidc::put(call.control(), call.actor()?, &provider, &wanted, call.expected)?;
    Reply::tagged(200, &wire(&found.row), found.generation)
}

pub(crate) fn provider_delete(call: &Call) -> Result<Reply, Refusal> {
    oidc::delete(
        call.control(),
        call.actor()?,
        call.parameter("provider")?,
        call.expected,
    )?;
    Ok(Reply::Empty)
}

/// A browser goes to a provider.
pub(crate) fn begin(call: &Call) -> Result<Reply, Refusal> {
    if call.is_set("check") {
        oidc::answers(call.control(), call.parameter("provider")?)?;
        return Ok(Reply::Empty);
    }
    let onward = match (call.number("port"), call.query("challenge")) {
        (None, None) => Onward::Page {
            user_code: device_page::given(call.query("user_code")).map(str::to_owned),
        },
        (Some(port), Some(challenge)) => Onward::Program(Program {
            port: u16::try_from(port).map_err(|_| Refusal::field("?port", "is no port"))?,
            challenge: challenge.to_owned(),
        }),
        (Some(_), None) | (None, Some(_)) => {
            return Err(Refusal::field(
                "?port",
                "goes with a challenge, and only with one",
            ));
        }
    };
    let leaving = oidc::begin(call.control(), call.parameter("provider")?, &call.source, onward)?;
    Ok(Reply::Redirect {
        location: leaving.address,
        cookies: vec![credential::state_cookie(&leaving.state)],
    })
}

/// A browser comes back from a provider. Whoever looks at it as a person is told on a page why nobody was signed in.
pub(crate) fn finish(call: &Call) -> Result<Reply, Refusal> {
    match come_back(call) {
        Err(refused) if call.wants_page => {
            let again = api::endpoints::OIDC_BEGIN.at(&[call.parameter("provider")?]);
            let again = format!("<p><a href=\"{}\">Sign in again</a></p>\n", escape(&again));
            Ok(html::refusal(&refused, TITLE, &again))
        }
        answer => answer,
    }
}

fn come_back(call: &Call) -> Result<Reply, Refusal> {
    let coming = Coming {
        code: call.query("code").filter(|code| code.len() <= CODE_MAX),
        // Without one it did not begin here.
        state: call.query("state").unwrap_or_default(),
        cookie: call.state.as_deref(),
        sender: call.query("iss"),
    };
    let provider = call.parameter("provider")?;
    let arrived = oidc::finish(call.control(), provider, &coming, &call.source, &call.agent)?;
    let done = credential::no_state_cookie();
    let (signed_in, user_code) = match arrived {
        Arrived::Program { address: location } => {
            let cookies = vec![done];
            return Ok(Reply::Redirect { location, cookies });
        }
        Arrived::SignedIn { signed_in, user_code } => (signed_in, user_code),
    };
    let cookies = vec![done, credential::of_session(&signed_in)?];
    match user_code {
        Some(code) => Ok(Reply::Redirect {
            location: device_page::address(Some(&code)),
            cookies,
        }),
        None => Ok(html::page_with(cookies, TITLE, SIGNED_IN)),
    }
}

/// The program whose browser came back fetches its session.
pub(crate) fn session(call: &Call) -> Result<Reply, Refusal> {
    let body: FetchSession = call.needed_body()?;
    let found = oidc::sign_in_by_code(
        call.control(),
        &body.code,
        &body.verifier,
        &call.source,
        &call.agent,
    )?;
    signed_in(&found)
}

pub(crate) fn identity_list(call: &Call) -> Result<Reply, Refusal> {
    let all = oidc::identities(call.control(), call.actor()?)?;
    let (page, next_page) = pages::cut(call, all, |(_, identity)| identity.id.to_string())?;
    Reply::ok(&IdentityPage {
        items: page.iter().map(wire_identity).collect(),
        next_page,
    })
}

pub(crate) fn identity_create(call: &Call) -> Result<Reply, Refusal> {
    let body: LinkIdentity = call.needed_body()?;
    let shown = (body.code.as_str(), body.verifier.as_str());
    let password = Secret::from(body.password);
    let linked = oidc::link(call.control(), call.actor()?, shown, &password, &call.source)?;
    Reply::json(201, &wire_identity(&linked))
}

pub(crate) fn identity_delete(call: &Call) -> Result<Reply, Refusal> {
    oidc::unlink(call.control(), call.actor()?, call.parameter("identity")?)?;
    Ok(Reply::Empty)
}

fn wire(provider: &IdentityProvider) -> api::IdentityProvider {
    api::IdentityProvider {
        id: provider.id.to_string(),
        name: provider.name.to_string(),
        issuer: provider.issuer.clone(),
        client_id: provider.client_id.clone(),
        has_secret: provider.secret.is_some(),
        redirect: provider.redirect.clone(),
        created_at: provider.created_at,
    }
}

fn wire_identity((provider, identity): &(IdentityProvider, Identity)) -> api::Identity {
    api::Identity {
        id: identity.id.to_string(),
        provider: provider.name.to_string(),
        subject: identity.subject.clone(),
        created_at: identity.created_at,
    }
}
