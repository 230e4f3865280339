"""What happens, as metrics and log lines: one table for both.

Labels have few values: a run's name is on its log lines, never on a metric.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from coatcheck_sidecar import logs

PUT_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""From a local disk's fsync to a store that is all but gone."""
WAIT_BUCKETS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 2.5, 10, 60)
"""An acknowledgement: from the journal's group commit to back-pressure of a slow link."""
CLAIM_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
"""A claim: two round trips, or a lease to wait for."""
LABEL_VALUES_MAX: Final = 100
"""Tools are named by agents; past this many names they are counted together."""
OTHER: Final = "other"


@dataclass(frozen=True, slots=True)
class Count:
    """A counter: `coatcheck_<name>_total`. Adds the figure of field `amount`, or 1."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    amount: str = ""


@dataclass(frozen=True, slots=True)
class Spread:
    """A histogram of the figures of field `amount`: `coatcheck_<name>`."""

    name: str
    help: str
    amount: str
    buckets: tuple[float, ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """What an event is worth: the level of its log line, and what it counts."""

    level: str
    instruments: tuple[Count | Spread, ...] = ()


def _count(level: str, name: str, *labels: str, help: str) -> Line:
    return Line(level, (Count(name, help, labels),))


TABLE: Final[Mapping[str, Line]] = {
    "shipped": Line(
        "debug",
        (
            Count("ships", "Swaps of a head that succeeded."),
            Count("shipped_bytes", "Bytes put into the store.", amount="bytes"),
            Count("store_puts", "Objects put into the store, heads included.", amount="puts"),
            Spread("ship_seconds", "Time of one swap of a head.", "seconds", PUT_BUCKETS_S),
        ),
    ),
    "ship_failed": _count("warning", "ship_failures", help="Puts or swaps without a clear answer."),
    "fenced": _count("warning", "fenced", help="Runs lost to a newer owner."),
    "damaged": _count("error", "damaged_objects", help="Objects found missing or damaged."),
    "set_aside": Line(
        "warning",
        (Count("set_aside_records", "Local records that diverged from the log.", (), "records"),),
    ),
    "row_damaged": _count("error", "damaged_rows", help="Rows of the journal that can't be read."),
    "spool_failed": _count("error", "spool_failures", help="Files of the spool that failed."),
    "committed": Line(
        "debug",
        (Spread("commit_seconds", "Until acknowledged.", "seconds", WAIT_BUCKETS_S, ("level",)),),
    ),
    "claimed": Line(
        "info",
        (Spread("claim_seconds", "Time of a claim.", "seconds", CLAIM_BUCKETS_S, ("cause",)),),
    ),
    "call": _count("debug", "calls", "tool", "decision", help="Decisions on tool calls."),
    "heartbeat_failed": _count(
        "warning", "heartbeat_failures", help="Heartbeats not acknowledged."
    ),
    "store_away": _count("warning", "store_outages", help="Times that the store went away."),
    "store_back": Line("info"),
    "journal_dead": _count("critical", "journal_deaths", help="I/O errors that ended the journal."),
    "command": _count(
        "info", "commands", "what", help="Commands from outside, carried out or not."
    ),
    "task_failed": _count("error", "task_failures", help="Faults of ours: tasks that broke."),
    "restored": Line(
        "info",
        (
            Spread("restore_seconds", "Time to bring a run back.", "seconds", CLAIM_BUCKETS_S),
            Count("restored_objects", "Objects read to bring runs back.", (), "objects"),
        ),
    ),
    "alarm": _count("error", "alarms", help="Outcomes that contradict what was decided."),
    "let_go": Line("info", (Count("let_go", "Runs given up, by what they are now.", ("status",)),)),
    "look_failed": _count("warning", "look_failures", help="Reads that failed and are repeated."),
    "passed_over": Line("debug"),
    "adopt_failed": Line("warning"),
    "drain_cut": _count("error", "drains_cut", help="Drains that the deadline ended."),
    "drain": _count("info", "drains", help="Drains begun."),
}
"""Every event that the engine notes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How things stand, read at each scrape."""

    runs: Mapping[str, int] = field(default_factory=dict)
    """By status."""
    unshipped_records: int = 0
    unshipped_bytes: int = 0
    in_doubt: int = 0
    journal_bytes: int = 0
    journal_bytes_max: int = 0
    is_journal_dead: bool = False
    is_store_reachable: bool = True
    is_unfenced: bool = False
    """The store lies inside the data folder: no other pod can be fenced by it."""
    is_draining: bool = False


GAUGES: Final[tuple[tuple[str, str, str], ...]] = (
    ("unshipped_records", "unshipped_records", "Records that no head holds yet."),
    ("unshipped_bytes", "unshipped_bytes", "Bytes that the store does not hold yet."),
    ("calls_in_doubt", "in_doubt", "Calls for an operator to decide."),
    ("journal_bytes", "journal_bytes", "Rows kept in the journal."),
    ("journal_limit_bytes", "journal_bytes_max", "The most that the journal keeps."),
    ("journal_dead", "is_journal_dead", "1: the journal takes nothing more."),
    ("store_reachable", "is_store_reachable", "0: the store does not answer."),
    ("unfenced", "is_unfenced", "1: the store lies in the data folder and fences nobody."),
    ("draining", "is_draining", "1: the pod is on its way out."),
)
"""Name, field of `Figures`, help."""


class _FiguresCollector(Collector):
    def __init__(self, read: Callable[[], Figures]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        figures = self._read()
        runs = GaugeMetricFamily("coatcheck_runs", "Runs of this pod.", labels=["status"])
        for status, count in sorted(figures.runs.items()):
            runs.add_metric([status], count)
        yield runs
        for name, attribute, help in GAUGES:
            yield GaugeMetricFamily(
                f"coatcheck_{name}", help, value=float(getattr(figures, attribute))
            )


class MetricsObserver:
    """Implements `ports.Observer`: counts what is noted, and writes it to the log."""

    def __init__(self, *, version: str) -> None:
        """`version` is the sidecar's, shown by `coatcheck_build_info`."""
        self.registry = CollectorRegistry(auto_describe=False)
        self._values: dict[str, set[str]] = {}
        self._children: dict[tuple[str, ...], Counter | Histogram] = {}
        """By name and labels: looking one up in the library takes longer than counting."""
        self._made: dict[str, Counter | Histogram] = {
            instrument.name: self._make(instrument)
            for line in TABLE.values()
            for instrument in line.instruments
        }
        info = Gauge("coatcheck_build_info", "1.", ["version"], registry=self.registry)
        info.labels(version=version).set(1)
        ProcessCollector(registry=self.registry)

    def watch(self, read: Callable[[], Figures]) -> None:
        """Ask `read` at each scrape. Once only; it must be quick, and not raise."""
        self.registry.register(_FiguresCollector(read))

    def note(self, event: str, /, **fields: object) -> None:
        """Count and log. An event that the table does not know is logged."""
        line = TABLE.get(event, Line("info"))
        for instrument in line.instruments:
            self._count(instrument, fields)
        logs.write(line.level, event, **fields)

    def render(self, accept: str) -> tuple[bytes, str]:
        """What a scraper gets, and its content type; `accept` is its header."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def _make(self, instrument: Count | Spread) -> Counter | Histogram:
        name = f"coatcheck_{instrument.name}"
        if isinstance(instrument, Count):
            counter = Counter(name, instrument.help, instrument.labels, registry=self.registry)
            return counter
        return Histogram(
            name,
            instrument.help,
            instrument.labels,
            buckets=instrument.buckets,
            registry=self.registry,
        )

    def _count(self, instrument: Count | Spread, fields: Mapping[str, object]) -> None:
        amount = fields.get(instrument.amount, None) if instrument.amount else 1
        if not isinstance(amount, int | float):
            return
        made = self._made[instrument.name]
        if instrument.labels:
            values = tuple(self._label(name, fields) for name in instrument.labels)
            key = (instrument.name, *values)
            child = self._children.get(key)
            if child is None:
                child = self._children[key] = made.labels(*values)
            made = child
        if isinstance(made, Histogram):
            made.observe(amount)
        else:
            made.inc(max(0, amount))

    def _label(self, name: str, fields: Mapping[str, object]) -> str:
        value = str(fields.get(name, ""))
        known = self._values.setdefault(name, set())
        if value not in known and len(known) >= LABEL_VALUES_MAX:
            return OTHER
        known.add(value)
        return value
