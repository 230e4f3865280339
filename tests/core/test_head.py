from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.delta import Chain
from coatcheck_sidecar.core.head import (
    Head,
    PackRef,
    Tombstone,
    decode_head,
    decode_pack,
    decode_sealed,
    encode_head,
    encode_pack,
    encode_sealed,
)
from coatcheck_sidecar.core.model import Body, ObjectRef, Status
from coatcheck_sidecar.core.objects import (
    FORMAT,
    BadObject,
    Codec,
    Kind,
    seal,
    unseal,
)
from coatcheck_sidecar.core.ownership import decode_heartbeat, decode_summary
from coatcheck_sidecar.core.record import BadRecord, Held, Record, Signalled
from tests.core.objects import HEAD, JUNK, RECORDS, TOMBSTONES

SMALL = Head(
    run="run",
    epoch=3,
    owner="pod.a",
    nonce=bytes(16),
    seq=14,
    status=Status.HELD,
    records=(Record(14, 3, 5, Held(reason="crash_loop")),),
    tombstones=(Tombstone("k", 3, "charge", b"f", "done"),),
    packs=(PackRef(9, ObjectRef("p", bytes(32), 4), 1),),
    calls=(3,),
    commands=("c",),
)
DECODERS: dict[Kind, Callable[[str, bytes], object]] = {
    Kind.HEAD: decode_head,
    Kind.PACK: decode_pack,
    Kind.BASE: lambda name, data: decode_sealed(name, data, kind=Kind.BASE),
    Kind.MID: lambda name, data: decode_sealed(name, data, kind=Kind.MID),
    Kind.BODY: lambda name, data: unseal(name, data, kind=Kind.BODY),
    Kind.MARKER: decode_summary,
    Kind.HEARTBEAT: decode_heartbeat,
}


# Round trips


@given(HEAD)
def test_a_head_comes_back_with_every_field(head: Head) -> None:
    data = encode_head(head)
    # References of checkpoint deltas and bodies with both are the log's matter, see test_record.
    assert decode_head("h", data) == head
    assert encode_head(decode_head("h", data)) == data


@given(RECORDS, TOMBSTONES)
def test_a_pack_comes_back(records: tuple[Record, ...], stones: tuple[Tombstone, ...]) -> None:
    assert decode_pack("p", encode_pack(records, stones)) == (records, stones)


@pytest.mark.parametrize("kind", [Kind.BASE, Kind.MID])
@given(copy=st.binary(), state=st.binary())
def test_a_sealed_state_comes_back(kind: Kind, copy: bytes, state: bytes) -> None:
    data = encode_sealed(kind, state, head_copy=copy)
    assert decode_sealed("s", data, kind=kind) == (copy, state)


@pytest.mark.parametrize("kind", Kind)
@given(payload=st.binary())
def test_any_payload_comes_back(kind: Kind, payload: bytes) -> None:
    codec = {Kind.BASE: Codec.ZSTD, Kind.MID: Codec.ZSTD_AGAINST_BASE}.get(kind, Codec.NONE)
    assert unseal("o", seal(kind, payload), kind=kind) == (payload, codec)


def test_a_head_names_all_that_a_restore_reads() -> None:
    refs = {name: ObjectRef(name, bytes(32), 1) for name in ("base", "mid", "pack", "body", "in")}
    signal = Signalled(name="a", value=Body(None, refs["in"]))
    head = replace(
        SMALL,
        chain=Chain(refs["base"], refs["mid"]),
        packs=(PackRef(9, refs["pack"]),),
        bodies=(refs["body"],),
        records=(Record(1, 1, 0, signal), Record(2, 1, 0, Signalled(name="a", value=Body(b"v")))),
    )
    assert head.named_objects() == list(refs.values())
    assert replace(head, chain=Chain(), packs=(), bodies=(), records=()).named_objects() == []


# Damage


def test_a_flipped_byte_is_seen_wherever_it_is() -> None:
    data = encode_head(SMALL)
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x20
        with pytest.raises(BadObject, match=r"^runs/x/head: "):
            decode_head("runs/x/head", bytes(damaged))


def test_a_cut_is_seen_wherever_it_is_and_so_are_bytes_too_many() -> None:
    data = encode_head(SMALL)
    for length in range(len(data)):
        with pytest.raises(BadObject, match=r"^runs/x/head: "):
            decode_head("runs/x/head", data[:length])
    with pytest.raises(BadObject, match="damaged, its digest does not fit"):
        decode_head("runs/x/head", data + b"\0")


@pytest.mark.parametrize("kind", DECODERS)
@given(payload=st.binary(max_size=60) | JUNK.map(msgpack.packb))
def test_any_payload_with_a_good_digest_is_read_or_refused_by_name(
    kind: Kind, payload: bytes
) -> None:
    said = "some/name: not a "
    try:
        DECODERS[kind]("some/name", seal(kind, payload))
    except BadObject as error:
        said = str(error)
    assert said.startswith("some/name: not a ")


FIELDS: dict[str, Any] = msgpack.unpackb(unseal("h", encode_head(SMALL), kind=Kind.HEAD)[0])
NULLABLE = {"base", "mid"}


@pytest.mark.parametrize("wrong", [None, True, 7, -1.5, "text", b"bytes", [1], [[]], {"a": 1}])
@pytest.mark.parametrize("name", FIELDS)
def test_every_field_of_a_head_is_of_its_type(name: str, wrong: object) -> None:
    may_be = name in NULLABLE and wrong is None
    if type(wrong) is type(FIELDS[name]) and not isinstance(wrong, list | str):
        return
    if (name == "calls" and wrong == [1]) or (isinstance(FIELDS[name], str) and name != "status"
                                              and wrong == "text"):  # fmt: skip
        return
    data = seal(Kind.HEAD, msgpack.packb({**FIELDS, name: wrong}), number=FORMAT)
    if may_be:
        assert decode_head("h", data) == SMALL
        return
    with pytest.raises(BadObject, match=r"^h: not a head: "):
        decode_head("h", data)


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_of_a_head_must_be_there(name: str) -> None:
    fields = {key: value for key, value in FIELDS.items() if key != name}
    with pytest.raises(BadObject, match=f"^h: not a head: .*{name}"):
        decode_head("h", seal(Kind.HEAD, msgpack.packb(fields), number=FORMAT))


def test_a_field_of_a_newer_release_is_ignored() -> None:
    data = seal(Kind.HEAD, msgpack.packb({**FIELDS, "later": [1]}), number=FORMAT)
    assert decode_head("h", data) == SMALL


def test_a_record_that_cannot_be_read_is_named_with_its_head() -> None:
    fields = {**FIELDS, "records": [[14, 3, "undone", 5, {}]]}
    with pytest.raises(BadObject, match=r"h: not a head: record 14 is of kind 'undone'.*upgrade"):
        decode_head("h", seal(Kind.HEAD, msgpack.packb(fields), number=FORMAT))
    assert not issubclass(BadRecord, BadObject)
