"""Somebody at a terminal: runs a program, types when it asks, and tells what was seen.

The plan comes on standard input, the account goes to standard output, both as JSON.
"""

import json
import os
import pty
import select
import subprocess
import sys
import termios

plan = json.load(sys.stdin)
master, slave = pty.openpty()


def place(name):
    return slave if plan[name] == "terminal" else subprocess.PIPE


child = subprocess.Popen(
    plan["command"], stdin=slave, stdout=place("stdout"), stderr=place("stderr"), cwd=plan["folder"], env=plan["env"]
)
ended = os.pidfd_open(child.pid)
streams = {master: bytearray()}
for pipe in (child.stdout, child.stderr):
    if pipe is not None:
        streams[pipe.fileno()] = bytearray()
talk = child.stderr.fileno() if child.stderr else master
open_streams = set(streams)
lines = list(plan["types"])
echoes = []


def take(stream):
    try:
        piece = os.read(stream, 65536)
    except OSError:
        piece = b""
    if not piece:
        open_streams.discard(stream)
    streams[stream] += piece


while True:
    ready, _, _ = select.select([ended, *open_streams], [], [])
    for stream in ready:
        if stream != ended:
            take(stream)
    if ended in ready:
        break
    # A question ends so, and nothing else that is said before the end does.
    if lines and streams[talk].endswith(b": "):
        echoes.append(bool(termios.tcgetattr(slave)[3] & termios.ECHO))
        streams[talk] += b"\n"
        os.write(master, lines.pop(0).encode() + b"\n")
while True:
    ready, _, _ = select.select(list(open_streams), [], [], 0)
    if not ready:
        break
    for stream in ready:
        take(stream)


def text(stream):
    return streams[stream].decode(errors="replace")


print(
    json.dumps(
        {
            "code": child.wait(),
            "screen": text(master),
            "stdout": text(child.stdout.fileno()) if child.stdout else "",
            "stderr": text(child.stderr.fileno()) if child.stderr else "",
            "echoes": echoes,
        }
    )
)
