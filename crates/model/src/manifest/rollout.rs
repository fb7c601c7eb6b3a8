//! Reading `[rollout]`.

use super::keys;
use super::reader::{Field, Section, nearest};
use crate::strategy::{Share, Step, Steps, Strategy, Surge, Unsteady};
use crate::units::Millis;

const NAMES: [&str; 4] = ["rolling", "blue-green", "canary", "recreate"];
/// What belongs to one strategy only.
const SETTINGS: [(&str, &str); 2] = [("surge", "rolling"), ("steps", "canary")];
/// More instances than one machine holds.
const SURGE_MAX: u16 = 100;
/// A step longer than this is two releases that live together, not a trial.
const HOLD: (Millis, Millis) = (Millis::seconds(1), Millis::seconds(24 * 3600));
const AN_EXAMPLE: &str = "for example steps = [\"5%:2m\", \"50%:5m\", \"100%\"]";

pub(super) fn strategy(section: &Section<'_>) -> Option<Strategy> {
    section.allow(&keys::ROLLOUT);
    let usual = NAMES[0];
    let name = match section.get("strategy") {
        Some(field) => named(&field)?,
        None => usual,
    };
    for (key, owner) in SETTINGS.iter().filter(|(_, owner)| *owner != name) {
        if let Some(field) = section.get(key) {
            let hint = format!("remove it, or write strategy = \"{owner}\"");
            field.problem(
                format!("means nothing to strategy = \"{name}\": it belongs to {owner}"),
                Some(&hint),
            );
        }
    }
    match name {
        "blue-green" => Some(Strategy::BlueGreen),
        "canary" => {
            let field = section.need("steps", AN_EXAMPLE)?;
            steps(&field).map(|steps| Strategy::Canary { steps })
        }
        "recreate" => Some(Strategy::Recreate),
        // `named` lets no other through.
        _ => {
            let surge = match section.get("surge") {
                Some(field) => Some(surge(&field)?),
                None => None,
            };
            Some(Strategy::Rolling { surge })
        }
    }
}

fn named<'t>(field: &Field<'t>) -> Option<&'t str> {
    let text = field.text()?;
    if NAMES.contains(&text) {
        return Some(text);
    }
    let near = match text {
        "bluegreen" | "blue_green" => Some("blue-green"),
        "stop-first" | "replace" => Some("recreate"),
        other => nearest(other, NAMES.into_iter()),
    };
    let hint = near.map_or_else(
        || format!("known here: {}", NAMES.join(", ")),
        |near| format!("did you mean {near:?}?"),
    );
    field.problem(format!("{text:?} is not known"), Some(&hint));
    None
}

fn surge(field: &Field<'_>) -> Option<Surge> {
    let section = field.section()?;
    section.allow(&keys::SURGE);
    let bound = |key| match section.get(key) {
        Some(field) => field.number(0..=SURGE_MAX),
        None => Some(0),
    };
    Surge::new(bound("over")?, bound("under")?)
        .map_err(|stuck| field.problem(stuck.to_string(), Some("for example { over = 1 }")))
        .ok()
}

fn steps(field: &Field<'_>) -> Option<Steps> {
    let fields = field.list()?;
    let mut steps = Vec::new();
    for (index, one) in fields.iter().enumerate() {
        match step(one)? {
            Stage::Trial(step) => steps.push(step),
            Stage::All if index + 1 == fields.len() => {}
            Stage::All => {
                one.problem(
                    "100% is the end: no step can follow it".to_owned(),
                    Some("put it last"),
                );
                return None;
            }
        }
    }
    Steps::new(steps)
        .map_err(|why| {
            let at = match why {
                Unsteady::NotRising { index, .. } => fields.get(index).unwrap_or(field),
                Unsteady::None | Unsteady::TooMany { .. } | Unsteady::Share { .. } => field,
            };
            at.problem(why.to_string(), Some(AN_EXAMPLE));
        })
        .ok()
}

enum Stage {
    Trial(Step),
    All,
}

/// `5%:2m`, or `100%`.
fn step(field: &Field<'_>) -> Option<Stage> {
    let text = field.text()?;
    let (share, hold) = match text.split_once(':') {
        Some((share, hold)) => (share, Some(hold)),
        None => (text, None),
    };
    let percent = share
        .strip_suffix('%')
        .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|digits| digits.parse::<u8>().ok());
    let refuse = |message: String, hint: &str| {
        field.problem(message, Some(hint));
        None
    };
    match (percent, hold) {
        (Some(100), None) => Some(Stage::All),
        (Some(100), Some(_)) => refuse(
            "100% holds for no time: it is the end".to_owned(),
            "write \"100%\"",
        ),
        (Some(percent), Some(hold)) => {
            let share = match Share::new(percent) {
                Ok(share) => share,
                Err(why) => return refuse(why.to_string(), AN_EXAMPLE),
            };
            let hold = match hold.parse::<Millis>() {
                Ok(hold) => hold,
                Err(why) => return refuse(why.to_string(), AN_EXAMPLE),
            };
            if (HOLD.0..=HOLD.1).contains(&hold) {
                Some(Stage::Trial(Step { share, hold }))
            } else {
                refuse(
                    format!("{hold} is not between {} and {}", HOLD.0, HOLD.1),
                    AN_EXAMPLE,
                )
            }
        }
        (Some(percent), None) => refuse(
            format!("does not say how long {percent}% holds"),
            &format!("write \"{percent}%:5m\""),
        ),
        (None, _) => refuse(format!("{text:?} is not a step"), AN_EXAMPLE),
    }
}
