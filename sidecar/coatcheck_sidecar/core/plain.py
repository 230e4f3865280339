"""Values read from msgpack, taken only if they are of the type that they must be.

What an object says decides who owns a run and what is sent again, so nothing of it is believed
by its place alone. All errors are `ValueError`s; the caller adds which object it was.
"""

from dataclasses import fields
from functools import cache
from typing import Any, Final, get_type_hints

PLAIN: Final = (bool, bytes, int, str)
"""Types that msgpack carries as they are."""


def take(raw: Any, *kinds: type) -> list[Any]:
    """The items of an array that must have exactly these types."""
    if type(raw) is not list or tuple(map(type, raw)) != kinds:
        raise ValueError(f"{_said(raw)} is not [{', '.join(kind.__name__ for kind in kinds)}]")
    return raw


def take_all(raw: Any, kind: type) -> tuple[Any, ...]:
    """The items of an array of any length, all of one type."""
    if type(raw) is not list or any(type(item) is not kind for item in raw):
        raise ValueError(f"{_said(raw)} is not an array of {kind.__name__}")
    return tuple(raw)


def plain_of(value: Any) -> dict[str, Any]:
    """The plain fields of a dataclass, by name; its other fields have codecs of their own."""
    cls: type = type(value)
    return {name: getattr(value, name) for name in _plain_fields(cls)}


def take_plain(cls: type, raw: Any) -> dict[str, Any]:
    """Inverse of `plain_of`: arguments for `cls`. Each must be there; unknown ones are ignored."""
    if type(raw) is not dict:
        raise ValueError(f"{_said(raw)} is not a map")
    taken = {}
    for name, kind in _plain_fields(cls).items():
        if name not in raw:
            raise ValueError(f"{name} is missing")
        if type(raw[name]) is not kind:
            raise ValueError(f"{name} is {_said(raw[name])}, not {kind.__name__}")
        taken[name] = raw[name]
    return taken


@cache
def _plain_fields(cls: type) -> dict[str, type]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls) if hints[field.name] in PLAIN}


def _said(raw: Any) -> str:
    return f"{raw!r:.40}"
