//! `stoa status` and `stoa api`.

use std::io::Read as _;

use crate::args::ApiArgs;
use crate::failure::{Code, Failure};
use crate::output::{self, say};
use crate::session::Session;
use crate::{apps, databases};

/// `stoa status`.
pub(crate) fn status(session: &Session) -> Result<u8, Failure> {
    let server = session.client.server()?;
    let all_apps = session.client.apps(&session.place)?;
    let all_databases = session.client.databases(&session.place)?;
    if session.json {
        output::json(&serde_json::json!({"server": server, "apps": all_apps, "databases": all_databases}))?;
        return Ok(0);
    }
    let place = &session.place;
    let mut text = format!(
        "Stoa {} at {}, domain {}\nplace {}/{}/{}\n",
        server.version,
        session.client.address(),
        server.domain,
        place.org,
        place.project,
        place.environment
    );
    if let Some(since) = server.read_only_since {
        text.push_str(&format!(
            "READ ONLY since {since}: its disk cannot be written. Nothing can be changed, and what is shown is as of then; \
             what runs goes on. next, on the server: dmesg --level=err; mend the file system, then: stoa up\n"
        ));
    }
    if !all_apps.is_empty() {
        text.push_str(&format!("\n{}", apps::table(&all_apps)));
    }
    apps::warn_of_damage(&all_apps);
    if !all_databases.is_empty() {
        text.push_str(&format!("\n{}", databases::table(&all_databases)));
    }
    output::data(&text)?;
    if all_apps.is_empty() && all_databases.is_empty() {
        say("nothing here yet; next: stoa init, then stoa deploy");
    }
    Ok(0)
}

/// `stoa api`: the answer as it came on stdout; its status decides the exit code.
pub(crate) fn api(session: &Session, args: &ApiArgs) -> Result<u8, Failure> {
    let method = args.method.to_ascii_uppercase();
    if !matches!(method.as_str(), "GET" | "POST" | "PUT" | "PATCH" | "DELETE") || !args.path.starts_with('/')
    {
        return Err(Failure::new(
            Code::Usage,
            format!("{} {} is not a request", args.method, args.path),
            "for example: stoa api GET /v1/server",
        ));
    }
    let body = args.data.as_deref().map(read_body).transpose()?;
    let answer = session.client.raw(&method, &args.path, body)?;
    let problem: Option<api::Problem> = if answer.status >= 400 {
        serde_json::from_slice(&answer.body).ok()
    } else {
        None
    };
    if let Some(problem) = problem {
        return Err(client::Error::Problem(Box::new(problem)).into());
    }
    let mut text = match serde_json::from_slice::<serde_json::Value>(&answer.body) {
        Ok(value) => serde_json::to_string_pretty(&value).unwrap_or_default(),
        Err(_) if session.json => {
            let text = String::from_utf8_lossy(&answer.body);
            output::json(&serde_json::json!({"status": answer.status, "text": text}))?;
            return Ok(u8::from(answer.status >= 400));
        }
        Err(_) => String::from_utf8_lossy(&answer.body).into_owned(),
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    output::data(&text)?;
    Ok(u8::from(answer.status >= 400))
}

fn read_body(data: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = match data.strip_prefix('@') {
        Some(path) => std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)),
        None if data == "-" => std::io::stdin().read_to_end(&mut bytes),
        None => return Ok(data.as_bytes().to_vec()),
    };
    read.map_err(|cause| Failure::local(format!("could not read the body from {data}"), &cause))?;
    Ok(bytes)
}
