"""The head of a run, and what is in the objects that it names. `docs/format.md` has examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgpack

from coatcheck_sidecar.core.delta import Chain, Delta
from coatcheck_sidecar.core.model import ObjectRef, Status
from coatcheck_sidecar.core.objects import FORMAT, Kind, decode_object, seal
from coatcheck_sidecar.core.plain import plain_of, take, take_all, take_plain
from coatcheck_sidecar.core.record import (
    Checkpoint,
    Created,
    Record,
    bodies_of,
    encode_record,
    from_fields,
    number_of,
    pack_ref,
    to_fields,
    unpack_ref,
)

SINCE_2: Final = ("kept", "over", "horizon", "floor")
"""Of a head. A writer of format 1 would drop what they name: heads with them are not for it."""
NOTHING: Final[Mapping[int, bytes]] = {}


@dataclass(frozen=True, slots=True)
class PackRef:
    """Call records up to `last` (a sequence number) and tombstones, set aside in one object."""

    last: int
    ref: ObjectRef
    tombstones: int = 0


@dataclass(frozen=True, slots=True)
class Tombstone:
    """All that is kept for the run's life of a settled call that had a key of its own."""

    key: str
    number: int
    tool: str
    fingerprint: bytes
    what: str


@dataclass(frozen=True, slots=True)
class Kept:
    """A checkpoint that the run can be set back to."""

    seq: int
    step: int
    schema: int = 1
    code_version: str = ""
    base: ObjectRef | None = None
    mid: ObjectRef | None = None
    """Sealed: what alone makes its state. Without a base: the head's own chain makes it, up to
    its delta."""

    @property
    def is_sealed(self) -> bool:
        """No delta of the head is needed for its state."""
        return self.base is not None


@dataclass(frozen=True, slots=True)
class Over:
    """Calls and signals that the checkpoint at `seq` was the end of, by their first record."""

    seq: int
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The mutable object of a run: its swap is the append of all records up to `seq`."""

    run: str
    epoch: int
    owner: str
    nonce: bytes
    seq: int
    status: Status
    reason: str = ""
    queue: str = "default"
    step: int = 0
    """The last step with a checkpoint."""
    step_high: int = 0
    code_version: str = ""
    state_schema: int = 1
    pinned: bool = False
    not_before_ms: int = 0
    undo: str = ""
    """Of a run that is taken back: who does what comes next, `sidecar` or `agent`."""
    chain: Chain = field(default_factory=Chain)
    records: tuple[Record, ...] = ()
    """Those that still matter and are in no pack, in order."""
    tombstones: tuple[Tombstone, ...] = ()
    packs: tuple[PackRef, ...] = ()
    calls: tuple[int, ...] = ()
    """Calls whose records in packs still count; those of others are left out of a restore.

    An undo is named by its own sequence number."""
    bodies: tuple[ObjectRef, ...] = ()
    """Bodies that records of these calls name, so that a restore can read all at once."""
    blobs: tuple[ObjectRef, ...] = ()
    commands: tuple[str, ...] = ()
    """Ids of the newest commands from outside, so that each is carried out once."""
    kept: tuple[Kept, ...] = ()
    """Checkpoints that the run can be set back to, by seq; the last is the current one."""
    over: tuple[Over, ...] = ()
    """Whose records count again if the run is set back to before that checkpoint."""
    horizon: int = 0
    """Records that a checkpoint up to this one was the end of are gone."""
    floor: int = 0
    """Objects of this epoch with a lower seq in their name are here, or never will be."""
    format: int = FORMAT
    """Which one it is written in."""

    @property
    def created(self) -> Created:
        """The run's first record; without its deadline, once the run is taken back."""
        made = next((r.event for r in self.records if isinstance(r.event, Created)), Created())
        return replace(made, deadline_ms=0) if self.undo else made

    @property
    def over_numbers(self) -> set[int]:
        """All of `over`."""
        return {number for each in self.over for number in each.numbers}

    def named_objects(self) -> list[ObjectRef]:
        """What a restore reads beside the head, all at once."""
        refs = [ref for ref in (self.chain.base, self.chain.mid) if ref is not None]
        refs += [pack.ref for pack in self.packs]
        refs += self.bodies
        over = self.over_numbers
        for record in self.records:
            if number_of(record) not in over:
                refs += [body.ref for body in bodies_of(record) if body.ref is not None]
        return refs


def encode_head(head: Head, *, encoded: Mapping[int, bytes] = NOTHING) -> bytes:
    """The head's bytes. `encoded` has some of its records as they lie in it, by their place."""
    fields = {
        **plain_of(head),
        "status": head.status.value,
        "base": pack_ref(head.chain.base),
        "mid": pack_ref(head.chain.mid),
        "deltas": [[delta.seq, delta.data] for delta in head.chain.deltas],
        "records": None,
        "tombstones": _pack_tombstones(head.tombstones),
        "packs": [[pack.last, pack_ref(pack.ref), pack.tombstones] for pack in head.packs],
        "calls": list(head.calls),
        "bodies": [pack_ref(ref) for ref in head.bodies],
        "blobs": [pack_ref(ref) for ref in head.blobs],
        "commands": list(head.commands),
        "kept": [_pack_kept(kept) for kept in head.kept],
        "over": [[over.seq, list(over.numbers)] for over in head.over],
    }
    del fields["format"]
    if head.format < FORMAT:
        fields = {name: value for name, value in fields.items() if name not in SINCE_2}
    packer = msgpack.Packer()
    parts = [packer.pack_map_header(len(fields))]
    for name, value in fields.items():
        parts.append(packer.pack(name))
        if name != "records":
            parts.append(packer.pack(value))
            continue
        parts.append(packer.pack_array_header(len(head.records)))
        parts += [encoded.get(r.seq) or encode_record(r, inline=False) for r in head.records]
    return seal(Kind.HEAD, b"".join(parts), number=head.format)


def decode_head(name: str, data: bytes) -> Head:
    """Inverse of `encode_head`; raises `BadObject`, naming the object."""
    return decode_object(name, data, kind=Kind.HEAD, read=lambda raw: _head_of(raw, data[5]))


def _head_of(raw: Any, number: int) -> Head:
    raw = {**raw, "format": number}
    if number < FORMAT:
        raw = _lifted(raw)
    return Head(
        **take_plain(Head, raw),
        status=Status(raw["status"]),
        chain=Chain(
            base=None if raw["base"] is None else unpack_ref(raw["base"]),
            mid=None if raw["mid"] is None else unpack_ref(raw["mid"]),
            deltas=tuple(Delta(*take(item, int, bytes)) for item in raw["deltas"]),
        ),
        records=tuple(from_fields(fields) for fields in raw["records"]),
        tombstones=_unpack_tombstones(raw["tombstones"]),
        packs=tuple(_pack_ref_of(item) for item in raw["packs"]),
        calls=take_all(raw["calls"], int),
        bodies=tuple(unpack_ref(ref) for ref in raw["bodies"]),
        blobs=tuple(unpack_ref(ref) for ref in raw["blobs"]),
        commands=take_all(raw["commands"], str),
        kept=tuple(_kept_of(item) for item in raw["kept"]),
        over=tuple(_over_of(item) for item in raw["over"]),
    )


def _lifted(raw: dict[str, Any]) -> dict[str, Any]:
    """A head of format 1 with what it does not say: only its newest checkpoint is kept."""
    records = [from_fields(fields) for fields in raw["records"]]
    newest = [
        [record.seq, record.event.step, record.event.schema, record.event.code_version, None, None]
        for record in records
        if isinstance(record.event, Checkpoint)
    ]
    return {**raw, "kept": newest, "over": [], "horizon": raw["seq"], "floor": raw["seq"] + 1}


def _pack_kept(kept: Kept) -> list[Any]:
    refs = [pack_ref(kept.base), pack_ref(kept.mid)]
    return [kept.seq, kept.step, kept.schema, kept.code_version, *refs]


def _kept_of(raw: Any) -> Kept:
    *plain, base, mid = raw
    refs = [None if ref is None else unpack_ref(ref) for ref in (base, mid)]
    return Kept(*take(plain, int, int, int, str), *refs)


def _over_of(raw: Any) -> Over:
    seq, numbers = take(raw, int, list)
    return Over(seq, take_all(numbers, int))


def _pack_ref_of(raw: Any) -> PackRef:
    last, ref, tombstones = take(raw, int, list, int)
    return PackRef(last, unpack_ref(ref), tombstones)


def encode_pack(records: Sequence[Record], tombstones: Sequence[Tombstone]) -> bytes:
    """An object that sets call records aside."""
    payload = {
        "records": [to_fields(record, inline=False) for record in records],
        "tombstones": _pack_tombstones(tombstones),
    }
    return seal(Kind.PACK, msgpack.packb(payload))


def decode_pack(name: str, data: bytes) -> tuple[tuple[Record, ...], tuple[Tombstone, ...]]:
    """Inverse of `encode_pack`; raises `BadObject`."""
    return decode_object(name, data, kind=Kind.PACK, read=_pack_of)


def _pack_of(raw: Any) -> tuple[tuple[Record, ...], tuple[Tombstone, ...]]:
    records = tuple(from_fields(fields) for fields in raw["records"])
    return records, _unpack_tombstones(raw["tombstones"])


def encode_sealed(kind: Kind, data: bytes, *, head_copy: bytes) -> bytes:
    """A base or mid: the compressed state, and a copy of the head that first named it.

    The copy (without the object's own reference) lets a damaged head be rebuilt.
    """
    return seal(kind, msgpack.packb([head_copy, data]))


def decode_sealed(name: str, data: bytes, *, kind: Kind) -> tuple[bytes, bytes]:
    """(head copy, compressed state); raises `BadObject`."""
    head_copy, state = decode_object(
        name, data, kind=kind, read=lambda raw: take(raw, bytes, bytes)
    )
    return head_copy, state


def _pack_tombstones(tombstones: Sequence[Tombstone]) -> list[list[Any]]:
    return [[t.key, t.number, t.tool, t.fingerprint, t.what] for t in tombstones]


def _unpack_tombstones(raw: Any) -> tuple[Tombstone, ...]:
    return tuple(Tombstone(*take(fields, str, int, str, bytes, str)) for fields in raw)
