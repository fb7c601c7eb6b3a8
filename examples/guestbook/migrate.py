"""Brings the database to the shape this release needs. Runs as the release job, before the release gets traffic.

Each file in `migrations/` is applied once, in order of its name, in a transaction of its own.
"""

import os
from pathlib import Path

import psycopg

LOCK = 7302241  # Any number, the same in all releases: two migrations never run at once.


def main():
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True, connect_timeout=10) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        connection.execute("CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY, applied_at timestamptz DEFAULT now())")
        applied = {name for (name,) in connection.execute("SELECT name FROM migrations")}
        for file in sorted(Path(__file__).with_name("migrations").glob("*.sql")):
            if file.name in applied:
                continue
            with connection.transaction():
                connection.execute(file.read_text())
                connection.execute("INSERT INTO migrations (name) VALUES (%s)", (file.name,))
            print(f"applied {file.name}", flush=True)
    print("the database is up to date", flush=True)


if __name__ == "__main__":
    main()
