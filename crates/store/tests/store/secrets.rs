//! Secrets: sealed for one place, unreadable without the key file, not printed by accident.

use std::os::unix::fs::PermissionsExt;

use crate::{Place, at};
use serde::{Deserialize, Serialize};
use store::{MasterKey, Row, Sealed, Sealer, Secret, SecretError, Store, StoreError};

#[derive(Serialize, Deserialize)]
struct Kept {
    id: String,
    sealed: Sealed,
}

impl Row for Kept {
    const KIND: &'static str = "secret";
    fn id(&self) -> std::borrow::Cow<'_, str> {
        (&self.id).into()
    }
    fn parent(&self) -> std::borrow::Cow<'_, str> {
        ("").into()
    }
    fn name(&self) -> std::borrow::Cow<'_, str> {
        (&self.id).into()
    }
}

fn canary() -> Secret {
    Secret::from("canary-4711-value".to_owned())
}

#[test]
fn a_value_opens_only_where_it_was_sealed() {
    let sealer = Sealer::new(&MasterKey::from_bytes([1; 32]));
    let sealed = sealer.seal("acme", "DB_PASSWORD", 3, &canary()).unwrap();
    assert!(
        sealer
            .open("acme", "DB_PASSWORD", 3, &sealed)
            .unwrap()
            .is(canary().expose())
    );
    for (tenant, name, version) in [
        ("other", "DB_PASSWORD", 3),
        ("acme", "API_KEY", 3),
        ("acme", "DB_PASSWORD", 4),
        ("acmeDB_PASSWOR", "D", 3),
    ] {
        let refused = sealer.open(tenant, name, version, &sealed);
        assert!(
            matches!(refused, Err(SecretError::DoesNotOpen { .. })),
            "{tenant} {name} {version}"
        );
    }
    for position in 0..sealed.0.len() {
        let mut bent = sealed.clone();
        bent.0[position] ^= 1;
        assert!(
            sealer.open("acme", "DB_PASSWORD", 3, &bent).is_err(),
            "byte {position}"
        );
        assert!(
            sealer
                .open("acme", "DB_PASSWORD", 3, &Sealed(sealed.0[..position].to_vec()))
                .is_err()
        );
    }
    let stranger = Sealer::new(&MasterKey::from_bytes([2; 32]));
    assert!(matches!(
        stranger.open("acme", "DB_PASSWORD", 3, &sealed),
        Err(SecretError::UnknownKey { .. })
    ));
    assert_ne!(sealer.seal("acme", "DB_PASSWORD", 3, &canary()).unwrap(), sealed);
}

#[test]
fn a_secret_does_not_print() {
    let key = MasterKey::from_bytes([0xab; 32]);
    let sealed = Sealer::new(&key).seal("t", "n", 1, &canary()).unwrap();
    let printed = format!("{:?} {key:?} {:?} {sealed:?}", canary(), Sealer::new(&key));
    assert!(
        !printed.contains("canary") && !printed.contains("abab") && !printed.contains("171"),
        "{printed}"
    );
    assert!(canary().is(b"canary-4711-value") && !canary().is(b"canary-4711-valuE") && !canary().is(b""));
}

#[test]
fn a_stolen_store_shows_nothing() {
    let place = Place::new();
    let key_path = place.file("master.key");
    let key = MasterKey::load_or_create(&key_path, &place.db()).unwrap();
    let store = Store::open(&place.db(), &key, at(1)).unwrap();
    store
        .write(at(2), |tx| {
            let sealed = tx.seal("acme", "s", 1, &canary())?;
            tx.insert(&Kept {
                id: "s".into(),
                sealed,
            })
        })
        .map_err(|failure: StoreError| failure)
        .unwrap();
    let opened = store.read(|tx| {
        let kept = tx.need::<Kept>("s")?;
        Ok::<_, StoreError>(store.unseal("acme", "s", 1, &kept.row.sealed)?)
    });
    assert!(opened.unwrap().is(canary().expose()));
    let files = |place: &Place| -> Vec<u8> {
        ["stoa.db", "stoa.db-wal"]
            .iter()
            .filter_map(|name| std::fs::read(place.file(name)).ok())
            .flatten()
            .collect()
    };
    let mut stolen = files(&place);
    drop(store);
    stolen.extend(files(&place));
    assert!(!stolen.windows(11).any(|window| window == b"canary-4711"));
    // The control: a value stored without a seal is there to be read.
    assert!(stolen.windows(6).any(|window| window == b"sealed"));
    // Without the key nothing opens, and no new key is made up for an old store.
    std::fs::rename(&key_path, place.file("hidden")).unwrap();
    let missing = MasterKey::load_or_create(&key_path, &place.db()).unwrap_err();
    assert!(matches!(missing, SecretError::KeyMissing { .. }));
    assert!(!key_path.exists());
}

#[test]
fn the_key_file_is_private_whole_and_grows_by_a_rotation() {
    let place = Place::new();
    let path = place.file("master.key");
    let key = MasterKey::load_or_create(&path, &place.db()).unwrap();
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    let old = Sealer::new(&key).seal("t", "n", 1, &canary()).unwrap();
    let store = Store::open(&place.db(), &key, at(1)).unwrap();
    store.add_key(at(2)).unwrap();
    drop(store);
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    let reloaded = MasterKey::load(&path).unwrap();
    let sealer = Sealer::new(&reloaded);
    assert!(sealer.open("t", "n", 1, &old).unwrap().is(canary().expose()));
    let new = sealer.seal("t", "n", 1, &canary()).unwrap();
    assert!(sealer.is_stale(&old) && !sealer.is_stale(&new));
    // Rotation changes no row's seal: the store still opens.
    Store::open(&place.db(), &reloaded, at(1)).unwrap();

    for mode in [0o640, 0o604, 0o660] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let refused = MasterKey::load(&path).unwrap_err();
        assert!(matches!(refused, SecretError::KeyExposed { .. }), "{mode:o}");
        assert!(refused.next().contains("chmod 600"));
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let good = std::fs::read_to_string(&path).unwrap();
    let mut bent = good.clone().into_bytes();
    let digit = bent.len() - 5;
    bent[digit] = if bent[digit] == b'0' { b'1' } else { b'0' };
    std::fs::write(&path, bent).unwrap();
    assert!(matches!(
        MasterKey::load(&path),
        Err(SecretError::KeyUnreadable { line: 2, .. })
    ));
    std::fs::write(&path, "").unwrap();
    assert!(matches!(
        MasterKey::load(&path),
        Err(SecretError::KeyUnreadable { line: 0, .. })
    ));
    std::fs::rename(&path, place.file("real")).unwrap();
    std::os::unix::fs::symlink(place.file("real"), &path).unwrap();
    assert!(matches!(MasterKey::load(&path), Err(SecretError::KeyFile { .. })));
}
