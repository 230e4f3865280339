import pytest

from coatcheck_sidecar.core.delta import Chain, Delta
from coatcheck_sidecar.core.head import Head, Kept
from coatcheck_sidecar.core.model import ObjectRef, Status
from coatcheck_sidecar.core.retention import NotKept, blind_step, chain_of, find, retained


def ref(name: str) -> ObjectRef:
    return ObjectRef(name, bytes(32), 1)


def sealed(seq: int, *, base: str = "b", version: str = "") -> Kept:
    return Kept(seq, seq, 1, version, ref(base), ref(f"m{seq}"))


def loose(seq: int, *, version: str = "") -> Kept:
    return Kept(seq, seq, 1, version)


@pytest.mark.parametrize(
    ("kept", "stays", "horizon"),
    [
        ([], [], 0),
        ([loose(1), loose(2)], [1, 2], 1),
        ([loose(n) for n in range(1, 9)], [6, 7, 8], 6),
        ([sealed(n) for n in range(1, 9)], [6, 7, 8], 6),
        ([*(sealed(n) for n in range(1, 5)), *(loose(n) for n in range(5, 9))],
         [2, 3, 4, 6, 7, 8], 2),
        # One that shares no object with the newest
        ([sealed(1, base="old"), sealed(2, base="older"), *(sealed(n) for n in range(3, 9))],
         [2, 6, 7, 8], 2),
        # The newest of each code version, beyond the horizon
        ([sealed(1, version="a"), sealed(2, version="a"), *(sealed(n) for n in range(3, 9))],
         [2, 6, 7, 8], 6),
        ([sealed(n, version=f"v{n}") for n in range(1, 6)] + [sealed(n) for n in range(6, 9)],
         [4, 5, 6, 7, 8], 6),
    ],
)  # fmt: skip
def test_what_is_kept_is_few_and_goes_far_back(
    kept: list[Kept], stays: list[int], horizon: int
) -> None:
    found, at = retained(kept, most=3)
    assert ([each.seq for each in found], at) == (stays, horizon)
    assert retained(found, most=3) == (found, at)


def test_a_checkpoint_is_built_by_its_own_objects_or_by_the_heads_deltas() -> None:
    chain = Chain(ref("b"), ref("m"), (Delta(5, b"x"), Delta(6, b"y"), Delta(7, b"z")))
    assert chain_of(loose(6), chain) == Chain(ref("b"), ref("m"), chain.deltas[:2])
    assert chain_of(sealed(3, base="c"), chain) == Chain(ref("c"), ref("m3"))


def test_a_checkpoint_is_found_by_its_place_or_its_code_version() -> None:
    kept = (sealed(3, version="a"), sealed(5, version="a"), loose(7, version="b"))
    head = Head(run="r", epoch=1, owner="o", nonce=bytes(16), seq=8, status=Status.READY, kept=kept)
    assert find(head, seq=3) == kept[0]
    assert find(head, code_version="a") == kept[1]
    assert find(head, seq=4, code_version="a") == NotKept(
        "no checkpoint at 4 is kept of run r; there are: 3 (step 3), 5 (step 5), 7 (step 7)"
    )
    bare = Head(run="r", epoch=1, owner="o", nonce=bytes(16), seq=8, status=Status.READY)
    assert find(bare, code_version="c") == NotKept(
        "no checkpoint of code version 'c' is kept of run r; there are: none"
    )


def test_a_run_is_blind_where_records_are_gone() -> None:
    assert blind_step(sealed(3), step_high=9, horizon=4) == 9
    assert blind_step(sealed(4), step_high=9, horizon=4) == 0
