"""States, arguments and results as msgpack, and back. Says where a value is that has no form."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, get_type_hints

import msgpack

from coatcheck.errors import Damaged, NotEncodable

DEPTH_MAX: Final = 500
"""msgpack gives up at 511; below it the place can still be named."""
_NO_PARTS: Final = (str, int, float, bytes, bytearray, memoryview, type(None))
_UNREADABLE: Final = (TypeError, ValueError, OverflowError, Damaged)
_MENDS: Final = {
    **dict.fromkeys(("datetime", "date"), "store .isoformat() in its place"),
    **dict.fromkeys(("Decimal", "UUID"), "store str() of it"),
    **dict.fromkeys(("set", "frozenset"), "store a sorted list"),
    "coroutine": "await it first",
}


def encode(value: Any, name: str) -> bytes:
    """`value` as msgpack; `name` is what errors call it.

    Takes what msgpack takes, tuples (as lists), dataclasses and pydantic objects (as maps).
    Raises `NotEncodable` with the path of what it can't take.
    """
    try:
        try:
            data: bytes = msgpack.packb(value)
        except TypeError:
            data = msgpack.packb(value, default=_plain)
            # An object can stand where only a plain key may; what can't be read is no checkpoint.
            decode(data)
    except _UNREADABLE as error:
        raise NotEncodable(*_fault(value, name)) from error
    return data


def decode(data: bytes | None) -> Any:
    """What `encode` was given, in plain types; `None` of nothing. Raises `Damaged`."""
    if data is None:
        return None
    try:
        try:
            return msgpack.unpackb(data, strict_map_key=False)
        except TypeError:
            # A map has a tuple for a key: read all as tuples, then make lists of the values.
            return _listed(msgpack.unpackb(data, strict_map_key=False, use_list=False))
    except (TypeError, ValueError) as error:
        raise Damaged(f"these {len(data)} bytes are not msgpack: {error}") from error


def _plain(item: Any) -> Any:
    """One object as a map of its fields. Raises `TypeError` for other types."""
    if callable(getattr(item, "model_dump", None)) and not isinstance(item, type):
        return _dump(item)
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    raise TypeError(type(item).__name__)


def _dump(item: Any) -> Any:
    """A pydantic object: the fields that were set, and those that no longer have their default.

    So a message of a model's SDK goes back to the model as the SDK itself would send it: a request
    made from a restored state equals the recorded one.
    """
    try:
        was_set = item.model_dump(mode="json", exclude_unset=True)
        return _merged(was_set, item.model_dump(mode="json", exclude_defaults=True))
    except (TypeError, ValueError):  # bytes that are no UTF-8; or another kind of model_dump
        return item.model_dump()


def _merged(first: Any, second: Any) -> Any:
    if isinstance(first, dict) and isinstance(second, dict):
        both = {key: _merged(value, second.get(key)) for key, value in first.items()}
        return {**both, **{key: value for key, value in second.items() if key not in first}}
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return [_merged(*pair) for pair in zip(first, second, strict=True)]
    return first


def _listed(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_listed(item) for item in value]
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return value


def _fault(value: Any, path: str, *, depth: int = 0) -> tuple[str, str]:
    """The innermost part of `value` that can't be encoded, and what to do about it."""
    if depth > DEPTH_MAX:
        return path.partition("[")[0], f"is nested deeper than {DEPTH_MAX}, or holds itself"
    for part, place in _parts(value, path):
        try:
            decode(msgpack.packb(part, default=_plain))
        except _UNREADABLE:
            return _fault(part, place, depth=depth + 1)
    if isinstance(value, str):
        return path, "has a lone surrogate, which is no UTF-8"
    if isinstance(value, int):
        return path, "is an integer of more than 64 bits; store str() of it"
    if isinstance(value, dict):
        kinds = sorted({type(key).__name__ for key in value if not isinstance(key, _NO_PARTS)})
        return path, f"has a key of type {', '.join(kinds)}; use str"
    kind = type(value).__name__
    mend = _MENDS.get(kind, "store plain values, a dataclass or a pydantic model in its place")
    return path, f"is a {kind}, which has no form in msgpack: {mend}"


def _parts(value: Any, path: str) -> Iterator[tuple[Any, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(key, _NO_PARTS):
                yield key, f"the key {key!r:.60} of {path}"
            quoted = f'"{key}"' if isinstance(key, str) else repr(key)
            yield item, f"{path}[{quoted}]"
    elif isinstance(value, list | tuple):
        yield from ((item, f"{path}[{at}]") for at, item in enumerate(value))
    elif not isinstance(value, _NO_PARTS):
        with suppress(TypeError):
            if isinstance(fields := _plain(value), dict):
                yield from ((item, f"{path}.{name}") for name, item in fields.items())


def typed(value: Any, function: Callable[..., Any]) -> Any:
    """A decoded result as `function` says that it returns: pydantic models are made anew."""
    plain = getattr(function, "__func__", function)
    kind = getattr(plain, "__annotations__", {}).get("return")
    if isinstance(kind, str):
        with suppress(NameError, TypeError, AttributeError):  # known to the type checker alone
            kind = get_type_hints(plain)["return"]
    validate = getattr(kind, "model_validate", None)
    return validate(value) if validate else value
