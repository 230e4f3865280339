"""What the configuration says of a tool that agents reach over HTTP: values, and what they mean."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Final

from coatcheck_sidecar.core.http_outcome import Profile
from coatcheck_sidecar.core.model import CallClass, Effect, Level
from coatcheck_sidecar.core.policy import Identity, class_of, default_effect

RECORDED_HEADERS: Final = frozenset(
    {"content-type", "content-language", "etag", "last-modified", "location", "retry-after"}
)
"""Of an answer's headers, those that say how to read it. Cookies and tokens are none of them."""
CONNECT_S: Final = 10.0
HEAD_S: Final = 600.0
"""A model may think for minutes before its first byte: the SDKs of model APIs wait as long."""
IDLE_S: Final = 120.0
"""Between two pieces of an answer; streams of model APIs send pings each 15 s."""
PATIENCE_S: Final = 60.0
"""How long a request is kept waiting for a retry, all together, before the agent gets what came."""
REQUEST_BYTES_MAX: Final = 2**30
RECORD_BYTES_MAX: Final = 8 * 2**20
"""An answer above this is passed on and not kept: 1 million tokens are 4 MiB."""
CONCURRENCY: Final = 256
QUEUE_MAX: Final = 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamKey:
    """How an upstream takes an idempotency key, and how long it honours one."""

    header: str = "Idempotency-Key"
    prefix: str = ""
    lifetime_s: float = 86_400.0
    saves: frozenset[str] = frozenset({"2xx", "4xx"})
    """Classes of answers that it gives again under the key, of `2xx 4xx 5xx`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpProbe:
    """How to ask an upstream whether a call took place.

    `{key}` in `path` is the upstream key, `{business}` the business value, percent-encoded.
    """

    method: str = "GET"
    path: str
    applied_when: str
    """JSON pointer into a 2xx answer: applied if something is there that is not null, false, "",
    0 or empty. A 404 is a "no"; any other status, or an answer that is no JSON, is no answer."""
    result: str | None = None
    """JSON pointer to what to give the agent as the call's answer; `None`: what was found there."""
    credentials: str = ""
    """`env:NAME` or `file:/path`: goes into `header`, as it is."""
    header: str = "Authorization"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpUndo:
    """The request that takes a call back: a template, see `undo_template.py`."""

    method: str = "POST"
    path: str
    """Behind the tool's URL, with places to be filled in."""
    body: Any = None
    """Any JSON, with places in its texts; goes as `application/json`. `None`: no body."""
    of: str = ""
    """`METHOD /path` of the calls that it takes back, `*` for anything; empty: all but reads."""
    effect: Effect | None = None
    """What a second undo would do; `None`: by method, and by whether the upstream honours keys."""
    probe: HttpProbe | None = None
    """How to ask whether the undo took place."""
    probe_settle_s: float | None = None
    credentials: str = ""
    """`env:NAME` or `file:/path`: goes into `header`, as it is."""
    header: str = "Authorization"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One tool of the configuration; `name` is its place in a route's path."""

    name: str
    upstream: str = ""
    """URL that a route's rest is put behind; empty for an MCP server."""
    mcp: str = ""
    """URL of an MCP server (streamable HTTP); empty for a plain upstream."""
    effect: Effect | None = None
    """Of requests that may change something; `None`: by method, and by `upstream_key`."""
    effects: Mapping[str, Effect] = field(default_factory=dict)
    """By `METHOD /path`, `*` for anything, first match wins; for MCP by the tool's name."""
    record: bool = False
    """Keep the answers of reads, and give them again when the step is done again."""
    upstream_key: UpstreamKey | None = None
    probe: HttpProbe | None = None
    probe_settle_s: float | None = None
    undo: HttpUndo | None = None
    irreversible: bool = False
    """Its calls can't be taken back: none starts while the pod drains."""
    key: str = ""
    """JSON pointer of the business key in a JSON body (MCP: in the arguments)."""
    show: tuple[str, ...] = ()
    """JSON pointers into the request's body, shown to operators; of all else they see the names."""
    identity: Identity = Identity.CONTENT
    repeats: bool = False
    unresolved_ok: bool = False
    trust_key: bool = False
    """An incoming `Idempotency-Key` is the agent's own key, not only a mark of a retry."""
    trust_hints: bool = False
    """MCP: believe `readOnlyHint` and `idempotentHint`."""
    durability: Level = Level.NODE
    account: str = ""
    headers: frozenset[str] = frozenset()
    """Request headers that make another request, by name in lower case."""
    ignore: tuple[str, ...] = ()
    """JSON pointers into the request's body that make no other request."""
    redact: tuple[str, ...] = ()
    """JSON pointers into answers, blanked before they are recorded."""
    recorded_headers: frozenset[str] = RECORDED_HEADERS
    sheds_by_503: bool = False
    concurrency: int = CONCURRENCY
    queue_max: int = QUEUE_MAX
    connect_s: float = CONNECT_S
    head_s: float = HEAD_S
    idle_s: float = IDLE_S
    patience_s: float = PATIENCE_S
    request_bytes_max: int = REQUEST_BYTES_MAX
    record_bytes_max: int = RECORD_BYTES_MAX
    env: tuple[str, ...] = ()
    """Variables that `run` and `exec` set to this tool's URL."""
    private: bool = False
    """The upstream may lie in a private or loopback range. Link-local never."""
    ca_file: str = ""

    @property
    def profile(self) -> Profile:
        """What its answers mean beyond HTTP itself."""
        saves = self.upstream_key is not None and "5xx" in self.upstream_key.saves
        return Profile(
            saves_errors=saves, sheds_by_503=self.sheds_by_503, refuses_first=bool(self.mcp)
        )

    @property
    def shown(self) -> tuple[str, ...]:
        """JSON pointers to what operators see of a request."""
        return (*((self.key,) if self.key else ()), *self.show)

    def effect_of(self, method: str, path: str) -> Effect:
        """What sending this request twice would do. `path` is the route's rest, without a query.

        What the configuration says of a path comes first; a method that promises to be safe is
        believed; else the tool's effect; else what the method promises.
        """
        for pattern, effect in self.effects.items():
            if fnmatchcase(f"{method.upper()} {path}", pattern):
                return effect
        by_method = default_effect(method)
        if by_method is Effect.READ or self.effect is None:
            return self._undeclared(by_method)
        return self.effect

    def _undeclared(self, by_method: Effect) -> Effect:
        """An upstream that honours keys makes acts idempotent; a probe is for where it doesn't."""
        is_keyed = self.upstream_key is not None and self.probe is None
        return Effect.IDEMPOTENT if is_keyed and by_method is Effect.ONCE else by_method

    def class_of(self, effect: Effect) -> CallClass:
        """The column of the call table."""
        lifetime_s = self.upstream_key.lifetime_s if self.upstream_key else None
        return class_of(effect, has_probe=self.probe is not None, key_lifetime_s=lifetime_s)

    def undo_text(self, method: str, path: str) -> str:
        """The template that takes this request back, as it is kept with the call; may be empty."""
        undo = self.undo
        if undo is None or (undo.of and not fnmatchcase(f"{method.upper()} {path}", undo.of)):
            return ""
        prefix = self.upstream_key.prefix if self.upstream_key else ""
        return json.dumps([undo.method, undo.path, undo.body, prefix], separators=(",", ":"))

    def undoing(self, undo: HttpUndo) -> "Tool":
        """The tool as the requests see it that take its calls back."""
        return replace(
            self,
            effect=undo.effect,
            effects={},
            probe=undo.probe,
            probe_settle_s=undo.probe_settle_s,
            redact=(),
        )
