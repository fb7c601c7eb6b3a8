//! Apps, their configuration, secrets, instances and logs.

use std::collections::BTreeMap;

use model::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

use crate::page::pages;

/// What one `stoa.toml` describes, in one environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct App {
    /// Id, begins with `app_`.
    pub id: String,
    /// Name, unique in its environment.
    pub name: String,
    /// The release that serves, for example `v3`; absent before the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<String>,
    /// The operation that moves it to another release now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<String>,
    /// Addresses at which its routes answer.
    pub urls: Vec<String>,
    /// Its process types, as the serving release has them.
    pub services: Vec<ServiceStatus>,
    /// Whether it is on its way out.
    pub deleting: bool,
    /// What is wrong with its record, when something is: it is shown as far as it can be told and cannot be changed
    /// until `stoa doctor --repair`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
    /// Counts every change of its desired state; the value of the `ETag` header.
    pub generation: u64,
}

/// How one process type of an app stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// How many instances are wanted.
    pub wanted: u16,
    /// How many are fit for traffic.
    pub ready: u16,
    /// The port it listens on; absent when it serves nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// Make an app. It serves nothing until its first release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateApp {
    /// Its name.
    #[schema(pattern = "^[a-z]([a-z0-9-]{0,37}[a-z0-9])?$", max_length = 39)]
    pub name: String,
}

/// Plain configuration set by hand; it wins over the manifest's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppEnv {
    /// Variables and their values.
    pub env: BTreeMap<String, String>,
    /// The operation that brings them to the running instances; absent when nothing runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
}

/// Change plain configuration. What is not named stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchEnv {
    /// Variables to set.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// Variables to remove.
    #[serde(default)]
    #[schema(max_items = 500)]
    pub unset: Vec<String>,
}

/// A secret of an app. Its value is never shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Secret {
    /// The variable it is delivered as.
    pub key: String,
    /// Counts its values, from 1. A release freezes the version of its time.
    pub version: u64,
    /// When it got this value.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// A changed or removed secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretChange {
    /// The variable.
    pub key: String,
    /// The operation that brings the change to the running instances; absent when nothing runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
}

/// A new value for a secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutSecret {
    /// The value, not empty. It is sealed before it is stored.
    #[schema(max_length = 65_536)]
    pub value: String,
}

/// Change secrets. What is not named stays.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PatchSecrets {
    /// Variables and their values. They are sealed before they are stored.
    #[serde(default)]
    #[schema(schema_with = values)]
    pub set: BTreeMap<String, String>,
    /// Variables to remove.
    #[serde(default)]
    #[schema(max_items = 500)]
    pub unset: Vec<String>,
}

fn values() -> Object {
    let value = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(65_536));
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .description(Some(
            "Variables and their values. They are sealed before they are stored.",
        ))
        .additional_properties(Some(value))
        .build()
}

/// Changed and removed secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretsChange {
    /// The variables.
    pub keys: Vec<String>,
    /// The one operation that brings all changes to the running instances; absent when nothing runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
}

/// How many instances each service shall have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutScale {
    /// Service and count. What is not named stays.
    #[schema(schema_with = counts)]
    pub services: BTreeMap<String, u16>,
}

fn counts() -> Object {
    let count = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(0))
        .maximum(Some(u16::MAX));
    ObjectBuilder::new()
        .schema_type(Type::Object)
        .description(Some("Service and count. What is not named stays."))
        .additional_properties(Some(count))
        .min_properties(Some(1))
        .build()
}

/// Run one command in an instance of its own, with the app's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// The program and its arguments. No shell reads them.
    #[schema(min_items = 1, max_items = 1000)]
    pub command: Vec<String>,
}

/// Run a program inside an instance; the connection becomes a stream of frames (see the operation's text).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The program and its arguments. No shell reads them. Empty means the interactive default of the target
    /// (`/bin/sh` of an instance, `psql` of a database).
    #[serde(default)]
    #[schema(max_items = 1000)]
    pub command: Vec<String>,
    /// Give it a terminal of this size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSize>,
}

/// Size of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TerminalSize {
    /// Lines.
    #[schema(minimum = 1, maximum = 65_535)]
    pub rows: u16,
    /// Characters in a line.
    #[schema(minimum = 1, maximum = 65_535)]
    pub columns: u16,
}

/// One running (or ended) isolated copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Instance {
    /// Id, begins with `ins_`.
    pub id: String,
    /// What it runs for: `service`, `job` or `database`.
    pub purpose: String,
    /// Name of the service, job or database.
    pub name: String,
    /// Which copy of its service, from 0.
    pub index: u16,
    /// Its release, for example `v3`; absent for databases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Where it stands: `starting`, `ready`, `unready`, `draining`, `stopping` or `exited`.
    pub condition: String,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// Why, when the check fails or it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How many lives its place had before without staying well.
    pub attempt: u32,
    /// Its address on the environment's network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// What the edge has counted of an app since it started, by service and release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppMetrics {
    /// One entry for each service and release that had requests.
    pub requests: Vec<RequestCounts>,
    /// What its running instances use now.
    pub instances: Vec<InstanceUsage>,
}

/// Requests of one service and release. All count from the start of the edge, and never go down until it starts again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RequestCounts {
    /// The service.
    pub service: String,
    /// The release, for example `v3`.
    pub release: String,
    /// Requests answered with a status of 100 to 199.
    pub informational: u64,
    /// With 200 to 299.
    pub succeeded: u64,
    /// With 300 to 399.
    pub redirected: u64,
    /// With 400 to 499.
    pub client_errors: u64,
    /// With 500 to 599.
    pub server_errors: u64,
    /// Of these, those that the edge answered itself: no instance was ready, or it took too long.
    pub answered_by_edge: u64,
    /// Answers that broke off.
    pub cut: u64,
    /// Requests sent to an instance a second time.
    pub retries: u64,
}

/// What a running instance uses now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InstanceUsage {
    /// Id of the instance.
    pub instance: String,
    /// Memory.
    pub memory_bytes: u64,
    /// Processor time since it started.
    pub cpu_us: u64,
    /// Processes and threads.
    pub processes: u64,
}

/// One line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// When it was read from the workload.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// `stdout`, `stderr`, or `stoa` for what the platform says about the stream (a gap, a restart).
    pub stream: String,
    /// Name of the service, job or database; the step for a build.
    pub source: String,
    /// The instance; absent for what no instance said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The release, for example `v3`; of a database, which program said it: `postgres-15`, `pgbouncer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// The line without its end.
    pub text: String,
}

pages! {
    AppPage of App, "apps";
    SecretPage of Secret, "secrets, without values";
    InstancePage of Instance, "instances";
    LogPage of LogLine, "log lines, oldest first";
}
