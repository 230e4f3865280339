"""Which checkpoints a run can be set back to, and what of its log that takes.

A checkpoint is kept by its sealed objects, or, while the head still carries the deltas that led to
it, by those. What is kept is few: the newest, a sealed one that shares no object with them, and the
newest of each code version, so that a bad release can be taken back long after it went out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from coatcheck_sidecar.core.delta import Chain
from coatcheck_sidecar.core.head import Head, Kept

KEEP: Final = 3
"""Checkpoints kept of either kind."""
KEEP_MAX: Final = 32
"""What a head can name beside all else in it."""
VERSIONS_MAX: Final = 3
"""Code versions of which the newest sealed checkpoint is kept, however old it is."""


@dataclass(frozen=True, slots=True)
class NotKept:
    """There is no such checkpoint any more."""

    why: str


def retained(kept: Sequence[Kept], *, most: int) -> tuple[tuple[Kept, ...], int]:
    """What stays of `kept`, by seq; and the horizon: records that ended up to there are dropped.

    The horizon is the oldest of the newest `most` of either kind, and of the one that shares no
    object with them. A run set back to before it may meet calls whose records are gone.
    """
    sealed = [each for each in kept if each.is_sealed]
    newest = [*sealed[-most:], *[each for each in kept if not each.is_sealed][-most:]]
    newest += [each for each in sealed if each.base != sealed[-1].base][-1:]
    versions = sorted({each.code_version: each.seq for each in sealed}.values())
    chosen = {*(each.seq for each in newest), *versions[-VERSIONS_MAX:]}
    horizon = min((each.seq for each in newest), default=0)
    return tuple(each for each in kept if each.seq in chosen), horizon


def chain_of(kept: Kept, chain: Chain) -> Chain:
    """How the state of a kept checkpoint is built; `chain` is that of the head that names it."""
    if kept.is_sealed:
        return Chain(kept.base, kept.mid)
    deltas = tuple(delta for delta in chain.deltas if delta.seq <= kept.seq)
    return Chain(chain.base, chain.mid, deltas)


def find(head: Head, *, seq: int = 0, code_version: str = "") -> Kept | NotKept:
    """The checkpoint at `seq`, or the newest of a code version."""
    named = f"at {seq}" if seq else f"of code version {code_version!r}"
    for kept in reversed(head.kept):
        if kept.seq == seq or (not seq and kept.code_version == code_version):
            return kept
    there = ", ".join(f"{kept.seq} (step {kept.step})" for kept in head.kept) or "none"
    return NotKept(f"no checkpoint {named} is kept of run {head.run}; there are: {there}")


def blind_step(kept: Kept, *, step_high: int, horizon: int) -> int:
    """Up to which step calls may have taken place without a record, if the run is set back so."""
    return step_high if kept.seq < horizon else 0
