"""What happened, counted, and how things stand, as Prometheus reads it.

Imported when agents are served already: `events.py` keeps what happens until then.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from coatcheck_sidecar.events import TABLE, Count, Figures, Spread

LABEL_VALUES_MAX: Final = 100
"""Tools are named by agents; past this many names they are counted together."""
LABEL_CHARS_MAX: Final = 128
"""Of one name: a run's may have as many."""
OTHER: Final = "other"


GAUGES: Final[tuple[tuple[str, str, str], ...]] = (
    ("unshipped_records", "unshipped_records", "Records that no head holds yet."),
    ("unshipped_bytes", "unshipped_bytes", "Bytes that the store does not hold yet."),
    ("calls_in_doubt", "in_doubt", "Calls for an operator to decide."),
    ("journal_bytes", "journal_bytes", "Rows kept in the journal."),
    ("journal_limit_bytes", "journal_bytes_max", "The most that the journal keeps."),
    ("journal_dead", "is_journal_dead", "1: the journal takes nothing more."),
    ("store_reachable", "is_store_reachable", "0: the store does not answer."),
    ("unfenced", "is_unfenced", "1: the store lies in the data folder and fences nobody."),
    ("runs_stuck", "runs_stuck", "Runs whose step outlasts the time their agent gives one."),
    ("draining", "is_draining", "1: the pod is on its way out."),
    ("flush_budget_bytes", "budget_bytes", "What may be unshipped and still make the grace."),
    ("flush_budget_used_bytes", "budget_used_bytes", "What has to be put for what is unshipped."),
    ("link_bytes_per_second", "bytes_per_s", "Goodput of puts, low percentiles."),
    ("link_latency_seconds", "latency_s", "Latency of a put, 99th percentile."),
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
        bypass = GaugeMetricFamily(
            "coatcheck_bypass_connections",
            "Open connections of the pod that do not go through the proxy.",
            labels=["host"],
        )
        for host, count in sorted(figures.bypass.items()):
            bypass.add_metric([host], count)
        yield bypass
        yield from _waiting(figures)
        for name, attribute, help in GAUGES:
            yield GaugeMetricFamily(
                f"coatcheck_{name}", help, value=float(getattr(figures, attribute))
            )


def _waiting(figures: Figures) -> Iterable[Metric]:
    labels = ["status", "queue"]
    runs = GaugeMetricFamily(
        "coatcheck_waiting_runs",
        "Runs of the whole store that nobody owns; every sidecar says the same.",
        labels=labels,
    )
    oldest = GaugeMetricFamily(
        "coatcheck_waiting_oldest_seconds", "For how long the first of them waits.", labels=labels
    )
    for names, (count, oldest_s) in sorted(figures.waiting.items()):
        runs.add_metric(names, count)
        oldest.add_metric(names, oldest_s)
    yield from (runs, oldest)


class Metrics:
    """Counts what is noted, and shows it to a scraper."""

    def __init__(self, *, version: str) -> None:
        """`version` is the sidecar's, shown by `coatcheck_build_info`."""
        self.registry = CollectorRegistry(auto_describe=False)
        self._values: dict[str, set[str]] = {}
        self._children: dict[tuple[str, ...], Counter | Histogram] = {}
        """By name and labels: looking one up in the library takes longer than counting."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, that few scrapers use
        found = {i.name: i for line in TABLE.values() for i in line.instruments}
        self._made: dict[str, Counter | Histogram] = {
            name: self._make(instrument) for name, instrument in found.items()
        }
        info = Gauge("coatcheck_build_info", "1.", ["version"], registry=self.registry)
        info.labels(version=version).set(1)
        ProcessCollector(registry=self.registry)

    def watch(self, read: Callable[[], Figures]) -> None:
        """Ask `read` at each scrape. Once only; it must be quick, and not raise."""
        self.registry.register(_FiguresCollector(read))

    def count(self, event: str, fields: Mapping[str, object]) -> None:
        """Count an event of the table, by its fields."""
        for instrument in TABLE[event].instruments:
            self._count(instrument, fields)

    def render(self, accept: str) -> tuple[bytes, str]:
        """What a scraper gets, and its content type; `accept` is its header."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def _make(self, instrument: Count | Spread) -> Counter | Histogram:
        name = f"coatcheck_{instrument.name}"
        if isinstance(instrument, Count):
            counter = Counter(name, instrument.help, instrument.labels, registry=self.registry)
            for values in instrument.known:
                counter.labels(*values)
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
        value = str(fields.get(name, ""))[:LABEL_CHARS_MAX]
        known = self._values.setdefault(name, set())
        if value not in known and len(known) >= LABEL_VALUES_MAX:
            return OTHER
        known.add(value)
        return value
