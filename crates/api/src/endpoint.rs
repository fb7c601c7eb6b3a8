//! What one endpoint is: method, path, right needed, body, answers.
//!
//! Lives here: the form of an entry. Does not live here: the entries (`endpoints`).

use model::Action;
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

/// A method of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// Read.
    Get,
    /// Create or start.
    Post,
    /// Replace.
    Put,
    /// Change in part.
    Patch,
    /// Remove.
    Delete,
}

impl Method {
    /// As on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// Which credential an endpoint wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// None: it tells nothing that is not public.
    Nothing,
    /// Any valid one.
    Credential,
    /// One that is allowed to do this to what the path names; somewhere, when it names no org.
    Right(Action),
    /// One that is allowed to do this in the whole installation.
    Installation(Action),
}

/// A type of the wire, as the document names it.
#[derive(Clone, Copy)]
pub struct Shape {
    pub(crate) name: fn() -> String,
    pub(crate) schema: fn() -> RefOr<Schema>,
    pub(crate) collect: fn(&mut Vec<(String, RefOr<Schema>)>),
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&(self.name)())
    }
}

pub(crate) const fn shape_of<T: ToSchema>() -> Shape {
    Shape {
        name: || T::name().into_owned(),
        schema: T::schema,
        collect: T::schemas,
    }
}

/// What a request carries.
#[derive(Debug, Clone, Copy)]
pub enum Body {
    /// Nothing.
    None,
    /// JSON of that type.
    Json(Shape),
    /// The fields of an HTML form, each a text, as that type.
    Form(Shape),
    /// JSON of that type, or nothing at all.
    OptionalJson(Shape),
    /// A tar archive, plain or compressed with gzip or zstd.
    Archive,
}

/// One way in which an endpoint succeeds.
#[derive(Debug, Clone, Copy)]
pub enum Answer {
    /// JSON of that type.
    Json(u16, Shape),
    /// JSON of that type, with the thing's generation as `ETag`.
    Tagged(u16, Shape),
    /// 202: an operation, with its address as `Location`.
    Accepted,
    /// An event stream of frames whose data is of that type, when `Accept` asks for `text/event-stream`.
    Events(Shape),
    /// Lines of text.
    Text,
    /// A page for people, or a part of one, of that media type.
    Page(&'static str),
    /// A page for people with forms of ours; so is what it refuses.
    Forms,
    /// JSON of any form.
    AnyJson,
    /// 204.
    Empty,
    /// 303: a browser goes on elsewhere.
    Redirect,
    /// 101: the connection becomes a stream of `exec` frames.
    Upgrade,
}

/// A parameter of the query.
#[derive(Debug, Clone, Copy)]
pub struct Query {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
    /// Its form.
    pub kind: QueryKind,
}

/// The form of a query parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryKind {
    /// Any text.
    Text,
    /// A whole number between two bounds.
    Integer(u64, u64),
    /// `true` or `false`.
    Boolean,
    /// A span of time such as `30s`.
    Duration,
    /// Text of this form (a regular expression, for the document; the handler reads it itself).
    Form(&'static str),
}

/// One endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Endpoint {
    /// `noun_verb`, unique.
    pub id: &'static str,
    /// Its method.
    pub method: Method,
    /// Its path, parameters in braces.
    pub path: &'static str,
    /// The noun it belongs to.
    pub tag: &'static str,
    /// Which credential it wants.
    pub need: Need,
    /// What it does, in a line.
    pub summary: &'static str,
    /// What else there is to know.
    pub description: &'static str,
    /// Parameters of the query.
    pub query: &'static [Query],
    /// What the request carries.
    pub body: Body,
    /// How it succeeds.
    pub answers: &'static [Answer],
    /// Whether it heeds `If-Match`.
    pub is_conditional: bool,
    /// Whether that `If-Match` is a digest, and not a generation.
    pub is_by_digest: bool,
    /// Whether it has an answer of its own to `dry_run`, which says more than what rows would change.
    pub foretells: bool,
}

/// What whatever changes something takes.
const DRY_RUN: Query = Query {
    name: "dry_run",
    about: "Only check the request, for values and rights, and say what it would do: nothing is changed, and an \
            `Idempotency-Key` is left unused.",
    kind: QueryKind::Boolean,
};

impl Endpoint {
    pub(crate) const fn new(
        id: &'static str,
        method: Method,
        path: &'static str,
        tag: &'static str,
        need: Need,
    ) -> Self {
        Self {
            id,
            method,
            path,
            tag,
            need,
            summary: "",
            description: "",
            query: &[],
            body: Body::None,
            answers: &[],
            is_conditional: false,
            is_by_digest: false,
            foretells: false,
        }
    }
    pub(crate) const fn about(mut self, summary: &'static str, description: &'static str) -> Self {
        self.summary = summary;
        self.description = description;
        self
    }
    pub(crate) const fn query(mut self, query: &'static [Query]) -> Self {
        self.query = query;
        self
    }
    pub(crate) const fn takes<T: ToSchema>(mut self) -> Self {
        self.body = Body::Json(shape_of::<T>());
        self
    }
    pub(crate) const fn may_take<T: ToSchema>(mut self) -> Self {
        self.body = Body::OptionalJson(shape_of::<T>());
        self
    }
    pub(crate) const fn takes_form<T: ToSchema>(mut self) -> Self {
        self.body = Body::Form(shape_of::<T>());
        self
    }
    pub(crate) const fn takes_archive(mut self) -> Self {
        self.body = Body::Archive;
        self
    }
    pub(crate) const fn gives(mut self, answers: &'static [Answer]) -> Self {
        self.answers = answers;
        self
    }

    pub(crate) const fn conditional(mut self) -> Self {
        self.is_conditional = true;
        self
    }

    pub(crate) const fn conditional_by_digest(mut self) -> Self {
        self.is_by_digest = true;
        self.conditional()
    }

    pub(crate) const fn foretelling(mut self) -> Self {
        self.foretells = true;
        self
    }

    /// Whether it may change something.
    #[must_use]
    pub fn is_mutation(&self) -> bool {
        self.method != Method::Get
    }

    /// Parameters of the query: its own, and what all of its kind take.
    pub fn queries(&self) -> impl Iterator<Item = &Query> {
        let derived = self.is_mutation().then_some(&DRY_RUN);
        self.query.iter().chain(derived)
    }

    /// The address with its parameters filled in, in the order of the path, each escaped.
    ///
    /// # Panics
    /// When the number of values is not that of the parameters: a mistake of the caller that its first test shows.
    #[must_use]
    pub fn at(&self, values: &[&str]) -> String {
        let mut address = String::with_capacity(self.path.len() + 64);
        let mut values = values.iter();
        for segment in self.path.split('/').skip(1) {
            address.push('/');
            if segment.starts_with('{') {
                let value = values.next().expect("one value for each parameter of the path");
                escape_into(&mut address, value);
            } else {
                address.push_str(segment);
            }
        }
        assert!(
            values.next().is_none(),
            "more values than parameters in {}",
            self.path
        );
        address
    }

    /// Names of the parameters in the path, in order.
    pub fn parameters(&self) -> impl Iterator<Item = &'static str> {
        self.path
            .split('/')
            .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
    }
}

pub(crate) const fn json<T: ToSchema>(status: u16) -> Answer {
    Answer::Json(status, shape_of::<T>())
}
pub(crate) const fn tagged<T: ToSchema>(status: u16) -> Answer {
    Answer::Tagged(status, shape_of::<T>())
}
pub(crate) const fn events<T: ToSchema>() -> Answer {
    Answer::Events(shape_of::<T>())
}
pub(crate) const fn text(name: &'static str, about: &'static str) -> Query {
    Query {
        name,
        about,
        kind: QueryKind::Text,
    }
}
pub(crate) const fn query(name: &'static str, kind: QueryKind, about: &'static str) -> Query {
    Query { name, about, kind }
}

/// Percent-encodes everything but RFC 3986's unreserved characters.
pub fn escape_into(address: &mut String, value: &str) {
    use std::fmt::Write as _;
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            address.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(address, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::endpoints;

    #[test]
    fn addresses_are_escaped() {
        assert_eq!(
            endpoints::IMAGE_VIEW.at(&["debian:12/x"]),
            "/v1/images/debian%3A12%2Fx"
        );
        assert_eq!(
            endpoints::APP_VIEW.at(&["default", "default", "production", "shop"]),
            "/v1/orgs/default/projects/default/environments/production/apps/shop"
        );
    }
}
