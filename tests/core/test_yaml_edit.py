from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.inject_choice import Refused
from coatcheck_sidecar.core.yaml_edit import edit, same
from coatcheck_sidecar.core.yaml_nodes import parse


def edited(text: str, value: Any) -> str:
    return edit(text, parse(text), {0: value}).text


@pytest.mark.parametrize(
    ("text", "value", "after"),
    [
        # Nothing to do.
        ("a: 1  # x\n", {"a": 1}, "a: 1  # x\n"),
        ("x\n", "x", "x\n"),
        # Scalars, in their places.
        ("a: 1  # x\nb: 2\n", {"a": "1", "b": 2}, 'a: "1"  # x\nb: 2\n'),
        ("a: &x one  # x\nb: *x\n", {"a": "two", "b": "two"}, "a: &x two  # x\nb: two\n"),
        ("a: &x one\nb: *x\n", {"a": "two", "b": "one"}, "a: &x two\nb: one\n"),
        ("a: &x one\nb: *x\n", {"a": "one", "b": "two"}, "a: &x one\nb: two\n"),
        ("a: |\n  one\nb: 1\n", {"a": "two", "b": 1}, "a: two\nb: 1\n"),
        ("a: {b: c, d: 'e'}\n", {"a": {"b": "f", "d": "g"}}, 'a: {b: "f", d: "g"}\n'),
        ("- 1\n- 2\n", [1, 3], "- 1\n- 3\n"),
        # Keys that come and go.
        ("a: 1  # x\n# y\n", {"a": 1, "b": 2}, "a: 1  # x\nb: 2\n# y\n"),
        ("a:\n  b: 1", {"a": {"b": 1, "c": [2]}}, "a:\n  b: 1\n  c:\n  - 2"),
        ("a: 1\r\nb: 2\r\n", {"a": 1, "c": {"d": 3}}, "a: 1\r\nc:\r\n  d: 3\r\n"),
        ("a: 1\nb: 2", {"a": 1}, "a: 1"),
        ("a: 1\nb:\n- 2\n# x\nc: 3\n", {"a": 1, "c": 3}, "a: 1\n# x\nc: 3\n"),
        ("- a: 1\n  b: 2\n  c: 3\n", [{"c": 3}], "- c: 3\n"),
        ("- a: 1\n  b: 2\n  c: 3\n", [{"b": 2}], "- b: 2\n"),
        # At the places where people write them.
        ("- spec: 1\n", [{"spec": 1, "metadata": 2}], "- metadata: 2\n  spec: 1\n"),
        ("# x\nspec: 1\n", {"spec": 1, "metadata": 2}, "metadata: 2\n# x\nspec: 1\n"),
        ("a: 1\r\n# x\r\nspec: 1\r\n", {"a": 1, "spec": 1, "metadata": 2},
         "a: 1\r\nmetadata: 2\r\n# x\r\nspec: 1\r\n"),
        ("{spec: 1}\n", {"spec": 1, "metadata": 2}, '{"metadata": 2, spec: 1}\n'),
        # Emptiness that is filled.
        ("a:  # x\nb: 1\n", {"a": {"c": 2}, "b": 1}, "a:  # x\n  c: 2\nb: 1\n"),
        ("a: ~  # x\n", {"a": [2]}, "a:  # x\n- 2\n"),
        ("a: {}", {"a": {"b": 1}}, "a:\n  b: 1"),
        ("a:\n", {"a": 1}, "a: 1\n"),
        ("- a\n-\n- b\n", ["a", {"c": 1, "d": 2}, "b"], "- a\n- c: 1\n  d: 2\n- b\n"),
        ("a: {b: , c: []}\n", {"a": {"b": 1, "c": [2]}}, 'a: {b: 1, c: [2]}\n'),
        # Wholly another value.
        ("a:\n  b: 1\nc: 2\n", {"a": {"d": 3}, "c": 2}, "a:\n  d: 3\nc: 2\n"),
        ("a:\n  b: 1", {"a": {"d": 3}}, "a:\n  d: 3"),
        ("a:\n- b\nc: 2\n", {"a": 1, "c": 2}, "a: 1\nc: 2\n"),
        ("a:\n- b\nc: 2\n", {"a": [], "c": 2}, "a: []\nc: 2\n"),
        ("a: [b]\nc: 2\n", {"a": {"d": 3}, "c": 2}, "a:\n  d: 3\nc: 2\n"),
        ("a: [b]  # x\n", {"a": 1}, "a: 1  # x\n"),
        ("a: |\n  x\nb: 1\n", {"a": [1], "b": 1}, "a:\n- 1\nb: 1\n"),
        ("- &x [1]\n- *x\n- z\n", [[1], [1, 2], "z"], "- &x [1]\n- - 1\n  - 2\n- z\n"),
        ("- {name: a}\n- - 1\n", [{"name": "a"}, {"b": 1}], "- {name: a}\n- b: 1\n"),
        ("? a\n: [1]\n", {"a": 2}, "? a\n: 2\n"),
        ("a:\n- b", {"a": 1}, "a: 1"),
        # Anchors stay where their values go.
        ("a: &x []  # y\nb: *x\n", {"a": [1], "b": [1]}, "a: &x  # y\n- 1\nb:\n- 1\n"),
        ("a: &x [1]\nb: *x\n", {"a": 2, "b": 2}, "a: &x 2\nb: 2\n"),
        ("a: &x\n- 1\nb: *x\n", {"a": 2, "b": [1]}, "a: &x 2\nb:\n- 1\n"),
        ("a: &x\n- 1\nb: *x\n", {"a": {"c": 1}, "b": {"c": 1}}, "a: &x\n  c: 1\nb:\n  c: 1\n"),
        ("- &x\n- *x\n- z\n", [{"b": 1, "c": 2}] * 2 + ["z"],
         "- &x\n  b: 1\n  c: 2\n- b: 1\n  c: 2\n- z\n"),
        # Items.
        ("a:\n# x\n- 1\n", {"a": [0, 1]}, "a:\n- 0\n# x\n- 1\n"),
        ("a:\n- 1  # x\n# y\n", {"a": [1, 2, 3]}, "a:\n- 1  # x\n- 2\n- 3\n# y\n"),
        ("- - 1\n  - 2\n", [[0, 1, 2]], "- - 0\n  - 1\n  - 2\n"),
        ("- - 1\n  - 2\n", [[2]], "- - 2\n"),
        ("- 1\n- 2\n- 3\n", [1, 3], "- 1\n- 3\n"),
        ("- name: a\n- name: b\n", [{"name": "b", "c": 1}], "- name: b\n  c: 1\n"),
        ("a: [1, 2, 3, ]\n", {"a": [0, 1, 3, 4]}, "a: [0, 1, 3, 4, ]\n"),
        ("a: [1, 2, 3]\n", {"a": [3]}, "a: [3]\n"),
        ("a: [1, 2, 3]\n", {"a": [1]}, "a: [1]\n"),
        ("a: {b: 1, c: 2, d: 3}\n", {"a": {"d": 3}}, "a: {d: 3}\n"),
        ('{\n  "a": 1\n}\n', {"a": 1, "b": {"c": 2}},
         '{\n  "a": 1,\n  "b": {\n    "c": 2\n  }\n}\n'),
        # Merges.
        ("a: &x {b: 1, c: 2}\nd:\n  <<: *x\n", {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}},
         "a: &x {b: 1, c: 2}\nd:\n  <<: *x\n  c: 3\n"),
    ],
)  # fmt: skip
def test_a_text_is_edited(text: str, value: Any, after: str) -> None:
    assert edited(text, value) == after


@pytest.mark.parametrize(
    ("text", "value", "why"),
    [
        ("a: 1\n", {"b": 1}, "nothing of the document would stay"),
        ("a: 1\n", [1], "nothing of the document would stay"),
        ("a: &x {b: 1}\nd: {<<: *x, e: 1}\n", {"a": {"b": 2}, "d": {"b": 1, "e": 1}}, "merged"),
        ("a: &x {b: 1}\nd: {<<: [*x, {c: 1}]}\n", {"a": {"b": 2}, "d": {"b": 1, "c": 1}}, "merged"),
        ("a: {b: 1}\nd: {<<: {c: 1}, e: 2}\n", {"a": {"b": 1}, "d": {"e": 2}}, "have to go"),
        ("a: {b: &x 1}\nc: *x\n", {"a": 2, "c": 1}, "can't be read"),
        ("a: [b: 1]\n", {"a": [{"b": 1, "c": 2}]}, "not say"),
        ("{a, b: 1}\n", {"a": 1, "b": 1}, "colon"),
        ("a: |\n  x", {"a": "x", "b": 1}, "not say"),
    ],
)
def test_what_would_not_be_safe_is_refused(text: str, value: Any, why: str) -> None:
    with pytest.raises(Refused, match=why) as caught:
        edited(text, value)
    assert caught.value.code == "unsafe-edit"


def test_the_other_documents_stay() -> None:
    text = "--- # one\na: 1\n---\na: 1\n...\n---\na: 1"
    done = edit(text, parse(text), {0: {"a": 2}, 2: {"a": 1, "b": {"c": 3}}})
    assert done.text == "--- # one\na: 2\n---\na: 1\n...\n---\na: 1\nb:\n  c: 3"
    assert [(change.document, change.path) for change in done.changes] == [
        (0, ("a",)),
        (2, ("b",)),
    ]


def test_types_count() -> None:
    assert same({"a": [1, "x"], "b": None}, {"b": None, "a": [1, "x"]})
    assert not same(1, True)
    assert not same(1, "1")
    assert not same({"a": None}, {})


WORDS = st.sampled_from(["a", "b", "c", "name", "x: y", "yes", "1", "# no", "-"])
LEAVES = st.none() | st.booleans() | st.integers(0, 9) | WORDS
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)
ROOTS = st.dictionaries(WORDS, VALUES, min_size=1, max_size=4)


@given(ROOTS, VALUES, st.booleans() | st.none(), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_any_text_comes_to_say_anything(
    before: dict[str, Any], value: Any, is_flow: bool | None, newline: str, is_cut: bool
) -> None:
    """With one key that stays, whatever the layout; and back again."""
    kept = {"kept": {"name": "it"}}
    text = yaml.safe_dump({**before, **kept}, default_flow_style=is_flow, sort_keys=False)
    text = (text.rstrip("\n") if is_cut else text).replace("\n", newline)
    after = {"kept": {"name": "it", "more": value}, "other": value}
    made = edited(text, after)
    assert same(parse(made)[0].value, after)
    assert same(parse(edited(made, {**before, **kept}))[0].value, {**before, **kept})
