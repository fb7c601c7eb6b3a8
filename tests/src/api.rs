//! The API as a program calls it: JSON over one connection each time, with a token.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::http::Connection;
use crate::until;

/// Path of the environment every installation begins with.
pub const ENVIRONMENT: &str = "/v1/orgs/default/projects/default/environments/production";
/// A build from nothing on a loaded machine may take its time.
const SETTLES_WITHIN: Duration = Duration::from_secs(20 * 60);

/// The API with a credential.
#[derive(Debug, Clone)]
pub struct Api {
    address: SocketAddr,
    token: String,
}

/// Status and body.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// The body; null when it is empty.
    pub body: Value,
}

impl Api {
    /// Trades a claim token for an access token.
    ///
    /// # Errors
    /// When it is refused.
    pub fn claim(address: SocketAddr, claim: &str) -> Result<Self> {
        let nobody = Self {
            address,
            token: String::new(),
        };
        let reply = nobody.call("POST", "/v1/claim", Some(&json!({ "token": claim })))?;
        ensure!(
            reply.status == 201,
            "the claim was answered {}: {}",
            reply.status,
            reply.body
        );
        let token = reply.body["token"]
            .as_str()
            .context("no token in the answer")?
            .to_owned();
        Ok(Self { address, token })
    }

    /// The same with another address, after a restart.
    #[must_use]
    pub fn at(&self, address: SocketAddr) -> Self {
        Self {
            address,
            token: self.token.clone(),
        }
    }

    /// The same with another token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            address: self.address,
            token: token.to_owned(),
        }
    }

    /// The access token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// One call.
    ///
    /// # Errors
    /// When the connection breaks; a status is an answer.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Reply> {
        let text = body.map(Value::to_string);
        let body = text.as_ref().map(|text| ("application/json", text.as_bytes()));
        self.send(method, path, body)
    }

    /// Sends a tar archive to the usual environment.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub fn upload(&self, archive: &[u8]) -> Result<Reply> {
        let path = format!("{ENVIRONMENT}/uploads");
        self.send("POST", &path, Some(("application/x-tar", archive)))
    }

    fn send(&self, method: &str, path: &str, body: Option<(&str, &[u8])>) -> Result<Reply> {
        let credential = format!("Bearer {}", self.token);
        let mut headers = vec![("Connection", "close"), ("Accept", "application/json")];
        if !self.token.is_empty() {
            headers.push(("Authorization", credential.as_str()));
        }
        if let Some((kind, _)) = body {
            headers.push(("Content-Type", kind));
        }
        let host = self.address.to_string();
        let content = body.map_or(&[][..], |(_, content)| content);
        let response = Connection::open(self.address)?.request(method, &host, path, &headers, content)?;
        let body = if response.body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&response.body)?
        };
        Ok(Reply {
            status: response.status,
            body,
        })
    }

    /// `GET` that must succeed.
    ///
    /// # Errors
    /// When it does not.
    pub fn get(&self, path: &str) -> Result<Value> {
        let reply = self.call("GET", path, None)?;
        ensure!(
            reply.status == 200,
            "GET {path} answered {}: {}",
            reply.status,
            reply.body
        );
        Ok(reply.body)
    }

    /// `POST` that makes something at once; it.
    ///
    /// # Errors
    /// When it is not made.
    pub fn created(&self, path: &str, body: &Value) -> Result<Value> {
        let reply = self.call("POST", path, Some(body))?;
        ensure!(
            reply.status == 201,
            "POST {path} answered {}: {}",
            reply.status,
            reply.body
        );
        Ok(reply.body)
    }

    /// A call that begins an operation; its id.
    ///
    /// # Errors
    /// When it is not accepted.
    pub fn begin(&self, method: &str, path: &str, body: Option<&Value>) -> Result<String> {
        let reply = self.call(method, path, body)?;
        ensure!(
            reply.status == 202,
            "{method} {path} answered {}: {}",
            reply.status,
            reply.body
        );
        Ok(reply.body["id"]
            .as_str()
            .context("an operation without an id")?
            .to_owned())
    }

    /// Waits until an operation has settled; it as it is then.
    ///
    /// # Errors
    /// When it does not settle.
    pub fn settled(&self, operation: &str) -> Result<Value> {
        until("an operation to settle", SETTLES_WITHIN, || {
            let now = self.get(&format!("/v1/operations/{operation}?wait=30s"))?;
            let settled = matches!(now["state"].as_str(), Some("succeeded" | "failed" | "canceled"));
            Ok(settled.then_some(now))
        })
    }

    /// Begins an operation and waits for its success.
    ///
    /// # Errors
    /// When it does not succeed.
    pub fn done(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let settled = self.settled(&self.begin(method, path, body)?)?;
        if settled["state"] != "succeeded" {
            bail!("{method} {path} ended as {settled:#}");
        }
        Ok(settled)
    }
}
