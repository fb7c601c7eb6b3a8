//! `stoa context`: which servers this user knows, and which of them is meant.

use serde_json::json;

use crate::args::ContextCommand;
use crate::context::Contexts;
use crate::failure::{Code, Failure};
use crate::output::{self, or_dash, say};

pub(crate) fn contexts(as_json: bool, command: &ContextCommand) -> Result<u8, Failure> {
    let mut contexts = Contexts::load()?;
    match command {
        ContextCommand::Ls => list(as_json, &contexts)?,
        ContextCommand::Use { name } => {
            choose(&mut contexts, name)?;
            contexts.save()?;
            say(&format!("{name} is used from now on{}", overruled(name)));
            if as_json {
                output::json(&json!({"current": name}))?;
            }
        }
        ContextCommand::Rm { name } => {
            forget(&mut contexts, name)?;
            contexts.save()?;
            say(&format!("forgot {name}; {}", what_counts(&contexts)));
            if as_json {
                output::json(&json!({"removed": name}))?;
            }
        }
    }
    Ok(0)
}

fn list(as_json: bool, contexts: &Contexts) -> Result<(), Failure> {
    let current = contexts.current();
    if as_json {
        let items: Vec<_> = contexts
            .contexts
            .iter()
            .map(|(name, context)| {
                json!({
                    "name": name,
                    "current": *name == current,
                    "api": context.api,
                    "signed_in": context.token.is_some() || context.api.starts_with("unix:"),
                    "org": context.org,
                    "project": context.project,
                    "environment": context.environment,
                })
            })
            .collect();
        return output::json(&json!({"items": items}));
    }
    if contexts.contexts.is_empty() {
        say("there is no context yet; next: stoa login --local, or stoa login --claim TOKEN");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = contexts
        .contexts
        .iter()
        .map(|(name, context)| {
            let mark = if *name == current { "*" } else { "" };
            let place = |text: &Option<String>| or_dash(text.as_deref());
            vec![
                mark.to_owned(),
                name.clone(),
                context.api.clone(),
                place(&context.org),
                place(&context.project),
                place(&context.environment),
            ]
        })
        .collect();
    output::data(&output::table(
        &["", "NAME", "API", "ORG", "PROJECT", "ENVIRONMENT"],
        &rows,
    ))
}

/// What the environment says is stronger than what was chosen.
fn overruled(name: &str) -> String {
    match std::env::var("STOA_CONTEXT") {
        Ok(other) if !other.is_empty() && other != name => {
            format!(", but where STOA_CONTEXT is set, as here to {other}, that one counts")
        }
        Ok(_) | Err(_) => String::new(),
    }
}

/// Which server commands go to now, in words.
pub(crate) fn what_counts(contexts: &Contexts) -> String {
    let name = contexts.current();
    match contexts.contexts.get(name) {
        Some(context) => format!("commands go to {name} ({}) now", context.api),
        None => "no context is in use now; choose one: stoa context use NAME".to_owned(),
    }
}

fn choose(contexts: &mut Contexts, name: &str) -> Result<(), Failure> {
    known(contexts, name)?;
    name.clone_into(&mut contexts.current);
    Ok(())
}

fn forget(contexts: &mut Contexts, name: &str) -> Result<(), Failure> {
    known(contexts, name)?;
    contexts.forget(name);
    Ok(())
}

fn known(contexts: &Contexts, name: &str) -> Result<(), Failure> {
    if contexts.contexts.contains_key(name) {
        return Ok(());
    }
    let names: Vec<&str> = contexts.contexts.keys().map(String::as_str).collect();
    let there = if names.is_empty() {
        "there is none".to_owned()
    } else {
        format!("there is: {}", names.join(", "))
    };
    Err(Failure::new(
        Code::NotFound,
        format!("there is no context {name:?}; {there}"),
        "see them: stoa context ls",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::{Context, DEFAULT};

    #[test]
    fn contexts_are_chosen_and_forgotten() {
        let mut contexts = Contexts::default();
        for name in ["one", "two"] {
            contexts.contexts.insert(name.to_owned(), Context::default());
        }
        choose(&mut contexts, "two").expect("there");
        assert_eq!(contexts.current(), "two");
        assert_eq!(
            choose(&mut contexts, "three").expect_err("not there").code,
            Code::NotFound
        );
        forget(&mut contexts, "two").expect("there");
        assert!(forget(&mut contexts, "two").is_err());
        assert_eq!(contexts.contexts.len(), 1);
    }

    #[test]
    fn no_other_context_is_taken_by_itself() {
        for (there, current) in [
            (["one", "two"], "two"),
            ([DEFAULT, "two"], "two"),
            ([DEFAULT, "two"], ""),
        ] {
            let mut contexts = Contexts {
                current: current.to_owned(),
                contexts: there.map(|name| (name.to_owned(), Context::default())).into(),
            };
            let used = contexts.current().to_owned();
            forget(&mut contexts, &used).expect("there");
            assert!(
                !contexts.contexts.contains_key(contexts.current()),
                "{there:?} {current:?}"
            );
            assert!(what_counts(&contexts).contains("stoa context use"));
        }
    }
}
