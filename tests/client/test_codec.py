"""States, arguments and results: what goes through, and how the rest is named."""

import dataclasses
import datetime
import decimal
import math
from typing import Any

import msgpack
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck._codec import decode, encode, typed
from coatcheck.errors import Damaged, NotEncodable

Plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text()
    | st.binary()
    | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(0, 9), inner),
    max_leaves=20,
)


class Line(pydantic.BaseModel):
    item: str
    amounts: list[int] = []
    note: str | None = None
    at: datetime.datetime | None = None


class Message(pydantic.BaseModel):
    role: str
    content: str | None = None
    refusal: str | None = None
    lines: list[Line] = []


@dataclasses.dataclass(frozen=True)
class Point:
    x: Any
    y: Any = 0


@given(Plain)
def test_plain_values_come_back(value: Any) -> None:
    assert decode(encode(value, "state")) == value


def test_what_has_another_type_comes_back_plain() -> None:
    value = {"t": (1, (2,)), "p": Point(1, Point(2)), 5: None, (1, ("a",)): [3, (4,)]}
    expected = {"t": [1, [2]], "p": {"x": 1, "y": {"x": 2, "y": 0}}, 5: None, (1, ("a",)): [3, [4]]}
    assert decode(encode(value, "state")) == expected
    assert math.isnan(decode(encode([math.nan], "state"))[0])


def test_a_pydantic_object_is_what_was_set_of_it() -> None:
    """As an SDK sends it: a request from a restored state equals the recorded one."""
    message = Message(role="assistant", content=None)
    assert decode(encode([message], "state")) == [{"role": "assistant", "content": None}]


def test_what_was_changed_in_place_is_kept() -> None:
    message = Message(role="user", lines=[Line(item="a"), Line(item="b")])
    message.lines[1].amounts.append(7)
    expected = {"role": "user", "lines": [{"item": "a"}, {"item": "b", "amounts": [7]}]}
    assert decode(encode(message, "state")) == expected


def test_a_pydantic_object_with_raw_bytes_is_kept() -> None:
    class Blob(pydantic.BaseModel):
        data: bytes

    assert decode(encode(Blob(data=b"\xff"), "state")) == {"data": b"\xff"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"messages": [0, 1, 2, Point(datetime.date(2026, 1, 1))]}, 'state["messages"][3].x is a'),
        (datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), r"state is a datetime.*isoformat\(\)"),
        ([{1, 2}], r"state\[0\] is a set.*sorted list"),
        ({"a": decimal.Decimal(1)}, r'state\["a"\] is a Decimal.*str\(\)'),
        ({"a": 2**64}, r'state\["a"\] is an integer of more than 64 bits'),
        ({"a": ["\ud800"]}, r'state\["a"\]\[0\] has a lone surrogate'),
        ({"\ud800": 1}, "the key .* of state has a lone surrogate"),
        ({frozenset(): 1}, "state has a key of type frozenset"),
        ({7: {object(): 1}}, r"state\[7\] has a key of type object"),
        ({"a": [{(1, Point(2)): 1}]}, r'state\["a"\]\[0\] has a key of type tuple'),
        ([Point], r"state\[0\] is a type"),
        (lambda: 0, "state is a function"),
    ],
)
def test_what_cannot_be_encoded_is_named_by_its_path(value: Any, text: str) -> None:
    pattern = text if "\\" in text or ".*" in text else text.replace("[", r"\[").replace("]", r"\]")
    with pytest.raises(NotEncodable, match=pattern) as caught:
        encode(value, "state")
    assert isinstance(caught.value, TypeError)
    assert caught.value.path in str(caught.value)


def test_what_holds_itself_is_named() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(NotEncodable, match="holds itself"):
        encode({"loop": value}, "state")


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x92\x01", msgpack.packb({1: 2})[:-1], b"\x01\x02"]
)
def test_what_is_no_msgpack_is_damaged(data: bytes) -> None:
    with pytest.raises(Damaged, match=f"these {len(data)} bytes"):
        decode(data)


def test_a_result_has_the_type_that_the_tool_says() -> None:
    def find(item: str) -> Line:
        return Line(item=item, at=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))

    def later(item: str) -> "Undefined":  # type: ignore[name-defined]  # noqa: F821
        return item

    first = typed(decode(encode(find("a"), "result")), find)
    assert first == find("a")
    assert typed({"item": "a"}, later) == {"item": "a"}
    assert typed(3, print) == 3
