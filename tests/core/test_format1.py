"""Format 1, as it was released: what is checked in is read for ever, and written alike."""

import json

import pytest

from coatcheck_sidecar.core import head as layout
from coatcheck_sidecar.core.head import Kind
from coatcheck_sidecar.core.record import KINDS
from tests.core.format1 import (
    DOC,
    DUMPED,
    EVENTS,
    HEAD,
    OBJECTS,
    VECTORS,
    dump,
    jsonable,
    with_dumps,
)

COMPRESSED = {"base", "mid"}
"""Other releases of zstd may press the same state into other bytes; they read all of them."""


@pytest.mark.parametrize("name", OBJECTS)
def test_a_vector_is_read_to_exactly_its_values(name: str) -> None:
    _, read = OBJECTS[name]
    said = json.loads((VECTORS / f"{name}.json").read_text())
    assert jsonable(read((VECTORS / f"{name}.bin").read_bytes())) == said


@pytest.mark.parametrize("name", [name for name in OBJECTS if name not in COMPRESSED])
def test_this_release_writes_the_very_bytes(name: str) -> None:
    write, _ = OBJECTS[name]
    assert write() == (VECTORS / f"{name}.bin").read_bytes()


def test_the_vectors_hold_every_kind_of_object_and_of_record() -> None:
    kinds = {(VECTORS / f"{name}.bin").read_bytes()[4:5] for name in OBJECTS}
    assert kinds >= {kind.value for kind in Kind}
    assert [event.kind for event in EVENTS] == list(KINDS)
    assert {path.stem for path in VECTORS.iterdir()} == set(OBJECTS)


def test_the_whole_head_has_every_field_filled() -> None:
    empty = [name for name, value in jsonable(HEAD).items() if value in ("", 0, [], None, False)]
    assert not empty
    assert layout.FORMAT == 1


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
    words = {field for event in EVENTS for field in jsonable(event) if field != "kind"}
    words |= set(KINDS) | set(jsonable(HEAD))
    for word in sorted(words):
        assert f"`{word}`" in page, word
