//! Every key of the Compose Specification, and what becomes of it: the list behind the importer and `docs/compose.md`.

use crate::keys::{Row, ignored, taken, unsupported};

pub(super) const FORM: &str = "compose";

const NETWORKS: &str = "every environment has one private network; a service reaches what it uses";
const HOST: &str = "nothing of the host is handed to an instance";
const ISOLATION: &str =
    "isolation is the same for everybody: a user range of its own, few capabilities, a system call filter";
const CGROUP: &str = "limits are cpu, memory and pids";
const LOGS: &str = "logs of all instances are kept: stoa logs";
const OTHER_FILE: &str = "the other file is not read: give the merged one, docker compose config prints it";
const TERMINAL: &str = "for a terminal in an instance: stoa exec";

/// The whole file.
pub(super) const TOP: &[Row] = &[
    taken("name", "shop", "the app's name"),
    ignored("version", "'3.8'", "compose itself no longer reads it"),
    taken(
        "services",
        "{}",
        "services, and databases made of postgres images",
    ),
    ignored("networks", "{back: {}}", NETWORKS),
    ignored(
        "volumes",
        "{data: {}}",
        "each service that uses one says so below it",
    ),
    ignored(
        "secrets",
        "{key: {file: ./key}}",
        "each service that uses one says so below it",
    ),
    unsupported(
        "configs",
        "{a: {file: ./a}}",
        "files are not handed in: put them into the image",
    ),
    unsupported("include", "[other.yaml]", OTHER_FILE),
    unsupported("models", "{llm: {model: ai/x}}", "there are no models here"),
];

/// `services.NAME`.
pub(super) const SERVICE: &[Row] = &[
    ignored("annotations", "{a: b}", "nobody reads them here"),
    ignored("attach", "false", LOGS),
    unsupported("blkio_config", "{weight: 300}", CGROUP),
    taken(
        "build",
        ".",
        "the source is built by detection or [build]; a Dockerfile is not read yet",
    ),
    unsupported("cap_add", "[NET_ADMIN]", ISOLATION),
    ignored("cap_drop", "[ALL]", ISOLATION),
    unsupported("cgroup", "host", HOST),
    unsupported("cgroup_parent", "x", HOST),
    taken(
        "command",
        "[serve, --fast]",
        "services.NAME.command, after the entrypoint",
    ),
    unsupported(
        "configs",
        "[a]",
        "files are not handed in: put them into the image",
    ),
    ignored(
        "container_name",
        "x",
        "instances have ids; a service is reached by its name",
    ),
    unsupported("cpu_count", "2", CGROUP),
    unsupported("cpu_percent", "50", CGROUP),
    unsupported("cpu_period", "100000", CGROUP),
    unsupported("cpu_quota", "50000", CGROUP),
    unsupported("cpu_rt_period", "1ms", CGROUP),
    unsupported("cpu_rt_runtime", "1ms", CGROUP),
    ignored("cpu_shares", "512", CGROUP),
    taken("cpus", "0.5", "resources.cpu"),
    unsupported("cpuset", "0,1", CGROUP),
    unsupported("credential_spec", "{file: a.json}", "there is no Windows here"),
    taken(
        "depends_on",
        "[b]",
        "uses; the order does not matter, since what is not ready gets no traffic",
    ),
    taken(
        "deploy",
        "{replicas: 2}",
        "replicas become scale, limits become resources",
    ),
    ignored(
        "develop",
        "{watch: []}",
        "for working on the source; stoa deploy sends it",
    ),
    unsupported("device_cgroup_rules", "['c 1:3 mr']", HOST),
    unsupported("devices", "['/dev/dri:/dev/dri']", HOST),
    unsupported("dns", "1.1.1.1", "names are answered by Stoa"),
    unsupported("dns_opt", "[use-vc]", "names are answered by Stoa"),
    unsupported("dns_search", "example.org", "names are answered by Stoa"),
    unsupported("domainname", "example.org", "names are answered by Stoa"),
    unsupported("driver_opts", "{a: b}", "there are no drivers"),
    taken(
        "entrypoint",
        "[/entry]",
        "services.NAME.command, before the command",
    ),
    taken(
        "env_file",
        "web.env",
        "not read: give each file to stoa init --from, or set what it says with stoa env set",
    ),
    taken(
        "environment",
        "{LOG: info}",
        "[env], which all services of an app share; what looks like a secret becomes one",
    ),
    taken("expose", "['9000']", "services.NAME.port, private"),
    unsupported("extends", "{service: b}", OTHER_FILE),
    unsupported(
        "external_links",
        "[other]",
        "a service reaches only what it uses in the same file",
    ),
    unsupported("extra_hosts", "['a:1.2.3.4']", "names are answered by Stoa"),
    unsupported("gpus", "all", HOST),
    unsupported("group_add", "[video]", "groups come from the image"),
    taken(
        "healthcheck",
        "{test: [CMD, curl, 'http://localhost:9000/up']}",
        "health.path where it asks an address; commands are not run",
    ),
    unsupported("hostname", "x", "an instance is reached by its service's name"),
    taken(
        "image",
        "nginx:1",
        "services.NAME.image; postgres becomes a managed database",
    ),
    ignored("init", "true", "every instance has a parent that reaps"),
    unsupported("ipc", "host", HOST),
    unsupported("isolation", "process", ISOLATION),
    ignored(
        "label_file",
        "a.labels",
        "labels are read by nobody here; hosts and paths are routes",
    ),
    ignored(
        "labels",
        "{a: b}",
        "labels are read by nobody here; hosts and paths are routes",
    ),
    taken("links", "[b]", "uses"),
    ignored("logging", "{driver: json-file}", LOGS),
    unsupported("mac_address", "02:42:ac:11:65:43", "addresses are given by Stoa"),
    taken("mem_limit", "256m", "resources.memory"),
    ignored(
        "mem_reservation",
        "256m",
        "limits are cpu, memory and pids; nothing is reserved",
    ),
    unsupported("mem_swappiness", "0", CGROUP),
    ignored("memswap_limit", "1g", "the memory limit holds for swap, too"),
    unsupported("models", "[llm]", "there are no models here"),
    unsupported(
        "network_mode",
        "host",
        "an instance has a private network of its own; give it a port",
    ),
    taken("networks", "[back]", NETWORKS),
    unsupported(
        "oom_kill_disable",
        "true",
        "what exceeds its memory is ended, and the cause is told",
    ),
    ignored(
        "oom_score_adj",
        "100",
        "what exceeds its memory is ended, and the cause is told",
    ),
    unsupported("pid", "host", HOST),
    taken("pids_limit", "100", "resources.pids"),
    ignored("platform", "linux/amd64", "the machine's own is taken"),
    taken(
        "ports",
        "['8080:9000']",
        "services.NAME.port; the first published HTTP port answers at APP.DOMAIN",
    ),
    unsupported(
        "post_start",
        "[{command: x}]",
        "nothing runs inside an instance but its command; before a release: [jobs]",
    ),
    unsupported(
        "pre_stop",
        "[{command: x}]",
        "an instance is asked to end and given stop_grace",
    ),
    unsupported("privileged", "true", HOST),
    taken(
        "profiles",
        "[debug]",
        "a service with profiles is left out, as compose up does",
    ),
    unsupported("provider", "{type: x}", "there are no providers"),
    ignored("pull_policy", "always", "a release pins what its image was"),
    ignored(
        "read_only",
        "true",
        "an instance's changes end with it in any case",
    ),
    taken(
        "restart",
        "always",
        "what should run is started again, with growing pauses",
    ),
    unsupported("runtime", "runsc", ISOLATION),
    taken("scale", "3", "services.NAME.scale"),
    taken(
        "secrets",
        "[key]",
        "services.NAME.secrets: a file in /run/secrets, and a variable",
    ),
    taken(
        "security_opt",
        "['no-new-privileges:true']",
        "stricter ones hold for everybody, laxer ones for nobody",
    ),
    unsupported("shm_size", "1g", "/dev/shm has the usual size"),
    ignored("stdin_open", "true", TERMINAL),
    taken("stop_grace_period", "1m", "services.NAME.stop_grace"),
    unsupported("stop_signal", "SIGINT", "an instance gets SIGTERM"),
    unsupported("storage_opt", "{size: 1G}", "there are no drivers"),
    unsupported("sysctls", "{net.core.somaxconn: 1024}", ISOLATION),
    unsupported(
        "tmpfs",
        "/run",
        "/tmp can be written; no other place is a file system of its own",
    ),
    ignored("tty", "true", TERMINAL),
    unsupported("ulimits", "{nofile: 65536}", CGROUP),
    unsupported("use_api_socket", "true", HOST),
    unsupported(
        "user",
        "'1000'",
        "the image says as whom it runs, inside a user range of its own",
    ),
    unsupported("userns_mode", "host", HOST),
    unsupported("uts", "host", HOST),
    taken(
        "volumes",
        "['data:/data']",
        "not supported by this version: what is written there ends with the instance",
    ),
    unsupported("volumes_from", "[b]", "volumes are not supported by this version"),
    unsupported("working_dir", "/srv", "the image says where it runs"),
];

/// `services.NAME.deploy`.
pub(super) const DEPLOY: &[Row] = &[
    ignored(
        "endpoint_mode",
        "vip",
        "the edge and the names of services balance",
    ),
    ignored("labels", "{a: b}", "labels are read by nobody here"),
    unsupported("mode", "global", "there is one machine; scale says how many run"),
    unsupported("placement", "{constraints: [a]}", "there is one machine"),
    taken("replicas", "3", "services.NAME.scale"),
    taken("resources", "{limits: {cpus: '0.5'}}", "services.NAME.resources"),
    ignored(
        "restart_policy",
        "{condition: any}",
        "what should run is started again, with growing pauses",
    ),
    ignored(
        "rollback_config",
        "{order: stop-first}",
        "a release that does not get ready never gets traffic",
    ),
    ignored(
        "update_config",
        "{order: start-first}",
        "how releases follow each other is said in [rollout]",
    ),
];

/// `services.NAME.deploy.resources`.
pub(super) const RESOURCES: &[Row] = &[
    taken("limits", "{memory: 1g}", "services.NAME.resources"),
    taken("reservations", "{memory: 1g}", "nothing is reserved"),
];

/// `services.NAME.deploy.resources.reservations`.
pub(super) const RESERVATIONS: &[Row] = &[
    ignored("cpus", "'0.5'", "nothing is reserved"),
    unsupported("devices", "[{capabilities: [gpu]}]", HOST),
    unsupported("generic_resources", "[]", HOST),
    ignored("memory", "1g", "nothing is reserved"),
];

/// `services.NAME.depends_on.OTHER`.
pub(super) const DEPENDENCY: &[Row] = &[
    taken(
        "condition",
        "service_started",
        "one that must have ended well is a job; else nothing waits, and what is not ready gets no requests",
    ),
    ignored("required", "true", "uses does not wait for anything"),
    ignored("restart", "true", "a service finds the other again by its name"),
];

/// `services.NAME.ports[]`.
pub(super) const PORT: &[Row] = &[
    ignored("app_protocol", "http", "the edge speaks HTTP"),
    taken(
        "host_ip",
        "127.0.0.1",
        "an address of the host alone makes the service private",
    ),
    ignored("mode", "host", "no port of the host is opened"),
    ignored("name", "web", "for people"),
    taken("protocol", "tcp", "only TCP reaches an instance"),
    ignored("published", "'8080'", "no port of the host is opened"),
    taken("target", "80", "services.NAME.port"),
];

/// `services.NAME.secrets[]`.
pub(super) const SECRET: &[Row] = &[
    ignored("gid", "'103'", "whoever the instance runs as may read it"),
    ignored("mode", "'0440'", "whoever the instance runs as may read it"),
    taken("source", "key", "the secret's name"),
    taken("target", "other", "the file is called like the secret"),
    ignored("uid", "'103'", "whoever the instance runs as may read it"),
];

/// `services.NAME.deploy.resources.limits`.
pub(super) const LIMITS: &[Row] = &[
    taken("cpus", "'0.5'", "resources.cpu"),
    taken("memory", "1g", "resources.memory"),
    taken("pids", "100", "resources.pids"),
];

/// `services.NAME.healthcheck`.
pub(super) const HEALTHCHECK: &[Row] = &[
    taken(
        "disable",
        "true",
        "an accepted connection on the port counts as ready",
    ),
    taken("interval", "10s", "health.interval"),
    taken("retries", "5", "health.failures"),
    taken("start_interval", "1s", "checks have one interval"),
    taken("start_period", "40s", "health.grace"),
    taken(
        "test",
        "[CMD, curl, 'http://localhost:9000/up']",
        "health.path where it asks an address; commands are not run",
    ),
    taken("timeout", "5s", "health.timeout"),
];

/// `services.NAME.build`.
pub(super) const BUILD: &[Row] = &[
    taken("context", ".", "the directory that stoa deploy sends"),
    unsupported("dockerfile", "Dockerfile", "a Dockerfile is not read yet"),
    unsupported("dockerfile_inline", "FROM x", "a Dockerfile is not read yet"),
    unsupported("args", "{A: b}", "a Dockerfile is not read yet"),
    unsupported("target", "prod", "a Dockerfile is not read yet"),
    unsupported("additional_contexts", "{a: b}", "a Dockerfile is not read yet"),
    unsupported("ssh", "[default]", "builds get no keys"),
    unsupported("secrets", "[a]", "builds get no secrets"),
    unsupported("network", "host", HOST),
    unsupported("extra_hosts", "['a:1.2.3.4']", HOST),
    unsupported("privileged", "true", HOST),
    unsupported("entitlements", "[a]", HOST),
    ignored("cache_from", "[a]", "steps are kept by what goes into them"),
    ignored("cache_to", "[a]", "steps are kept by what goes into them"),
    ignored("no_cache", "true", "steps are kept by what goes into them"),
    ignored("pull", "true", "a release pins what its image was"),
    ignored("isolation", "x", ISOLATION),
    ignored("labels", "{a: b}", "labels are read by nobody here"),
    ignored("platforms", "[linux/amd64]", "the machine's own is taken"),
    ignored("provenance", "true", "the image stays on the machine"),
    ignored("sbom", "true", "the image stays on the machine"),
    ignored("shm_size", "1g", "/dev/shm has the usual size"),
    ignored("tags", "[a]", "the image stays on the machine"),
    ignored("ulimits", "{nofile: 1}", CGROUP),
];
