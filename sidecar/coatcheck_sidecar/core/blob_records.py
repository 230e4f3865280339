"""The records of big values that a run keeps beside its state."""

from dataclasses import dataclass
from typing import ClassVar

from coatcheck_sidecar.core.model import NO_BODY, Body


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A value of `length` bytes lies in the store, until it is dropped or the run is over."""

    kind: ClassVar[str] = "blob"
    digest: bytes
    """SHA-256 of all of it."""
    length: int
    parts: Body = NO_BODY
    """msgpack: the references to its parts, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A blob is of no use to the run any more."""

    kind: ClassVar[str] = "dropped"
    digest: bytes
