"""What may be unshipped and still be off the pod by the deadline: the flush budget. Pure."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast the store takes things, on a bad day: low percentiles, so that plans hold."""

    bytes_per_s: float
    latency_s: float
    """Of one put, beside what its bytes take."""


ASSUMED: Final = Rate(bytes_per_s=1_000_000.0, latency_s=0.2)
"""Before anything was measured: a store in another region, over a link that others use too."""
