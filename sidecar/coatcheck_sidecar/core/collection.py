"""Which objects of a run nobody will ever name again.

What a head dropped is never named again, and what an owner puts before it swaps is told by its
name: of an older epoch than the head's it can't be named any more, since that owner's swaps fail;
of the head's own it can't be below the head's floor. So an object that is dead stays dead, however
long who found it so is paused before it is deleted. `docs/format.md` has the rule.
"""

from collections.abc import Iterable

from coatcheck_sidecar.core.head import Head
from coatcheck_sidecar.core.layout import made_at
from coatcheck_sidecar.core.record import Record, bodies_of


def named(head: Head, packed: Iterable[Record]) -> set[str]:
    """All that the head leads to; `packed` are the records of its packs."""
    refs = head.named_objects()
    refs += [ref for kept in head.kept for ref in (kept.base, kept.mid) if ref is not None]
    refs += [
        body.ref
        for record in (*head.records, *packed)
        for body in bodies_of(record)
        if body.ref is not None
    ]
    return {ref.name for ref in refs}


def dead(head: Head, alive: set[str], *, listed: Iterable[str]) -> list[str]:
    """Of names that were listed before the head was read, those of no use to anybody."""
    return [name for name in listed if name not in alive and _is_past(name, head)]


def _is_past(name: str, head: Head) -> bool:
    at = made_at(name)
    if at is None:  # not ours
        return False
    epoch, seq = at
    return epoch < head.epoch or (epoch == head.epoch and seq < head.floor)
