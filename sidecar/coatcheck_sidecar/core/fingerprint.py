"""Canonical request -> digest, so that two askings can be told apart or known to be equal.

JSON is canonical by RFC 8785. What that cannot hold without loss (integers past 2^53, NaN, lone
surrogates, a key given twice) is taken as its raw bytes: then only the same bytes are equal. Every
part goes in with its length, so that no two lists of parts have the same bytes. Never in it: dates,
trace ids, retry counts, user agents, signatures, credentials.
"""

import base64
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import msgpack
import rfc8785

from coatcheck_sidecar.core.canonical import canonical_json, unique
from coatcheck_sidecar.core.effects import shape

VERSION: Final = 1
"""Of the canonical form: goes into every digest, so that a change is seen as another request."""
INDEX: Final = re.compile(r"0|[1-9][0-9]*", re.ASCII)
"""RFC 6901, section 4: no leading zeros."""
ESCAPE: Final = re.compile(r"~(?![01])")
JSON_TYPE: Final = re.compile(r"application/(?:[^;]+\+)?json\s*(?:;|$)", re.IGNORECASE)
"""RFC 6838, section 4.2.8: a structured suffix says how to read a body."""
BUSINESS_CHARS_MAX: Final = 128
"""Longer business values stand in a key by their digest: keys stay short."""
SUMMARY_CHARS_MAX: Final = 200
"""One line of a terminal, or two."""
VALUE_CHARS_MAX: Final = 40
"""Enough to recognise an id or an amount, not to read a letter."""
NAMES_MAX: Final = 12
"""A call with more is recognised by these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """A request as the tool's route sees it. `account` is the tool's configured account name."""

    method: str
    scheme: str
    authority: str
    path: str
    query: str = ""
    headers: Sequence[tuple[str, str]] = ()
    account: str = ""
    body: bytes = b""
    body_digest: bytes = b""
    """SHA-256 of a body too big for memory, in place of `body`: then only equal bytes are equal."""


def of_arguments(tool: str, arguments: bytes) -> bytes:
    """SHA-256 of an SDK tool's name and its arguments (a msgpack map by parameter name)."""
    try:
        body = (b"canonical", rfc8785.dumps(_tagged(decode_arguments(arguments))))
    except (ValueError, RecursionError):
        body = (b"raw", arguments)
    return _digest(b"tool", tool.encode(), *body)


def of_request(
    request: HttpRequest,
    *,
    allowed_headers: Collection[str] = (),
    ignored_pointers: Iterable[str] = (),
) -> bytes:
    """SHA-256 of an HTTP request; of its headers only those allowed, by name in lower case."""
    kept = sorted(
        f"{name.lower()}:{value.strip()}"
        for name, value in request.headers
        if name.lower() in allowed_headers
    )
    place = (request.scheme.lower(), request.authority.lower(), request.path, request.query)
    texts = (request.method.upper(), *place, request.account, str(len(kept)), *kept)
    parts = _body_parts(request, ignored_pointers)
    return _digest(b"http", *(text.encode("utf-8", "surrogateescape") for text in texts), *parts)


def _body_parts(request: HttpRequest, ignored_pointers: Iterable[str]) -> tuple[bytes, bytes]:
    if request.body_digest:
        return b"digest", request.body_digest
    is_json = any(n.lower() == "content-type" and JSON_TYPE.match(v) for n, v in request.headers)
    body = _canonical_body(request.body, ignored_pointers) if is_json else None
    return (b"raw", request.body) if body is None else (b"canonical", body)


def decode_arguments(arguments: bytes) -> object:
    """The value of msgpack arguments; raises `ValueError` if it has none or is ambiguous."""
    value: object = msgpack.unpackb(arguments, object_pairs_hook=unique)
    return value


def pointer(value: object, path: str) -> object:
    """What the JSON pointer `path` (RFC 6901) names in `value`.

    Raises `LookupError` if there is nothing, `ValueError` if `path` is no pointer.
    """
    for name in _names(path):
        match value:
            case dict():
                value = value[name]
            case list() if INDEX.fullmatch(name):
                value = value[int(name)]
            case _:
                raise LookupError(path)
    return value


def business_value(value: object, path: str) -> str | None:
    """What `path` names in the arguments, as part of a key; `None` if there is nothing to name.

    An id is the same whether it was written as a number or as text.
    """
    try:
        found = pointer(value, path)
        text = found if isinstance(found, str) else rfc8785.dumps(_tagged(found)).decode()
        raw = text.encode()
    except (LookupError, ValueError, RecursionError):
        return None
    if found is None or not text:
        return None
    return text if len(text) <= BUSINESS_CHARS_MAX else hashlib.sha256(raw).hexdigest()


def summary(arguments: object, show: Iterable[str]) -> str:
    """A short printable line of decoded arguments, for operators.

    It stands in heads, logs and answers, so it has values only of what the JSON pointers `show`
    name; of all else the names.
    """
    pointers = list(dict.fromkeys(show))
    values = [f"{path[1:]}={_shown(found)}" for path, found in _found(arguments, pointers)]
    names = [shape(str(name).partition("[")[0]) for name in _top(arguments)]
    others = [name for name in dict.fromkeys(names) if f"/{name}" not in pointers]
    shown = ", ".join(values + others[:NAMES_MAX])
    return _cut("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown))


def _found(arguments: object, pointers: Iterable[str]) -> Iterator[tuple[str, object]]:
    for path in pointers:
        with suppress(LookupError, ValueError):
            yield path, pointer(arguments, path)


def _top(arguments: object) -> Iterable[object]:
    return arguments if isinstance(arguments, dict) else ()


def _shown(value: object) -> str:
    match value:
        case dict() | list():
            return f"<{len(value)} {'keys' if isinstance(value, dict) else 'items'}>"
        case bytes():
            return f"<{len(value)} bytes>"
        case str():
            return _cut(json.dumps(value[:VALUE_CHARS_MAX], ensure_ascii=False), VALUE_CHARS_MAX)
        case _:
            return _cut(str(value), VALUE_CHARS_MAX)


def _cut(text: str, chars_max: int = SUMMARY_CHARS_MAX) -> str:
    return text if len(text) <= chars_max else text[: chars_max - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.sha256(b"coatcheck fingerprint %d" % VERSION)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def _canonical_body(body: bytes, ignored: Iterable[str]) -> bytes | None:
    def change(value: Any) -> Any:
        for path in ignored:
            value = _without(value, _names(path))
        return value

    try:
        return canonical_json(body.decode(), change)
    except (ValueError, RecursionError):
        return None


def _names(path: str) -> list[str]:
    if not re.match("/|$", path) or ESCAPE.search(path):
        raise ValueError(f"{path!r} is no JSON pointer (RFC 6901)")
    return [name.replace("~1", "/").replace("~0", "~") for name in path.split("/")[1:]]


def _without(value: Any, names: Sequence[str]) -> Any:
    """`value` with what the names lead to left out; an item of a list becomes null in its place."""
    if not names:
        return None
    name, *rest = names
    match value:
        case dict() if name in value and rest:
            return value | {name: _without(value[name], rest)}
        case dict():
            return {key: item for key, item in value.items() if key != name}
        case list() if INDEX.fullmatch(name) and int(name) < len(value):
            place = int(name)
            return [*value[:place], _without(value[place], rest), *value[place + 1 :]]
        case _:
            return value


def blanked(value: Any, path: str) -> Any:
    """`value` with what `path` names made empty, of its own type; unchanged if nothing is there."""
    return _blanked(value, _names(path))


def _blanked(value: Any, names: Sequence[str]) -> Any:
    if not names:
        return type(value)() if value is not None else None
    name, *rest = names
    match value:
        case dict() if name in value:
            return value | {name: _blanked(value[name], rest)}
        case list() if INDEX.fullmatch(name) and int(name) < len(value):
            place = int(name)
            return [*value[:place], _blanked(value[place], rest), *value[place + 1 :]]
        case _:
            return value


def _tagged(value: object) -> Any:
    """A msgpack value as JSON: bytes become `{"$bytes": base64}`; real `$` names get one more."""
    match value:
        case bytes():
            return {"$bytes": base64.b64encode(value).decode()}
        case list():
            return [_tagged(item) for item in value]
        case dict():
            return {_name(name): _tagged(item) for name, item in value.items()}
        case _:
            return value


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise ValueError("a name in arguments is not text")  # noqa: TRY004 - as of any bad msgpack
    return f"${name}" if name.startswith("$") else name
