"""Which effect a kind of call seems to have, from its method, its name and its answers.

A guess that is wrong towards `once` costs a question to an operator; one that is wrong the other
way costs a doubled act. So a POST counts as a read only where nothing speaks against it, and what
is no promise of HTTP or of a known API is marked as to be checked.
"""

import re
from dataclasses import dataclass
from typing import Final

from coatcheck_sidecar.core.model import Effect

TELLING_BYTES: Final = 32
"""A shorter answer, such as `{"ok": true}`, is the same for every request and proves nothing."""
READS: Final = frozenset({
    "autocomplete", "classify", "count", "describe", "detect", "embed", "embeddings",
    "estimate", "explain", "fetch", "find", "geocode", "get", "info", "inspect", "list",
    "lookup", "moderations", "msearch", "parse", "predict", "preview", "query", "quote", "read",
    "rerank", "retrieve", "score", "scroll", "search", "select", "similar", "simulate",
    "suggest", "summarize", "tokenize", "translate", "validate", "view",
})  # fmt: skip
"""Words of a path's last segment, or of a tool's name, that ask rather than act."""
ACTS: Final = frozenset({
    "accept", "activate", "add", "apply", "approve", "archive", "assign", "attach", "book",
    "buy", "cancel", "capture", "charge", "charges", "checkout", "commit", "confirm", "create",
    "delete", "deploy", "disable", "email", "emails", "enable", "execute", "forward", "grant",
    "import", "insert", "invite", "invoke", "login", "mail", "mark", "merge", "message",
    "messages", "move", "mutate", "notify", "order", "orders", "pay", "payment", "payments",
    "payout", "post", "publish", "push", "put", "refund", "refunds", "register", "reject",
    "release", "remove", "reply", "reserve", "reset", "restart", "restore", "revoke",
    "rollback", "run", "schedule", "send", "set", "sign", "sms", "start", "stop", "submit",
    "subscribe", "sync", "transfer", "transfers", "trigger", "update", "upload", "upsert",
    "withdraw", "write",
})  # fmt: skip
"""Words anywhere that act; one of them outweighs all others."""
WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
"""Of `search_users`, `searchUsers`, `users:search` alike."""
VERSION: Final = re.compile(r"v\d+(\.\d+)?(alpha|beta)?\d*", re.ASCII)
NAMED: Final = re.compile(r"[A-Za-z_~.:$@-]+|[A-Za-z]+[A-Za-z_-]*\d?", re.ASCII)
"""A segment that names a thing of the API; all others are ids, or secrets."""
SHORT_CHARS: Final = 6
WORD_CHARS: Final = 3
"""Words of a name are this long on the average: letters at random change their case more often."""
SEGMENT_CHARS_MAX: Final = 40
SEGMENTS_MAX: Final = 8
COMPLETION: Final = re.compile(
    r"/(chat/completions|completions|responses|messages|embeddings)|:(stream)?[gG]enerateContent"
)
"""Ends of paths under which model APIs, and the many that speak alike, sell completions."""


@dataclass(slots=True)
class Kind:
    """Counts of one tool's calls of one pattern."""

    tool: str
    pattern: str
    by_method: Effect
    declared: Effect
    calls: int = 0
    good: int = 0
    """Answered 2xx."""
    lost: int = 0
    created: int = 0
    completions: int = 0
    keyed: int = 0
    """With a key for the upstream."""
    again: int = 0
    """Equal to one of the same run before."""
    equal: int = 0
    """Answered as an equal one before."""
    different: int = 0
    telling: int = 0
    """Answers long enough to tell one thing from another."""
    exposed: int = 0
    exposed_s: float = 0.0
    since_s: float = 0.0

    def count_answer(self, length: int) -> None:
        """A 2xx answer of so many bytes."""
        self.telling += length >= TELLING_BYTES

    def expose(self, at_s: float) -> None:
        """One more that would be sent again."""
        if not self.exposed:
            self.since_s = at_s
        self.exposed += 1

    def cover(self, at_s: float) -> None:
        """One of them is behind a checkpoint now."""
        self.exposed -= 1
        if not self.exposed:
            self.exposed_s += max(at_s - self.since_s, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """What to say of a pattern in the configuration, and why."""

    tool: str
    pattern: str
    calls: int
    lost: int
    again: int
    declared: Effect
    effect: Effect
    record: bool
    upstream_key: bool
    """Say `upstream_key`, if the upstream honours the keys that it is sent."""
    is_certain: bool
    """By HTTP or a known API; else it is to be checked."""
    is_completion: bool
    why: str
    exposed_share: float
    """Of the time, that in which a deploy would have had one sent again."""


def pattern_of(method: str, path: str) -> str:
    """A request as `effects:` names it, with `*` for ids: `POST /v1/invoices/*/send`."""
    segments = [shape(segment) for segment in path.split("/")[1 : SEGMENTS_MAX + 1]]
    return f"{method.upper()} /{'/'.join(segments)}"


def is_completion(path: str) -> bool:
    """A model API sells completions under this path."""
    return any(match.end() == len(path) for match in COMPLETION.finditer(path))


def suggest(kind: Kind, *, at_s: float, observed_s: float) -> Suggestion:
    """The effect that the facts speak for."""
    effect, is_certain, why = _judged(kind)
    open_s = max(at_s - kind.since_s, 0.0) if kind.exposed else 0.0
    share = min((kind.exposed_s + open_s) / observed_s, 1.0) if observed_s > 0 else 0.0
    return Suggestion(
        tool=kind.tool,
        pattern=kind.pattern,
        calls=kind.calls,
        lost=kind.lost,
        again=kind.again,
        declared=kind.declared,
        effect=effect,
        record=effect is Effect.READ and kind.completions > 0,
        upstream_key=effect is Effect.IDEMPOTENT and kind.keyed > 0,
        is_certain=is_certain,
        is_completion=effect is Effect.READ and kind.completions > 0,
        why=why,
        exposed_share=share,
    )


def _judged(kind: Kind) -> tuple[Effect, bool, str]:
    if kind.by_method is Effect.READ:
        return Effect.READ, True, "its method or its author says that it reads"
    if kind.completions:
        return Effect.READ, True, "a model's completion: record it, and it is bought once"
    if kind.by_method is Effect.IDEMPOTENT:
        return Effect.IDEMPOTENT, True, "its method or its author says that it may be repeated"
    if kind.keyed and kind.keyed == kind.calls:
        return Effect.IDEMPOTENT, False, "sent with Idempotency-Key: if the upstream honours it"
    return _by_answers(kind)


def _by_answers(kind: Kind) -> tuple[Effect, bool, str]:
    words = [word.lower() for word in WORD.findall(kind.pattern.partition(" ")[2] or kind.pattern)]
    last = [word.lower() for word in WORD.findall(kind.pattern.rpartition("/")[2])]
    if kind.created:
        return Effect.ONCE, True, "it creates something: 201, or a Location"
    if ACTS.intersection(words):
        return Effect.ONCE, False, f"named as what acts: {_first(words, ACTS)}"
    if kind.different:
        return Effect.ONCE, False, "equal requests had different answers"
    if kind.equal and kind.telling == kind.good:
        return Effect.READ, False, f"{kind.equal} equal requests had equal answers"
    if kind.good and READS.intersection(last):
        return Effect.READ, False, f"named as what asks: {_first(last, READS)}"
    return Effect.ONCE, False, "nothing shows that it may be sent twice"


def _first(words: list[str], known: frozenset[str]) -> str:
    return next(word for word in words if word in known)


def shape(segment: str) -> str:
    """A segment of a path, or the name of a field, if it names a thing of an API; else `*`."""
    is_plain = len(segment) <= SEGMENT_CHARS_MAX and NAMED.fullmatch(segment)
    words = len(WORD.findall(segment))
    is_said = is_plain and (len(segment) <= SHORT_CHARS or len(segment) >= WORD_CHARS * words)
    return segment if is_said or VERSION.fullmatch(segment) or not segment else "*"
