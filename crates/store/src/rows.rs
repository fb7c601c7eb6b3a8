//! Where each noun has its place in the store: kind, id, parent, name; and the rows that are no nouns.
//!
//! Invariant: a kind's text never changes, and a name is unique within kind and parent.

use std::borrow::Cow;

use model::{
    App, AppId, BackupTarget, Database, DatabaseId, Drill, EnvKey, Environment, EnvironmentId, Identity,
    IdentityProvider, ImageDigest, Instance, Invitation, Membership, Operation, Org, Project, ProviderId,
    Purpose, Realm, Release, SecretId, Session, Timestamp, Token, UploadId, User,
};
use serde::{Deserialize, Serialize};

use crate::object::Row;

/// One version of a secret of an app. Without content it says that the secret was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretVersion {
    /// Id.
    pub id: SecretId,
    /// Whose.
    pub app: AppId,
    /// Its name.
    pub key: EnvKey,
    /// From 1.
    pub version: u64,
    /// The sealed value; tenant is the app's id, name the key.
    pub sealed: Vec<u8>,
    /// When it was set.
    pub created_at: Timestamp,
}

/// A source archive that waits for its build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// Id; also its file's name.
    pub id: UploadId,
    /// Where it may be used.
    pub environment: EnvironmentId,
    /// Size.
    pub bytes: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
    /// When it came.
    pub created_at: Timestamp,
}

/// The right to become the first owner. Only the hash of its text is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// SHA-256 of the text, hexadecimal.
    pub hash: String,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// Whose an image is that was got under a name: everybody's, an org's, or those of the project that deployed it. One image
/// may be several's; those of releases are not repeated here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageName {
    /// Where it counts.
    pub realm: Realm,
    /// As it was asked for.
    pub name: String,
    /// What that meant.
    pub digest: ImageDigest,
    /// When it was got.
    pub created_at: Timestamp,
}

/// Something that is done once in the life of a store, and was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What it is called.
    pub name: String,
    /// When it was done.
    pub at: Timestamp,
}

/// The name of a release: its number, so that names sort as releases were made.
#[must_use]
pub fn release_name(number: u64) -> String {
    format!("v{number:012}")
}

/// The name of one version of a secret.
#[must_use]
pub fn secret_name(key: &str, version: u64) -> String {
    format!("{key}@{version:012}")
}

macro_rules! rows {
    ($($row:ty, $kind:literal, |$it:ident| $id:expr, $parent:expr, $name:expr;)*) => {$(
        impl Row for $row {
            const KIND: &'static str = $kind;
            fn id(&self) -> Cow<'_, str> {
                let $it = self;
                $id.into()
            }
            fn parent(&self) -> Cow<'_, str> {
                let $it = self;
                $parent.into()
            }
            fn name(&self) -> Cow<'_, str> {
                let $it = self;
                $name.into()
            }
        }
    )*};
}

rows! {
    Org, "org", |it| it.id.to_string(), { let _ = it; "" }, it.name.as_str();
    Project, "project", |it| it.id.to_string(), it.org.to_string(), it.name.as_str();
    Environment, "environment", |it| it.id.to_string(), it.project.to_string(), it.name.as_str();
    App, "app", |it| it.id.to_string(), it.environment.to_string(), it.name.as_str();
    Release, "release", |it| it.id.to_string(), it.app.to_string(), release_name(it.number);
    Instance, "instance", |it| it.id.to_string(), instance_parent(&it.purpose), it.id.to_string();
    Operation, "operation", |it| it.id.to_string(), it.environment.map(|id| id.to_string()).unwrap_or_default(), it.id.to_string();
    Database, "database", |it| it.id.to_string(), it.environment.to_string(), it.name.as_str();
    Drill, "drill", |it| it.id.to_string(), it.database.to_string(), it.id.to_string();
    Token, "token", |it| it.id.to_string(), { let _ = it; "" }, it.hash.as_str();
    SecretVersion, "secret", |it| it.id.to_string(), it.app.to_string(), secret_name(it.key.as_str(), it.version);
    Upload, "upload", |it| it.id.to_string(), it.environment.to_string(), it.id.to_string();
    User, "user", |it| it.id.to_string(), { let _ = it; "" }, it.email.as_str();
    // By user: whether somebody is a member of what is not his is then found out at the cost of his own memberships.
    Membership, "membership", |it| it.id.to_string(), it.user.to_string(), it.realm.key();
    Invitation, "invitation", |it| it.id.to_string(), { let _ = it; "" }, it.hash.as_str();
    Session, "session", |it| it.id.to_string(), it.user.to_string(), it.id.to_string();
    ImageName, "image", |it| format!("{}/{}", it.realm.key(), it.name), it.realm.key(), it.name.as_str();
    Step, "step", |it| it.name.as_str(), { let _ = it; "" }, it.name.as_str();
    IdentityProvider, "identity_provider", |it| it.id.to_string(), { let _ = it; "" }, it.name.as_str();
    // By provider: the same subject is another one elsewhere.
    Identity, "identity", |it| it.id.to_string(), it.provider.to_string(), it.subject.as_str();
    BackupTarget, "backup_target", |it| { let _ = it; BACKUP_TARGET }, { let _ = it; "" }, { let _ = it; BACKUP_TARGET };
    Claim, "claim", |it| it.hash.as_str(), { let _ = it; "" }, it.hash.as_str();
}

/// A value sealed inside a row, and the place it is bound to.
pub(crate) struct Inside<'r> {
    pub(crate) tenant: String,
    pub(crate) name: &'r str,
    pub(crate) version: u64,
    pub(crate) sealed: &'r mut Vec<u8>,
}

/// A row that holds sealed values. Each kind of them is named in `rotate`.
pub(crate) trait Holder: Row {
    fn inside(&mut self) -> Vec<Inside<'_>>;
}

impl Holder for SecretVersion {
    fn inside(&mut self) -> Vec<Inside<'_>> {
        // Without content it says that the secret was removed.
        if self.sealed.is_empty() {
            return Vec::new();
        }
        vec![Inside {
            tenant: self.app.to_string(),
            name: self.key.as_str(),
            version: self.version,
            sealed: &mut self.sealed,
        }]
    }
}

/// Whose secrets a database's passwords are.
#[must_use]
pub fn database_tenant(id: DatabaseId) -> String {
    format!("db:{id}")
}

/// Under what the receivers of a database are listed.
#[must_use]
pub fn receivers_of(id: DatabaseId) -> String {
    format!("{id}/receiver")
}

/// Under what the poolers of a database are listed.
#[must_use]
pub fn poolers_of(id: DatabaseId) -> String {
    format!("{id}/pooler")
}

/// The name the password of its pooler is sealed under.
pub const POOLER_PASSWORD: &str = "pooler";

/// The name the password of its receiver is sealed under.
pub const RECEIVER_PASSWORD: &str = "receiver";

/// The name its passwords are sealed under.
pub const PASSWORD: &str = "password";

/// The name the password of the platform's own user of a Valkey is sealed under.
pub const ADMIN_PASSWORD: &str = "admin";

impl Holder for Database {
    fn inside(&mut self) -> Vec<Inside<'_>> {
        let tenant = database_tenant(self.id);
        let credentials = self.credentials.iter_mut().map(|credential| Inside {
            tenant: tenant.clone(),
            name: PASSWORD,
            version: credential.version,
            sealed: &mut credential.sealed,
        });
        let archive = self.archive.iter_mut().map(|archive| Inside {
            tenant: tenant.clone(),
            name: RECEIVER_PASSWORD,
            version: archive.version,
            sealed: &mut archive.sealed,
        });
        let pooler = self.pooler.iter_mut().map(|pooler| Inside {
            tenant: tenant.clone(),
            name: POOLER_PASSWORD,
            version: pooler.number,
            sealed: &mut pooler.sealed,
        });
        let admin = self.engine.valkey_mut().map(|valkey| Inside {
            tenant: tenant.clone(),
            name: ADMIN_PASSWORD,
            version: 1,
            sealed: &mut valkey.admin,
        });
        credentials.chain(archive).chain(pooler).chain(admin).collect()
    }
}

/// Whose secret that of an identity provider is.
#[must_use]
pub fn provider_tenant(id: ProviderId) -> String {
    format!("idp:{id}")
}

/// The name it is sealed under.
pub const CLIENT_SECRET: &str = "client-secret";

impl Holder for IdentityProvider {
    fn inside(&mut self) -> Vec<Inside<'_>> {
        let (tenant, version) = (provider_tenant(self.id), self.version);
        let secret = self.secret.as_mut();
        secret
            .map(|sealed| Inside {
                tenant,
                name: CLIENT_SECRET,
                version,
                sealed,
            })
            .into_iter()
            .collect()
    }
}

/// The id of the only target there is; also whose its secrets are.
pub const BACKUP_TARGET: &str = "backup-target";
/// The name the key of the backup is sealed under.
pub const BACKUP_KEY: &str = "key";
/// The name the secret key of a bucket is sealed under.
pub const BUCKET_SECRET: &str = "secret";

impl Holder for BackupTarget {
    fn inside(&mut self) -> Vec<Inside<'_>> {
        let version = self.version;
        let place = |name, sealed| Inside {
            tenant: BACKUP_TARGET.to_owned(),
            name,
            version,
            sealed,
        };
        let mut all = vec![place(BACKUP_KEY, &mut self.key)];
        // A directory has none.
        if !self.secret.is_empty() {
            all.push(place(BUCKET_SECRET, &mut self.secret));
        }
        all
    }
}

fn instance_parent(purpose: &Purpose) -> String {
    match purpose {
        Purpose::Service { app, .. } | Purpose::Job { app, .. } => app.to_string(),
        Purpose::Database { database } => database.to_string(),
        // Beside it: who lists the instances of a database means its servers.
        Purpose::Receiver { database, .. } => receivers_of(*database),
        Purpose::Pooler { database, .. } => poolers_of(*database),
    }
}
