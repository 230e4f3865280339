"""A mapping that only grows, and whose every former state stays as it was.

One more entry costs about the square root of what is in it, not all of it: what came last lies in a
small layer of its own until it is worth to be merged.
"""

from collections.abc import Iterator, Mapping
from typing import Final, Self, TypeVar

V = TypeVar("V")
LAYER_MIN: Final = 16
"""A smaller last layer is not worth another copy of the first."""


class Grown(Mapping[str, V]):
    """Immutable; `grown` gives another with one entry more."""

    __slots__ = ("_first", "_last")

    def __init__(self, first: Mapping[str, V] | None = None) -> None:
        """`first` is not changed by anybody any more."""
        self._first: Mapping[str, V] = {} if first is None else first
        self._last: Mapping[str, V] = {}

    def grown(self, key: str, value: V) -> Self:
        """With this entry, in place of an older one of the key."""
        made = type(self)(self._first)
        made._last = {**self._last, key: value}
        if len(made._last) > LAYER_MIN and len(made._last) ** 2 > len(self._first):
            made._first, made._last = {**self._first, **made._last}, {}
        return made

    def __getitem__(self, key: str) -> V:
        return self._last[key] if key in self._last else self._first[key]

    def __contains__(self, key: object) -> bool:
        return key in self._last or key in self._first

    def __iter__(self) -> Iterator[str]:
        yield from self._first
        yield from (key for key in self._last if key not in self._first)

    def __len__(self) -> int:
        return len(self._first) + sum(key not in self._first for key in self._last)

    def __repr__(self) -> str:
        return f"Grown({dict(self)!r})"
