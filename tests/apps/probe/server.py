"""A server that shows what a platform does to it. Nothing but Python's standard library.

GET /            the release that answers (VERSION)
GET /healthz     200, or what HEALTH says
GET /slow?ms=N   a chunked answer that takes N ms and ends in "end"
GET /stream?pieces=N&ms=M  N numbered chunks, each after M ms
GET /download?bytes=N  N bytes of numbered lines
POST /upload     the body back
GET /echo        a WebSocket that sends texts back
GET /headers     the request as it arrived, as JSON
GET /environment names of variables, as JSON

Every answer names the release (X-Release), the request (X-Exchange) and how often this instance saw it (X-Seen).
SABOTAGE makes it misbehave for the traffic client's own tests: "truncate" ends bodies early, "double" sees everything twice.
"""

import base64
import hashlib
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

ACCEPT = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
SABOTAGE = os.environ.get("SABOTAGE", "")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 75
    # Head and body are two writes: without this each answer waits 40 ms for the other side's acknowledgement.
    disable_nagle_algorithm = True

    def do_GET(self):
        url = urlsplit(self.path)
        answers = {
            "/": self.version,
            "/healthz": self.health,
            "/slow": self.slow,
            "/stream": self.stream,
            "/download": self.download,
            "/echo": self.echo,
            "/headers": lambda _: self.text(json.dumps(dict(self.headers.items()))),
            "/environment": lambda _: self.text(json.dumps(dict(os.environ))),
        }
        answer = answers.get(url.path)
        if answer is None:
            self.text("nothing here\n", 404)
        else:
            answer(parse_qs(url.query))

    def do_POST(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b"".join(iter(self.read_chunk, b""))
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if urlsplit(self.path).path == "/upload":
            self.content(body)
        else:
            self.text("nothing here\n", 404)

    def exchange(self):
        # A request that could not be read has no headers.
        headers = getattr(self, "headers", None)
        return headers.get("X-Exchange") if headers else None

    def read_chunk(self):
        data = self.rfile.read(int(self.rfile.readline().split(b";")[0], 16))
        self.rfile.readline()
        return data

    def end_headers(self):
        exchange = self.exchange()
        if exchange:
            self.send_header("X-Release", os.environ.get("VERSION", "?"))
            self.send_header("X-Exchange", exchange)
            self.send_header("X-Seen", str(self.server.see(exchange)))
        super().end_headers()

    def version(self, _):
        self.text(os.environ.get("VERSION", "?"))

    def health(self, _):
        status = int(os.environ.get("HEALTH", "200"))
        self.text("healthy\n" if status == 200 else "not healthy\n", status)

    def slow(self, query):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        pieces = 10
        for piece in range(pieces):
            time.sleep(int(query["ms"][0]) / 1000 / pieces)
            self.chunk(b"end\n" if piece == pieces - 1 else b"still working\n")
        self.wfile.write(b"0\r\n\r\n")

    def stream(self, query):
        pieces = int(query["pieces"][0])
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in range(1, (pieces // 2 if SABOTAGE == "truncate" else pieces) + 1):
            time.sleep(int(query["ms"][0]) / 1000)
            self.chunk(b"%d of %d\n" % (piece, pieces))
        if SABOTAGE == "truncate":
            return self.cut()
        self.wfile.write(b"0\r\n\r\n")

    def download(self, query):
        count = int(query["bytes"][0])
        lines = b"".join(b"%015d\n" % number for number in range(count // 16 + 1))
        self.content(lines[:count])

    def echo(self, _):
        key = self.headers.get("Sec-WebSocket-Key")
        if key is None:
            return self.text("only for WebSockets\n", 426)
        accept = base64.b64encode(hashlib.sha1((key + ACCEPT).encode()).digest()).decode()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept)
        self.end_headers()
        self.close_connection = True
        while SABOTAGE != "truncate":
            head = self.rfile.read(2)
            if len(head) < 2:
                return None
            length = head[1] & 0x7F
            mask = self.rfile.read(4)
            body = bytes(byte ^ mask[i % 4] for i, byte in enumerate(self.rfile.read(length)))
            self.wfile.write(bytes([head[0], length]) + body)
            if head[0] & 0x0F == 8:
                return None

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def text(self, text, status=200):
        self.content(text.encode(), status)

    def content(self, content, status=200):
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if SABOTAGE == "truncate" and self.exchange():
            self.wfile.write(content[: len(content) // 2])
            return self.cut()
        self.wfile.write(content)

    def cut(self):
        self.close_connection = True

    def log_request(self, code="-", size="-"):
        # The traffic client counts for itself; a line for each of its requests would only cost time.
        if self.exchange() is None:
            super().log_request(code, size)

    def log_message(self, form, *values):
        print(form % values, flush=True)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.seen = {}
        self.lock = threading.Lock()

    def see(self, exchange):
        with self.lock:
            self.seen[exchange] = self.seen.get(exchange, 0) + (2 if SABOTAGE == "double" else 1)
            return self.seen[exchange]


def main():
    version = os.environ.get("VERSION", "?")
    if os.environ.get("BROKEN"):
        print(f"version {version} is broken: {os.environ['BROKEN']}", flush=True)
        sys.exit(3)
    server = Server(("0.0.0.0", int(os.environ.get("PORT", "8080"))), Handler)

    def stop(_number, _frame):
        print(f"version {version} ends", flush=True)
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    print(f"version {version} listens", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
