"""An agent in plain HTTP: one life of it asks for one call, and asks again when it is cut off.

    python -m tests.e2e.points_agent ARGUMENTS

Standard library only, as any agent without an SDK. It says each thing that it does on a line.
"""

import argparse
import contextlib
import http.client
import json
import socket
import time
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

END: Final = b"whole"
"""Each answer of the upstream ends with it, and a brace."""
TRIES_S: Final = 0.05
PATIENCE_S: Final = 20.0
BROKEN: Final = (OSError, http.client.HTTPException)


def say(*words: object) -> None:
    print(*words, flush=True)


def connect(api: str) -> http.client.HTTPConnection:
    place = urlsplit(api)
    made = http.client.HTTPConnection(str(place.hostname), place.port, timeout=PATIENCE_S)
    made.connect()
    return made


def post(api: str, path: str, body: dict[str, Any]) -> Any:
    """Again and again, until somebody is there who answers."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            with contextlib.closing(connect(api)) as made:
                made.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
                answer = made.getresponse()
                told = json.load(answer)
        except BROKEN:
            if time.monotonic() > until_s:
                raise
            time.sleep(TRIES_S)
        else:
            assert answer.status == 200, told
            return told


def wait_for_the_whole(connection: socket.socket) -> None:
    """Until the answer lies in this process's own buffer, where nobody has read it."""
    while END not in connection.recv(65_536, socket.MSG_PEEK):
        time.sleep(0.01)


def ask(options: argparse.Namespace, proxy: str) -> tuple[int, str, str]:
    """Status, decision and body; one of `BROKEN` if that did not come."""
    body = {"ref": options.ref, "point": options.point, "cents": 100}
    with contextlib.closing(connect(options.api)) as made:
        path = f"{urlsplit(proxy).path}/{options.tool}/{options.path}"
        made.request(options.method, path, json.dumps(body), {"Content-Type": "application/json"})
        say("asking")
        if options.unread and not options.unread.exists():
            wait_for_the_whole(made.sock)
            say("unread")
            while not options.unread.exists():
                time.sleep(0.01)
            raise ConnectionAbortedError("the agent never read it")
        answer = made.getresponse()
        read = answer.read()
        return answer.status, answer.headers.get("Coatcheck-Decision", "none"), read.decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("api", "run", "tool", "method", "path", "ref", "point"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--unread", type=Path, help="read nothing until this file is there")
    options = parser.parse_args()
    path = f"/v1/runs/{options.run}/open"
    opened = post(options.api, path, {"replace": True})
    say("opened", opened["step"])
    told = None
    while told is None:
        try:
            told = ask(options, opened["proxy"])
        except BROKEN as error:
            say("cut", repr(error))
            resume = {"epoch": opened["epoch"], "calls": {}}
            goes_on = {"incarnation": opened["incarnation"], "resume": resume}
            opened = post(options.api, path, goes_on)
            say("resumed", opened["epoch"])
    say("got", json.dumps(told))


if __name__ == "__main__":
    main()
