"""Injects into the text of manifests, and gives the text back as it was. Pure.

The annotation keeps, besides what was done to the template, which characters were: offsets from the
annotation's own value, and what they replaced. A digest of all that lies between tells whether the
text is still the one that was written; then it is given back byte for byte. Otherwise what was
injected is taken out as well as can be.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final, cast

from coatcheck_sidecar.core.inject import Injection, inject, uninject
from coatcheck_sidecar.core.inject_choice import Choice, Finding, Refused, Severity
from coatcheck_sidecar.core.inject_edits import Draft, Edit, Path, apply
from coatcheck_sidecar.core.inject_record import ANNOTATION_PATH, Record, decode, read_record
from coatcheck_sidecar.core.workloads import Workload, workloads_of
from coatcheck_sidecar.core.yaml_edit import Edited, edit
from coatcheck_sidecar.core.yaml_nodes import Alias, Document, Leaf, Map, Node, Seq, parse
from coatcheck_sidecar.core.yaml_page import PROPERTIES, Change
from coatcheck_sidecar.core.yaml_write import scalar

DIGEST_CHARS: Final = 12
"""Of a SHA-256: against a change by hand, not against somebody who forges one."""
BOM: Final = "\ufeff"
REFORMATTED: Final = Finding(
    severity=Severity.WARNING,
    code="changed-by-hand",
    what="the text was edited or written anew since it was injected",
    why="what was injected is taken out, but comments and layout may not be what they were",
    mend="look at the difference",
)

THROUGH_ALIAS: Final = (
    "the pod template is read through an alias or a merge (`*name`, `<<`): what is changed there "
    "would change elsewhere, too. Write it out"
)
Select = Callable[[Workload], bool]
"""Whether a workload is meant."""


@dataclass(frozen=True, slots=True)
class Told:
    """What there is to say of one workload."""

    workload: str
    findings: tuple[Finding, ...] = ()
    refused: Refused | None = None


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A text after it; the same if something was refused."""

    text: str
    told: tuple[Told, ...]
    """One for each workload that was meant, in order."""

    @property
    def is_refused(self) -> bool:
        """Something couldn't be done, so that nothing was."""
        return any(one.refused for one in self.told)


@dataclass(frozen=True, slots=True)
class _Place:
    """A workload, and where in the stream."""

    document: int
    workload: Workload

    def check(self, documents: Sequence[Document]) -> None:
        """Raises `Refused` if the template is read through an alias or a merge."""
        if _find(documents[self.document].node, self.workload.path) is None:
            raise Refused("alias", THROUGH_ALIAS)


@dataclass(frozen=True, slots=True)
class _Value:
    """The annotation's value in a text."""

    start: int
    end: int
    is_flow: bool
    record: Record

    def rendered(self, record: Record) -> str:
        """With another record."""
        return scalar(record.encode(), is_flow=self.is_flow)


def inject_text(text: str, choice: Choice, *, select: Select) -> Rewritten:
    """Put the sidecar into all that is selected. Raises `NotYaml`."""
    base = _restored(text.removeprefix(BOM), select)
    documents = parse(base)
    places = _places(documents, select)
    done = _work(
        base, documents=documents, places=places, work=lambda template: inject(template, choice)
    )
    if done.edited is None:
        return Rewritten(text, done.told)
    # What was injected before and can't be given back exactly now won't be later on.
    fresh = [place for place in places if read_record(place.workload.template) is None]
    return Rewritten(_bom(text) + _signed(base, done.edited, fresh), done.told)


def uninject_text(text: str, *, select: Select) -> Rewritten:
    """Take it out of all that is selected and has it. Raises `NotYaml`."""

    def is_meant(workload: Workload) -> bool:
        return select(workload) and ANNOTATION_PATH[-1] in _annotations(workload.template)

    injected = [str(place.workload) for place in _places(parse(text.removeprefix(BOM)), is_meant)]
    base = _restored(text.removeprefix(BOM), is_meant)
    documents = parse(base)
    done = _work(base, documents=documents, places=_places(documents, is_meant), work=_uninjected)
    if done.edited is None:
        return Rewritten(text, done.told)
    rest = [one.workload for one in done.told]
    exact = tuple(Told(name) for name in injected if name not in rest)
    return Rewritten(_bom(text) + done.edited.text, (*exact, *done.told))


def _uninjected(template: Mapping[str, Any]) -> Injection:
    done = uninject(template)
    return replace(done, findings=(REFORMATTED, *done.findings))


@dataclass(frozen=True, slots=True)
class _Done:
    edited: Edited | None
    """None if something was refused."""
    told: tuple[Told, ...]


def _work(
    text: str,
    *,
    documents: Sequence[Document],
    places: Sequence[_Place],
    work: Callable[[Mapping[str, Any]], Injection],
) -> _Done:
    told: list[Told] = []
    wanted: dict[int, Any] = {}
    for place in places:
        name = str(place.workload)
        try:
            place.check(documents)
            done = work(place.workload.template)
        except Refused as refused:
            told.append(Told(name, refused=refused))
            continue
        told.append(Told(name, done.findings))
        before = wanted.get(place.document, documents[place.document].value)
        whole = Edit("replace", place.workload.path, done.template)
        wanted[place.document] = apply(before, [whole]) if whole.path else done.template
    if any(one.refused for one in told):
        return _Done(None, tuple(told))
    try:
        return _Done(edit(text, documents, wanted), tuple(told))
    except Refused as refused:
        return _Done(None, tuple(replace(one, refused=refused) for one in told))


def _places(documents: Sequence[Document], select: Select) -> list[_Place]:
    return [
        _Place(index, workload)
        for index, document in enumerate(documents)
        for workload in workloads_of(document.value)
        if select(workload)
    ]


def _annotations(template: Mapping[str, Any]) -> Mapping[str, Any]:
    found = Draft(template).at(ANNOTATION_PATH[:-1])
    return found if isinstance(found, dict) else {}


def _find(node: Node | None, path: Path) -> Node | None:
    for step in path:
        if isinstance(node, Map):
            node = next((one.value for one in node.entries if one.name == step), None)
        elif isinstance(node, Seq) and isinstance(step, int):
            node = node.items[step].value
        else:
            return None
    return None if isinstance(node, Alias) else node


def _bom(text: str) -> str:
    return BOM if text.startswith(BOM) else ""


# What was where


def _value(text: str, document: Document, path: Path) -> _Value | None:  # noqa: PLR0917 - a place in a text
    """The annotation of the template at `path`; `None` if it isn't written there."""
    around = _find(document.node, (*path, *ANNOTATION_PATH[:-1]))
    node = _find(around, ANNOTATION_PATH[-1:])
    if not isinstance(node, Leaf) or not isinstance(around, Map):
        return None
    matched = PROPERTIES.match(text, node.start, node.end)
    start = matched.end() if matched else node.start
    said = Draft(document.value).at((*path, *ANNOTATION_PATH))
    return _Value(start, node.end, around.is_flow, decode(said))


def _signed(before: str, edited: Edited, places: Sequence[_Place]) -> str:  # noqa: PLR0917 - in this order
    """The text with what it was before in the annotations of `places`."""
    text, documents = edited.text, parse(edited.text)
    marks = _owned(before, edited.changes, places=places)
    for place, mine in sorted(marks, key=lambda pair: -pair[1][0].start):
        path = place.workload.path
        # It is there: it has just been written, and nothing that was changed is left an alias.
        value = cast("_Value", _value(text, documents[place.document], path))
        edits = [
            [one.start - value.start, one.length, *([one.was] if one.was else [])] for one in mine
        ]
        span = text[mine[0].start : mine[-1].start + mine[-1].length]
        record = replace(value.record, text=[_digest(span), *edits])
        text = text[: value.start] + value.rendered(record) + text[value.end :]
    return text


@dataclass(frozen=True, slots=True)
class _Mark:
    """Characters of the new text, and what had been in their place."""

    start: int
    length: int
    was: str


def _owned(
    before: str, changes: Sequence[Change], *, places: Sequence[_Place]
) -> list[tuple[_Place, list[_Mark]]]:
    """The changes by the template that they are for."""
    found: dict[int, list[_Mark]] = {}
    shift = 0
    for change in changes:
        was = before[change.start : change.end]
        mark = _Mark(change.start + shift, len(change.text), was)
        shift += len(change.text) - len(was)
        owner = _owner(change, places)
        marks = found.setdefault(owner, [])
        if marks and marks[-1].start + marks[-1].length == mark.start:
            last = marks.pop()
            mark = _Mark(last.start, last.length + mark.length, last.was + mark.was)
        marks.append(mark)
    return [(places[owner], marks) for owner, marks in found.items() if owner >= 0]


def _owner(change: Change, places: Sequence[_Place]) -> int:
    for index, place in enumerate(places):
        path = place.workload.path
        if place.document == change.document and change.path[: len(path)] == path:
            return index
    return -1


def _restored(text: str, select: Select) -> str:
    """With all taken out that is as it was written, the last first: places before it stay."""
    for place in reversed(_places(parse(text), select)):
        document = parse(text)[place.document]
        try:
            value = _value(text, document, place.workload.path)
        except Refused:  # a damaged annotation, of which more is said when it comes to the template
            continue
        base = None if value is None else _before(text, value)
        if base is not None:
            text = base
    return text


def _before(text: str, value: _Value) -> str | None:
    """What the text was, if what was written is still there."""
    blank = value.rendered(value.record.without_text())
    text = text[: value.start] + blank + text[value.end :]
    said = value.record.text
    if not _is_delta(said):
        return None
    digest, *edits = said
    marks = [_Mark(value.start + one[0], one[1], "".join(one[2:])) for one in edits]
    span = text[marks[0].start : marks[-1].start + marks[-1].length]
    if marks[0].start < 0 or _digest(span) != digest:
        return None
    for mark in reversed(marks):
        text = text[: mark.start] + mark.was + text[mark.start + mark.length :]
    return text


def _is_delta(said: object) -> bool:
    return (
        isinstance(said, list)
        and len(said) > 1
        and all(
            isinstance(one, list) and [type(part) for part in one] in ([int, int], [int, int, str])
            for one in said[1:]
        )
    )


def _digest(text: str) -> str:
    return sha256(text.encode(errors="surrogatepass")).hexdigest()[:DIGEST_CHARS]
