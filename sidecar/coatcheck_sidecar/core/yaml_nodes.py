"""YAML as a tree of what is written where: positions, styles, aliases. Pure.

PyYAML tells where each value begins and ends; where a block ends it tells too late (after the
comments that follow), and an alias it forgets. Both are made good here.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, cast

import yaml
from yaml._yaml import CParser
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from coatcheck_sidecar.core.inject_edits import unshared

_Parser: Final[Any] = CParser
"""libyaml's: it knows tabs between a key and its value, which Python's refuses. Every wheel of
PyYAML has it."""
MERGE: Final = "tag:yaml.org,2002:merge"
TIMESTAMP: Final = "tag:yaml.org,2002:timestamp"


class NotYaml(Exception):  # noqa: N818 - what the text is
    """A text that can't be read; the message says where and why."""


@dataclass(slots=True)
class Node:
    """Something written. Positions count characters of the whole text."""

    start: int
    end: int
    """After the last character, without comments; of a block scalar after its last line."""
    anchor: bool = False
    """Something may refer to it."""


@dataclass(slots=True)
class Leaf(Node):
    """A scalar."""

    style: str | None = None
    """`|` and `>` are blocks, quotes are quotes, `None` is plain."""

    @property
    def is_block(self) -> bool:
        """It ends at the beginning of a line."""
        return self.style in ("|", ">")


@dataclass(slots=True)
class Alias(Node):
    """`*name`: what is written elsewhere."""

    target: Node = field(default_factory=lambda: Leaf(0, 0))


@dataclass(slots=True)
class Entry:
    """A key and its value; of a merge the key is `None`."""

    name: Any
    key: Node
    value: Node


@dataclass(slots=True)
class Map(Node):
    """A mapping."""

    is_flow: bool = False
    entries: list[Entry] = field(default_factory=list)


@dataclass(slots=True)
class Item:
    """One of a sequence. In a flow `dash` is where it begins."""

    dash: int
    value: Node


@dataclass(slots=True)
class Seq(Node):
    """A sequence."""

    is_flow: bool = False
    items: list[Item] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Document:
    """One of a stream."""

    node: Node
    value: Any
    """As plain objects; a date is the text that it is written as."""


class _Loader(Composer, _Parser, SafeConstructor, Resolver):  # type: ignore[misc]
    """PyYAML's parts, with a composer that notes where aliases stand."""

    # Kubernetes reads dates as texts.
    yaml_implicit_resolvers = {  # noqa: RUF012 - read only, as PyYAML's own
        first: [pair for pair in pairs if pair[0] != TIMESTAMP]
        for first, pairs in Resolver.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        _Parser.__init__(self, text)
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)
        self.aliases: dict[tuple[int, int], tuple[int, int]] = {}
        self.anchored: set[int] = set()

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            if parent is not None and index is None:
                raise yaml.YAMLError(f"an alias as a key{event.start_mark}")
            place = (id(parent), index if isinstance(index, int) else id(index))
            self.aliases[place] = (event.start_mark.index, event.end_mark.index)
            return super().compose_node(parent, index)
        is_anchored = self.peek_event().anchor is not None
        node = super().compose_node(parent, index)
        if is_anchored:
            self.anchored.add(id(node))
        return node


class _Builder:
    """From PyYAML's nodes to ours."""

    def __init__(self, text: str, *, loader: _Loader, dashes: list[int]) -> None:
        self._text = text
        self._loader = loader
        self._dashes = dashes
        self._built: dict[int, Node] = {}

    def build(self, node: Any, place: tuple[int, int]) -> Node:
        if (span := self._loader.aliases.get(place)) is not None:
            # One that is inside of what it names isn't built yet, and can't be edited anyway.
            return Alias(*span, target=self._built.get(id(node)) or Leaf(0, 0))
        is_anchored = id(node) in self._loader.anchored
        span = (node.start_mark.index, node.end_mark.index)
        built: Node
        if isinstance(node, yaml.MappingNode):
            built = Map(*span, is_anchored, bool(node.flow_style))
            built.entries = [self._entry(node, key=key, value=one) for key, one in node.value]
            self._check_once(node, built)
            last = built.entries[-1].value if built.entries else None
        elif isinstance(node, yaml.SequenceNode):
            built = Seq(*span, is_anchored, bool(node.flow_style))
            for index, item in enumerate(node.value):
                value = self.build(item, (id(node), index))
                built.items.append(Item(self._dash(value, is_flow=built.is_flow), value))
            last = built.items[-1].value if built.items else None
        else:
            built, last = Leaf(*span, is_anchored, node.style), None
            if built.is_block:
                built.end = self._end_of_block(*span)
        if last is not None and not cast("Map | Seq", built).is_flow:
            built.end = last.end
        self._built[id(node)] = built
        return built

    def _entry(self, node: Any, *, key: Any, value: Any) -> Entry:
        name = None if key.tag == MERGE else self._loader.construct_object(key, deep=True)
        built = self.build(key, (0, 0))
        return Entry(name, built, self.build(value, (id(node), id(key))))

    def _check_once(self, node: Any, built: Map) -> None:
        names = [str(entry.name) for entry in built.entries if entry.name is not None]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise yaml.YAMLError(f"the key {twice!r} twice in a map{node.start_mark}")

    def _dash(self, value: Node, *, is_flow: bool) -> int:
        return value.start if is_flow else self._dashes[bisect_left(self._dashes, value.start) - 1]

    def _end_of_block(self, start: int, end: int) -> int:
        """Without the blank lines after it, if they are no part of it."""
        lines = self._text[start:end].splitlines(keepends=True)
        keeps = "+" in lines[0].partition("#")[0]
        while not keeps and len(lines) > 1 and not lines[-1].strip():
            end -= len(lines.pop())
        return end


def parse(text: str) -> list[Document]:
    """The documents of a stream. Raises `NotYaml`."""
    try:
        dashes = [
            token.start_mark.index
            for token in yaml.scan(text, Loader=yaml.CSafeLoader)
            if isinstance(token, yaml.BlockEntryToken)
        ]
        return list(_documents(text, dashes))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise NotYaml(" ".join(str(error).split())) from error


def _documents(text: str, dashes: list[int]) -> Iterator[Document]:
    loader = _Loader(text)
    while loader.check_node():
        node = loader.get_node()
        # Before it is constructed: that replaces merge keys in it.
        built = _Builder(text, loader=loader, dashes=dashes).build(node, (0, 0))
        yield Document(built, unshared(loader.construct_document(node)))
        loader.aliases.clear()
        loader.anchored.clear()
