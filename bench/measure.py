"""What was measured, beside its floor and its bar; and how a noisy machine is cancelled out."""

import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

Times = list[float]


class Bar(Enum):
    """What a bar is laid against."""

    OURS_MOST = "at most"
    OURS_LEAST = "at least"
    RATIO_MOST = "at most x floor"
    RATIO_LEAST = "at least x floor"
    OVER_FLOOR_MOST = "at most, above the floor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One figure of ours; `floor` is what the machine itself takes for the same, in this run."""

    what: str
    ours: float
    unit: str
    floor: float | None = None
    paired_ratio: float | None = None
    """The median of the rounds' ratios, which is steadier than the ratio of medians."""
    limit: float | None = None
    bar: Bar = Bar.OURS_MOST
    note: str = ""

    @property
    def ratio(self) -> float | None:
        if self.paired_ratio is not None:
            return self.paired_ratio
        return self.ours / self.floor if self.floor else None

    @property
    def is_met(self) -> bool | None:
        """`None` without a bar."""
        if self.limit is None:
            return None
        match self.bar:
            case Bar.OURS_MOST:
                return self.ours <= self.limit
            case Bar.OURS_LEAST:
                return self.ours >= self.limit
            case Bar.RATIO_MOST:
                return self.ratio is not None and self.ratio <= self.limit
            case Bar.RATIO_LEAST:
                return self.ratio is not None and self.ratio >= self.limit
            case Bar.OVER_FLOOR_MOST:
                return self.ours - (self.floor or 0.0) <= self.limit

    def as_json(self) -> dict[str, Any]:
        fields = asdict(self) | {"bar": self.bar.value, "ratio": self.ratio, "met": self.is_met}
        del fields["paired_ratio"]
        return fields


def p(share: float, times: Sequence[float]) -> float:
    """A percentile; `share` from 0 to 1."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True, slots=True)
class Paired:
    """Rounds of the floor and of ours, taken in turns: one round's noise strikes both."""

    floors: list[Times]
    ours: list[Times]

    def line(self, what: str, share: float, *, limit: float | None = None, note: str = "") -> Line:
        """A percentile of both in ms, with the ratio of each round's pair."""
        floors = [p(share, times) for times in self.floors]
        ours = [p(share, times) for times in self.ours]
        ratios = [mine / floor for mine, floor in zip(ours, floors, strict=True)]
        return Line(
            what=what,
            ours=statistics.median(ours) * 1e3,
            floor=statistics.median(floors) * 1e3,
            unit="ms",
            paired_ratio=statistics.median(ratios),
            limit=limit,
            bar=Bar.RATIO_MOST,
            note=note,
        )


async def in_turns(
    floor: Callable[[], Awaitable[Times]], ours: Callable[[], Awaitable[Times]], *, rounds: int
) -> Paired:
    """Floor, ours, floor, ours, ... after one round of each that doesn't count."""
    await floor()
    await ours()
    floors: list[Times] = []
    mine: list[Times] = []
    for _ in range(rounds):
        floors.append(await floor())
        mine.append(await ours())
    return Paired(floors, mine)
