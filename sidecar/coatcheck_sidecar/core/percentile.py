"""Percentiles by nearest rank: a value that was seen, and none in between. Pure."""

from collections.abc import Sequence
from typing import TypeVar

Number = TypeVar("Number", int, float)


def percentile(values: Sequence[Number], percent: int) -> Number:
    """The least of `values`, of which there must be one, that `percent` of them do not exceed."""
    return sorted(values)[max(0, -(-percent * len(values) // 100) - 1)]
