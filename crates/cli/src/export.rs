//! `stoa export`: what a directory's `stoa.toml` says, in the form of another platform.
//!
//! Lives here: reading it for the environment, printing. Does not live here: the forms (`foreign`).

use foreign::export::{Options, Target};
use model::Name;
use model::manifest::Manifest;

use crate::args::{ExportArgs, Globals};
use crate::failure::{Code, Failure};
use crate::output::{self, say};
use crate::project;

pub(crate) fn export(globals: &Globals, args: &ExportArgs) -> Result<u8, Failure> {
    let Some((text, _)) = project::manifest(&args.dir)? else {
        return Err(Failure::new(
            Code::NotFound,
            format!("there is no stoa.toml in {}", args.dir.display()),
            "write one: stoa init; or name its directory: stoa export --compose DIR",
        ));
    };
    let environment = environment(globals)?;
    let manifest = of(&text, &environment)?;
    let target = if args.compose {
        Target::Compose
    } else {
        Target::Kubernetes
    };
    let options = Options {
        image: args.image.clone().unwrap_or_else(|| manifest.app.to_string()),
        domain: args.domain.clone(),
        environment,
    };
    let exported = foreign::export::export(target, &manifest, &options).map_err(|why| {
        Failure::new(
            Code::Failed,
            format!("stoa.toml can not be exported: {why}"),
            "declare them: [services.web] command = \"...\"",
        )
    })?;
    if globals.json {
        let notes = &exported.notes;
        output::json(&serde_json::json!({"text": exported.text, "notes": notes}))?;
        return Ok(0);
    }
    for note in &exported.notes {
        say(&note.to_string());
    }
    output::data(&exported.text)?;
    Ok(0)
}

/// The one that a deploy from here would go to.
fn environment(globals: &Globals) -> Result<Name, Failure> {
    let name = crate::session::environment(globals)?;
    name.parse()
        .map_err(|why: model::NameError| Failure::new(Code::Usage, why.to_string(), "name it: --env NAME"))
}

/// The manifest as it is in that environment.
fn of(text: &str, name: &Name) -> Result<Manifest, Failure> {
    Manifest::parse_for(text, name).map_err(|problems| {
        let mut failure = Failure::new(
            Code::Failed,
            format!("stoa.toml does not fit the environment {name}"),
            "mend the lines above and try again",
        );
        failure.details = problems.iter().map(ToString::to_string).collect();
        failure
    })
}
