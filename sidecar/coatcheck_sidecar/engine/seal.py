"""Folds the deltas of a head into a mid or a new base, which is put before it."""

import asyncio
from functools import partial
from typing import Final

from coatcheck_sidecar.core.delta import BadDelta, Chain, decode_delta, needs_new_base
from coatcheck_sidecar.core.head import decode_sealed
from coatcheck_sidecar.core.model import ObjectRef
from coatcheck_sidecar.core.objects import BadObject, Kind, check
from coatcheck_sidecar.core.snapshot import Snapshot, seal_state
from coatcheck_sidecar.ports import Store, Stored

SEAL_HERE_BYTES_MAX: Final = 262_144
"""A bigger state takes over half a millisecond to seal: that is done beside the loop."""
DRAINING_DELTAS_BYTES_MAX: Final = 229_376
"""While draining a head carries so many: with its records it is still below 256 KiB, and a base of
megabytes does not stand between a small delta and its way off the pod."""


def must_seal(chain: Chain, *, is_draining: bool) -> bool:
    """The deltas are more than a head should carry, or in a hurry, more than it may."""
    return chain.must_seal and not (is_draining and chain.deltas_bytes <= DRAINING_DELTAS_BYTES_MAX)


async def sealed(
    snapshot: Snapshot, store: Store, *, bytes_max: int, random: bytes
) -> tuple[Snapshot, Exception | None]:
    """The snapshot with its deltas folded; and why not against the base, if that is damaged.

    The base is read back for it, unless one commit alone has changed so much that it is replaced
    whatever it holds. `bytes_max` bounds a state. Raises `StoreError`.
    """
    ref, stored = snapshot.head.chain.base, None
    most = max(len(delta.data) for delta in snapshot.head.chain.deltas)
    if ref is not None and needs_new_base(ref.length, most):
        ref = None
    if ref is not None:
        stored = await store.get(ref.name)
    work = partial(_sealed, snapshot, ref, stored=stored, bytes_max=bytes_max, random=random)
    # A snapshot is frozen through and through: commits may go on beside the thread.
    is_big = len(snapshot.state) > SEAL_HERE_BYTES_MAX
    return await asyncio.to_thread(work) if is_big else work()


def _sealed(
    snapshot: Snapshot,
    ref: ObjectRef | None,
    *,
    stored: Stored | None,
    bytes_max: int,
    random: bytes,
) -> tuple[Snapshot, Exception | None]:
    base_state, damage = None, None
    if ref is not None:
        try:
            data = check(ref, None if stored is None else stored.data)
            _, whole = decode_sealed(ref.name, data, kind=Kind.BASE)
            base_state = decode_delta(b"", whole, bytes_max=bytes_max)
        except (BadObject, BadDelta) as error:
            damage = error
    return seal_state(snapshot, base_state=base_state, random=random), damage
