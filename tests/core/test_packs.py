from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.head import PackRef, Tombstone
from coatcheck_sidecar.core.model import ObjectRef
from coatcheck_sidecar.core.packs import (
    PACKS_MAX,
    covered,
    is_packable,
    is_packed,
    live,
    merge_from,
    tail_bytes,
)
from coatcheck_sidecar.core.record import Claimed, Dispatched, Event, Record, Signalled
from coatcheck_sidecar.core.undo_records import Undo


def pack(last: int, *, length: int = 100, tombstones: int = 0) -> PackRef:
    return PackRef(last, ObjectRef(f"p{last}", bytes(32), length), tombstones)


def at(seq: int, event: Event) -> Record:
    return Record(seq, 1, 0, event)


def test_calls_and_undos_lie_in_packs_up_to_the_last() -> None:
    call, undo = Dispatched(call=1, attempt=1), Undo(call=1, key="k", tool="t")
    other: list[Event] = [Claimed(owner="o"), Signalled(name="s")]
    assert is_packable(at(1, call))
    assert is_packable(at(1, undo))
    assert not any(is_packable(at(1, event)) for event in other)
    packs = [pack(5), pack(9)]
    assert (covered(packs), covered([])) == (9, 0)
    assert is_packed(at(9, call), 9)
    assert not is_packed(at(10, call), 9)
    assert not is_packed(at(3, other[0]), 9)


def test_only_what_a_pack_would_take_is_weighed() -> None:
    stone = Tombstone("key", 1, "tool", bytes(32), "done")
    small = tail_bytes([at(1, Claimed(owner="o" * 1_000))], [], encoded={})
    assert small == 0
    sent = at(1, Dispatched(call=1, attempt=1))
    assert tail_bytes([sent], [stone], encoded={}) > 48
    assert tail_bytes([sent], [], encoded={1: bytes(500)}) == 500


def test_a_pack_stays_for_its_tombstones_or_a_record_that_counts() -> None:
    packs = [pack(5), pack(9, tombstones=1), pack(12), pack(20)]
    assert live(packs, [11]) == (packs[1], packs[2])
    assert live(packs, [5, 13]) == (packs[0], packs[1], packs[3])
    assert live(packs, []) == (packs[1],)
    assert live(packs, [], since=12) == (packs[1], packs[2], packs[3])


@given(st.lists(st.integers(200, 20_000), min_size=1, max_size=400))
def test_packs_stay_few_and_are_seldom_written_again(sizes: list[int]) -> None:
    packs: list[PackRef] = []
    written = 0
    for seq, size in enumerate(sizes):
        first = merge_from(packs, size)
        whole = size + sum(each.ref.length for each in packs[first:])
        packs = [*packs[:first], pack(seq, length=whole)]
        written += whole
        assert len(packs) <= PACKS_MAX
    total = sum(sizes)
    assert sum(each.ref.length for each in packs) == total
    doublings = max(1, (total // min(sizes)).bit_length())
    assert written <= total * (1 + doublings)
