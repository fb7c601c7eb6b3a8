//! Fills the store of a Stoa that does not run, for `cargo xtask bench api`:
//! `fill DATA_DIR APPS RELEASES_OF_THE_FIRST RELEASES_OF_EACH_OTHER`. Apps are `app-00000`, ...; nothing serves.

use std::collections::BTreeMap;
use std::path::Path;

use model::{App, AppId, Environment, ImageDigest, OperationId, Release, ReleaseId, ReleaseState, Timestamp};
use store::{MasterKey, Now, Store, WriteTx};

/// Rows of one transaction.
const AT_ONCE: u64 = 500;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [data, apps, first, others] = &words[..] else {
        return Err("fill DATA_DIR APPS RELEASES_OF_THE_FIRST RELEASES_OF_EACH_OTHER".into());
    };
    let (apps, first, others): (u64, u64, u64) = (apps.parse()?, first.parse()?, others.parse()?);
    let data = Path::new(data);
    let key = MasterKey::load(&data.join("keys/master"))?;
    let now = Now::at(Timestamp::now().as_ms());
    let store = Store::open(&data.join("store/stoa.db"), &key, now)?;
    let environments = store.read(store::ReadTx::list_all::<Environment>)?;
    let environment = environments
        .into_iter()
        .find(|found| found.row.name.as_str() == "production")
        .ok_or("there is no environment production")?;
    let made = (0..apps).map(|number| App {
        id: AppId::fresh(),
        environment: environment.row.id,
        name: format!("app-{number:05}").parse().expect("a name"),
        env: BTreeMap::new(),
        scale: BTreeMap::new(),
        serving: None,
        served_before: Vec::new(),
        rollout: None,
        deleting: false,
    });
    let made: Vec<App> = made.collect();
    let mut releases = made.iter().enumerate().flat_map(|(at, app)| {
        let count = if at == 0 { first } else { others };
        (1..=count).map(|number| release(app, number))
    });
    for part in made.chunks(usize::try_from(AT_ONCE)?) {
        store.write(now, |tx: &WriteTx| {
            part.iter().try_for_each(|app| tx.insert(app).map(drop))
        })?;
    }
    let mut count = 0;
    loop {
        let part: Vec<Release> = releases.by_ref().take(usize::try_from(AT_ONCE)?).collect();
        if part.is_empty() {
            break;
        }
        count += part.len();
        store.write(now, |tx: &WriteTx| {
            part.iter().try_for_each(|row| tx.insert(row).map(drop))
        })?;
    }
    println!("{apps} apps, {count} releases");
    Ok(())
}

fn release(app: &App, number: u64) -> Release {
    let digest = format!("sha256:{number:064x}");
    Release {
        id: ReleaseId::fresh(),
        app: app.id,
        number,
        created_at: Timestamp::now(),
        operation: OperationId::fresh(),
        note: "made for a measurement".to_owned(),
        image: digest.parse::<ImageDigest>().expect("a digest"),
        images: BTreeMap::new(),
        services: BTreeMap::new(),
        jobs: BTreeMap::new(),
        env: (0..8)
            .map(|n| {
                (
                    format!("VARIABLE_{n}").parse().expect("a key"),
                    "a value of it".to_owned(),
                )
            })
            .collect(),
        manifest_env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        strategy: model::Strategy::default(),
        state: ReleaseState::Proven,
    }
}
