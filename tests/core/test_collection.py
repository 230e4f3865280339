from dataclasses import replace

from coatcheck_sidecar.core.collection import dead, named
from coatcheck_sidecar.core.delta import Chain
from coatcheck_sidecar.core.head import Head, Kept, Over, PackRef
from coatcheck_sidecar.core.model import Body, ObjectRef, Status
from coatcheck_sidecar.core.record import CallOutcome, Record


def name(epoch: int, seq: int) -> str:
    return f"runs/r/o/{epoch}-{seq}-{'0' * 16}"


def ref(epoch: int, seq: int) -> ObjectRef:
    return ObjectRef(name(epoch, seq), bytes(32), 1)


def answer(seq: int, body: Body) -> Record:
    return Record(seq, 1, 0, CallOutcome(call=1, attempt=1, what="done", body=body))


HEAD = Head(
    run="r",
    epoch=3,
    owner="o",
    nonce=bytes(16),
    seq=50,
    status=Status.OWNED,
    chain=Chain(ref(1, 1), ref(1, 2)),
    packs=(PackRef(9, ref(1, 3)),),
    bodies=(ref(1, 4),),
    records=(answer(5, Body(None, ref(1, 5))), answer(6, Body(b"here"))),
    over=(Over(7, (1,)),),
    kept=(Kept(8, 1, 1, "", ref(1, 6), ref(1, 7)), Kept(9, 2)),
    floor=40,
)
PACKED = (answer(3, Body(None, ref(1, 8))),)


def test_all_that_a_head_leads_to_is_named() -> None:
    assert named(HEAD, PACKED) == {name(1, seq) for seq in range(1, 9)}


def test_what_is_dead_stays_dead() -> None:
    alive = named(HEAD, PACKED)
    coming = [name(3, 40), name(3, 99), name(4, 1), "runs/r/o/other", "runs/r/head"]
    gone = [name(1, 9), name(2, 1_000), name(3, 39)]
    assert dead(HEAD, alive, listed=[*alive, *coming, *gone]) == gone
    later = replace(HEAD, epoch=4, floor=2)
    assert dead(later, alive, listed=coming) == [name(3, 40), name(3, 99), name(4, 1)]
