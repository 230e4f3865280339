"""Places in a text; what becomes of whole texts is in test_yaml_edit."""

import pytest

from coatcheck_sidecar.core.yaml_nodes import Leaf, Map, parse
from coatcheck_sidecar.core.yaml_page import Page, Pair, Single
from coatcheck_sidecar.core.yaml_write import Style


def page(text: str, style: Style | None = None) -> tuple[Page, Map]:
    node = parse(text)[0].node
    assert isinstance(node, Map)
    return Page(text, style or Style(), document=0), node


def test_changes_say_what_they_are_about() -> None:
    made, node = page("a: 1\n")
    made.path = ("a",)
    leaf = node.entries[0].value
    assert isinstance(leaf, Leaf)
    made.word(node, leaf, value=2)
    (change,) = made.changes
    assert (change.start, change.end, change.text, change.path) == (3, 4, "2", ("a",))


@pytest.mark.parametrize(
    ("text", "at", "place"),
    [
        ("a: 1\nb: 2\n", 1, 5),
        ("a: 1\n# about b\n# and more\nb: 2\n", 1, 5),
        ("a: 1\n  # of another depth\nb: 2\n", 1, 26),
        ("a: 1\n# of a\n\n# about b\nb: 2\n", 1, 13),
        ("# first\na: 1\n", 0, 0),
        ("a: 1  # x\n", 1, 10),
        ("a: 1\n# tail\n", 1, 5),
    ],
)
def test_comments_go_with_what_they_are_above(text: str, at: int, place: int) -> None:
    made, node = page(text)
    made.insert(node, at, what=Pair("new", 1))
    (change,) = made.changes
    assert (change.start, change.end, change.text) == (place, place, "new: 1\n")


def test_what_is_put_in() -> None:
    style = Style()
    assert Pair("a b", [1]).lines(style) == ['"a b":', "- 1"]
    assert Pair("a", [1]).flow(column=None, style=style) == '"a": [1]'
    assert Single({"a": 1, "b": 2}).lines(style) == ["- a: 1", "  b: 2"]
    assert Single(["x"]).flow(column=2, style=style) == '[\n    "x"\n  ]'
