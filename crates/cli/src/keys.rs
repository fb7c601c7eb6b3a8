//! `stoa server rotate-key`: another master key, asked for by root on the host.

use crate::args::{Globals, RotateKeyArgs};
use crate::failure::Failure;
use crate::follow;
use crate::session::Session;

pub(crate) fn rotate(globals: &Globals, args: &RotateKeyArgs) -> Result<u8, Failure> {
    let session = Session::on_host(globals, &args.data_dir)?;
    let operation = session.client.master_key_rotate()?;
    follow::finish(&session, &follow::follow(&session, &operation, &args.patience)?)
}
