"""A server that shows what a platform does to it. Nothing but Python's standard library.

GET /            the release that answers (VERSION)
GET /healthz     200, or what HEALTH says
GET /slow?ms=N   a chunked answer that takes N ms and ends in "end"
GET /echo        a WebSocket that sends texts back
GET /headers     the request as it arrived, as JSON
GET /environment names of variables, as JSON
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


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 75

    def do_GET(self):
        url = urlsplit(self.path)
        answers = {
            "/": self.version,
            "/healthz": self.health,
            "/slow": self.slow,
            "/echo": self.echo,
            "/headers": lambda _: self.text(json.dumps(dict(self.headers.items()))),
            "/environment": lambda _: self.text(json.dumps(dict(os.environ))),
        }
        answer = answers.get(url.path)
        if answer is None:
            self.text("nothing here\n", 404)
        else:
            answer(parse_qs(url.query))

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
        while True:
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
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, form, *values):
        print(form % values, flush=True)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


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
