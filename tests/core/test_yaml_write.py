from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.yaml_edit import same
from coatcheck_sidecar.core.yaml_nodes import parse
from coatcheck_sidecar.core.yaml_write import Style, entry, flow, lines_of, scalar, style_of

TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(TEXTS, VALUES, min_size=1, max_size=3), st.booleans(), st.integers(1, 4))
def test_what_is_written_is_what_was_meant(
    value: dict[str, Any], is_indented: bool, indent: int
) -> None:
    style = Style(indent=indent, is_indented=is_indented)
    assert same(yaml.safe_load("\n".join(lines_of(value, style))), value)
    assert same(yaml.safe_load(flow(value, column=None, style=style)), value)
    assert same(yaml.safe_load(flow(value, column=3, style=style)), value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("coatcheck/coatcheck:0.1.0", "coatcheck/coatcheck:0.1.0"),
        ("s3://bucket/prefix?region=x&style=path", "s3://bucket/prefix?region=x&style=path"),
        ("/drain/barrier?min_s=5", "/drain/barrier?min_s=5"),
        ("50m", "50m"), ("2Gi", "2Gi"), ("30", '"30"'), ("1e3", '"1e3"'), ("", '""'),
        ("$(POD_IP):7071", '"$(POD_IP):7071"'), ("a:", '"a:"'), ("a b", '"a b"'),
        ("yes", '"yes"'), ("Off", '"Off"'), ("n", '"n"'), ("None", "None"), ("null", '"null"'),
        ('{"a":"b\'c"}', "'{\"a\":\"b''c\"}'"), ("a\n\"b\"", '"a\\n\\"b\\""'), ("a\\b", "'a\\b'"),
        (True, "true"), (None, "null"), (7071, "7071"), ([], "[]"), ({}, "{}"),
    ],
)  # fmt: skip
def test_scalars(value: Any, text: str) -> None:
    assert scalar(value) == text
    assert same(yaml.safe_load(text), value)
    assert same(yaml.safe_load(scalar(value, is_flow=True)), value)


def test_sequences_stand_as_the_text_has_them() -> None:
    value = {"b": [{"c": [1]}]}
    assert entry("a", value, Style()) == ["a:", "  b:", "  - c:", "    - 1"]
    indented = ["a:", "    b:", "        - c:", "              - 1"]
    assert entry("a", value, Style(indent=4, is_indented=True)) == indented
    assert entry("a", None, Style()) == ["a: null"]


@pytest.mark.parametrize(
    ("text", "style"),
    [
        ("a: 1\n", Style()),
        ("a", Style()),
        ("a:\n    b:\n      - 1\r\n", Style("\n", 4, is_indented=True)),
        ("a:\r\n- b:\r\n     c: 1\r\n", Style("\r\n", 3)),
        ('{\n    "a": {\n        "b": [\n            1\n        ]\n    }\n}', Style("\n", 4)),
        ("{a: {b: 1}, c: []}", Style()),
        ("- a:\n  - 1\n- b:\n  - 1\n- c:\n    - 1\n", Style()),
    ],
)
def test_a_text_shows_how_it_is_laid_out(text: str, style: Style) -> None:
    assert style_of(text, parse(text)[0].node) == style
