"""Names of a run's objects in the store."""

import re
from typing import Final

NAME_RANDOM_BYTES: Final = 8
"""Makes a name that is never used twice, even by two owners who count alike."""
OBJECT: Final = re.compile(r"runs/[^/]+/o/(\d+)-(\d+)-[0-9a-f]{16}")


def head_name(run: str) -> str:
    """Name of a run's head."""
    return f"runs/{run}/head"


def object_name(run: str, *, epoch: int, seq: int, random: bytes) -> str:
    """A name for an immutable object of a run; `random` makes it one that was never used."""
    return f"runs/{run}/o/{epoch}-{seq}-{random[:NAME_RANDOM_BYTES].hex()}"


def objects_prefix(run: str) -> str:
    """How the names of a run's objects begin, its head's apart."""
    return f"runs/{run}/o/"


def made_at(name: str) -> tuple[int, int] | None:
    """(epoch, seq) of an object by its name; `None` for what is not named by us."""
    found = OBJECT.fullmatch(name)
    return None if found is None else (int(found[1]), int(found[2]))
