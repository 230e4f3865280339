import base64
import json
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.servers.values import packed, read_json, with_values

EXACT = 2**53 - 1
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("ab\u00e9"), inner),
    max_leaves=10,
)


def is_exact(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(is_exact, value.values()))
    if isinstance(value, list):
        return all(map(is_exact, value))
    return type(value) is not int or abs(value) <= EXACT


@given(VALUES)
def test_a_value_comes_back_as_it_was_or_as_bytes(value: Any) -> None:
    data = msgpack.packb(value)
    told = json.loads(with_values({"step": 1}, {"state": data, "input": None}))
    assert told.pop("step") == 1
    if "state" in told:
        assert packed(told["state"]) == data
        assert read_json(json.dumps(value).encode()) == value
    else:
        assert base64.b64decode(told["state_base64"]) == data
    assert ("state" in told) == is_exact(value)
    assert len(told) == 1


@pytest.mark.parametrize(
    "data",
    [
        *map(msgpack.packb, (b"x", {1: 2}, {b"x": 2}, msgpack.Timestamp(1), float("inf"))),
        *(b"\xc1", b"", b"\xc0\xc0"),
    ],
)
def test_what_json_has_no_form_for(data: bytes) -> None:
    told = with_values({}, {"result": data})
    assert json.loads(told) == {"result_base64": base64.b64encode(data).decode()}
