import pytest

from coatcheck_sidecar.core.inject_edits import Draft, Edit, apply, pointer, steps, unshared


def test_edits_are_made_one_after_another() -> None:
    before = {"a": [1, 2], "b": {"c": None}}
    edits = [
        Edit("add", ("a", 0), 0),
        Edit("add", ("a", 3), 3),
        Edit("remove", ("a", 1)),
        Edit("replace", ("b", "c"), {"d": []}),
        Edit("add", ("b", "c", "d", 0), "x"),
        Edit("remove", ("b", "c", "d", 0)),
        Edit("add", ("e",), True),
    ]
    assert apply(before, edits) == {"a": [0, 2, 3], "b": {"c": {"d": []}}, "e": True}
    assert before == {"a": [1, 2], "b": {"c": None}}
    assert edits[3].value == {"d": []}


def test_what_is_not_there() -> None:
    draft = Draft({"a": [{"b": 1}]})
    assert draft.at(()) == {"a": [{"b": 1}]}
    assert draft.at(("a", 0, "b")) == 1
    assert draft.at(("a", 1)) is None
    assert draft.at(("a", "b")) is None
    assert draft.at(("a", 0, "b", "c")) is None
    assert draft.at(("c",)) is None
    with pytest.raises(LookupError):
        draft.replace(("c", "d"), 1)


def test_a_draft_notes_what_it_does() -> None:
    draft = Draft({})
    draft.add(("a",), {})
    draft.replace(("a",), [])
    draft.remove(("a",))
    assert [edit.op for edit in draft.edits] == ["add", "replace", "remove"]
    assert draft.document == {}


def test_json_patch() -> None:
    assert Edit("add", ("a/b", 0, "~"), 1).to_json(("spec",)) == {
        "op": "add",
        "path": "/spec/a~1b/0/~0",
        "value": 1,
    }
    assert Edit("remove", ("a",)).to_json() == {"op": "remove", "path": "/a"}
    assert steps(pointer(("a/b", "~1", ""))) == ["a/b", "~1", ""]


def test_what_is_in_two_places_is_so_no_more() -> None:
    shared = [1]
    copy = unshared({"a": shared, "b": [shared]})
    copy["a"].append(2)
    assert copy == {"a": [1, 2], "b": [[1]]}
