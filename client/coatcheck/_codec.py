"""States, arguments and results as msgpack, and back. Says where a value is that has no form."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgpack

from coatcheck.errors import Damaged, NotEncodable

DEPTH_MAX: Final = 500
"""msgpack gives up at 511; below it the place can still be named."""
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1
_MENDS: Final = {
    "datetime": "store .isoformat() in its place",
    "date": "store .isoformat() in its place",
    "Decimal": "store str() of it",
    "UUID": "store str() of it",
    "set": "store a sorted list",
    "frozenset": "store a sorted list",
    "coroutine": "await it first",
}


def encode(value: Any, name: str) -> bytes:
    """`value` as msgpack; `name` is what errors call it.

    Takes what msgpack takes, tuples (as lists), dataclasses and pydantic objects (as maps).
    Raises `NotEncodable` with the path of what it can't take.
    """
    objects: list[Any] = []

    def as_plain(item: Any) -> Any:
        objects.append(None)
        return _plain(item)

    try:
        data: bytes = msgpack.packb(value, default=as_plain)
        if objects:
            # An object can stand where only a plain key may; what can't be read is no checkpoint.
            decode(data)
    except (TypeError, ValueError, OverflowError, Damaged) as error:
        path, why = next(_faults(value, name, depth=0), (name, f"can't be encoded: {error}"))
        raise NotEncodable(path, why) from error
    return data


def decode(data: bytes) -> Any:
    """What `encode` was given, in plain types. Raises `Damaged` if `data` is not msgpack."""
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


def _faults(value: Any, path: str, *, depth: int) -> Iterator[tuple[str, str]]:
    """Where in `value` something can't be encoded, and what to do about it."""
    if depth > DEPTH_MAX:
        yield path.partition("[")[0], f"is nested deeper than {DEPTH_MAX}, or holds itself"
        return
    match value:
        case dict():
            for key, item in value.items():
                if isinstance(key, str | int | float | bytes | tuple | None):
                    yield from _faults(key, f"the key {key!r:.60} of {path}", depth=depth + 1)
                else:
                    yield path, f"has a key of type {type(key).__name__}; use str"
                yield from _faults(item, f"{path}[{_quoted(key)}]", depth=depth + 1)
        case list() | tuple():
            for at, item in enumerate(value):
                yield from _faults(item, f"{path}[{at}]", depth=depth + 1)
        case str() | int() | float() | bytes() | bytearray() | memoryview() | None:
            yield from ((path, why) for why in _leaf_fault(value))
        case _:
            yield from _object_faults(value, path, depth=depth)


def _leaf_fault(value: Any) -> list[str]:
    if isinstance(value, str):
        return [] if _is_utf8(value) else ["has a lone surrogate, which is no UTF-8"]
    if isinstance(value, int) and not _INT_MIN <= value <= _INT_MAX:
        return ["is an integer of more than 64 bits; store str() of it"]
    return []


def _object_faults(value: Any, path: str, *, depth: int) -> Iterator[tuple[str, str]]:
    try:
        fields = _plain(value)
    except TypeError:
        kind = type(value).__name__
        mend = _MENDS.get(kind, "store plain values, a dataclass or a pydantic model in its place")
        yield path, f"is a {kind}, which has no form in msgpack: {mend}"
        return
    if not isinstance(fields, dict):
        yield from _faults(fields, path, depth=depth + 1)
        return
    for key, item in fields.items():
        yield from _faults(item, f"{path}.{key}", depth=depth + 1)


def _quoted(key: Any) -> str:
    return f'"{key}"' if isinstance(key, str) else repr(key)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def typed(value: Any, function: Callable[..., Any]) -> Any:
    """A decoded result as `function` says that it returns: pydantic models are made anew."""
    validate = getattr(_return_type(function), "model_validate", None)
    return validate(value) if validate else value


def _return_type(function: Callable[..., Any]) -> Any:
    import typing

    try:
        return typing.get_type_hints(getattr(function, "__func__", function)).get("return")
    except (NameError, TypeError, AttributeError):  # a name known to the type checker alone
        return getattr(function, "__annotations__", {}).get("return")
