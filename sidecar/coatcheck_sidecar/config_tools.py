"""The settings that are maps: `tools:`, `prices:`, `forward:`. Checked as all others are.

Of well-known upstreams what is certain is filled in where the configuration says nothing.
"""

import json
import re
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic_core import SchemaValidator, ValidationError, core_schema

from coatcheck_sidecar.config_fields import (
    FORWARD,
    KEY,
    METHOD_PATH,
    PRICE,
    PROBE,
    SECRET,
    TOOL,
    UNDO,
    Fields,
)
from coatcheck_sidecar.config_sources import Given, Mistake, Tree, near, plain, where
from coatcheck_sidecar.core.address import literal, obstacle
from coatcheck_sidecar.core.completions import Price
from coatcheck_sidecar.core.forward import Forward
from coatcheck_sidecar.core.model import Effect
from coatcheck_sidecar.core.tool import HttpUndo, Tool, UpstreamKey
from coatcheck_sidecar.core.undo_template import pointers

NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}", re.ASCII)
"""A tool's place in a URL's path."""
TOKEN: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
RESERVED: Final = frozenset({"v1"})
"""What a route could begin with otherwise: the run API."""
OPENAI_READS: Final = ("completions", "responses", "embeddings", "moderations")
"""Paths' last parts; `completions` is that of `/chat/completions` too."""
ANTHROPIC_READS: Final = ("messages", "messages/count_tokens")
GOOGLE_READS: Final = (
    "generateContent",
    "streamGenerateContent",
    "countTokens",
    "embedContent",
    "batchEmbedContents",
)
MODEL_APIS: Final[Mapping[str, Mapping[str, Effect]]] = {
    "api.openai.com": {f"POST */{name}": Effect.READ for name in OPENAI_READS},
    "api.anthropic.com": {f"POST */{name}": Effect.READ for name in ANTHROPIC_READS},
    "generativelanguage.googleapis.com": {f"POST *:{name}": Effect.READ for name in GOOGLE_READS},
}
"""What each calls a completion. The rest of the same APIs (files, batches) does other things."""
UPSTREAM_KEYS: Final[Mapping[str, UpstreamKey]] = {
    "api.stripe.com": UpstreamKey(saves=frozenset({"2xx", "4xx", "5xx"})),
}
"""Stripe's API reference, "Idempotent requests": any answer is saved, 500s too, for 24 hours."""
FIELDS: Final[Mapping[tuple[str, ...], Fields]] = {
    ("tools",): TOOL,
    ("tools", "upstream_key"): KEY,
    ("tools", "probe"): PROBE,
    ("tools", "undo"): UNDO,
    ("tools", "undo", "probe"): PROBE,
    ("prices",): PRICE,
    ("forward",): FORWARD,
}
"""The settings of each map; names that users choose are left out of the path."""


FOR_UPSTREAMS: Final = ("probe", "undo", "upstream_key", "sheds_by_503")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sections:
    """What the maps say."""

    tools: Mapping[str, Tool] = field(default_factory=dict)
    prices: Mapping[str, Price] = field(default_factory=dict)
    forward: Forward | None = None


def read_sections(root: Tree, mistakes: list[Mistake]) -> Sections:
    """What a tree of settings says, as far as it is right; the rest goes to `mistakes`."""
    reader = _Reader(root, mistakes)
    tools = [reader.tool(name) for name in reader.names("tools")]
    prices = {name: reader.price(name) for name in reader.names("prices")}
    return Sections(
        tools={tool.name: tool for tool in tools if tool is not None},
        prices={name: price for name, price in prices.items() if price is not None},
        forward=reader.forward(),
    )


def _validator(fields: Fields, *needed: str) -> SchemaValidator:
    entries = {
        name: core_schema.typed_dict_field(schema, required=name in needed)
        for name, (schema, _) in fields.items()
    }
    return SchemaValidator(core_schema.typed_dict_schema(entries, extra_behavior="forbid"))


class _Reader:
    """Reads a tree, and collects what is wrong with it."""

    def __init__(self, root: Tree, mistakes: list[Mistake]) -> None:
        self._root = root
        self._mistakes = mistakes

    def names(self, section: str) -> list[str]:
        """What a section names."""
        node = self._root.get(section, {})
        if not isinstance(node, Given):
            return list(node)
        if node.value not in (None, {}, ""):
            self._tell((section,), "must be a map, `name: {...}`")
        return []

    def tool(self, name: str) -> Tool | None:
        """One tool; `None` if it can't be one."""
        path = ("tools", name)
        before = len(self._mistakes)
        if not NAME.fullmatch(name):
            self._tell(path, "a tool's name has up to 32 of a-z, 0-9, - and _, none of these first")
        elif TOKEN.fullmatch(name) or name in RESERVED:
            self._tell(path, "this name means something else in a URL; take another")
        said = self._said(path)
        if said is None:
            return None
        values = self._checked(path, said, validator=_validator(TOOL))
        for key, problem in _together(values, frozenset(said)):
            self._tell((*path, *key), problem)
        is_right = len(self._mistakes) == before
        return Tool(name=name, **_filled(values)) if is_right else None

    def price(self, model: str) -> Price | None:
        """What one model costs."""
        values = self._item(("prices", model), _validator(PRICE, "input", "output"))
        return None if values is None else Price(**values)

    def forward(self) -> Forward | None:
        """The forward proxy, if it is on."""
        node = self._root.get("forward")
        if node is None or (isinstance(node, Given) and node.value in (None, {}, "", False)):
            return None
        values = self._item(("forward",), _validator(FORWARD))
        return Forward(**values) if values and any(values.values()) else None

    def _item(self, path: tuple[str, ...], validator: SchemaValidator) -> dict[str, Any] | None:
        before = len(self._mistakes)
        said = self._said(path)
        values = {} if said is None else self._checked(path, said, validator=validator)
        return values if len(self._mistakes) == before else None

    def _said(self, path: tuple[str, ...]) -> dict[str, Any] | None:
        node: Any = self._root
        for name in path:
            node = node[name]
        values = plain(node)
        if isinstance(values, dict):
            return values
        self._tell(path, "must be a map of settings")
        return None

    def _checked(
        self, path: tuple[str, ...], said: dict[str, Any], *, validator: SchemaValidator
    ) -> dict[str, Any]:
        """The right ones of the settings; of the others each mistake is told."""
        try:
            return dict(validator.validate_python(said))
        except ValidationError as error:
            wrong = {str(found["loc"][0]) for found in error.errors(include_url=False)}
            for found in error.errors(include_url=False):
                self._explain(path, found)
        right = {name: value for name, value in said.items() if name not in wrong}
        return dict(validator.validate_python(right)) if wrong <= set(said) else {}

    def _explain(self, path: tuple[str, ...], found: Any) -> None:
        loc = tuple(str(step) for step in found["loc"] if step != "[key]")
        if found["type"] == "extra_forbidden":
            self._tell((*path, *loc), _unknown((path[0], *loc)))
        elif found["type"] == "missing":
            self._tell((*path, *loc), "is needed here")
        else:
            text = found["msg"].removeprefix("Value error, ").replace("Input should", "must")
            shown = "" if SECRET & set(loc) else f"; it is {found['input']!r}"
            self._tell((*path, *loc), text + shown)

    def _tell(self, path: tuple[str, ...], problem: str) -> None:
        self._mistakes.append(Mistake(*where(self._root, path), problem))


def _unknown(loc: tuple[str, ...]) -> str:
    known = FIELDS[loc[:-1]]
    meant = near(loc[-1], known)
    mend = f"did you mean {meant}?" if meant else f"there are {', '.join(known)}"
    return f"no such setting; {mend}"


def _together(
    values: Mapping[str, Any], said: AbstractSet[str]
) -> Iterator[tuple[tuple[str, ...], str]]:
    """What no setting of a tool shows alone. `said` are the wrong ones too: they were meant."""
    yield from _whereto(values, said)
    effects = values.get("effects", {})
    effect = values.get("effect")
    may_be_once = effect in (None, Effect.ONCE) or Effect.ONCE in effects.values()
    if "probe" in said and not may_be_once:
        yield ("probe",), "asks about `effect: once` calls, and this tool has none"
    yield from _taken_back(values, said)
    yield from _without_business(values, said)
    if "probe_settle_s" in said and "probe" not in said:
        yield ("probe_settle_s",), "says when a probe's no counts, and there is no `probe`"
    if effect is Effect.ONCE and values.get("record"):
        yield (
            ("record",),
            (
                "keeps the answers of reads; those of `once` calls are always kept. Leave one out: "
                "without `effect` a POST is `once` as well"
            ),
        )
    for pattern in effects if "upstream" in said else ():
        if not METHOD_PATH.fullmatch(pattern):
            yield ("effects", pattern), 'must be "METHOD /path", such as "POST /search"'


def _without_business(
    values: Mapping[str, Any], said: AbstractSet[str]
) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is to be filled in with a business key that no call has."""
    undo: HttpUndo | None = values.get("undo")
    probes = {("probe",): values.get("probe"), ("undo", "probe"): undo and undo.probe}
    texts: dict[tuple[str, ...], Any] = {
        place: probe.path for place, probe in probes.items() if probe is not None
    }
    if undo is not None:
        texts["undo",] = [undo.path, undo.body]
    for place, text in texts.items():
        if "key" not in said and "{business}" in json.dumps(text):
            yield place, "names {business}, and the tool has no `key` that points to one"


def _taken_back(
    values: Mapping[str, Any], said: AbstractSet[str]
) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong with how a tool's calls are taken back."""
    if "undo" in said and values.get("irreversible"):
        yield ("undo",), "takes back what is said to be `irreversible`: leave one out"
    undo: HttpUndo | None = values.get("undo")
    if undo is None:
        return
    if undo.effect is Effect.READ:
        yield ("undo", "effect"), "must be idempotent or once: what reads takes nothing back"
    if undo.probe_settle_s is not None and undo.probe is None:
        yield ("undo", "probe_settle_s"), "says when a probe's no counts, and there is no `probe`"
    for place in pointers(undo.path, undo.body):
        if any(_overlap(place, blank) for blank in values.get("redact", ())):
            yield ("undo",), f"needs {place} of the answer, which `redact` blanks"


def _overlap(one: str, other: str) -> bool:
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def _whereto(
    values: Mapping[str, Any], said: AbstractSet[str]
) -> Iterator[tuple[tuple[str, ...], str]]:
    if "upstream" in said and "mcp" in said:
        yield (), "has both `upstream` and `mcp`: make two tools of it"
        return
    if not {"upstream", "mcp"} & said:
        yield (), "has neither `upstream` nor `mcp`: say where its calls go"
        return
    alien = ("trust_hints",) if "upstream" in said else FOR_UPSTREAMS
    for name in alien:
        if name in said:
            kind = "an MCP server" if "upstream" in said else "an `upstream`"
            yield (name,), f"is for {kind}, and this tool has none"
    for name in ("upstream", "mcp"):
        address = literal(urlsplit(values.get(name, "")).hostname or "")
        why = address and obstacle(address, is_private_ok=bool(values.get("private")))
        if why:
            yield (name,), why


def _filled(values: Mapping[str, Any]) -> dict[str, Any]:
    """With what is known of the upstream, where nothing is said."""
    filled = dict(values)
    host = (urlsplit(values.get("upstream", "")).hostname or "").removesuffix(".")
    if host in MODEL_APIS and values.get("effect", Effect.READ) is Effect.READ:
        own = values.get("effects", {})  # first match wins: these stand before the others
        filled |= {"effects": own | MODEL_APIS[host] | own, "effect": None}
        filled.setdefault("record", True)
    if host in UPSTREAM_KEYS:
        filled.setdefault("upstream_key", UPSTREAM_KEYS[host])
    return filled
