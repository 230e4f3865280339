"""Changes a YAML text so that it says something else, and leaves all the rest as it is. Pure.

What is to be said is given as plain objects, and compared with what is: so one function serves
whoever adds, replaces and takes out. Comments, order, quotes, indentation, line ends, flow and
block style, anchors and the other documents stay. The result is read again: if it doesn't say what
it should, nothing is changed (`Refused`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Any, Final

from coatcheck_sidecar.core.inject_choice import Refused
from coatcheck_sidecar.core.inject_edits import Path, pointer
from coatcheck_sidecar.core.inject_record import identity
from coatcheck_sidecar.core.yaml_nodes import (
    Alias,
    Document,
    Entry,
    Item,
    Leaf,
    Map,
    Node,
    Seq,
    parse,
)
from coatcheck_sidecar.core.yaml_page import Change, Page, Pair, Single
from coatcheck_sidecar.core.yaml_write import style_of

BEFORE: Final[Mapping[str, str]] = {"metadata": "spec", "initContainers": "containers"}
"""Where a new key goes, if not to the end: as people write pods."""


@dataclass(frozen=True, slots=True)
class Edited:
    """A text after its changes, and the changes, in order, at their places in the old one."""

    text: str
    changes: tuple[Change, ...]


def edit(text: str, documents: Sequence[Document], wanted: Mapping[int, Any]) -> Edited:  # noqa: PLR0917 - as it was, as it shall be
    """Have the documents at the indices in `wanted` say what stands there.

    Raises `Refused` if that can't be done by changing nothing else.
    """
    changes: list[Change] = []
    for index, value in wanted.items():
        document = documents[index]
        page = Page(text, style_of(text, document.node), document=index)
        _Editor(page).root(document.node, (document.value, value))
        changes += page.changes
    changes.sort(key=lambda change: (change.start, change.end))
    changes = _joined(changes)
    parts, at = [], 0
    for change in changes:
        parts += [text[at : change.start], change.text]
        at = change.end
    edited = "".join([*parts, text[at:]])
    _check(edited, documents, wanted)
    return Edited(edited, tuple(changes))


def _joined(changes: list[Change]) -> list[Change]:
    """Cuts one after another as one: at the end of a text they share the line end between them."""
    found: list[Change] = []
    for change in changes:
        last = found[-1] if found else change
        if found and change.start < last.end and not (last.text or change.text):
            found[-1] = replace(last, end=max(last.end, change.end))
        else:
            found.append(change)
    return found


def _check(edited: str, documents: Sequence[Document], wanted: Mapping[int, Any]) -> None:  # noqa: PLR0917 - as above
    values = [document.value for document in documents]
    for index, value in wanted.items():
        values[index] = value
    try:
        found = [document.value for document in parse(edited)]
    except Exception as error:
        raise _unsafe(f"what came of it can't be read: {error}") from error
    if not same(found, values):
        raise _unsafe("it would not say what it should")


def same(one: Any, other: Any) -> bool:
    """Equal, and of equal types: `1` is not `true`."""
    return canonical(one) == canonical(other)


def canonical(value: Any) -> str:
    """A text that equal values alone share."""
    return json.dumps(value, sort_keys=True, default=repr)


class _Editor:
    """Notes on a page what turns one value into another."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.anchored: dict[int, tuple[Any, Any]] = {}
        """What anchors stood for, and what they stand for now."""

    def root(self, node: Node, values: tuple[Any, Any]) -> None:
        if not _is_walkable(node, old=values[0], new=values[1]):
            raise _unsafe("nothing of the document would stay")
        self._walk(node, values, path=())

    def _walk(self, node: Node, values: tuple[Any, Any], *, path: Path) -> None:
        """All of it: what is read through an alias may change where nothing else does."""
        if isinstance(node, Map):
            self._map(node, values, path=path)
        elif isinstance(node, Seq):
            self._seq(node, values, path=path)

    def _child(
        self, owner: Map | Seq, place: Entry | Item, *, values: tuple[Any, Any], path: Path
    ) -> None:
        node, (old, new) = place.value, values
        self.page.path = path
        if node.anchor:
            self.anchored[id(node)] = values
        if isinstance(node, Alias):
            # What changes is written out, each for itself: so each can be taken back for itself.
            if not same(old, new) or not same(*self.anchored.get(id(node.target), (old, old))):
                self.page.whole(owner, place, value=new)
        elif not _is_walkable(node, old=old, new=new):
            self.page.whole(owner, place, value=new)
        elif isinstance(node, Leaf):
            if not same(old, new):
                self.page.word(owner, node, value=new)
        else:
            self._walk(node, values, path=path)

    def _map(self, node: Map, values: tuple[Any, Any], *, path: Path) -> None:
        old, new = values
        own = {one.name for one in node.entries}
        self._check_merges(node)
        if any(key not in own and key not in new for key in old):
            raise _unsafe(f"{pointer(path)} has keys by a merge (<<) that would have to go")
        for one in node.entries:
            if one.name in new:
                pair = (old[one.name], new[one.name])
                self._child(node, one, values=pair, path=(*path, one.name))
        self.page.path = path
        named = [at for at, one in enumerate(node.entries) if one.name is not None]
        self.page.cut(node, [at for at in named if node.entries[at].name not in new])
        for key, value in new.items():
            # What comes by a merge and is to be another is written out: that goes before it.
            if key not in own and not (key in old and same(old[key], value)):
                self.page.path = (*path, key)
                self.page.insert(node, self._place(node, key), what=Pair(key, value))

    def _place(self, node: Map, key: str) -> int:
        names = [one.name for one in node.entries]
        follower = BEFORE.get(key)
        return names.index(follower) if follower and follower in names else len(names)

    def _check_merges(self, node: Map) -> None:
        merges = [one.value for one in node.entries if one.name is None]
        for merge in merges:
            sources = [one.value for one in merge.items] if isinstance(merge, Seq) else [merge]
            for source in sources:
                named = self.anchored.get(id(source.target)) if isinstance(source, Alias) else None
                if named is not None and not same(*named):
                    raise _unsafe("what would change is merged (<<) into something else")

    def _seq(self, node: Seq, values: tuple[Any, Any], *, path: Path) -> None:
        old, new = values
        for op, first, last, begin, end in _opcodes(old, new):
            if op == "equal":
                for place, mine in zip(range(first, last), range(begin, end), strict=True):
                    pair = (old[place], new[mine])
                    self._child(node, node.items[place], values=pair, path=(*path, place))
                continue
            self.page.path = path
            self.page.cut(node, list(range(first, last)))
            for mine in range(begin, end):
                self.page.insert(node, first, what=Single(new[mine]))


def _opcodes(old: list[Any], new: list[Any]) -> list[tuple[str, int, int, int, int]]:
    """How the items of one list become those of another; items are told apart by their names.

    Where they have none, such as the documents of a `List`, as many as before are the same ones.
    """
    if len(old) == len(new) and not any(isinstance(one, dict) and "name" in one for one in old):
        return [("equal", 0, len(old), 0, len(new))]
    mine, theirs = ([_key(one) for one in items] for items in (old, new))
    return list(SequenceMatcher(None, mine, theirs, autojunk=False).get_opcodes())


def _key(item: Any) -> str:
    return identity(item) if isinstance(item, dict) and "name" in item else canonical(item)


def _is_walkable(node: Node, *, old: Any, new: Any) -> bool:
    """Something of what is written can stay."""
    if isinstance(node, Map) and isinstance(new, dict):
        return same(old, new) or any(one.name is None or one.name in new for one in node.entries)
    if isinstance(node, Seq) and isinstance(new, list):
        return same(old, new) or any(op == "equal" for op, *_ in _opcodes(old, new))
    is_empty = node.start == node.end
    return same(old, new) or (
        isinstance(node, Leaf) and not isinstance(new, dict | list) and not is_empty
    )


def _unsafe(why: str) -> Refused:
    return Refused("unsafe-edit", f"the text can't be edited safely: {why}. Write it more plainly")
