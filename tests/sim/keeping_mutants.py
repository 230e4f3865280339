"""Mutants of what is kept of a run, and what of it is deleted."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Final
from unittest.mock import patch

from coatcheck_sidecar.core.collection import named
from coatcheck_sidecar.core.head import Head
from coatcheck_sidecar.core.layout import objects_prefix
from coatcheck_sidecar.core.past import Past
from coatcheck_sidecar.core.record import Record
from coatcheck_sidecar.engine.collect import Collected
from coatcheck_sidecar.engine.restore import read_head
from coatcheck_sidecar.engine.verify import listed
from coatcheck_sidecar.ports import Store
from tests.sim.http_mutants import Mutant

COLLECT: Final = "coatcheck_sidecar.engine.collect"


def collect_what_is_not_named_yet() -> AbstractContextManager[Any]:
    """What no head names goes, though its owner may be about to name it."""

    def unnamed(head: Head, alive: set[str], *, listed: Iterable[str]) -> list[str]:
        return [name for name in listed if name not in alive]

    return patch(f"{COLLECT}.dead", unnamed)


def collect_by_an_older_head() -> AbstractContextManager[Any]:
    """The objects are listed after the head was read, as if what it names never changed."""

    async def collect(store: Store, run: str, *, grace_s: float) -> Collected:
        found = await read_head(store, run)
        entries = await listed(store, objects_prefix(run))
        head = found[0] if found is not None else None
        names = [entry.name for entry in entries]
        gone = [] if head is None else [n for n in names if n not in named(head, ())]
        for name in gone:
            await store.delete(name)
        return Collected(run, len(names), len(gone), 0)

    return patch("coatcheck_sidecar.engine.sweep.collect", collect)


def collect_older_checkpoints() -> AbstractContextManager[Any]:
    """Only what a restore reads is taken to be of use."""

    def read(head: Head, packed: Iterable[Record]) -> set[str]:
        return {ref.name for ref in head.named_objects()}

    return patch(f"{COLLECT}.named", read)


def collect_answers_in_packs() -> AbstractContextManager[Any]:
    """Answers that only records in packs lead to are taken to be of no use."""
    return patch(f"{COLLECT}.named", lambda head, packed: named(head, ()))


def forget_what_is_over() -> AbstractContextManager[Any]:
    """A run that is set back has not done what it did since."""

    def take_back(self: Past, seq: int) -> list[Record]:
        self.forget(1 << 60)
        return []

    return patch.object(Past, "take_back", take_back)


def not_blind() -> AbstractContextManager[Any]:
    """A call whose record may be gone is taken for a new one."""
    return patch("coatcheck_sidecar.core.rewind.blind_step", lambda *_, **__: 0)


KEEPING_MUTANTS: Final[tuple[Mutant, ...]] = (
    collect_what_is_not_named_yet,
    collect_by_an_older_head,
    collect_older_checkpoints,
    collect_answers_in_packs,
    forget_what_is_over,
    not_blind,
)
