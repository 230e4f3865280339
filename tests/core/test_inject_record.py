from typing import Any

import pytest

from coatcheck_sidecar.core.inject_choice import INJECTED, Refused
from coatcheck_sidecar.core.inject_edits import Draft
from coatcheck_sidecar.core.inject_record import (
    Noted,
    Record,
    decode,
    named,
    read_record,
    resolve,
    undo,
)


def signed(before: dict[str, Any], *changes: tuple[tuple[str | int, ...], Any]) -> Noted:
    draft = Noted(before)
    for path, value in changes:
        draft.put(path, value)
    draft.sign("1")
    return draft


def undone(document: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    draft = Draft(document)
    record = read_record(document)
    assert record is not None
    findings = undo(draft, record)
    return draft.document, [finding.what for finding in findings]


@pytest.mark.parametrize(
    "before",
    [
        {},
        {"metadata": None},
        {"metadata": {"annotations": {}}},
        {"metadata": {"annotations": {"a": "b"}}},
        {"spec": None, "metadata": {}},
        {"spec": {"volumes": []}},
        {"spec": {"volumes": None, "x": {}}},
        {"spec": {"volumes": [{"name": "other"}]}},
        {"spec": {"securityContext": {}}},
        {"spec": {"securityContext": {"supplementalGroups": [1, 2]}}},
    ],
)
def test_what_is_put_in_is_taken_out(before: dict[str, Any]) -> None:
    groups = (before.get("spec") or {}).get("securityContext") or {}
    count = len(groups.get("supplementalGroups", []))
    draft = signed(
        before,
        (("spec", "volumes", 0), {"name": "ours"}),
        (("spec", "volumes", 0), {"name": "ours-too"}),
        (("spec", "securityContext", "supplementalGroups", count), 3),
    )
    assert draft.document != before
    assert undone(draft.document) == (before, [])


def test_what_is_replaced_is_put_back() -> None:
    draft = Noted({"spec": {"containers": [{"name": "a", "hook": {"x": [1]}}]}})
    draft.swap(("spec", "containers", 0, "hook"), {"y": 2})
    draft.sign("1")
    assert draft.document["spec"]["containers"] == [{"name": "a", "hook": {"y": 2}}]
    # Found by its name, wherever it is by now.
    draft.document["spec"]["containers"].insert(0, {"name": "new"})
    after, findings = undone(draft.document)
    assert after["spec"]["containers"] == [{"name": "new"}, {"name": "a", "hook": {"x": [1]}}]
    assert findings == []


def test_what_was_changed_by_hand_stays_and_is_told() -> None:
    draft = Noted({"a": 1, "b": {"c": 2}, "d": []})
    draft.swap(("a",), 2)
    draft.swap(("b", "c"), 3)
    draft.put(("d", 0), "ours")
    draft.put(("e", "f"), "ours")
    draft.put(("g", "h"), "ours")
    draft.sign("1")
    document = draft.document
    document["a"] = 5
    del document["b"]
    document["d"] = ["mine"]
    document["e"]["more"] = "mine"
    after, findings = undone(document)
    assert after == {"a": 5, "d": ["mine"], "e": {"more": "mine"}}
    assert findings == [
        "/d/ours was taken out by hand since it was injected",
        "/a was changed by hand since it was injected",
        "/b/c was changed by hand since it was injected",
    ]


def test_an_emptiness_whose_place_is_gone() -> None:
    draft = signed({"a": {"b": {}, "c": 1}}, (("a", "b", "d"), 1))
    del draft.document["a"]
    after, findings = undone(draft.document)
    assert after == {}
    assert findings == ["/a/b/d was taken out by hand since it was injected"]


def test_an_emptiness_that_was_filled_by_hand() -> None:
    draft = signed({"a": {}}, (("a", "b"), 1))
    draft.document["a"]["c"] = 2
    assert undone(draft.document) == ({"a": {"c": 2}}, [])


def test_the_annotation() -> None:
    record = Record(version="1", added=("/a",), was={"/b": [1, 2]}, text=["x"])
    assert decode(record.encode()) == record
    assert decode(record.without_text().encode()) == Record(
        version="1", added=("/a",), was={"/b": [1, 2]}
    )
    assert Record(version="1").encode() == '{"version":"1"}'
    assert read_record({"metadata": {"annotations": {"a": "b"}}}) is None


@pytest.mark.parametrize(
    "text",
    [
        "", "1.0.0", "{", "[]", "{}", '{"version":1}', '{"version":"1","added":{}}',
        '{"version":"1","added":[1]}', '{"version":"1","added":["a"]}', "[" * 100_000,
        '{"version":"1","was":[]}', '{"version":"1","was":{"/a":1}}',
        '{"version":"1","was":{"/a":[]}}', '{"version":"1","was":{"":[1]}}',
    ],
)  # fmt: skip
def test_a_damaged_annotation_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="by hand") as caught:
        read_record({"metadata": {"annotations": {INJECTED: text}}})
    assert caught.value.code == "annotation-damaged"


def test_pointers_by_name() -> None:
    draft = Noted({"a": [{"name": "x/y", "b": None}, 5], "c": None})
    assert named(draft.document, ("a", 0, "b")) == "/a/x~1y/b"
    assert named(draft.document, ("c", "d")) == "/c/d"
    assert resolve(draft, "/a/x~1y/b") == ("a", 0, "b")
    assert resolve(draft, "/a/5") == ("a", 1)
    assert resolve(draft, "/a/6") is None
    assert resolve(draft, "/c/d") is None
