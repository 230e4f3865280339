from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given

from coatcheck_sidecar.core.plain import plain_of, take, take_all, take_plain
from tests.core.objects import JUNK


@dataclass(frozen=True, slots=True)
class Sample:
    name: str
    count: int
    is_set: bool
    data: bytes
    others: tuple[int, ...] = ()


SAMPLE = Sample("n", 1, False, b"d", (7,))
FIELDS: dict[str, Any] = {"name": "n", "count": 1, "is_set": False, "data": b"d"}


def test_plain_fields_are_those_that_msgpack_carries_as_they_are() -> None:
    assert plain_of(SAMPLE) == FIELDS
    assert take_plain(Sample, {**FIELDS, "unknown": 1}) == FIELDS


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("wrong", [None, 1.5, True, 2, "text", b"bytes", [], {}])
def test_a_field_of_another_type_is_named(name: str, wrong: object) -> None:
    if type(wrong) is type(FIELDS[name]):
        return
    with pytest.raises(ValueError, match=f"^{name} is "):
        take_plain(Sample, {**FIELDS, name: wrong})


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_is_missing_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} is missing$"):
        take_plain(Sample, {key: value for key, value in FIELDS.items() if key != name})


@pytest.mark.parametrize("raw", [None, [], "name", 3])
def test_fields_are_a_map(raw: object) -> None:
    with pytest.raises(ValueError, match="is not a map"):
        take_plain(Sample, raw)


def test_items_have_exactly_the_types_and_the_number_asked_for() -> None:
    assert take([1, "a"], int, str) == [1, "a"]
    for raw in ([1], [1, "a", 2], ["a", 1], [True, "a"], "ab", None, {1: "a"}):
        with pytest.raises(ValueError, match=r"is not \[int, str\]"):
            take(raw, int, str)


def test_an_array_of_one_type_has_no_item_of_another() -> None:
    assert take_all([1, 2], int) == (1, 2)
    assert take_all([], int) == ()
    for raw in ([1, "a"], [True], "ab", None):
        with pytest.raises(ValueError, match="is not an array of int"):
            take_all(raw, int)


@given(JUNK)
def test_what_is_said_of_junk_is_short(raw: object) -> None:
    with pytest.raises(ValueError, match=r"^.{0,80}$"):
        take(raw, object)
