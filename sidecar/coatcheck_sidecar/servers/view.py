"""How the sidecar stands, for its servers and gauges: read from the engine, never waited for."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from coatcheck_sidecar.core.ownership import RunSummary
from coatcheck_sidecar.engine.sidecar import Sidecar
from coatcheck_sidecar.events import Figures
from coatcheck_sidecar.stores.spool import Spool
from coatcheck_sidecar.stores.sqlite import SqliteJournal


class EngineView:
    """Implements `admin.SidecarView` on the engine."""

    def __init__(
        self, sidecar: Sidecar, *, journal: SqliteJournal, spool: Spool, is_unfenced: bool
    ) -> None:
        """`is_unfenced`: the store lies in the data folder."""
        self._sidecar = sidecar
        self._journal = journal
        self._spool = spool
        self._is_unfenced = is_unfenced
        self.bypass: Callable[[], Mapping[str, int]] = dict
        """Connections past the proxy, by host."""

    @property
    def is_started(self) -> bool:
        """It takes agents."""
        return self._sidecar.is_started

    @property
    def journal_is_dead(self) -> bool:
        """An I/O error ended the journal."""
        return self._journal.is_dead

    def summaries(self) -> list[RunSummary]:
        """The runs that this pod owns."""
        return [keeper.summary() for keeper in self._sidecar.keepers.values()]

    def figures(self) -> Figures:
        """For the gauges."""
        summaries = self.summaries()
        usage = self._journal.usage()
        budget = self._sidecar.budget
        rate = budget.rate()
        return Figures(
            runs=Counter(summary.status for summary in summaries),
            unshipped_records=sum(k.log.unshipped for k in self._sidecar.keepers.values()),
            unshipped_bytes=usage.kept_bytes + self._spool.bytes_used,
            in_doubt=sum(summary.in_doubt for summary in summaries),
            journal_bytes=usage.kept_bytes,
            journal_bytes_max=usage.bytes_max,
            is_journal_dead=self._journal.is_dead,
            is_store_reachable=not self._sidecar.heart.is_away,
            is_unfenced=self._is_unfenced,
            runs_stuck=sum(summary.stuck for summary in summaries),
            is_draining=self._sidecar.drain.is_begun,
            budget_bytes=int(budget.allowed_bytes()),
            budget_used_bytes=budget.used_bytes,
            bytes_per_s=rate.bytes_per_s,
            latency_s=rate.latency_s,
            waiting={
                names: (queued.runs, queued.oldest_s)
                for names, queued in self._sidecar.backlog.seen.items()
            },
            bypass=self.bypass(),
        )


def is_unfenced(store_url: str, data: Path) -> bool:
    """The store lies in the data folder: it dies with the pod, and no other pod sees it."""
    parts = urlsplit(store_url)
    path = Path(unquote(parts.path)).absolute()
    return parts.scheme == "memory" or (
        parts.scheme == "file" and path.is_relative_to(data.absolute())
    )
