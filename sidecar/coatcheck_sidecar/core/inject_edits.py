"""Edits of a document, one after another, as RFC 6902 has them. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Path = tuple[str | int, ...]
"""Keys and indices from the document's root."""
Op = Literal["add", "replace", "remove"]
ADD: Final = "add"
REPLACE: Final = "replace"
REMOVE: Final = "remove"


@dataclass(frozen=True, slots=True)
class Edit:
    """One change. `add` with an index inserts before it; with the list's length it appends."""

    op: Op
    path: Path
    """What it is about when all edits before it have been made."""
    value: Any = None
    """Plain values of JSON; nothing for `remove`."""

    def to_json(self, above: Path = ()) -> dict[str, Any]:
        """As an operation of a JSON patch, with the document `above` in another one."""
        found = {"op": self.op, "path": pointer((*above, *self.path))}
        return found if self.op == REMOVE else {**found, "value": self.value}


def pointer(path: Iterable[str | int]) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def steps(text: str) -> list[str]:
    """A pointer's parts."""
    return [step.replace("~1", "/").replace("~0", "~") for step in text.split("/")[1:]]


def unshared(value: Any) -> Any:
    """A copy in which nothing is in two places: what YAML reads through an alias is."""
    if isinstance(value, dict):
        return {key: unshared(inner) for key, inner in value.items()}
    return [unshared(inner) for inner in value] if isinstance(value, list) else value


class Draft:
    """A copy of a document that is being edited, and the edits so far."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        """The document stays as it is."""
        self.document: dict[str, Any] = unshared(dict(document))
        self.edits: list[Edit] = []

    def at(self, path: Path) -> Any:
        """What is there; `None` if nothing is."""
        found: Any = self.document
        for step in path:
            is_item = isinstance(found, list) and isinstance(step, int) and step < len(found)
            if not is_item and not (isinstance(found, dict) and step in found):
                return None
            found = found[step]
        return found

    def add(self, path: Path, value: Any) -> None:
        """Into a map under a new key, or into a list."""
        self.do(Edit(ADD, path, value))

    def replace(self, path: Path, value: Any) -> None:
        """What is there."""
        self.do(Edit(REPLACE, path, value))

    def remove(self, path: Path) -> None:
        """What is there."""
        self.do(Edit(REMOVE, path))

    def do(self, edit: Edit) -> None:
        """Make one edit, and note it. Raises `LookupError` if its place isn't there."""
        *above, last = edit.path
        place: Any = self.document
        for step in above:
            place = place[step]
        if edit.op == REMOVE:
            del place[last]
        elif edit.op == ADD and isinstance(place, list) and isinstance(last, int):
            place.insert(last, unshared(edit.value))
        else:
            place[last] = unshared(edit.value)
        self.edits.append(edit)


def apply(document: Mapping[str, Any], edits: Iterable[Edit]) -> dict[str, Any]:
    """The document after the edits; it stays as it is itself."""
    draft = Draft(document)
    for edit in edits:
        draft.do(edit)
    return draft.document
