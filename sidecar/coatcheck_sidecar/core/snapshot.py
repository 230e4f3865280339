"""The next head of a run, frozen, and how its deltas are folded into sealed objects."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace

from coatcheck_sidecar.core.delta import Chain, encode_delta, needs_new_base
from coatcheck_sidecar.core.head import Head, encode_head, encode_sealed
from coatcheck_sidecar.core.layout import object_name
from coatcheck_sidecar.core.model import ObjectRef
from coatcheck_sidecar.core.objects import Kind, reference


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the next head is to hold, frozen at one sequence number, and what must be put first."""

    head: Head
    state: bytes
    """The state of the last checkpoint, for sealing."""
    puts: tuple[tuple[str, bytes], ...] = ()
    _: KW_ONLY
    buried: int = 0
    """How many tombstones a new pack among `puts` takes over from the log."""
    stones: tuple[str, ...] = ()
    """Keys of the tombstones in packs, in their order."""
    encoded: Mapping[int, bytes] = field(default_factory=dict)
    """Some records of the head, as they lie in it."""


def seal_state(snapshot: Snapshot, *, base_state: bytes | None, random: bytes) -> Snapshot:
    """The same head with its deltas folded into a mid, or a new base, put before it.

    `base_state` is the state that the base holds, read back; `None` asks for a new base.
    Checkpoints that only the deltas led to can no longer be gone back to.
    """
    head, state = snapshot.head, snapshot.state
    name = object_name(head.run, epoch=head.epoch, seq=head.seq, random=random)
    base = head.chain.base
    if base is not None and base_state is not None:
        delta = encode_delta(base_state, state)
        if not needs_new_base(base.length, len(delta)):
            data = encode_sealed(Kind.MID, delta, head_copy=_copy(head, Chain(base)))
            return _sealed(snapshot, name=name, data=data, base=base)
    whole = encode_delta(b"", state)
    data = encode_sealed(Kind.BASE, whole, head_copy=_copy(head, Chain()))
    return _sealed(snapshot, name=name, data=data, base=None)


def _copy(head: Head, chain: Chain) -> bytes:
    """The head as it was to be, without the object that the copy goes into."""
    sealed = tuple(kept for kept in head.kept if kept.is_sealed)
    return encode_head(replace(head, chain=chain, kept=sealed))


def _sealed(snapshot: Snapshot, *, name: str, data: bytes, base: ObjectRef | None) -> Snapshot:
    ref = reference(name, data)
    chain = Chain(ref) if base is None else Chain(base, ref)
    *older, newest = snapshot.head.kept
    kept = [each for each in older if each.is_sealed]
    kept.append(replace(newest, base=chain.base, mid=chain.mid))
    head = replace(snapshot.head, chain=chain, kept=tuple(kept))
    return replace(snapshot, head=head, puts=(*snapshot.puts, (name, data)))
