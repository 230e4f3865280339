"""Big values to the sidecar and back, over loopback, in pieces. For `run.put_blob` and the like."""

import hashlib
import http.client
import io
import json
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from coatcheck import _clock, errors

CHUNK_BYTES: Final = 1_048_576
TRIES_MAX: Final = 5
"""A sidecar that restarts is back by then: they are further and further apart."""
TIMEOUT_S: Final = 300.0
"""For one answer; a part of a blob on a slow link takes a minute."""
BACK_OFF_S: Final = 0.5

Source = bytes | bytearray | memoryview | str | os.PathLike[str]


def put(url: str, source: Source) -> str:
    """Keep what is in `source`, bytes or a path; its name. Goes on where it broke off."""
    with _opened(source) as file:
        name = hashlib.file_digest(file, "sha256").hexdigest()
        length = file.seek(0, os.SEEK_END)
        for number in range(TRIES_MAX):
            with _tried(number):
                with _asked("HEAD", f"{url}/{name}") as answer:
                    if answer.status == HTTPStatus.OK:
                        break
                    at = file.seek(int(answer.getheader("Coatcheck-Received", "0")))
                said = {"Content-Length": str(length - at)}
                if at:
                    said["Content-Range"] = f"bytes {at}-{length - 1}/{length}"
                with _asked("PUT", f"{url}/{name}", headers=said, body=file) as answer:
                    _check(answer)
                break
    return name


def get(url: str, name: str, *, to: str | os.PathLike[str] | None = None) -> bytes | None:
    """A blob's bytes; with `to` they go into that file, which is there once they are whole."""
    data: bytes | None = None
    for number in range(TRIES_MAX):
        with _tried(number), _asked("GET", f"{url}/{name}") as answer:
            _check(answer)
            if to is not None:
                _written(answer, name, to=Path(to))
                break
            data = answer.read()
            _whole(name, hashlib.sha256(data).hexdigest())
            break
    return data


def drop(url: str, name: str) -> None:
    """It is of no use to the run any more."""
    with _asked("DELETE", f"{url}/{name}") as answer:
        _check(answer)


def _opened(source: Source) -> io.BufferedReader | io.BytesIO:
    if isinstance(source, str | os.PathLike):
        return Path(source).open("rb")
    return io.BytesIO(source)


def _written(answer: http.client.HTTPResponse, name: str, *, to: Path) -> None:
    aside = to.with_name(f".{to.name}.{name[:8]}")
    try:
        digest = hashlib.sha256()
        with aside.open("wb") as file:
            while chunk := answer.read(CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
        _whole(name, digest.hexdigest())
        aside.replace(to)
    finally:
        with suppress(FileNotFoundError):
            aside.unlink()


def _whole(name: str, found: str) -> None:
    if found != name:
        raise http.client.HTTPException(f"not all of blob {name} came")


@contextmanager
def _asked(
    method: str, url: str, *, headers: dict[str, str] | None = None, body: Any = None
) -> Iterator[http.client.HTTPResponse]:
    place = urlsplit(url)
    link = http.client.HTTPConnection(place.netloc, timeout=TIMEOUT_S, blocksize=CHUNK_BYTES)
    with closing(link):
        link.request(method, place.path, body, headers or {})
        with link.getresponse() as answer:
            yield answer


def _check(answer: http.client.HTTPResponse) -> None:
    if answer.status >= HTTPStatus.BAD_REQUEST:
        body = json.loads(answer.read())
        raise errors.from_wire({**body, "message": body.pop("detail", answer.reason)})


@contextmanager
def _tried(number: int) -> Iterator[None]:
    """One try: waits for the next, or raises what there is no other for."""
    try:
        yield
    except (OSError, http.client.HTTPException, errors.CoatcheckError) as error:
        is_final = isinstance(error, errors.CoatcheckError) and error.retry != "later"
        if is_final or number == TRIES_MAX - 1:
            raise
        _clock.sleep(BACK_OFF_S * 2**number)
