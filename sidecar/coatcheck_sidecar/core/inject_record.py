"""What injecting did to a template, kept in its annotation, so that it can be undone. Pure.

Each thing added is named by a pointer in which a list's item goes by its name, not by its index: it
is found again after somebody has edited around it.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from coatcheck_sidecar.core.inject_choice import INJECTED, Finding, Refused, Severity
from coatcheck_sidecar.core.inject_edits import Draft, Path, pointer, steps

ANNOTATION_PATH: Final[Path] = ("metadata", "annotations", INJECTED)
EMPTY: Final[tuple[object, ...]] = (None, {}, [])


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What was done, by which release."""

    version: str
    added: tuple[str, ...] = ()
    """Pointers to what wasn't there."""
    was: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """By pointer: what had been there and what took its place, or the emptiness alone."""
    text: Any = None
    """How the text was before, for whoever edits texts."""

    def encode(self) -> str:
        """The annotation's value: JSON, as short as it goes."""
        said = {"version": self.version, "added": self.added, "was": self.was, "text": self.text}
        return json.dumps({k: v for k, v in said.items() if v}, separators=(",", ":"))

    def without_text(self) -> "Record":
        """The same, of the object alone."""
        return replace(self, text=None)


def read_record(template: Mapping[str, Any]) -> Record | None:
    """That of a template; `None` if nothing was injected. Raises `Refused` for a damaged one."""
    text = Draft(template).at(ANNOTATION_PATH)
    return None if text is None else decode(text)


def decode(text: object) -> Record:
    """From an annotation's value. Raises `Refused` if it is none of ours."""
    try:
        said = json.loads(str(text))
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or not _is_record(said):
        raise Refused(
            "annotation-damaged",
            f"the annotation {INJECTED} is not as coatcheck wrote it: take out by hand what was "
            "injected, and the annotation",
        )
    return Record(
        version=said["version"],
        added=tuple(said.get("added", ())),
        was=said.get("was", {}),
        text=said.get("text"),
    )


def _is_record(said: Mapping[str, Any]) -> bool:
    added, was = said.get("added", []), said.get("was", {})
    return (
        isinstance(said.get("version"), str)
        and isinstance(added, list)
        and isinstance(was, dict)
        and all(isinstance(one, str) and one.startswith("/") for one in (*added, *was))
        and all(isinstance(one, list) and len(one) in (1, 2) for one in was.values())
    )


class Noted(Draft):
    """A draft that notes what it takes to undo it."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        """Nothing has been done yet."""
        super().__init__(document)
        self._added: list[str] = []
        self._was: dict[str, list[Any]] = {}

    def put(self, path: Path, value: Any) -> None:
        """Something, with the maps and lists around it that aren't there."""
        last = path[-1]
        if not isinstance(last, int) and last in (self.at(path[:-1]) or {}):
            self.swap(path, value)
            return
        item = identity(value) if isinstance(last, int) else last
        self._added.append(named(self.document, path[:-1]) + pointer((item,)))
        for depth in range(1, len(path)):
            around = path[:depth]
            if (found := self.at(around)) in EMPTY:
                for step in reversed(path[depth:]):
                    value = [value] if isinstance(step, int) else {step: value}
                if around[-1] in self.at(around[:-1]):
                    self._was[named(self.document, around)] = [found]
                    self.replace(around, value)
                else:
                    self.add(around, value)
                return
        self.add(path, value)

    def swap(self, path: Path, value: Any) -> None:
        """Something else in the place of what is there."""
        self._was[named(self.document, path)] = [copy.deepcopy(self.at(path)), value]
        self.replace(path, value)

    def sign(self, version: str) -> None:
        """Put the record into the annotation, that of the annotation itself included."""
        trial = copy.deepcopy(self)
        trial.put(ANNOTATION_PATH, "")
        record = Record(version=version, added=tuple(trial._added), was=trial._was)
        self.put(ANNOTATION_PATH, record.encode())


def named(document: Any, path: Path) -> str:
    """A pointer in which a list's items go by their names."""
    parts: list[str | int] = []
    for step in path:
        is_item = isinstance(document, list)
        document = document[step] if is_item or step in (document or {}) else None
        parts.append(identity(document) if is_item else step)
    return pointer(parts)


def identity(item: object) -> str:
    """By what an item of a list is found again: its name, or itself."""
    return str(item.get("name")) if isinstance(item, Mapping) else str(item)


def undo(draft: Draft, record: Record) -> list[Finding]:
    """Take out what was added, and put back what was replaced; what can't be is told."""
    findings = []
    for text in record.added:
        path = resolve(draft, text)
        if path is None:
            findings.append(_gone(text, "was taken out by hand"))
        else:
            draft.remove(path)
            _prune(draft, path[:-1], was=record.was)
    replaced = {text: values for text, values in record.was.items() if len(values) > 1}
    for text, values in replaced.items():
        path = resolve(draft, text)
        if path is None or draft.at(path) != values[1]:
            findings.append(_gone(text, "was changed by hand"))
        else:
            draft.replace(path, values[0])
    return findings


def resolve(draft: Draft, text: str) -> Path | None:
    """Where a pointer leads to now; `None` if nowhere."""
    path: list[str | int] = []
    found: Any = draft.document
    for step in steps(text):
        if isinstance(found, Mapping) and step in found:
            path.append(step)
        elif isinstance(found, list) and step in (names := [identity(item) for item in found]):
            path.append(names.index(step))
        else:
            return None
        found = found[path[-1]]
    return tuple(path)


def _prune(draft: Draft, path: Path, *, was: Mapping[str, Sequence[Any]]) -> None:
    """Maps and lists that nothing is left in go, too, up to one that was there."""
    while path and draft.at(path) in EMPTY:
        if (values := was.get(named(draft.document, path))) is not None:
            draft.replace(path, values[0])
            return
        draft.remove(path)
        path = path[:-1]


def _gone(text: str, what: str) -> Finding:
    return Finding(
        severity=Severity.WARNING,
        code="changed-by-hand",
        what=f"{text} {what} since it was injected",
        why="it is left as it is now",
        mend="look whether it should stay",
    )
