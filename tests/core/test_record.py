from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.blob_records import Blob
from coatcheck_sidecar.core.model import NO_BODY, Body, CallClass, ObjectRef, OutcomeKind
from coatcheck_sidecar.core.record import (
    BODY_FIELDS,
    KINDS,
    BadRecord,
    Birth,
    CallOutcome,
    Checkpoint,
    Claimed,
    Created,
    Dispatched,
    Event,
    Finished,
    Intent,
    Parked,
    Record,
    Resolved,
    Signalled,
    bodies_of,
    decode_record,
    encode_record,
    from_fields,
    pack_body,
    to_fields,
    unpack_body,
    unpack_ref,
    with_body,
)
from coatcheck_sidecar.core.undo_records import Undo
from tests.core.objects import JUNK, RECORD, event_of

REF = ObjectRef("o", bytes(32), 9)


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
def test_every_kind_comes_back_with_every_field(kind: str, data: st.DataObject) -> None:
    record = Record(7, 2, 1_000, data.draw(event_of(KINDS[kind])))
    assert decode_record(encode_record(record)) == record


def test_the_kinds_are_those_of_the_format() -> None:
    assert " ".join(KINDS) == (
        "created claimed checkpoint intent dispatched outcome resolved parked signalled "
        "commanded released held finished failed undo compensating compensated blob dropped"
    )


def test_fields_at_their_default_take_no_bytes() -> None:
    record = Record(1, 0, 5, Created())
    assert msgpack.unpackb(encode_record(record)) == [1, 0, "created", 5, {}]
    claimed = Record(2, 1, 6, Claimed(owner="pod.a"))
    assert to_fields(claimed, inline=True) == [2, 1, "claimed", 6, {"owner": "pod.a"}]


def test_no_body_an_empty_one_and_an_empty_input_are_three_things() -> None:
    for body in (None, NO_BODY, Body(b"")):
        record = Record(1, 0, 0, Created(input=body))
        assert decode_record(encode_record(record)) == record


# Bodies


BODIED: list[Event] = [
    Created(input=Body(b"b")),
    CallOutcome(call=1, attempt=1, what="done", body=Body(b"b")),
    Resolved(call=1, verdict="applied", by="ada", body=Body(b"b")),
    Parked(name="n", payload=Body(b"b")),
    Signalled(name="n", value=Body(b"b")),
    Finished(result=Body(b"b")),
    Undo(call=1, key="k", tool="t", body=Body(b"b")),
    Blob(digest=bytes(32), length=1, parts=Body(b"b")),
]


def test_the_table_of_bodies_misses_none() -> None:
    assert [type(event) for event in BODIED] == list(BODY_FIELDS)
    with_bodies = {cls for cls in KINDS.values() if "Body" in str(cls.__annotations__.values())}
    assert with_bodies - {Checkpoint} == set(BODY_FIELDS)


@pytest.mark.parametrize("event", BODIED, ids=lambda event: event.kind)
def test_a_body_can_be_set_aside(event: Event) -> None:
    record = Record(1, 1, 0, event)
    assert bodies_of(record) == [Body(b"b")]
    aside = with_body(record, Body(b"b", REF))
    assert bodies_of(aside) == [Body(b"b", REF)]
    assert bodies_of(decode_record(encode_record(aside))) == [Body(b"b")]
    assert bodies_of(decode_record(encode_record(aside, inline=False))) == [Body(None, REF)]


@pytest.mark.parametrize(
    "event",
    [Created(), Checkpoint(step=1, step_high=1, delta=Body(b"d")), Dispatched(call=1, attempt=1)],
    ids=lambda event: event.kind,
)
def test_what_has_no_body_names_none(event: Event) -> None:
    assert bodies_of(Record(1, 1, 0, event)) == []


def test_a_body_without_an_object_is_always_inline() -> None:
    assert pack_body(Body(b"b"), inline=False) == b"b"
    assert pack_body(NO_BODY, inline=False) is None
    assert unpack_body(["o", bytes(32), 9]) == Body(None, REF)


@pytest.mark.parametrize(
    "raw",
    [
        ["o", bytes(32)], ["o", bytes(31), 9], ["o", bytes(32), -1], ["o", bytes(32), True],
        [1, bytes(32), 9], ["o", "d" * 32, 9], "abc", 7, {},
    ],
)  # fmt: skip
def test_a_reference_is_a_name_a_digest_and_a_length(raw: object) -> None:
    with pytest.raises(ValueError, match=r"reference|is not \["):
        unpack_ref(raw)


# What is refused

OUTCOME: dict[str, Any] = {"call": 3, "attempt": 1, "what": "done"}
BIRTH: dict[str, Any] = {"key": "k", "step": 1, "tool": "t", "call_class": "U", "fingerprint": b""}
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("outcome", {**OUTCOME, "call": "3"}, "call is '3', not int"),
    ("outcome", {**OUTCOME, "call": True}, "call is True, not int"),
    ("outcome", {**OUTCOME, "call": None}, "call is None, not int"),
    ("outcome", {**OUTCOME, "outcome": "luck"}, "'luck' is not a valid OutcomeKind"),
    ("outcome", {**OUTCOME, "outcome": ["result"]}, "not a valid OutcomeKind"),
    ("outcome", {**OUTCOME, "body": "text"}, "'text' is not"),
    ("outcome", {**OUTCOME, "body": ["o", b"", 1]}, "no digest of 32 bytes"),
    ("outcome", {"call": 3}, "missing"),
    ("outcome", {}, "missing"),
    ("intent", {"call": 3, "birth": ["key"]}, "birth is"),
    ("intent", {"call": 3, "birth": {**BIRTH, "call_class": "X"}}, "'X' is not a valid CallClass"),
    ("intent", {"call": 3, "birth": {**BIRTH, "settle_s": "1"}}, "settle_s is '1', not float"),
    ("intent", {"call": 3, "birth": {"key": "k"}}, "missing"),
    ("checkpoint", {"step": 1, "step_high": 1, "consumed": "12"}, "is not an array of int"),
    ("checkpoint", {"step": 1, "step_high": 1, "consumed": ["1"]}, "is not an array of int"),
    ("checkpoint", {"step": 1, "step_high": 1, "consumed": 5}, "is not an array of int"),
]


@pytest.mark.parametrize(("kind", "values", "says"), WRONG)
def test_a_wrong_field_is_refused_by_record_and_name(
    kind: str, values: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadRecord, match=rf"^record 9 \({kind}\): .*{says}"):
        from_fields([9, 1, kind, 0, values])


def test_an_unknown_field_is_ignored() -> None:
    values = {**OUTCOME, "later": 1}
    assert from_fields([9, 1, "outcome", 0, values]) == from_fields([9, 1, "outcome", 0, OUTCOME])


def test_a_whole_number_of_seconds_is_a_duration() -> None:
    values = {"call": 3, "birth": {**BIRTH, "settle_s": 2}}
    event = from_fields([3, 1, "intent", 0, values]).event
    assert isinstance(event, Intent)
    assert event.birth == Birth(
        key="k", step=1, tool="t", call_class=CallClass.ONCE, fingerprint=b"", settle_s=2
    )


def test_a_kind_from_the_future_says_so() -> None:
    with pytest.raises(BadRecord, match=r"record 9 is of kind 'undone'.*: upgrade it"):
        from_fields([9, 1, "undone", 0, {}])


@pytest.mark.parametrize(
    "raw",
    [None, [], [1, 1, "held", 0], [True, 1, "held", 0, {}], [1, 1, "held", 0, {}, 0], {"seq": 1}],
)
def test_what_is_no_record_says_so(raw: object) -> None:
    with pytest.raises(BadRecord, match="not \\[seq, epoch, kind, at_ms"):
        from_fields(raw)


@given(st.binary(max_size=60) | JUNK.map(msgpack.packb))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    with suppress(BadRecord):
        decode_record(data)


@given(RECORD, st.data())
def test_damage_raises_nothing_else(record: Record, data: st.DataObject) -> None:
    raw = bytearray(encode_record(record))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(raw), bytes(raw[:at])):
        with suppress(BadRecord):
            decode_record(damaged)


def test_enumerations_go_as_their_words() -> None:
    event = CallOutcome(call=1, attempt=1, what="done", outcome=OutcomeKind.UNKNOWN)
    assert to_fields(Record(1, 1, 0, event), inline=True)[4]["outcome"] == "unknown"
