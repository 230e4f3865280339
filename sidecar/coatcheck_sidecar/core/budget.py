"""What may be unshipped and still be off the pod by the deadline: the flush budget. Pure.

    unshipped <= B x max(0, grace left - settle - store interval - n x L - margin)

B and L are a bad day's: low percentiles of what was measured, so that the budget is a bound and no
wish. An acknowledgement that would break it waits; what alone exceeds it is acknowledged only when
it is remote. This is battery-backed flush-on-fail (Viyojit, ISCA 2017) applied to a pod.

What a put measures depends on its size. A small one on a quiet link measures latency. Big ones
measure goodput, and all that are under way at once measure it together: each alone sees but its
share of the link. So time is cut into slices once every put that touches one has ended, a put's
bytes count evenly over the time it took, and a slice's goodput is by the time that any was under
way.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from coatcheck_sidecar.core.percentile import percentile

SMALL_BYTES_MAX: Final = 32_768
"""A put measures latency if no more than this is under way while it is."""
SMALL_S_MAX: Final = 0.05
"""Or no more than takes so long at the rate known: a fast link is not loaded by it."""
BIG_BYTES_MIN: Final = 65_536
"""A put of this much measures goodput: at S3's 30 ms a link of 2 MB/s is seen to half."""
SLICE_S: Final = 1.0
"""A sample of goodput covers so much time at most."""
MINUTE_S: Final = 60.0
MINUTE_PERCENTILE: Final = 5
TEN_MINUTES_S: Final = 600.0
TEN_MINUTES_PERCENTILE: Final = 1
LATENCY_PERCENTILE: Final = 99
SAMPLES_MAX: Final = 600
"""Ten minutes of slices; and so many latencies, the newest."""
DONE_MAX: Final = 512
"""Puts that wait for an older one to end; above this the oldest are forgotten, to be careful."""
OPEN_S_MIN: Final = 1.0
"""Puts that are under way for longer bound the goodput, though they have not ended."""
LEAD_SHARE_MAX: Final = 0.75
"""Of a put's time at most so much is taken for latency, and not for its bytes."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast the store takes things, on a bad day: low percentiles, so that plans hold."""

    bytes_per_s: float
    latency_s: float
    """Of one put, beside what its bytes take."""


ASSUMED: Final = Rate(bytes_per_s=1_000_000.0, latency_s=0.2)
"""Before anything was measured: a store in another region, over a link that others use too."""


def allowed_bytes(
    rate: Rate,
    *,
    grace_left_s: float,
    settle_s: float,
    interval_s: float,
    round_trips: int,
    margin_s: float,
) -> float:
    """How much may be unshipped at this moment."""
    left_s = grace_left_s - settle_s - interval_s - round_trips * rate.latency_s - margin_s
    return rate.bytes_per_s * max(0.0, left_s)


def admits(unshipped_bytes: float, size_bytes: float, *, allowed: float) -> bool:
    """Whether so much more may be acknowledged before it is remote."""
    return unshipped_bytes + size_bytes <= allowed


class Sent(NamedTuple):
    """What is on its way in the head under way: nothing, if none is."""

    put_bytes: int = 0
    weight: int = 0
    """Of its records."""
    deltas_bytes: int = 0
    has_sealed: bool = False
    """The head after it begins with no deltas."""


class Unsent(NamedTuple):
    """What the head after that has to hold."""

    weight: int
    """Of records, deltas included."""
    new_bytes: int
    """Of deltas that no head holds."""
    old_bytes: int
    """Of deltas that it still carries."""
    base_bytes: int
    state_bytes: int

    def more(self, delta_bytes: int, *, state_bytes: int) -> "Unsent":
        """With one more delta, which makes a state of that length."""
        weight, new_bytes = self.weight + delta_bytes, self.new_bytes + delta_bytes
        return self._replace(weight=weight, new_bytes=new_bytes, state_bytes=state_bytes)

    def put_bytes(self, *, head_bytes_max: int) -> int:
        """About what is put for it, with what has to be sealed.

        Deltas that are more than a head may carry are folded: however many there are, one state
        is put for them, which is at most as long as it is, or as what it is made of.
        """
        in_head = self.old_bytes + self.new_bytes
        if not self.new_bytes or in_head <= head_bytes_max:
            return self.weight
        return self.weight - self.new_bytes + min(self.state_bytes, in_head + self.base_bytes)


@dataclass(slots=True, eq=False)
class Put:
    """One put, as it goes."""

    size_bytes: int
    began_s: float
    beside_bytes: int
    """Of other puts that were under way with it."""


@dataclass(frozen=True, slots=True)
class _Done:
    began_s: float
    """When its bytes began to flow: latency is not goodput."""
    ended_s: float
    size_bytes: int

    def within(self, low_s: float, high_s: float) -> tuple[float, float] | None:
        began_s, ended_s = max(self.began_s, low_s), min(self.ended_s, high_s)
        return (began_s, ended_s) if began_s < ended_s else None


class Link:
    """The way to the store, as its puts measure it. Moments are of one monotonic clock."""

    def __init__(self) -> None:
        """Nothing is known."""
        self._flying: set[Put] = set()
        self._done: list[_Done] = []
        self._cut_s = float("-inf")
        """Until when goodput was cut into samples."""
        self._goodput: deque[tuple[float, float]] = deque(maxlen=SAMPLES_MAX)
        self._latency: deque[tuple[float, float]] = deque(maxlen=SAMPLES_MAX)
        self._quiet_bytes: float = SMALL_BYTES_MAX

    @property
    def measured_s(self) -> float:
        """When goodput was last measured."""
        return self._goodput[-1][0] if self._goodput else float("-inf")

    def began(self, size_bytes: int, *, now_s: float) -> Put:
        """A put was sent."""
        put = Put(size_bytes, now_s, sum(other.size_bytes for other in self._flying))
        for other in self._flying:
            other.beside_bytes += size_bytes
        self._flying.add(put)
        return put

    def failed(self, put: Put) -> None:
        """It had no clear answer, which measures nothing: a store that is away has no rate."""
        self._flying.discard(put)

    def ended(self, put: Put, *, now_s: float) -> None:
        """It was answered."""
        self._flying.discard(put)
        took_s = now_s - put.began_s
        if put.size_bytes + put.beside_bytes <= self._quiet_bytes:
            self._latency.append((now_s, took_s))
        if put.size_bytes >= BIG_BYTES_MIN and took_s > 0:
            lead_s = min(self._lead_s(), took_s * LEAD_SHARE_MAX)
            self._done.append(_Done(put.began_s + lead_s, now_s, put.size_bytes))
            del self._done[:-DONE_MAX]
        self._cut(now_s)

    def rate(self, *, now_s: float) -> Rate:
        """B and L of now; `ASSUMED` for what was not measured yet."""
        goodput = _since(self._goodput, now_s - TEN_MINUTES_S)
        bytes_per_s = ASSUMED.bytes_per_s
        if goodput:
            bytes_per_s = percentile(goodput, TEN_MINUTES_PERCENTILE)
            last = _since(self._goodput, now_s - MINUTE_S)
            bytes_per_s = min(bytes_per_s, percentile(last, MINUTE_PERCENTILE))
        bytes_per_s = min(bytes_per_s, self._open_bytes_per_s(now_s))
        latency = _since(self._latency, now_s - TEN_MINUTES_S)
        latency_s = percentile(latency, LATENCY_PERCENTILE) if latency else ASSUMED.latency_s
        self._quiet_bytes = max(SMALL_BYTES_MAX, SMALL_S_MAX * bytes_per_s)
        return Rate(bytes_per_s, latency_s)

    def _lead_s(self) -> float:
        """The least that a put was ever seen to take beside its bytes: to take less is careful."""
        return min((latency_s for _, latency_s in self._latency), default=0.0)

    def _big(self) -> list[Put]:
        return [put for put in self._flying if put.size_bytes >= BIG_BYTES_MIN]

    def _open_bytes_per_s(self, now_s: float) -> float:
        """The most that it can be, by what has not ended yet: a link that slows is seen at once."""
        big = self._big()
        since_s = min((put.began_s for put in big), default=now_s)
        if now_s - since_s < OPEN_S_MIN:
            return math.inf
        size = sum(put.size_bytes for put in big)
        size += sum(done.size_bytes for done in self._done if done.ended_s > since_s)
        lead_s = min(self._lead_s(), (now_s - since_s) * LEAD_SHARE_MAX)
        return size / (now_s - since_s - lead_s)

    def _cut(self, now_s: float) -> None:
        """Take samples of the time before the oldest big put that is still under way."""
        big = self._big()
        until_s = min((put.began_s for put in big), default=now_s)
        from_s = max(self._cut_s, min((done.began_s for done in self._done), default=until_s))
        if until_s <= from_s or (big and until_s - from_s < SLICE_S):
            return
        count = min(SAMPLES_MAX, math.ceil((until_s - from_s) / SLICE_S))
        for number in range(count):
            low_s = from_s + (until_s - from_s) * number / count
            high_s = from_s + (until_s - from_s) * (number + 1) / count
            found = _goodput(self._done, low_s=low_s, high_s=high_s)
            if found is not None:
                self._goodput.append((high_s, found))
        self._cut_s = until_s
        self._done = [done for done in self._done if done.ended_s > until_s]


def _goodput(puts: Iterable[_Done], *, low_s: float, high_s: float) -> float | None:
    """Bytes a second, of the time in this slice in which any put was under way."""
    size, parts = 0.0, []
    for put in puts:
        part = put.within(low_s, high_s)
        if part is not None:
            parts.append(part)
            share = (part[1] - part[0]) / (put.ended_s - put.began_s)
            size += put.size_bytes * share
    busy_s, reached_s = 0.0, low_s
    for began_s, ended_s in sorted(parts):
        busy_s += max(0.0, ended_s - max(began_s, reached_s))
        reached_s = max(reached_s, ended_s)
    return size / busy_s if busy_s > 0 else None


def _since(samples: Sequence[tuple[float, float]], from_s: float) -> list[float]:
    """Those from then on; the last of all if there are none, since a link has some rate."""
    found = [value for at_s, value in samples if at_s >= from_s]
    return found or [value for _, value in [*samples][-1:]]
