"""The guestbook: one page that lists entries and adds them, kept in PostgreSQL.

It follows the usual run contract and knows nothing about Stoa: the port and the database come from the
environment (`PORT`, `DATABASE_URL`), logs go to standard output, SIGTERM ends it after the requests under way.
"""

import html
import os
from urllib.parse import parse_qs

from psycopg import Error
from psycopg_pool import ConnectionPool, PoolTimeout

NAME_MAX = 60
MESSAGE_MAX = 500
BODY_MAX = 16 * 1024
SHOWN = 50

pool = ConnectionPool(
    os.environ["DATABASE_URL"],
    min_size=1,
    max_size=8,
    timeout=5,
    check=ConnectionPool.check_connection,
    open=True,
)

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
  body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 2rem auto; padding: 0 1rem; }}
  input, textarea {{ font: inherit; width: 100%; box-sizing: border-box; margin: .25rem 0 .75rem; padding: .4rem; }}
  button {{ font: inherit; padding: .4rem 1.2rem; }}
  li {{ margin: .75rem 0; }}
  small {{ color: #666; }}
</style>
<h1>{title}</h1>
<form method="post" action="/entries">
  <label>Name <input name="name" maxlength="60" required></label>
  <label>Message <textarea name="message" maxlength="500" rows="3" required></textarea></label>
  <button>Sign</button>
</form>
<p>{count} entries.</p>
<ol reversed>
{entries}
</ol>
</html>
"""

ENTRY = "  <li><b>{name}</b> <small>{when}</small><br>{message}</li>"


def list_entries():
    """The page, newest entry first."""
    with pool.connection() as connection:
        count = connection.execute("SELECT count(*) FROM entries").fetchone()[0]
        rows = connection.execute(
            "SELECT name, message, to_char(written_at, 'YYYY-MM-DD HH24:MI') FROM entries ORDER BY id DESC LIMIT %s",
            (SHOWN,),
        ).fetchall()
    entries = "\n".join(
        ENTRY.format(name=html.escape(name), when=when, message=html.escape(message)) for name, message, when in rows
    )
    title = html.escape(os.environ.get("TITLE", "Guestbook"))
    return "200 OK", [], PAGE.format(title=title, count=count, entries=entries)


def add_entry(environ):
    """Stores one entry and sends the browser back to the page."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    if length > BODY_MAX:
        return "413 Content Too Large", [], "too much\n"
    form = parse_qs(environ["wsgi.input"].read(length).decode("utf-8", "replace"))
    name = form.get("name", [""])[0].strip()[:NAME_MAX]
    message = form.get("message", [""])[0].strip()[:MESSAGE_MAX]
    if not name or not message:
        return "422 Unprocessable Content", [], "a name and a message are needed\n"
    with pool.connection() as connection:
        connection.execute("INSERT INTO entries (name, message) VALUES (%s, %s)", (name, message))
    print(f"entry by {name!r}", flush=True)
    return "303 See Other", [("Location", "/")], ""


def is_healthy():
    """Healthy means: the database answers."""
    with pool.connection() as connection:
        connection.execute("SELECT 1 FROM entries LIMIT 1")
    return "200 OK", [], "ok\n"


def answer(environ):
    """Picks what a request asks for."""
    match environ["REQUEST_METHOD"], environ["PATH_INFO"]:
        case ("GET" | "HEAD"), "/":
            return list_entries()
        case "POST", "/entries":
            return add_entry(environ)
        case ("GET" | "HEAD"), "/healthz":
            return is_healthy()
        case _:
            return "404 Not Found", [], "there is nothing here\n"


def app(environ, start_response):
    """The WSGI application."""
    try:
        status, headers, body = answer(environ)
    except (Error, PoolTimeout) as error:
        print(f"database: {error}", flush=True)
        status, headers, body = "503 Service Unavailable", [("Retry-After", "2")], "the database does not answer\n"
    content = body.encode()
    kind = "text/html" if body.startswith("<!") else "text/plain"
    start_response(
        status,
        [("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(content))), *headers],
    )
    return [content]
