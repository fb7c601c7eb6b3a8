//! Signing machines in by a code that somebody approves elsewhere.

use api::{CreateDevice, Device, DeviceRequest, PollDevice};
use control::people::device;

use crate::answer::Reply;
use crate::call::Call;
use crate::people::{actions, issued, model_role, scope, wire_role};
use crate::refusal::Refusal;

pub(crate) fn create(call: &Call) -> Result<Reply, Refusal> {
    let body: CreateDevice = call.needed_body()?;
    let wish = device::wish(&body.name, body.role.map(model_role), actions(body.scopes));
    let begun = device::begin(call.control(), &wish, &call.source)?;
    let device_code = begun
        .device_code
        .expose_str()
        .ok_or_else(|| Refusal::internal("a device code that is no text"))?;
    Reply::json(
        201,
        &Device {
            device_code: device_code.to_owned(),
            user_code: begun.user_code.clone(),
            expires_in_s: begun.life.as_ms() / 1000,
            interval_s: begun.interval.as_ms() / 1000,
        },
    )
}

pub(crate) fn token(call: &Call) -> Result<Reply, Refusal> {
    let body: PollDevice = call.needed_body()?;
    let (token, text) = device::poll(call.control(), body.device_code.trim())?;
    issued(&token, &text)
}

pub(crate) fn view(call: &Call) -> Result<Reply, Refusal> {
    let asked = device::asked(call.control(), call.actor()?, call.parameter("code")?)?;
    let scopes = asked.wish.scopes.as_ref();
    Reply::ok(&DeviceRequest {
        name: asked.wish.name.clone(),
        source: asked.source.as_str().to_owned(),
        role: wire_role(asked.wish.role),
        scopes: scopes.map(|scopes| scopes.iter().filter_map(|one| scope(*one)).collect()),
        expires_in_s: asked.life().as_ms() / 1000,
    })
}

pub(crate) fn approve(call: &Call) -> Result<Reply, Refusal> {
    device::approve(call.control(), call.actor()?, call.parameter("code")?)?;
    Ok(Reply::Empty)
}

pub(crate) fn deny(call: &Call) -> Result<Reply, Refusal> {
    device::deny(call.control(), call.actor()?, call.parameter("code")?)?;
    Ok(Reply::Empty)
}
