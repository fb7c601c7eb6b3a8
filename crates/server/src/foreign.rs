//! Types of other rooms that a use case takes by name. Nothing else here reaches past `control`.

pub(crate) use engine::{Exec, ExecStreams, LogRecord, Stream as LogStream};
pub(crate) use store::{Begun, Now, Secret, StoreError};
