//! `stoa deploy`: check, pack, send, follow; with `--plan`, ask what would happen.

use api::{CreateApp, CreateRelease, ReleasePlan, ReleaseSource};

use crate::archive;
use crate::args::DeployArgs;
use crate::failure::{Code, Failure};
use crate::follow;
use crate::output::{self, say};
use crate::project;
use crate::session::Session;

pub(crate) fn deploy(session: &Session, args: &DeployArgs) -> Result<u8, Failure> {
    project::need_dir(&args.dir)?;
    let manifest = project::manifest(&args.dir)?;
    let declared = manifest.as_ref().map(|(_, manifest)| manifest.app.clone());
    let app = match (&args.of.app, declared, &args.image) {
        (Some(app), _, _) => name(app)?,
        (None, Some(app), _) => app,
        (None, None, Some(_)) => return Err(nameless()),
        (None, None, None) => {
            let app = project::name_of(&args.dir).ok_or_else(nameless)?;
            say(&format!(
                "no stoa.toml: the app is called {app} after its directory (stoa init writes one)"
            ));
            app
        }
    };
    if args.plan {
        return plan(session, &app, args, manifest.map(|(text, _)| text));
    }
    let source = match &args.image {
        Some(image) => {
            ensure_app(session, &app)?;
            ReleaseSource::Image { image: image.clone() }
        }
        None => {
            let archive = archive::pack(&args.dir)?;
            ensure_app(session, &app)?;
            say(&format!(
                "sending {} files, {}",
                archive.entries,
                output::size(archive.bytes)
            ));
            let upload = session
                .client
                .upload(&session.place, archive::MEDIA_TYPE, archive.file)?;
            ReleaseSource::Upload { upload: upload.id }
        }
    };
    let body = CreateRelease {
        source,
        manifest: manifest.map(|(text, _)| text),
    };
    let operation = session
        .client
        .release_create(&session.place, app.as_str(), &body)?;
    let operation = follow::follow(session, &operation, &args.patience)?;
    if session.json || !operation.state.is_settled() {
        return follow::finish(session, &operation);
    }
    if let Some(outcome) = &operation.outcome {
        say(outcome);
    }
    for url in session.client.app(&session.place, app.as_str())?.urls {
        output::data(&format!("{url}\n"))?;
    }
    Ok(0)
}

/// `--plan`: what it would do. Nothing is sent but the manifest, and nothing is made.
fn plan(
    session: &Session,
    app: &model::Name,
    args: &DeployArgs,
    manifest: Option<String>,
) -> Result<u8, Failure> {
    let source = match &args.image {
        Some(image) => ReleaseSource::Image { image: image.clone() },
        None => ReleaseSource::Unsent {},
    };
    match session
        .client
        .release_plan(&session.place, app.as_str(), &CreateRelease { source, manifest })
    {
        Ok(plan) if session.json => output::json(&plan)?,
        Ok(plan) => output::data(&told(&plan))?,
        Err(error) if error.problem().is_some_and(|p| p.code == "not_found") => {
            if session.json {
                output::json(&serde_json::json!({"app": app, "is_new": true}))?;
            }
            say(&format!(
                "there is no app {app} yet: a deploy would make it and start all that its source declares"
            ));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(0)
}

/// A plan in words.
pub(crate) fn told(plan: &ReleasePlan) -> String {
    let mut text = match &plan.serving {
        Some(serving) => format!(
            "{serving} serves; {} would follow by {}\n",
            plan.release, plan.strategy
        ),
        None => format!("nothing serves; {} would be the first release\n", plan.release),
    };
    let changes = plan.changes.iter().map(|change| {
        let settings = match change.settings.as_slice() {
            [] => String::new(),
            settings => format!(": {}", settings.join(", ")),
        };
        let kept = if change.change == "orphaned" {
            format!(
                ": its data stays until you end it: stoa db destroy {}",
                change.name
            )
        } else {
            String::new()
        };
        format!(
            "{} {} {}{settings}{kept}",
            change.what, change.name, change.change
        )
    });
    let mut changes: Vec<String> = changes.collect();
    if changes.is_empty() {
        changes.push("none".to_owned());
    }
    let numbered = plan.steps.iter().enumerate();
    let steps: Vec<String> = numbered.map(|(at, step)| format!("{}. {step}", at + 1)).collect();
    for (title, lines) in [
        ("changes of the configuration", &changes),
        ("steps", &steps),
        ("known only later", &plan.unknown),
        ("it would FAIL", &plan.obstacles),
    ] {
        if !lines.is_empty() {
            text.push_str(&format!("\n{title}:\n"));
        }
        for line in lines {
            text.push_str(&format!("  {line}\n"));
        }
    }
    text
}

fn name(text: &str) -> Result<model::Name, Failure> {
    text.parse()
        .map_err(|why: model::NameError| Failure::new(Code::Usage, why.to_string(), "stoa deploy --app NAME"))
}

fn nameless() -> Failure {
    Failure::new(
        Code::Usage,
        "which app? there is no stoa.toml, and the directory's name does not make a name",
        "name it: stoa deploy --app NAME; or write a stoa.toml: stoa init",
    )
}

/// The app, made when it is missing.
fn ensure_app(session: &Session, app: &model::Name) -> Result<(), Failure> {
    match session.client.app(&session.place, app.as_str()) {
        Ok(_) => Ok(()),
        Err(error) if error.problem().is_some_and(|p| p.code == "not_found") => {
            let made = session.client.app_create(
                &session.place,
                &CreateApp {
                    name: app.to_string(),
                },
            );
            match made {
                Ok(_) => say(&format!("made the app {app}")),
                // Somebody else made it in the meantime: that is all we wanted.
                Err(error) if error.problem().is_some_and(|p| p.status == 409) => {}
                Err(error) => return Err(error.into()),
            }
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}
