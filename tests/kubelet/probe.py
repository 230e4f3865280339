"""A container that notes when it was started and asked to end.

    probe.py --notes FILE --exits-after-term-s 4 --port 8080 --answers-after-s 2

Without `--exits-after-term-s` it never ends by itself. With `--port` it answers GETs, late.
"""

import argparse
import json
import os
import signal
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Final

LOOPBACK: Final = "127.0.0.1"


class Notes:
    """One JSON line an event, with the moment on the machine's monotonic clock."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def add(self, what: str) -> None:
        line = json.dumps({"what": what, "at_s": time.monotonic()})
        os.write(self._file, line.encode() + b"\n")


def serve(port: int, *, answers_after_s: float, status: int, notes: Notes) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            notes.add("asked")
            time.sleep(answers_after_s)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer((LOOPBACK, port), Handler)
    Thread(target=server.serve_forever, daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--notes", type=Path, required=True)
    parser.add_argument("--exits-after-term-s", type=float)
    parser.add_argument("--port", type=int)
    parser.add_argument("--answers-after-s", type=float, default=0.0)
    parser.add_argument("--status", type=int, default=200)
    options = parser.parse_args()
    notes = Notes(options.notes)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if options.port is not None:
        late_s, status = options.answers_after_s, options.status
        serve(options.port, answers_after_s=late_s, status=status, notes=notes)
    notes.add("up")
    while True:
        signal.sigwait({signal.SIGTERM})
        notes.add("term")
        if options.exits_after_term_s is not None:
            time.sleep(options.exits_after_term_s)
            os._exit(0)


if __name__ == "__main__":
    main()
