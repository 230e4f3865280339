"""RFC 8785, by its own examples, and the quick way against the library."""

import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.canonical import canonical_json

FLOATS = st.floats(allow_nan=False, allow_infinity=False) | st.floats(-1e3, 1e3)
SCALARS = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | FLOATS | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12
)


def canonical(text: str) -> bytes:
    return canonical_json(text, lambda value: value)


def test_the_example_of_section_3_2_2() -> None:
    text = (
        '{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],'
        '"string": "\\u20ac$\\u000F\\u000aA\'\\u0042\\u0022\\u005c\\\\\\"\\/",'
        '"literals": [null, true, false]}'
    )
    assert canonical(text).decode() == (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )


def test_the_order_of_section_3_2_3() -> None:
    names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    ordered = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    assert list(json.loads(canonical(json.dumps(dict.fromkeys(names))))) == ordered


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.0", "1"),
        ("-0.0", "0"),
        ("1e2", "100"),
        ("1e15", "1000000000000000"),
        ("1e20", "100000000000000000000"),
        ("1e21", "1e+21"),
        ("0.0001", "0.0001"),
        ("0.00001", "0.00001"),
        ("1e-7", "1e-7"),
        ("9007199254740991", "9007199254740991"),
        ("9007199254740992.0", "9007199254740992"),
        ("4503599627370495.5", "4503599627370495.5"),
    ],
)
def test_numbers(text: str, expected: str) -> None:
    assert canonical(text) == expected.encode()


@given(VALUES)
def test_the_quick_way_writes_what_the_library_writes(value: Any) -> None:
    assert canonical(json.dumps(value)) == rfc8785.dumps(value)


@pytest.mark.parametrize(
    "text",
    [
        "9007199254740992",
        "-9007199254740992",
        '{"é": 9007199254740992}',
        "NaN",
        "-Infinity",
        "1e999",
        '"\\ud800"',
        '{"\\ud800": 1}',
        '{"a": 1, "a": 1}',
        '{"é": 1, "é": 1}',
        '{"é": NaN}',
        "",
        "[1",
        "9" * 5000,
    ],
)
def test_what_has_no_canonical_form(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        canonical(text)


@pytest.mark.parametrize("name", ["a", "é"])
def test_the_value_may_be_changed_on_the_way(name: str) -> None:
    text = json.dumps({name: 1})
    assert (
        canonical_json(text, lambda value: [value])
        == json.dumps([{name: 1}], ensure_ascii=False, separators=(",", ":")).encode()
    )
