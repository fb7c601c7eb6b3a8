//! Apps: list, make, end; their instances, addresses and movements.

use api::{CreateApp, Instance, PutScale, Run};

use crate::args::{AppsCommand, MoveArgs, OfApp, RunArgs, ScaleArgs};
use crate::failure::{Code, Failure};
use crate::follow::{self, Lines};
use crate::output::{self, say};
use crate::project;
use crate::session::Session;
use crate::terminal;

/// `stoa apps`.
pub(crate) fn apps(session: &Session, command: &AppsCommand) -> Result<u8, Failure> {
    match command {
        AppsCommand::Ls => {
            let apps = session.client.apps(&session.place)?;
            if session.json {
                output::json(&apps)?;
            } else if apps.is_empty() {
                say("no apps yet; make one: stoa deploy DIR");
            } else {
                output::data(&table(&apps))?;
            }
            warn_of_damage(&apps);
        }
        AppsCommand::Create { name } => {
            let app = session.client.app_create(
                &session.place,
                &CreateApp {
                    name: name.to_string(),
                },
            )?;
            if session.json {
                output::json(&app)?;
            } else {
                say(&format!("made the app {name}; next: stoa deploy --app {name}"));
            }
        }
        AppsCommand::Destroy {
            name,
            confirm,
            patience,
        } => {
            // A wrong name is told before anybody is asked to type it.
            session.client.app(&session.place, name)?;
            terminal::confirm("the app", name, confirm.as_deref())?;
            let operation = session.client.app_delete(&session.place, name)?;
            let operation = follow::follow(session, &operation, patience)?;
            return follow::finish(session, &operation);
        }
    }
    Ok(0)
}

pub(crate) fn table(apps: &[api::App]) -> String {
    let rows: Vec<Vec<String>> = apps
        .iter()
        .map(|app| {
            let services: Vec<String> = app
                .services
                .iter()
                .map(|s| format!("{} {}/{}", s.name, s.ready, s.wanted))
                .collect();
            vec![
                app.name.clone(),
                output::or_dash(app.serving.as_deref()),
                output::or_dash(Some(&services.join(", "))),
                state(app).to_owned(),
                output::or_dash(Some(&app.urls.join(" "))),
            ]
        })
        .collect();
    output::table(&["APP", "RELEASE", "READY", "STATE", "ADDRESS"], &rows)
}

/// Names what is damaged, and how it is mended.
pub(crate) fn warn_of_damage(apps: &[api::App]) {
    for app in apps {
        if let Some(damage) = &app.damage {
            say(&format!(
                "warning: the record of {} is damaged: {damage}\nnext: on the server, end stoa up, then: stoa doctor --repair",
                app.name
            ));
        }
    }
}

fn state(app: &api::App) -> &'static str {
    if app.damage.is_some() {
        "damaged"
    } else if app.deleting {
        "ending"
    } else if app.rollout.is_some() {
        "moving"
    } else if app.serving.is_none() {
        "empty"
    } else if app.services.iter().all(|service| service.ready >= service.wanted) {
        "well"
    } else {
        "short"
    }
}

/// `stoa open`.
pub(crate) fn open(session: &Session, of: &OfApp) -> Result<u8, Failure> {
    let name = project::app(of)?;
    let app = session.client.app(&session.place, &name)?;
    let Some(url) = app.urls.first() else {
        return Err(Failure::new(
            Code::Failed,
            format!("{name} answers at no address"),
            if app.serving.is_none() {
                "deploy it first: stoa deploy"
            } else {
                "give a service a route in stoa.toml"
            },
        ));
    };
    if session.json {
        output::json(&app.urls)?;
        return Ok(0);
    }
    output::data(&format!("{url}\n"))?;
    let has_desktop = ["DISPLAY", "WAYLAND_DISPLAY"]
        .iter()
        .any(|name| std::env::var_os(name).is_some());
    if has_desktop && terminal::is_interactive() {
        // Opening is a courtesy: the address is printed, and without a browser that is all there is to do.
        let _ = std::process::Command::new("xdg-open").arg(url).spawn();
    }
    Ok(0)
}

/// `stoa ps`.
pub(crate) fn ps(session: &Session, of: &OfApp) -> Result<u8, Failure> {
    let apps = match project::app_if_any(of)? {
        Some(app) => vec![app],
        None => session
            .client
            .apps(&session.place)?
            .into_iter()
            .map(|app| app.name)
            .collect(),
    };
    let mut all = Vec::new();
    let mut failed = None;
    for app in apps {
        match session.client.instances(&session.place, &app) {
            Ok(instances) => all.extend(instances.into_iter().map(|instance| (app.clone(), instance))),
            // One app's trouble must not hide the others.
            Err(cause) => drop(failed.get_or_insert(cause)),
        }
    }
    show(session, &all, failed.is_none())?;
    failed.map_or(Ok(0), |cause| Err(cause.into()))
}

fn show(session: &Session, all: &[(String, Instance)], is_whole: bool) -> Result<(), Failure> {
    if session.json {
        let instances: Vec<&Instance> = all.iter().map(|(_, instance)| instance).collect();
        output::json(&instances)?;
        return Ok(());
    }
    if all.is_empty() {
        if is_whole {
            say("nothing runs; next: stoa deploy");
        }
        return Ok(());
    }
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|(app, i)| {
            vec![
                app.clone(),
                format!("{}.{}", i.name, i.index),
                output::or_dash(i.release.as_deref()),
                i.condition.clone(),
                output::ago(i.since),
                i.attempt.to_string(),
                output::or_dash(i.address.as_deref()),
                i.id.clone(),
                i.why.clone().unwrap_or_default(),
            ]
        })
        .collect();
    let head = [
        "APP", "SERVICE", "RELEASE", "STATE", "SINCE", "RESTARTS", "ADDRESS", "INSTANCE", "WHY",
    ];
    output::data(&output::table(&head, &rows))?;
    Ok(())
}

/// `stoa scale`.
pub(crate) fn scale(session: &Session, args: &ScaleArgs) -> Result<u8, Failure> {
    let app = project::app(&args.of)?;
    let body = PutScale {
        services: args.counts.iter().cloned().collect(),
    };
    let operation = session.client.app_scale(&session.place, &app, &body)?;
    let operation = follow::follow(session, &operation, &args.patience)?;
    follow::finish(session, &operation)
}

/// `stoa restart`.
pub(crate) fn restart(session: &Session, args: &MoveArgs) -> Result<u8, Failure> {
    let app = project::app(&args.of)?;
    let operation = session.client.app_restart(&session.place, &app)?;
    let operation = follow::follow(session, &operation, &args.patience)?;
    follow::finish(session, &operation)
}

/// `stoa run`.
pub(crate) fn run(session: &Session, args: &RunArgs) -> Result<u8, Failure> {
    let app = project::app(&args.of)?;
    let operation = session.client.app_run(
        &session.place,
        &app,
        &Run {
            command: args.command.clone(),
        },
    )?;
    if !session.json {
        let operation = follow::follow_with(session, &operation, &args.patience, Lines::Stdout)?;
        return follow::finish(session, &operation);
    }
    // Each line an object, and the operation as the last one.
    let operation = follow::follow_with(session, &operation, &args.patience, Lines::Json)?;
    output::json_line(&operation)?;
    Ok(0)
}
