"""Plain values as YAML, in the style of the text that they go into. Pure."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

from yaml.nodes import ScalarNode
from yaml.resolver import Resolver

from coatcheck_sidecar.core.yaml_nodes import Map, Node, Seq

PLAIN: Final = re.compile(r"[A-Za-z/](?:[\w./@%+=?&,-]|:(?=[\w/]))*|[0-9]+(?:m|[KMGT]i)", re.ASCII)
"""What needs no quotes, unless it means something: names, paths, images, quantities."""
WORDS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
"""What some reader takes for something else than a text."""
STRING: Final = "tag:yaml.org,2002:str"
INDENT: Final = 2
"""Where a text has no maps in maps to learn it from."""
_RESOLVER: Final[Any] = Resolver()
BREAKS: Final = "\n\r\x85\u2028\u2029"
"""What ends a line for YAML 1.1."""
BREAK: Final = re.compile(f"\r\n|[{BREAKS}]")


@dataclass(frozen=True, slots=True)
class Style:
    """How a text is laid out."""

    newline: str = "\n"
    indent: int = INDENT
    is_indented: bool = False
    """Sequences stand further in than the key above them."""

    def of_seq(self, column: int) -> int:
        """The column of the dashes under a key."""
        return column + self.indent if self.is_indented else column


def style_of(text: str, node: Node) -> Style:
    """That of a document, by what it does most."""
    steps: Counter[int] = Counter()
    seqs: Counter[bool] = Counter()
    _learn(text, node, steps=steps, seqs=seqs)
    found = BREAK.search(text)
    return Style(
        found[0] if found else "\n",
        max(steps, key=lambda step: (steps[step], -step), default=INDENT),
        seqs[True] > seqs[False],
    )


def _learn(text: str, node: Node, *, steps: Counter[int], seqs: Counter[bool]) -> None:
    if isinstance(node, Seq):
        for item in node.items:
            _learn(text, item.value, steps=steps, seqs=seqs)
    if not isinstance(node, Map):
        return
    for one in node.entries:
        value = one.value
        first = next(iter(starts_of(value)), None)
        if first is not None and is_first(text, first):
            step = column(text, first) - column(text, one.key.start)
            if isinstance(value, Map) or node.is_flow:
                steps[step] += 1
            else:
                seqs[step > 0] += 1
        _learn(text, value, steps=steps, seqs=seqs)


def starts_of(node: Node) -> list[int]:
    """Where the keys of a map or the dashes of a sequence are."""
    if isinstance(node, Map):
        return [one.key.start for one in node.entries]
    return [one.dash for one in node.items] if isinstance(node, Seq) else []


def is_first(text: str, position: int) -> bool:
    """Nothing but spaces stands before it on its line."""
    return not text[line_start(text, position) : position].strip(" ")


def line_start(text: str, position: int) -> int:
    """Where the line of a position begins."""
    return max(text.rfind(end, 0, position) for end in BREAKS) + 1


def column(text: str, position: int) -> int:
    """Counted from 0."""
    return position - line_start(text, position)


def scalar(value: Any, *, is_flow: bool = False) -> str:
    """One value on one line; maps and lists as JSON is."""
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if is_flow:
        return json.dumps(value, ensure_ascii=False)
    if _is_plain(value):
        return value
    if value.isprintable() and ('"' in value or "\\" in value):
        return "'" + value.replace("'", "''") + "'"
    return json.dumps(value, ensure_ascii=False)


def _is_plain(value: str) -> bool:
    if not PLAIN.fullmatch(value) or value.lower() in WORDS:
        return False
    return bool(_RESOLVER.resolve(ScalarNode, value, (True, False)) == STRING)


def lines_of(value: Any, style: Style) -> list[str]:
    """A map or list as lines of a block, the first at column 0; a scalar as one line."""
    if isinstance(value, dict) and value:
        return [line for key, inner in value.items() for line in entry(key, inner, style)]
    if isinstance(value, list) and value:
        return [line for inner in value for line in item(inner, style)]
    return [scalar(value)]


def entry(key: Any, value: Any, style: Style) -> list[str]:  # noqa: PLR0917 - as it is read
    """A key and its value."""
    name = scalar(key)
    if value is None:
        return [f"{name}: null"]
    if not isinstance(value, dict | list) or not value:
        return [f"{name}: {scalar(value)}"]
    step = style.indent if isinstance(value, dict) else style.of_seq(0)
    return [f"{name}:", *(" " * step + line for line in lines_of(value, style))]


def item(value: Any, style: Style) -> list[str]:
    """One of a list."""
    first, *rest = lines_of(value, style)
    return [f"- {first}", *(f"  {line}" for line in rest)]


def flow(value: Any, *, column: int | None, style: Style) -> str:
    """As JSON; over several lines whose first stands at `column`, if there is one."""
    if column is None:
        return json.dumps(value, ensure_ascii=False)
    text = json.dumps(value, ensure_ascii=False, indent=style.indent)
    return text.replace("\n", style.newline + " " * column)
