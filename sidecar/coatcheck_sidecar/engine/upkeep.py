"""What keeps a store in order, run by run: whether it is whole, and what of it may go."""

from typing import Final

from coatcheck.wire import ErrorCode
from coatcheck_sidecar.core.model import RUN_ID
from coatcheck_sidecar.core.ownership import Accepts
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.engine.collect import Collected, collect
from coatcheck_sidecar.engine.erase import Erased, erase
from coatcheck_sidecar.engine.lines import each
from coatcheck_sidecar.engine.preflight import Preflight, preflight
from coatcheck_sidecar.engine.verify import Verdict, verify_run
from coatcheck_sidecar.ports import Store

RUNS_MAX: Final = 1_000_000
"""Looked at in one go: a day's work."""
RUNS_READ_MAX: Final = 4
"""Whole runs read at once: each may bring a state of 64 MiB."""
PAGE: Final = 1_000
"""Names in one answer of a store."""


class Upkeep:
    """Needs no owner's help. Every verb may raise `StoreError`."""

    def __init__(self, store: Store, *, state_bytes_max: int) -> None:
        """`state_bytes_max` is that of the sidecars."""
        self._store = store
        self._state_bytes_max = state_bytes_max

    async def verify(self, run: str | None) -> list[Verdict]:
        """Every object of a run, or of all, against its digest; raises `Refusal` (not found)."""
        if run is not None:
            check_run(run)
        names = [run] if run is not None else await self.all_runs(RUNS_MAX)
        found = await each(
            names,
            lambda name: verify_run(self._store, name, bytes_max=self._state_bytes_max),
            at_once=RUNS_READ_MAX,
        )
        if run is not None and found == [None]:
            raise Refusal(ErrorCode.NOT_FOUND, f"there is no run {run} in {self._store.url}")
        return [verdict for verdict in found if verdict is not None]

    async def collect(self, run: str | None, *, grace_s: float, is_dry: bool) -> list[Collected]:
        """Delete what no head names any more, of a run or of all."""
        if run is not None:
            check_run(run)
        names = [run] if run is not None else await self.all_runs(RUNS_MAX)
        return await each(
            names,
            lambda name: collect(self._store, name, grace_s=grace_s, is_dry=is_dry),
            at_once=RUNS_READ_MAX,
        )

    async def preflight(self, accepts: Accepts, *, queue: str | None) -> Preflight:
        """Which runs an agent that accepts this would go on with."""
        names = await self.all_runs(RUNS_MAX)
        return await preflight(self._store, names, accepts=accepts, queue=queue)

    async def erase(self, run: str) -> Erased:
        """Erase a run that is over; raises `Refusal` (not found, conflict, unavailable)."""
        check_run(run)
        return await erase(self._store, run)

    async def all_runs(self, limit: int) -> list[str]:
        """Names of runs, those without a head too; past their objects, which may be many."""
        runs: dict[str, None] = {}
        after = ""
        while len(runs) < limit:
            page = await self._store.list("runs/", after=after, limit=PAGE)
            runs |= dict.fromkeys(entry.name.split("/")[1] for entry in page)
            if len(page) < PAGE:
                break
            after = f"runs/{page[-1].name.split('/')[1]}/z"
        return list(runs)[:limit]


def check_run(run: str) -> None:
    """Raises `Refusal` for what is no run's name."""
    if not RUN_ID.fullmatch(run):
        raise Refusal(
            ErrorCode.PROTOCOL_ERROR,
            f"{run!r:.140} is no run's name: letters, digits, dot, dash and underscore, "
            "128 at most, a letter or digit first",
        )
