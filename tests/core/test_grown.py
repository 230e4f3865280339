"""`core/grown.py` against a plain dict."""

import time

from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.grown import LAYER_MIN, Grown


@given(st.lists(st.tuples(st.sampled_from([f"k{n}" for n in range(60)]), st.integers())))
def test_it_is_as_a_dict_and_no_former_state_changes(entries: list[tuple[str, int]]) -> None:
    plain: dict[str, int] = {}
    grown: Grown[int] = Grown()
    former = []
    for key, value in entries:
        former.append((grown, dict(plain)))
        plain[key] = value
        grown = grown.grown(key, value)
    for one, wanted in (*former, (grown, plain)):
        assert one == wanted
        assert len(one) == len(wanted)
        assert list(one) == list(wanted)
        assert all(key in one and one.get(key) == value for key, value in wanted.items())
        assert "none" not in one
        assert repr(one) == f"Grown({wanted!r})"


def test_one_more_does_not_cost_all_that_is_there() -> None:
    def grow_s(count: int) -> float:
        grown: Grown[int] = Grown()
        began_s = time.process_time()
        for n in range(count):
            grown = grown.grown(str(n), n)
        return time.process_time() - began_s

    assert len(Grown({str(n): n for n in range(LAYER_MIN)})) == LAYER_MIN
    # Copies of all would make it 400 times as much; roots make it 90, and this is no clock's test.
    assert min(grow_s(40_000) for _ in range(2)) < 250 * max(
        min(grow_s(2_000) for _ in range(3)), 0.001
    )
