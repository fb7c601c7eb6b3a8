//! One session of psql that is spoken with over a while: what must begin and end in the same session.
//!
//! Invariant: when it is dropped, or when we die, the session ends, and with it whatever the server ties to a session
//! (backup mode, temporary slots): nothing is left to be cleaned up.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};

use crate::DatabaseError;
use crate::psql::{Psql, quiet};

/// Ends each answer; no answer of ours holds it.
const END: &str = "-- stoa: end of the answer --";

pub(crate) struct Session {
    input: File,
    answers: BufReader<File>,
    complaints: Option<File>,
    _hold: Box<dyn Send>,
}

impl Session {
    pub(crate) fn open(psql: Psql<'_>) -> Result<Self, DatabaseError> {
        let streams = psql.engine.exec(psql.instance, &quiet("postgres"))?;
        Ok(Self {
            input: File::from(streams.stdin),
            answers: BufReader::new(File::from(streams.stdout)),
            complaints: streams.stderr.map(File::from),
            _hold: streams.hold,
        })
    }

    /// Runs statements and returns what they print, unaligned.
    pub(crate) fn ask(&mut self, sql: &str) -> Result<String, DatabaseError> {
        let text = format!("{sql}\nSELECT '{END}';\n");
        // What cannot be written any more is told by the complaint below.
        let sent = self.input.write_all(text.as_bytes());
        let mut answer = String::new();
        loop {
            let mut line = String::new();
            match self.answers.read_line(&mut line) {
                Ok(count) if count > 0 && sent.is_ok() => {}
                Ok(_) | Err(_) => return Err(self.complaint()),
            }
            if line.trim_end() == END {
                return Ok(answer);
            }
            answer.push_str(&line);
        }
    }

    /// psql ends at the first error, so its complaint is whole.
    fn complaint(&mut self) -> DatabaseError {
        let mut said = String::new();
        if let Some(complaints) = &mut self.complaints {
            drop(complaints.read_to_string(&mut said));
        }
        DatabaseError::Program {
            program: "psql",
            output: said.lines().last().unwrap_or("the session ended").to_owned(),
        }
    }
}
