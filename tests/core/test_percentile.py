"""Percentiles, against their definition."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.percentile import percentile


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=300), st.integers(1, 100))
def test_percentiles_are_those_of_the_definition(values: list[float], percent: int) -> None:
    found = percentile(values, percent)
    rank = Fraction(percent, 100) * len(values)
    at_most = [value for value in values if value <= found]
    below = [value for value in values if value < found]
    assert found in values
    assert len(at_most) >= rank
    assert len(below) < rank


@pytest.mark.parametrize(
    ("rank", "wanted"), [(50, 10), (95, 19), (96, 20), (100, 20), (5, 1), (1, 1)]
)
def test_percentiles_of_one_to_twenty(rank: int, wanted: int) -> None:
    assert percentile(list(range(20, 0, -1)), rank) == wanted
