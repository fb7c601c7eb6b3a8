//! Every key of `stoa.toml`: the one list behind the parser's "is not a known key" and the JSON Schema.
//!
//! Lives here: which keys a table has, what each means, and the form of its value as far as a schema can say it.
//! Does not live here: what a value means (`service`, `part`, `rollout`), contradictions between keys (`check`).
//! Invariant: the parser refuses a key by this list alone, and a form here never refuses what the parser takes.

/// A table of the file.
pub(super) struct Table {
    /// What it is called in the schema.
    pub(super) name: &'static str,
    /// Its keys.
    pub(super) keys: &'static [Key],
    /// Keys of a later version, which get an answer of their own.
    pub(super) later: &'static [&'static str],
}

/// A key.
pub(super) struct Key {
    pub(super) name: &'static str,
    /// One line for editors.
    pub(super) about: &'static str,
    pub(super) form: Form,
    /// Whether its table is refused without it.
    pub(super) need: Need,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Required,
    Optional,
}

/// The form of a value.
pub(super) enum Form {
    /// A text that this regular expression finds.
    Text(&'static str),
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// Yes or no.
    Flag,
    /// A whole number.
    Whole(u32, u32),
    /// A number.
    Number(f64, f64),
    /// A list.
    List(&'static Form),
    /// A list without doubles.
    Set(&'static Form),
    /// A table with these keys.
    Table(&'static Table),
    /// A table whose keys match the regular expression.
    Entries(&'static str, &'static Form),
    /// Any of these.
    Either(&'static [Form]),
}

impl Table {
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().map(|key| key.name)
    }
}

const fn may(name: &'static str, about: &'static str, form: Form) -> Key {
    Key {
        name,
        about,
        form,
        need: Need::Optional,
    }
}

const fn must(name: &'static str, about: &'static str, form: Form) -> Key {
    Key {
        name,
        about,
        form,
        need: Need::Required,
    }
}

const NAME: &str = "^[a-z]([a-z0-9-]{0,37}[a-z0-9])?$";
const VARIABLE: &str = "^[A-Za-z_][A-Za-z0-9_]{0,127}$";
const SIZE: Form = Form::Text("^[0-9]+(Ki|Mi|Gi|Ti)?$");
const TIME: Form = Form::Text("^[0-9]+(ms|s|m|h|d)$");
const IMAGE: Form = Form::Text("^[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}$");
const ANY_TEXT: Form = Form::Text("");
const WORDS: Form = Form::List(&ANY_TEXT);
const COMMAND: Form = Form::Either(&[Form::Text("[^ \\t\\r\\n]"), WORDS]);
const COMMANDS: Form = Form::Either(&[Form::Text("[^ \\t\\r\\n]"), WORDS, Form::List(&COMMAND)]);
const USES: Form = Form::Set(&Form::Text(NAME));
static A_SERVICE: Form = Form::Table(&SERVICE);
static A_JOB: Form = Form::Table(&JOB);
static A_DATABASE: Form = Form::Table(&DATABASE);
static A_ROUTE: Form = Form::Table(&ROUTE);
static AN_OVERLAY: Form = Form::Table(&OVERLAY);
const SECRETS: Form = Form::Set(&Form::Text(VARIABLE));

const SERVICES_KEY: Key = may(
    "services",
    "What runs, by name; none at all: what the source says (Procfile, package.json, ...).",
    Form::Entries(NAME, &A_SERVICE),
);
const BUILD_KEY: Key = may(
    "build",
    "How the image is made; what is left out is detected.",
    Form::Table(&BUILD),
);
const ENV_KEY: Key = may(
    "env",
    "Plain configuration for every service and job. Values of secrets never live here.",
    Form::Entries(VARIABLE, &ANY_TEXT),
);
const JOBS_KEY: Key = may(
    "jobs",
    "Commands that run to an end, by name.",
    Form::Entries(NAME, &A_JOB),
);
const DATABASES_KEY: Key = may(
    "databases",
    "Databases that exist before the app is released. Removing one here never deletes its data.",
    Form::Entries(NAME, &A_DATABASE),
);
const ROLLOUT_KEY: Key = may(
    "rollout",
    "How the app moves to a release of this file.",
    Form::Table(&ROLLOUT),
);

pub(super) static ROOT: Table = Table {
    name: "manifest",
    keys: &[
        must("schema", "The version of this form.", Form::Whole(1, 1)),
        must(
            "app",
            "The app's name: it answers at APP.DOMAIN.",
            Form::Text(NAME),
        ),
        BUILD_KEY,
        ENV_KEY,
        SERVICES_KEY,
        JOBS_KEY,
        DATABASES_KEY,
        ROLLOUT_KEY,
        may(
            "environments",
            "What differs in one environment: merged into the file, key by key, when it is deployed there.",
            Form::Entries(NAME, &AN_OVERLAY),
        ),
    ],
    later: &["volumes", "domains", "networks", "alerts"],
};

/// `[environments.NAME]`: the same tables; what is required may stand in the file itself.
pub(super) static OVERLAY: Table = Table {
    name: "environment",
    keys: &[
        BUILD_KEY,
        ENV_KEY,
        SERVICES_KEY,
        JOBS_KEY,
        DATABASES_KEY,
        ROLLOUT_KEY,
    ],
    later: &["volumes", "domains", "networks", "alerts", "ttl"],
};

pub(super) static BUILD: Table = Table {
    name: "build",
    keys: &[
        may(
            "base",
            "The image below: \"host\", \"debian:12\", or a registry reference.",
            IMAGE,
        ),
        may(
            "packages",
            "Debian packages added to a Debian base.",
            Form::List(&Form::Text("^[A-Za-z0-9][a-z0-9+.-]+$")),
        ),
        may(
            "command",
            "Runs in the source directory; several as a list of lists.",
            COMMANDS,
        ),
        may(
            "start",
            "The command of services that have none of their own.",
            COMMAND,
        ),
        may(
            "output",
            "Serve this directory of the source as a static site.",
            Form::Text("^[^/]"),
        ),
    ],
    later: &["dockerfile", "args", "target", "secrets", "cache"],
};

pub(super) static SERVICE: Table = Table {
    name: "service",
    keys: &[
        may(
            "command",
            "A line (no shell; $NAME is replaced) or a list of words.",
            COMMAND,
        ),
        may("image", "Runs this image instead of the built one.", IMAGE),
        may(
            "port",
            "Where it listens, given to it as PORT; web has 8080.",
            Form::Whole(1, 65_535),
        ),
        may(
            "scale",
            "Instances; { min = 2, max = 2 } says the same as 2.",
            Form::Either(&[Form::Whole(1, 100), Form::Table(&SCALE)]),
        ),
        may("resources", "Limits.", Form::Table(&RESOURCES)),
        may(
            "health",
            "When an instance counts as ready.",
            Form::Table(&HEALTH),
        ),
        may("routes", "Where it answers.", Form::List(&A_ROUTE)),
        may(
            "expose",
            "\"private\": reachable inside its environment only.",
            Form::OneOf(&["public", "private"]),
        ),
        may("uses", "Databases and services whose addresses it gets.", USES),
        may("secrets", "Names of the secrets it gets as variables.", SECRETS),
        may("stop_grace", "Between the polite and the hard stop.", TIME),
    ],
    later: &["volumes", "env", "schedule", "rollout", "tier", "ports", "sticky"],
};

pub(super) static SCALE: Table = Table {
    name: "scale",
    keys: &[
        must("min", "The least.", Form::Whole(0, 100)),
        must("max", "The most.", Form::Whole(1, 100)),
    ],
    later: &["target", "idle"],
};

pub(super) static RESOURCES: Table = Table {
    name: "resources",
    keys: &[
        may("cpu", "Processors.", Form::Number(0.01, 1024.0)),
        may("memory", "For example \"512Mi\".", SIZE),
        may("pids", "Processes and threads.", Form::Whole(8, 32_768)),
        may(
            "disk",
            "What it may write outside of volumes, for example \"4Gi\".",
            SIZE,
        ),
    ],
    later: &["gpu", "swap", "io"],
};

pub(super) static HEALTH: Table = Table {
    name: "health",
    keys: &[
        may(
            "path",
            "Asked for over HTTP; without it an accepted connection is enough.",
            Form::Text("^/"),
        ),
        may("grace", "How long a start may take.", TIME),
        may("interval", "Between two checks.", TIME),
        may("timeout", "For one answer.", TIME),
        may(
            "failures",
            "So many in a row make it unready.",
            Form::Whole(1, 100),
        ),
    ],
    later: &["command", "method", "status", "start_period"],
};

pub(super) static ROUTE: Table = Table {
    name: "route",
    keys: &[
        may(
            "host",
            "A host name; without it APP.DOMAIN.",
            Form::Text("^[a-z0-9.-]+$"),
        ),
        may(
            "path",
            "A prefix on segment borders; \"/\" when absent.",
            Form::Text("^/"),
        ),
    ],
    later: &["strip", "redirect", "port", "tls"],
};

pub(super) static JOB: Table = Table {
    name: "job",
    keys: &[
        must("command", "What it runs.", COMMAND),
        must(
            "on",
            "\"release\": before a release gets traffic; its failure keeps the old release.",
            Form::OneOf(&["release"]),
        ),
        may("resources", "Limits.", Form::Table(&RESOURCES)),
        may("uses", "Databases and services whose addresses it gets.", USES),
        may("secrets", "Names of the secrets it gets as variables.", SECRETS),
        may("timeout", "It fails when it takes longer.", TIME),
    ],
    later: &["schedule", "overlap", "image", "retries", "env", "volumes"],
};

pub(super) static DATABASE: Table = Table {
    name: "database",
    keys: &[
        must("engine", "What it is.", Form::OneOf(&["postgres", "valkey"])),
        may(
            "plan",
            "Of a valkey only: \"cache\" keeps nothing on disk, \"durable\" logs everything; durable when absent.",
            Form::OneOf(&["cache", "durable"]),
        ),
        may(
            "version",
            "Major version; without it, what is there.",
            Form::Text("^[0-9]{1,2}$"),
        ),
        may("size", "Budget of its volume.", SIZE),
        may("memory", "Memory limit.", SIZE),
        may(
            "backup_level",
            "Of a postgres only: what may be missing after a restore: \"stream\" a fraction of a second, \"sync\" nothing.",
            Form::OneOf(&["stream", "sync"]),
        ),
        may(
            "pooled",
            "Whether its address leads to a pooler, which shares few sessions among many clients.",
            Form::Flag,
        ),
    ],
    later: &["backup", "branch_from", "ttl", "extensions", "replicas"],
};

pub(super) static ROLLOUT: Table = Table {
    name: "rollout",
    keys: &[
        may(
            "strategy",
            "How the instances are replaced; rolling when absent.",
            Form::OneOf(&["rolling", "blue-green", "canary", "recreate"]),
        ),
        may(
            "surge",
            "Of rolling only: more, and fewer, instances than wanted.",
            Form::Table(&SURGE),
        ),
        may(
            "steps",
            "Of canary only: shares of the requests and how long each holds.",
            Form::List(&Form::Text("^[0-9]+%(:[0-9]+(ms|s|m|h|d))?$")),
        ),
    ],
    later: &["rollback", "keep", "deadline", "pause"],
};

pub(super) static SURGE: Table = Table {
    name: "surge",
    keys: &[
        may("over", "More than wanted.", Form::Whole(0, 100)),
        may("under", "Fewer than wanted.", Form::Whole(0, 100)),
    ],
    later: &[],
};
