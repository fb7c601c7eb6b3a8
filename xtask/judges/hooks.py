"""What schemathesis cannot read from a schema. Each replacement gives a valid value for another valid one, in requests that
are meant to be accepted; those meant to be refused are sent as they are, and no check is switched off."""

import re
import uuid

import schemathesis

KEY = re.compile(r"^[!-~]{1,200}\Z")
PAGE = re.compile(r"^[1-9][0-9]{0,14}\.[ -~]{1,200}\Z")
NAME = re.compile(r"^[a-z]([a-z0-9-]{0,37}[a-z0-9])?\Z")
VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
MOMENT = re.compile(r"^([0-9]{1,6}(ms|s|m|h|d)|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z)\Z")
ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
ADDRESS = re.compile(rf"^(?=[^@]{{1,64}}@){ATOM}(\.{ATOM})*@{LABEL}(\.{LABEL})*\Z")
DEVELOPER = ["read", "deploy", "configure", "read_secrets", "manage"]
# What each role may be limited to.
ROLES = {
    "viewer": ["read"],
    "developer": DEVELOPER,
    "admin": [*DEVELOPER, "administer"],
    "owner": [*DEVELOPER, "administer"],
}
MANIFEST = 'schema = 1\napp = "shop"\n\n[services.web]\ncommand = "/bin/true"\n'


@schemathesis.serializer("application/gzip", "application/x-tar", "application/zstd")
def archive(context, value):
    """Bytes, as they are: an archive is looked at when it is used."""
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.hook
def before_call(context, case, kwargs):
    headers, query = case.headers, dict(case.query or {})
    if headers is not None and KEY.match(str(headers.get("Idempotency-Key") or "")):
        # A key belongs to one request: the same one with another body is refused, as it must be.
        headers["Idempotency-Key"] = uuid.uuid4().hex
    if PAGE.match(str(query.get("page_token") or "")):
        # A token is what the page before gave. One of the right form that nobody gave is refused, as it must be.
        del query["page_token"]
    if case.meta is not None and case.meta.phase.name.value == "stateful":
        # What was only rehearsed is not there, or still there: other phases send it.
        query.pop("dry_run", None)
    if case.meta is not None and case.meta.generation.mode.is_positive:
        if headers is not None and "If-Match" in headers:
            # A tag is what an answer gave. (For the pattern with its quotes it also sends nothing and calls that valid.)
            headers["If-Match"] = "*"
        texts(case, query)
        if isinstance(case.body, dict):
            body(case.body)
            if case.operation.path.endswith("/databases"):
                database(case.body)
            if case.operation.path == "/v1/invitations/accept" and len(case.body.get("password", "")) < 12:
                # Who is no user yet gets a password of 12 characters or more.
                case.body["password"] = "correct horse battery"
            if case.operation.path == "/v1/claim":
                claim(case.body)
    if query or case.query:
        case.query = query


def texts(case, query):
    """Texts with a grammar of their own."""
    if case.operation.path.endswith("/logs"):
        if "since" in query and not MOMENT.match(str(query["since"])):
            query["since"] = "1h"
        if "service" in query and not NAME.match(str(query["service"])):
            query["service"] = "web"
    if case.operation.path == "/v1/oidc/{provider}" and not {"port", "challenge"} <= query.keys():
        # A program says both, a person neither.
        query.pop("port", None)
        query.pop("challenge", None)
    if case.operation.path.endswith("/uploads") and not case.body:
        case.body = "archive"


def body(known):
    if isinstance(known.get("name"), str) and not known["name"].isprintable():
        # A name for people has no control characters.
        known["name"] = "ci"
    if isinstance(known.get("manifest"), str):
        known["manifest"] = MANIFEST
    source = known.get("source")
    if isinstance(source, dict):
        if source.get("kind") == "archive":
            # What is uploaded has the id that the upload was answered with.
            known["source"] = {"kind": "host"}
        elif source.get("kind") in ("upload", "unsent"):
            known["source"] = {"kind": "configuration"}
        elif source.get("kind") == "image" and not re.match(r"^[!-~]{1,200}\Z", source["image"]):
            source["image"] = "debian:12"
        elif source.get("kind") == "debian":
            source["packages"] = ["ca-certificates" for _ in source.get("packages", [])]
        elif source.get("kind") == "pull" and not source["reference"].startswith("registry"):
            source["reference"] = "registry.example.org/mailer:4.2"
    if known.get("command"):
        known["command"] = ["/bin/true", *(word.replace("\0", "") for word in known["command"][1:])]
    if known.get("value") == "":
        # What is wrong with the name is said first, so the document leaves it to the answer that a value is not empty.
        known["value"] = "sk_live_51H"
    if isinstance(known.get("mask"), str) and (not known["mask"].strip() or "\0" in known["mask"]):
        # A script has a statement.
        known["mask"] = "UPDATE users SET email = 'ada@example.org';"
    if known.get("set"):
        known["set"] = {named(key, VARIABLE, "A"): value.replace("\0", "") for key, value in known["set"].items()}
    if known.get("services"):
        known["services"] = {named(key, NAME, "web"): min(value, 500) for key, value in known["services"].items()}
    if known.get("unset"):
        known["unset"] = [named(key, VARIABLE, "B") for key in known["unset"]]


    if isinstance(known.get("email"), str) and not ADDRESS.match(known["email"]):
        # What stands before the @ has at most 64 characters; a form takes any text, to say on its page what is wrong.
        known["email"] = "ada@example.org"
    if isinstance(known.get("scopes"), list):
        allowed = ROLES[known.get("role") or "owner"]
        known["scopes"] = [scope for scope in known["scopes"] if scope in allowed] or ["read"]


def database(known):
    """What this machine has: its PostgreSQL, its memory, its disk."""
    if known.get("version"):
        known["version"] = "15"
    for key, most in (("memory_bytes", 1 << 30), ("size_bytes", 10 << 30)):
        if known.get(key):
            known[key] = min(known[key], most)


def claim(known):
    """The first user has an address, a name and a password, or is not made."""
    if not all(known.get(key) for key in ("email", "name", "password")):
        for key in ("email", "name", "password"):
            known.pop(key, None)


def named(text, form, example):
    return text if form.match(text) else example
