"""Reads and writes a database without a pause, and counts.

Four threads keep their connection, two make a new one for each query. A query whose connection fails is tried once more
on a new connection; one that fails then has failed. `GET /` answers the counts as JSON; one that is told to end says them
in its log, for nobody asks it any more then.
"""

import json
import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg

URL = os.environ["DATABASE_URL"]
KEEPING, CHANGING = 4, 2

lock = threading.Lock()
counts = {"queries": 0, "again": 0, "failed": 0, "worst_ms": 0, "errors": []}


def connect():
    return psycopg.connect(URL, autocommit=True, connect_timeout=10)


class Writer:
    """One thread and, while it keeps it, its connection."""

    def __init__(self, number, keeps):
        self.number, self.keeps, self.connection = number, keeps, None

    def query(self):
        if self.connection is None:
            self.connection = connect()
        try:
            sql = "INSERT INTO ticks (writer) VALUES (%s) RETURNING id"
            return self.connection.execute(sql, (self.number,)).fetchone()
        finally:
            if not self.keeps or self.connection.broken:
                self.connection.close()
                self.connection = None

    def run(self):
        while True:
            begun, again, error = time.monotonic(), 0, None
            try:
                try:
                    self.query()
                except psycopg.OperationalError as first:
                    again, error = 1, f"tried again after: {first}"
                    self.connection = None
                    self.query()
                failed = 0
            except psycopg.Error as last:
                failed, error = 1, f"failed: {type(last).__name__}: {last}; {error}"
                self.connection = None
            took = int((time.monotonic() - begun) * 1000)
            with lock:
                counts["queries"] += 1
                counts["again"] += again
                counts["failed"] += failed
                counts["worst_ms"] = max(counts["worst_ms"], took)
                if error:
                    counts["errors"] = [*counts["errors"][-19:], error]
            time.sleep(0.005)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        with lock:
            body = json.dumps(counts).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def end(*_):
    with lock:
        print("counts", json.dumps(counts), flush=True)
        os._exit(0)


signal.signal(signal.SIGTERM, end)
with connect() as first:
    first.execute("CREATE TABLE IF NOT EXISTS ticks (id bigserial PRIMARY KEY, writer int NOT NULL)")
for number in range(KEEPING + CHANGING):
    threading.Thread(target=Writer(number, number < KEEPING).run, daemon=True).start()
ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
