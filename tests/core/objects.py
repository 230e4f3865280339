"""Strategies for everything that is written to a store."""

from dataclasses import replace
from typing import Any, get_type_hints

from hypothesis import strategies as st

from coatcheck_sidecar.core.delta import Chain, Delta
from coatcheck_sidecar.core.head import Head, PackRef, Tombstone
from coatcheck_sidecar.core.model import NO_BODY, Body, CallClass, ObjectRef, OutcomeKind, Status
from coatcheck_sidecar.core.ownership import Heartbeat, RunSummary
from coatcheck_sidecar.core.record import KINDS, Birth, Checkpoint, Record

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBER = st.integers(0, 2**63 - 1)
BYTES = st.binary(max_size=40)
REF = st.builds(ObjectRef, TEXT, st.binary(min_size=32, max_size=32), NUMBER)
INLINE = st.builds(Body, st.none() | BYTES)
NAMED = st.builds(Body, st.none(), REF)
BIRTH = st.builds(
    Birth,
    key=TEXT,
    step=NUMBER,
    tool=TEXT,
    call_class=st.sampled_from(CallClass),
    fingerprint=BYTES,
    upstream_key=TEXT,
    is_named=st.booleans(),
    business_key=st.none() | TEXT,
    settle_s=st.none() | st.floats(0, 1e9) | st.integers(0, 9),
    key_lifetime_s=st.none() | st.floats(0, 1e9),
    summary=TEXT,
)
FIELDS: dict[Any, st.SearchStrategy[Any]] = {
    int: NUMBER,
    str: TEXT,
    bool: st.booleans(),
    bytes: BYTES,
    tuple[int, ...]: st.lists(NUMBER, max_size=4).map(tuple),
    Body: INLINE | NAMED,
    Body | None: st.none() | INLINE | NAMED,
    Birth: BIRTH,
    CallClass: st.sampled_from(CallClass),
    OutcomeKind | None: st.none() | st.sampled_from(OutcomeKind),
}


def event_of(cls: type) -> st.SearchStrategy[Any]:
    """An event with every field drawn."""
    hints = {n: h for n, h in get_type_hints(cls).items() if n != "kind"}
    return st.builds(cls, **{name: FIELDS[hint] for name, hint in hints.items()})


EVENT = st.one_of(*(event_of(cls) for cls in KINDS.values())).map(
    lambda event: replace(event, delta=NO_BODY) if isinstance(event, Checkpoint) else event
)
"""As heads and packs carry it: deltas are kept apart."""
RECORD = st.builds(Record, NUMBER, NUMBER, NUMBER, EVENT)
RECORDS = st.lists(RECORD, max_size=3).map(tuple)
TOMBSTONE = st.builds(Tombstone, TEXT, NUMBER, TEXT, BYTES, TEXT)
TOMBSTONES = st.lists(TOMBSTONE, max_size=3).map(tuple)
HEAD = st.builds(
    Head,
    run=TEXT,
    epoch=NUMBER,
    owner=TEXT,
    nonce=BYTES,
    seq=NUMBER,
    status=st.sampled_from(Status),
    reason=TEXT,
    queue=TEXT,
    step=NUMBER,
    step_high=NUMBER,
    code_version=TEXT,
    state_schema=NUMBER,
    pinned=st.booleans(),
    not_before_ms=NUMBER,
    chain=st.builds(
        Chain,
        st.none() | REF,
        st.none() | REF,
        st.lists(st.builds(Delta, NUMBER, BYTES), max_size=3).map(tuple),
    ),
    records=RECORDS,
    tombstones=TOMBSTONES,
    packs=st.lists(st.builds(PackRef, NUMBER, REF, NUMBER), max_size=3).map(tuple),
    calls=st.lists(NUMBER, max_size=3).map(tuple),
    bodies=st.lists(REF, max_size=3).map(tuple),
    blobs=st.lists(REF, max_size=3).map(tuple),
    commands=st.lists(TEXT, max_size=3).map(tuple),
)
SUMMARY = st.builds(
    RunSummary,
    **{
        name: FIELDS[hint]
        for name, hint in {
            "run": str, "epoch": int, "status": str, "queue": str, "step": int, "in_doubt": int,
            "schema": int, "code_version": str, "pinned": bool, "reason": str,
            "not_before_ms": int, "stuck": bool, "deadline_ms": int,
        }.items()
    },
)  # fmt: skip
HEARTBEAT = st.builds(
    Heartbeat,
    owner=TEXT,
    beat=NUMBER,
    address=TEXT,
    is_draining=st.booleans(),
    runs=st.lists(SUMMARY, max_size=3).map(tuple),
)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | TEXT | BYTES,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=10,
)
"""Whatever msgpack can say."""
