"""One object of each kind in each format, with fixed values; a reader of their bytes for people.

`python -m tests.core.formats` writes vectors that are missing and the dumps in `docs/format.md`. A
vector that is there is never written again: it is what a released format looks like.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Final

from coatcheck_sidecar.core.blob_records import Blob, Dropped
from coatcheck_sidecar.core.command import Command, decode_command, encode_command
from coatcheck_sidecar.core.delta import Chain, Delta, decode_delta, encode_delta
from coatcheck_sidecar.core.head import (
    Head,
    Kept,
    Over,
    PackRef,
    Tombstone,
    decode_head,
    decode_pack,
    decode_sealed,
    encode_head,
    encode_pack,
    encode_sealed,
)
from coatcheck_sidecar.core.model import Body, CallClass, ObjectRef, OutcomeKind, Status
from coatcheck_sidecar.core.objects import Kind, seal, unseal
from coatcheck_sidecar.core.ownership import (
    Heartbeat,
    RunSummary,
    decode_heartbeat,
    decode_summary,
    encode_heartbeat,
    encode_summary,
)
from coatcheck_sidecar.core.pages import Paged
from coatcheck_sidecar.core.patch import apply_patch
from coatcheck_sidecar.core.patch_delta import NewState, draft, next_state
from coatcheck_sidecar.core.record import (
    Birth,
    CallOutcome,
    Checkpoint,
    Claimed,
    Commanded,
    Created,
    Dispatched,
    Event,
    Failed,
    Finished,
    Held,
    Intent,
    Parked,
    Record,
    Released,
    Resolved,
    Signalled,
    decode_record,
    encode_record,
)
from coatcheck_sidecar.core.undo_records import Compensated, Compensating, Undo
from tests.core.dumps import dump

ROOT: Final = Path(__file__).parents[2]
VECTORS: Final = ROOT / "tests" / "vectors"
DOC: Final = ROOT / "docs" / "format.md"
STATES: Final = (b'{"n":0}', b'{"n":0,"text":"' + b"ab" * 700 + b'"}')
BIG_STATE: Final = bytes(range(256)) * 300
PATCH: Final = ((4_096, 5), (76_800, 6))
"""Of the big state: five bytes of its second page, and six behind its end."""


def ref(name: str, length: int) -> ObjectRef:
    return ObjectRef(f"runs/demo/o/{name}", hashlib.sha256(name.encode()).digest(), length)


BIRTH: Final = Birth(
    key="invoice-7",
    step=2,
    tool="charge",
    call_class=CallClass.PROBED,
    fingerprint=hashlib.sha256(b"charge").digest(),
    upstream_key="8e0c",
    is_named=True,
    business_key="/invoice_id",
    settle_s=2.5,
    key_lifetime_s=86400.0,
    summary="invoice_id=7",
    handler="refund",
    undo='["POST","/recall",{"id":"{/id}"},""]',
    is_irreversible=True,
)
EVENTS: Final[tuple[Event, ...]] = (
    Created(
        queue="bills",
        input=Body(b"\x07"),
        schema=2,
        code_version="a1f",
        pinned=True,
        deadline_ms=1_767_229_200_000,
    ),
    Claimed(
        owner="3f2a.s1",
        incarnation=bytes(range(16)),
        address="10.0.0.7:80",
        code_version="a1f",
        cause="takeover",
        crashes=1,
        since=2,
    ),
    Checkpoint(
        step=1,
        step_high=2,
        schema=2,
        code_version="a1f",
        length=1417,
        consumed=(9,),
        worked_ms=2_750,
        longest_ms=2_000,
    ),
    Intent(call=4, birth=BIRTH),
    Dispatched(call=4, attempt=1),
    CallOutcome(
        call=4,
        attempt=1,
        what="done",
        outcome=OutcomeKind.TRUNCATED,
        body=Body(None, ref("1-6-00", 5_056)),
        head=b"200",
        reason="cut",
    ),
    Resolved(call=4, verdict="applied", by="ada", why="seen", command="c1", body=Body(b"ok")),
    Parked(name="approval", payload=Body(b"?")),
    Signalled(name="approval", value=Body(b"\xc3"), by="bob", command="c2"),
    Commanded(what="retry", by="ada", why="fixed", command="c3", refused="it runs"),
    Released(reason="error", error="boom", crashes=2, not_before_ms=1_767_225_601_000),
    Held(reason="crash_loop", error="boom"),
    Finished(result=Body(b"\xa4paid"), worked_ms=2_900, longest_ms=2_000),
    Failed(error="no", is_cancelled=True),
    Undo(
        call=4,
        key="invoice-7",
        tool="charge",
        step=2,
        handler="refund",
        method="POST",
        path="/refunds",
        body=Body(b"{}"),
        is_irreversible=True,
        why="there is nothing at /id in its answer",
    ),
    Compensating(then="resubmit", by="ada", why="wrong customer", command="c4"),
    Compensated(undone=2, successor="demo-2"),
)
SINCE_2: Final[tuple[Event, ...]] = (
    Blob(digest=hashlib.sha256(b"big").digest(), length=8_388_608, parts=Body(b"\x90")),
    Dropped(digest=hashlib.sha256(b"old").digest()),
)
RECORDS: Final = tuple(
    Record(seq, 1 + seq // 8, 1_767_225_600_000 + seq, event)
    for seq, event in enumerate(EVENTS, start=1)
)
TOMBSTONES: Final = (Tombstone("invoice-6", 3, "charge", bytes(32), "done"),)
SMALL_HEAD: Final = Head(
    run="demo",
    epoch=1,
    owner="3f2a.s1",
    nonce=bytes(range(16)),
    seq=2,
    status=Status.OWNED,
    records=(
        Record(1, 0, 1_767_225_600_000, Created()),
        Record(2, 1, 1_767_225_600_050, Claimed(owner="3f2a.s1")),
    ),
)
HEAD: Final = Head(
    run="demo",
    epoch=2,
    owner="3f2a.s1",
    nonce=bytes(range(16, 32)),
    seq=17,
    status=Status.CANCELLED,
    reason="no",
    queue="bills",
    step=1,
    step_high=2,
    code_version="a1f",
    state_schema=2,
    pinned=True,
    not_before_ms=1_767_225_601_000,
    undo="agent",
    chain=Chain(ref("1-3-01", 900), ref("1-3-02", 300), (Delta(3, b"delta"),)),
    records=RECORDS,
    tombstones=TOMBSTONES,
    packs=(PackRef(2, ref("1-2-03", 17_000), 1),),
    calls=(4,),
    bodies=(ref("1-6-00", 5_056),),
    blobs=(ref("1-6-04", 8_388_608),),
    commands=("c1", "c2", "c3"),
    format=1,
)
REWOUND: Final = Checkpoint(step=1, step_high=4, schema=2, code_version="a1f", rewinds=3, blind=4)
HEAD2: Final = replace(
    HEAD,
    records=(
        *RECORDS[:2],
        Record(17, 2, 1_767_225_600_017, REWOUND),
        Record(18, 2, 1_767_225_600_018, SINCE_2[0]),
        Record(19, 2, 1_767_225_600_019, SINCE_2[1]),
    ),
    kept=(
        Kept(3, 1, 2, "a1f", ref("1-3-01", 900), ref("1-3-02", 300)),
        Kept(17, 1, 2, "a1f"),
    ),
    over=(Over(9, (4,)),),
    horizon=3,
    floor=18,
    format=2,
)
SUMMARY: Final = RunSummary(
    run="demo", epoch=2, status="ready", queue="bills", step=1, in_doubt=1, schema=2,
    code_version="a1f", pinned=True, reason="left", not_before_ms=5, stuck=True,
    deadline_ms=1_767_229_200_000, undo="sidecar",
)  # fmt: skip
COMMAND: Final = Command(
    id="c1", run="demo", what="resolve", by="ada", why="seen", call=4, verdict="applied",
    force=True, value=b"\xa2ok", attempt=1, then="end", at_ms=1_900_000_000_000,
)  # fmt: skip


def _sealed(kind: Kind, before: bytes, state: bytes) -> bytes:
    copy = encode_head(replace(SMALL_HEAD, format=1))
    return encode_sealed(kind, encode_delta(before, state), head_copy=copy)


def _head(head: Head) -> tuple[Callable[[], bytes], Callable[[bytes], object]]:
    return lambda: encode_head(head), lambda data: decode_head("vector", data)


def _opened(kind: Kind, before: bytes) -> Callable[[bytes], object]:
    def opened(data: bytes) -> object:
        copy, state = decode_sealed("vector", data, kind=kind)
        whole = decode_delta(before, state, bytes_max=10_000)
        return {"head": decode_head("copy", copy), "state": whole}

    return opened


def _patch_delta() -> bytes:
    state = apply_patch(BIG_STATE, 76_806, PATCH, b"hello world")
    return draft(Paged(BIG_STATE), NewState(state, BIG_STATE, PATCH)).delta


def _patched(delta: bytes) -> object:
    state = next_state(Paged(BIG_STATE), delta, bytes_max=100_000)
    digest = hashlib.sha256(state.data).hexdigest()
    return {"length": len(state.data), "page_sum": state.page_sum, "sha256": digest}


OBJECTS: Final[dict[str, tuple[Callable[[], bytes], Callable[[bytes], object]]]] = {
    "format1/head": _head(HEAD),
    "format1/head-small": _head(replace(SMALL_HEAD, format=1)),
    "format2/head": _head(HEAD2),
    "format2/head-small": _head(SMALL_HEAD),
    "format1/base": (lambda: _sealed(Kind.BASE, b"", STATES[0]), _opened(Kind.BASE, b"")),
    "format1/mid": (lambda: _sealed(Kind.MID, *STATES), _opened(Kind.MID, STATES[0])),
    "format1/pack": (
        lambda: encode_pack(RECORDS[3:7], TOMBSTONES),
        lambda d: decode_pack("vector", d),
    ),
    "format1/body": (
        lambda: seal(Kind.BODY, b"hello"),
        lambda d: unseal("vector", d, kind=Kind.BODY)[0],
    ),
    "format2/part": (
        lambda: seal(Kind.PART, b"hello"),
        lambda data: unseal("vector", data, kind=Kind.PART)[0],
    ),
    "format1/marker": (
        lambda: encode_summary(SUMMARY),
        lambda data: decode_summary("vector", data),
    ),
    "format1/heartbeat": (
        lambda: encode_heartbeat(Heartbeat("3f2a.s1", 7, "10.0.0.7:7071", True, (SUMMARY,))),
        lambda data: decode_heartbeat("vector", data),
    ),
    "format1/command": (
        lambda: encode_command(COMMAND),
        lambda data: decode_command("vector", data),
    ),
    "format1/patch-delta": (_patch_delta, _patched),
    "format1/journal-row": (
        lambda: encode_record(Record(3, 1, 5, Checkpoint(step=1, step_high=1, delta=Body(b"z")))),
        decode_record,
    ),
}
"""By name: how this release writes the object, and how it reads it."""
DUMPED: Final = ("format1/body", "format2/head-small", "format1/patch-delta")


def jsonable(value: Any) -> Any:
    """A value as JSON says it: bytes in hexadecimal, a record with its kind."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        kind = (
            {"kind": value.kind} if hasattr(value, "kind") and hasattr(value, "__slots__") else {}
        )
        named = {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}
        return kind | named
    return value


def with_dumps(text: str) -> str:
    """The page with each dump as it is now."""
    for name in DUMPED:
        block = f"<!-- dump: {name} -->\n```text\n{dump(OBJECTS[name][0]())}\n```\n<!-- end -->"
        pattern = rf"<!-- dump: {name} -->\n.*?<!-- end -->"
        text = re.sub(pattern, block.replace("\\", r"\\"), text, flags=re.DOTALL)
    return text


def main() -> None:
    for name, (write, read) in OBJECTS.items():
        path = VECTORS / f"{name}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(write())
            said = json.dumps(jsonable(read(path.read_bytes())), indent=1)
            path.with_suffix(".json").write_text(said + "\n")
    DOC.write_text(with_dumps(DOC.read_text()))


if __name__ == "__main__":
    main()
