"""What schemathesis cannot read from a schema. Each replacement gives a valid value for another valid one; values that
break the schema are sent as they are, and no check is switched off."""

import itertools
import re

import schemathesis

KEY = re.compile(r"^[!-~]{1,200}\Z")
PAGE = re.compile(r"^[1-9][0-9]{0,14}\.[ -~]{1,200}\Z")
MANIFEST = 'schema = 1\napp = "shop"\n\n[services.web]\ncommand = "/bin/true"\n'
NUMBERS = itertools.count(1)


@schemathesis.hook
def before_call(context, case, kwargs):
    headers = case.headers
    if headers is not None and KEY.match(str(headers.get("Idempotency-Key") or "")):
        # A key belongs to one request: the same one with another body is refused, as it must be.
        headers["Idempotency-Key"] = f"case-{next(NUMBERS)}"
    query = case.query
    if query and PAGE.match(str(query.get("page_token") or "")):
        # A token is what the page before gave. One of the right form that nobody gave is refused, as it must be.
        del query["page_token"]
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("manifest"), str) and len(body["manifest"]) <= 262144:
        # A text with a grammar of its own.
        body["manifest"] = MANIFEST
