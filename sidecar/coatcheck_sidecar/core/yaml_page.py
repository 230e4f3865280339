"""A text and the changes to it: where a key or an item is put in, or taken out. Pure.

In a block a change is made of whole lines; in a flow of what stands between two commas.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

from coatcheck_sidecar.core.inject_choice import Refused
from coatcheck_sidecar.core.inject_edits import Path
from coatcheck_sidecar.core.yaml_nodes import Alias, Entry, Item, Leaf, Map, Node, Seq
from coatcheck_sidecar.core.yaml_write import (
    BREAK,
    Style,
    column,
    entry,
    flow,
    is_first,
    item,
    line_start,
    lines_of,
    scalar,
    starts_of,
)

PROPERTIES: Final = re.compile(r"(?:[&!]\S*\s+)*")
"""Anchor and tag before a value."""
ANCHOR: Final = re.compile(r"&[^\s,\[\]{}]+")
COLON: Final = re.compile(r"\s*:")


@dataclass(frozen=True, slots=True)
class Change:
    """Characters `start` to `end` become `text`."""

    start: int
    end: int
    text: str
    document: int
    path: Path
    """What it is about, from the document's root."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A key and its value that are put into a map."""

    key: str
    value: Any

    def lines(self, style: Style) -> list[str]:
        """As a block has them."""
        return entry(self.key, self.value, style)

    def flow(self, *, column: int | None, style: Style) -> str:
        """As a flow has it."""
        return f"{scalar(self.key, is_flow=True)}: {flow(self.value, column=column, style=style)}"


@dataclass(frozen=True, slots=True)
class Single:
    """An item that is put into a sequence."""

    value: Any

    def lines(self, style: Style) -> list[str]:
        """As a block has them."""
        return item(self.value, style)

    def flow(self, *, column: int | None, style: Style) -> str:
        """As a flow has it."""
        return flow(self.value, column=column, style=style)


class Page:
    """One document's text, and what is to be changed."""

    def __init__(self, text: str, style: Style, *, document: int) -> None:
        """`text` is that of the whole stream."""
        self.text = text
        self.style = style
        self.document = document
        self.path: Path = ()
        """What the next changes are about."""
        self.changes: list[Change] = []

    def word(self, owner: Map | Seq, node: Leaf, *, value: Any) -> None:
        """Another scalar in the place of one."""
        matched = PROPERTIES.match(self.text, node.start, node.end)
        start = matched.end() if matched else node.start
        tail = self.style.newline if node.is_block else ""
        self._change(start, node.end, scalar(value, is_flow=owner.is_flow) + tail)

    def cut(self, owner: Map | Seq, gone: list[int]) -> None:
        """Take out some of what a map or sequence has; something stays."""
        starts = starts_of(owner)
        left = set(gone)
        for at in gone:
            if at not in left:
                continue
            end = _values(owner)[at].end
            stays = next((one for one in range(at, len(starts)) if one not in left), None)
            if owner.is_flow and at:
                self._change(_values(owner)[at - 1].end, end, "")
            elif owner.is_flow or not is_first(self.text, starts[at]):
                # Up to the next that stays, and those between with it.
                left -= set(range(at, stays or at))
                self._change(starts[at], starts[stays or at], "")
            else:
                start, after = line_start(self.text, starts[at]), self._after(end)
                if not self._is_line(after):
                    start -= len(self.style.newline)
                self._change(start, after, "")

    def insert(self, owner: Map | Seq, at: int, *, what: Pair | Single) -> None:
        """Before what is at an index, or at the end."""
        starts = starts_of(owner)
        if owner.is_flow:
            self._insert_flow(owner, at, what=what)
            return
        lines, pad = what.lines(self.style), " " * column(self.text, starts[0])
        if at == len(starts):
            self._lines(self._after(owner.end), [pad + line for line in lines])
        elif is_first(self.text, starts[at]):
            self._lines(self._above(starts[at]), [pad + line for line in lines])
        else:
            text = "".join(line + self.style.newline + pad for line in lines)
            self._change(starts[at], starts[at], text)

    def whole(self, owner: Map | Seq, place: Entry | Item, *, value: Any) -> None:
        """Another value in the place of one, of whatever kind; its anchor stays."""
        if owner.is_flow or not (isinstance(value, dict | list) and value):
            self._whole_word(place, scalar(value, is_flow=owner.is_flow))
            return
        node, behind, anchor = place.value, self._behind(place), self._anchor(place.value)
        lines, newline = lines_of(value, self.style), self.style.newline
        if isinstance(place, Item):
            below = newline + " " * (column(self.text, place.dash) + 2)
            # Before a key on the same line an anchor would be that key's.
            text = (anchor + below if anchor else " ") + below.join(lines)
        else:
            below = newline + " " * self._column_below(place, value)
            text = anchor + below + below.join(lines)
        if not _is_inline(node):
            after = self._after(node.end)
            self._change(behind, after, text + (newline if self._is_line(after) else ""))
        elif isinstance(place, Item):
            self._change(behind, node.end, text)
        else:
            # What follows on the line of the key, a comment, stays there.
            self._change(behind, node.end, anchor)
            self._lines(self._after(node.end), text[len(anchor + newline) :].split(newline))

    def _whole_word(self, place: Entry | Item, text: str) -> None:
        node, behind, anchor = place.value, self._behind(place), self._anchor(place.value)
        if _is_inline(node):
            is_empty = node.start == node.end
            said = f"{anchor} {text}"
            begin, said = (behind, said) if is_empty else (node.start, said.lstrip())
            self._change(begin, node.end, said)
        else:
            after = self._after(node.end)
            newline = self.style.newline if self._is_line(after) else ""
            self._change(behind, after, f"{anchor} {text}{newline}")

    def _anchor(self, node: Node) -> str:
        """With a space before it; nothing if there is none."""
        matched = ANCHOR.search(self.text, node.start, node.end) if node.anchor else None
        return f" {matched[0]}" if matched else ""

    # Where things are

    def _column_below(self, place: Entry, value: Any) -> int:
        here = column(self.text, place.key.start)
        return here + self.style.indent if isinstance(value, dict) else self.style.of_seq(here)

    def _behind(self, place: Entry | Item) -> int:
        """Right after the colon or the dash."""
        if isinstance(place, Item):
            return place.dash + 1
        colon = COLON.match(self.text, place.key.end)
        if colon is None:
            raise Refused("unsafe-edit", f"the key {place.name!r} has no colon: write it plainly")
        return colon.end()

    def _is_line(self, position: int) -> bool:
        """It is where a line begins, or would."""
        return line_start(self.text, position) == position

    def _after(self, end: int) -> int:
        """Where the line after a value's last begins; the end of the text if there is none."""
        if self._is_line(end) and end:
            return end
        found = BREAK.search(self.text, end)
        return found.end() if found else len(self.text)

    def _above(self, start: int) -> int:
        """Where the line of a key or dash begins, or the comments above it that are about it."""
        place = line_start(self.text, start)
        pad = self.text[place:start]
        while place:
            above = line_start(self.text, place - self._break_before(place))
            if not self.text.startswith(pad + "#", above):
                break
            place = above
        return place

    def _break_before(self, place: int) -> int:
        return 2 if self.text[place - 2 : place] == "\r\n" else 1

    # Changing them

    def _change(self, start: int, end: int, text: str, /) -> None:  # noqa: PLR0917 - as one cuts
        self.changes.append(Change(start, end, text, self.document, self.path))

    def _lines(self, place: int, lines: list[str]) -> None:
        newline = self.style.newline
        if self._is_line(place):
            self._change(place, place, "".join(line + newline for line in lines))
        else:  # the text ends without a line's end, and goes on to do so
            self._change(place, place, "".join(newline + line for line in lines))

    def _insert_flow(self, owner: Map | Seq, at: int, *, what: Pair | Single) -> None:
        starts, values = starts_of(owner), _values(owner)
        here = column(self.text, starts[0]) if is_first(self.text, starts[0]) else None
        text = what.flow(column=here, style=self.style)
        between = "," + self.style.newline + " " * here if here is not None else ", "
        if at == len(starts):
            self._change(values[-1].end, values[-1].end, between + text)
        else:
            self._change(starts[at], starts[at], text + between)


def _values(owner: Map | Seq) -> list[Node]:
    places: list[Any] = list(owner.entries if isinstance(owner, Map) else owner.items)
    return [place.value for place in places]


def _is_inline(node: Node) -> bool:
    """It begins on the line of its key or dash, and is no block."""
    if isinstance(node, Map | Seq):
        return node.is_flow
    return isinstance(node, Alias) or not (isinstance(node, Leaf) and node.is_block)
