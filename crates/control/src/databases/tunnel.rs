//! A connection to a database's server for who is not on its network.

use model::{Action, Actor};

use super::Server;
use super::awake::not_running;
use crate::authorize::{self, EnvPath};
use crate::{Control, ControlError, rehearsal};

/// Connects to the server of a database. Nothing when it is only rehearsed.
///
/// The right is that of `enter`: whoever gets there still needs a login, but can try one.
///
/// # Errors
/// As the gate's; `State` when it does not run, or takes no connection in time.
pub fn tunnel(
    control: &Control,
    actor: &Actor,
    path: &EnvPath,
    name: &str,
) -> Result<Option<engine::ExecStreams>, ControlError> {
    let (found, name) = control.mutate(actor, "database.tunnel", name, |tx| {
        let scope = authorize::environment(tx, actor, Action::ReadSecrets, path)?;
        let database = scope.database(tx, name)?.row;
        super::valkey::refuse(
            &database,
            "there are no tunnels to one",
            "open valkey-cli beside it: stoa db connect NAME",
        )?;
        let name = database.name.clone();
        Ok((Server::of(tx, database)?, name))
    })?;
    if rehearsal::is_on() {
        rehearsal::note("session", name.as_str(), "insert");
        return Ok(None);
    }
    // It has no address yet while it starts.
    let address = found.awake(control)?.address.ok_or_else(|| not_running(&name))?;
    let streams = ::databases::connect(address).map_err(|cause| {
        tracing::info!(%cause, %name, "a server took no connection");
        ControlError::State {
            message: format!("the server of {name} took no connection"),
            next_step: format!("see why: stoa db info {name}"),
        }
    })?;
    Ok(Some(streams))
}
