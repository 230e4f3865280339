"""What is checked in of each format is read for ever, and written alike while it is written."""

import json
from typing import Any

import pytest

from coatcheck_sidecar.core import objects
from coatcheck_sidecar.core.objects import Kind
from coatcheck_sidecar.core.record import KINDS
from tests.core.dumps import dump
from tests.core.formats import (
    DOC,
    DUMPED,
    EVENTS,
    HEAD2,
    OBJECTS,
    SINCE_2,
    VECTORS,
    jsonable,
    with_dumps,
)

COMPRESSED = {"format1/base", "format1/mid"}
"""Other releases of zstd may press the same state into other bytes; they read all of them."""


@pytest.mark.parametrize("name", OBJECTS)
def test_a_vector_is_read_to_exactly_its_values(name: str) -> None:
    _, read = OBJECTS[name]
    said = json.loads((VECTORS / f"{name}.json").read_text())
    found = jsonable(read((VECTORS / f"{name}.bin").read_bytes()))
    assert only(said, found) == said


def only(said: Any, found: Any) -> Any:
    """What was found, without the fields that a later format added."""
    if isinstance(said, dict) and isinstance(found, dict):
        return {key: only(said[key], value) for key, value in found.items() if key in said}
    if isinstance(said, list) and isinstance(found, list) and len(said) == len(found):
        return [only(*pair) for pair in zip(said, found, strict=True)]
    return found


@pytest.mark.parametrize("name", [name for name in OBJECTS if name not in COMPRESSED])
def test_this_release_writes_the_very_bytes(name: str) -> None:
    write, _ = OBJECTS[name]
    assert write() == (VECTORS / f"{name}.bin").read_bytes()


def test_the_vectors_hold_every_kind_of_object_and_of_record() -> None:
    kinds = {(VECTORS / f"{name}.bin").read_bytes()[4:5] for name in OBJECTS}
    assert kinds >= {kind.value for kind in Kind}
    assert [event.kind for event in (*EVENTS, *SINCE_2)] == list(KINDS)
    there = {f"{path.parent.name}/{path.stem}" for path in VECTORS.glob("format*/*")}
    assert there == set(OBJECTS)


def test_the_whole_head_has_every_field_filled() -> None:
    empty = [name for name, value in jsonable(HEAD2).items() if value in ("", 0, [], None, False)]
    assert not empty
    assert (objects.FORMAT_BEFORE, objects.FORMAT) == (1, 2)


@pytest.mark.parametrize("name", DUMPED)
def test_a_dump_shows_every_byte_once(name: str) -> None:
    data = OBJECTS[name][0]()
    shown = b"".join(bytes.fromhex(line[6:53].strip()) for line in dump(data).splitlines())
    assert shown == data


def test_the_page_shows_the_bytes_of_this_release() -> None:
    page = DOC.read_text()
    assert with_dumps(page) == page
    for name in DUMPED:
        assert f"<!-- dump: {name} -->" in page


def test_the_page_names_every_kind_and_field() -> None:
    page = DOC.read_text()
    words = {field for event in (*EVENTS, *SINCE_2) for field in jsonable(event) if field != "kind"}
    words |= set(KINDS) | set(jsonable(HEAD2))
    for word in sorted(words):
        assert f"`{word}`" in page, word
