"""Values between JSON, as agents over HTTP speak it, and msgpack, as runs keep them.

So an agent in one language goes on with the run of an agent in another. What JSON can't hold
exactly is never rounded: it travels as base64 of its msgpack, under a name of its own.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

import msgpack

from coatcheck_sidecar.core.canonical import INTEGER_MAX, unique

BASE64: Final = "_base64"
"""Behind a field's name: the value as base64 of its msgpack."""
LONG_DIGITS: Final = re.compile(rb"[0-9]{16}")
"""Text without these holds no integer past 2^53."""


def read_json(data: bytes) -> Any:
    """The value of JSON; raises `ValueError` for what is none, or would not come back as it was."""
    try:
        return json.loads(
            data.decode(), object_pairs_hook=unique, parse_int=_integer, parse_constant=_refuse
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def packed(value: Any) -> bytes:
    """A value of JSON as msgpack; raises `ValueError`."""
    try:
        data: bytes = msgpack.packb(value)
    except (RecursionError, OverflowError) as error:
        raise ValueError(str(error)) from error
    return data


def from_base64(text: Any) -> bytes:
    """Msgpack that came as base64; raises `ValueError`."""
    if not isinstance(text, str):
        raise ValueError("it is no text")  # noqa: TRY004 - as of any bad value
    try:
        data = base64.b64decode(text, validate=True)
        msgpack.unpackb(data, strict_map_key=False)
    except (binascii.Error, msgpack.UnpackException, ValueError) as error:
        raise ValueError(f"it is no base64 of msgpack: {error}") from error
    return data


def with_values(body: dict[str, Any], values: Mapping[str, bytes | None]) -> bytes:
    """The JSON text of `body`, and of those values, msgpack, that there are."""
    parts = [json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()[1:-1]]
    for name, data in values.items():
        exact = None if data is None else _exact(data)
        if exact is not None:
            parts.append(b'"%s":%s' % (name.encode(), exact))
        elif data is not None:
            parts.append(b'"%s%s":"%s"' % (name.encode(), BASE64.encode(), base64.b64encode(data)))
    return b"{%s}" % b",".join(part for part in parts if part)


def _exact(data: bytes) -> bytes | None:
    """The JSON of msgpack, or `None` if JSON has no form for it, or readers would round it."""
    try:
        # Names must be text; bytes, times and NaN are refused by the encoder.
        value = msgpack.unpackb(data)
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        found = text.encode()
        if LONG_DIGITS.search(found):
            read_json(found)
    except (TypeError, ValueError, RecursionError, msgpack.UnpackException):
        return None
    return found


def _integer(digits: str) -> int:
    found = int(digits)
    if abs(found) > INTEGER_MAX:
        raise ValueError(f"{digits:.40} is past 2^53, where JSON is not exact: write it as text")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
