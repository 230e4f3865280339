"""Which call an asking is, and whether a new one may begin.

Identity, in this order: the agent's key (`k:`), a business key (`b:`), else what is asked for
within its step: `c:` with how many-th equal one, or `p:` with the place in a serial loop. Ordinals
begin anew with each incarnation and step, so a restored agent that asks for the same things is
given the same keys, and through them the same answers. An equal asking is the same call when an
SDK marks it as a retry, when the last answer was not final, and for guarded calls always, unless
the tool says that repeats are meant.

A new call may not begin while it could be an old one in other words: one of this step that the
restored agent has not asked for again (orphan), or one whose effect is unknown (predecessor).
"""

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, assert_never

from coatcheck_sidecar.core.call_events import Code, Hold, Reason, Refuse, Wait
from coatcheck_sidecar.core.grown import Grown
from coatcheck_sidecar.core.model import UNDO_KEY, Call, CallClass, CallState, Effect

ORPHAN_WAIT_S: Final = 5.0
"""Calls of a step come at once, in any order: the others are asked for well within this."""
NAMESPACE: Final = uuid.UUID("74e79787-6109-5dc7-a39c-1a5aa11990d7")
"""Of upstream keys. Changing it makes every call in flight look new to its upstream."""
FINGERPRINT_CHARS: Final = 32
"""128 bits of the digest in a key; the whole digest is compared besides."""
EFFECTS: Final[Mapping[str, Effect]] = {
    **dict.fromkeys(("GET", "HEAD", "OPTIONS", "QUERY"), Effect.READ),
    **dict.fromkeys(("PUT", "DELETE"), Effect.IDEMPOTENT),
}
"""RFC 9110, section 9.2, and the QUERY draft: what a method promises by itself."""
MATTERS: Final = frozenset({CallClass.KEYED, CallClass.PROBED, CallClass.ONCE})
"""Classes in which the same act under another key would happen twice."""
STANDS: Final = frozenset({CallState.DISPATCHED, CallState.IN_DOUBT, CallState.DONE})
"""States of a call of this step in which another wording could double an effect."""


class Identity(StrEnum):
    """How calls without a key of their own are told apart."""

    CONTENT = "content"
    POSITIONAL = "positional"


def default_effect(method: str) -> Effect:
    """What an HTTP method promises; an unknown one promises nothing."""
    return EFFECTS.get(method.upper(), Effect.ONCE)


def class_of(effect: Effect, *, has_probe: bool, key_lifetime_s: float | None) -> CallClass:
    """The column of the call table. A lifetime says that the upstream honours our key."""
    match effect:
        case Effect.READ:
            return CallClass.READ
        case Effect.IDEMPOTENT:
            return CallClass.IDEMPOTENT if key_lifetime_s is None else CallClass.KEYED
        case Effect.ONCE:
            return CallClass.PROBED if has_probe else CallClass.ONCE
        case _:
            assert_never(effect)


def upstream_key(run: str, key: str) -> str:
    """The key that goes upstream: the same for every attempt, in every life of the run."""
    return str(uuid.uuid5(NAMESPACE, f"{run}\0{key}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One asking for a tool call. `business` is the value at the tool's pointer, if any.

    `marker` is what an SDK repeats in its own retries (an incoming `Idempotency-Key`); `is_retry`
    its word that this is one (a retry count over 0).
    """

    run: str
    step: int
    tool: str
    call_class: CallClass
    fingerprint: bytes
    key: str | None = None
    business: str | None = None
    identity: Identity = Identity.CONTENT
    repeats_ok: bool = False
    unresolved_ok: bool = False
    marker: str = ""
    is_retry: bool = False
    settle_s: float | None = None
    key_lifetime_s: float | None = None
    summary: str = ""
    is_relayed: bool = False
    """The sidecar makes the attempts."""
    handler: str = ""
    undo: str = ""
    is_irreversible: bool = False
    is_undo: bool = False
    """It takes back the call under `key`, which alone names it."""


@dataclass(frozen=True, slots=True)
class AskedSoFar:
    """What one incarnation asked in one step; begins empty with each of both."""

    keys: Grown[None] = field(default_factory=Grown)
    equals: Grown[tuple[str, ...]] = field(default_factory=Grown)
    """Keys given to equal askings, oldest first, by what they ask for."""
    places: Grown[int] = field(default_factory=Grown)
    """Last place in its serial loop, by tool."""
    markers: Grown[str] = field(default_factory=Grown)
    open: frozenset[str] = frozenset()
    """Keys whose last answer was not final."""

    def left_open(self, key: str) -> "AskedSoFar":
        """The answer under `key` was not final (or a refusal): the next equal asking is it."""
        return replace(self, open=self.open | {key})

    def settled(self, key: str) -> "AskedSoFar":
        """The answer under `key` is final: the next equal asking is another call."""
        return replace(self, open=self.open - {key}) if key in self.open else self


def also(call: Call, asked: AskedSoFar) -> AskedSoFar:
    """What was asked so far, with a call that is known to have been asked for."""
    return _with_ask(call, asked, key=call.key)


def resumed(
    calls: Iterable[Call],
    *,
    step: int,
    since: int,
    epoch: int,
    answered: AbstractSet[int] | None = None,
) -> AskedSoFar:
    """What a living incarnation asked in `step`, as far as records tell after a sidecar's restart.

    Its first claim was record `since`, of `epoch`. It may tell which calls it has the
    answer of (`answered`, by number), older ones that it was given again among them: any other is
    open, whatever became of it meanwhile, but for a read without an answer, which nobody else can
    give. What was relayed it knows no number of, and its answer may have died on the way.
    """
    asked, known = AskedSoFar(), answered or frozenset()
    for call in sorted(calls, key=lambda call: call.number):
        is_its_own = call.number > since or call.epoch >= epoch or call.number in known
        if call.step == step and is_its_own:
            asked = _with_ask(call, asked, key=call.key)
            is_done, is_told = call.state is CallState.DONE, answered is not None
            is_over = call.number in known if is_told or call.is_relayed else is_done
            if not is_over and (is_done or call.call_class is not CallClass.READ):
                asked = asked.left_open(call.key)
    return asked


@dataclass(frozen=True, slots=True)
class Identified:
    """The call that is asked for, as a draft, and what was asked so far with it."""

    draft: Call
    asked: AskedSoFar


def identify(
    ask: Ask,
    asked: AskedSoFar | None,
    *,
    calls: Mapping[str, Call],
    in_the_way: Collection[Call] | None = None,
    epoch: int,
    wait_left_s: float = ORPHAN_WAIT_S,
) -> Identified | Wait | Hold | Refuse | None:
    """Name the call, or say why it may not begin.

    `asked` is `None` if it is not known which life of the agent asks; then only an agent's or
    business key names a call: without, a guarded one is refused, and `None` says: no call, pass it
    on. `calls` are those of the run by key. `in_the_way` are at least those of them that `asked`
    has not, and the unsettled ones, for who keeps them apart: a long run has many calls. A `Wait`
    is asked again with `wait_left_s`, how much of its wait is left, as soon as something else is
    asked for; it has used up no ordinal.
    """
    own = _own_key(ask)
    is_guarded = ask.call_class.is_guarded
    if asked is None and own is None:
        return Refuse(Code.HELD, 424, Reason.NO_IDENTITY) if is_guarded else None
    so_far = asked or AskedSoFar()
    key = own or _same_call(ask, so_far) or _next_key(ask, so_far)
    found = calls.get(key)
    matters = asked is not None and ask.call_class in MATTERS
    others = calls.values() if in_the_way is None else in_the_way
    unasked = [] if asked is None or not matters else _unasked(ask, asked, calls=others)
    refusal = None
    if found is None and not ask.is_undo:
        refusal = _may_not_begin(ask, unasked, calls=others, wait_left_s=wait_left_s)
    elif found and key.startswith("p:") and is_guarded and found.fingerprint != ask.fingerprint:
        refusal = Hold(Code.REPLAY_DIVERGENCE, Reason.DIVERGENCE, _numbers([found, *unasked]))
    if refusal is not None:
        return refusal
    return Identified(
        _draft(ask, key, epoch=epoch), _with_ask(ask, so_far, key=key, marker=ask.marker)
    )


def _own_key(ask: Ask) -> str | None:
    if ask.is_undo:
        return f"{UNDO_KEY}{ask.key}"
    if ask.key is not None:
        return f"k:{ask.key}"
    return None if ask.business is None else f"b:{_quoted(ask.tool)}:{ask.business}"


def _quoted(tool: str) -> str:
    """A tool's name within a key, so that no other name and value read alike."""
    return tool.replace("%", "%25").replace(":", "%3A")


def _content(ask: Ask | Call) -> str:
    print_hex = ask.fingerprint.hex()[:FINGERPRINT_CHARS]
    return f"c:{ask.step}:{_quoted(ask.tool)}:{print_hex}"


def _place(ask: Ask | Call) -> str:
    return f"p:{ask.step}:{_quoted(ask.tool)}"


def _same_call(ask: Ask, asked: AskedSoFar) -> str | None:
    """The key of an earlier asking that this one repeats."""
    marked = asked.markers.get(f"{_content(ask)}:{ask.marker}") if ask.marker else None
    if marked is not None:
        return marked
    equals = asked.equals.get(_content(ask), ())
    still_open = next((key for key in equals if key in asked.open), None)
    is_same = ask.is_retry or (ask.call_class.is_guarded and not ask.repeats_ok)
    newest = equals[-1] if equals and is_same else None
    return still_open or newest


def _next_key(ask: Ask, asked: AskedSoFar) -> str:
    if ask.identity is Identity.POSITIONAL:
        return f"{_place(ask)}:{asked.places.get(_place(ask), 0) + 1}"
    return f"{_content(ask)}:{len(asked.equals.get(_content(ask), ())) + 1}"


def _with_ask(ask: Ask | Call, asked: AskedSoFar, *, key: str, marker: str = "") -> AskedSoFar:
    content, place = _content(ask), _place(ask)
    equals, places, markers = asked.equals, asked.places, asked.markers
    if key.startswith(("c:", "p:")) and key not in equals.get(content, ()):
        equals = equals.grown(content, (*equals.get(content, ()), key))
        if key.startswith("p:"):
            places = places.grown(place, places.get(place, 0) + 1)
    if marker:
        markers = markers.grown(f"{content}:{marker}", key)
    keys = asked.keys if key in asked.keys else asked.keys.grown(key, None)
    still_open = asked.open - {key} if key in asked.open else asked.open
    return AskedSoFar(keys, equals, places, markers, still_open)


def _unasked(ask: Ask, asked: AskedSoFar, *, calls: Iterable[Call]) -> list[Call]:
    """Recorded calls of this step and tool that a restored agent has yet to ask for."""
    return [
        call
        for call in calls
        if call.tool == ask.tool
        and call.step == ask.step
        and call.call_class in MATTERS
        and call.state in STANDS
        and call.key not in asked.keys
    ]


def _may_not_begin(
    ask: Ask, orphans: Sequence[Call], *, calls: Iterable[Call], wait_left_s: float
) -> Wait | Hold | None:
    if ask.call_class not in MATTERS:
        return None
    if orphans and wait_left_s > 0:
        return Wait(wait_left_s)
    if orphans:
        return Hold(Code.REPLAY_DIVERGENCE, Reason.DIVERGENCE, _numbers(orphans))
    if not ask.call_class.is_guarded or ask.unresolved_ok:
        return None
    before = [call for call in calls if _is_predecessor(call, ask)]
    return Hold(Code.HELD, Reason.PREDECESSOR, _numbers(before)) if before else None


def _is_predecessor(call: Call, ask: Ask) -> bool:
    is_like = call.tool == ask.tool and call.call_class.is_guarded and call.is_unsettled
    is_other = None not in (call.business_key, ask.business) and call.business_key != ask.business
    return is_like and not is_other


def _numbers(calls: Iterable[Call]) -> tuple[int, ...]:
    return tuple(sorted({call.number for call in calls}))


def _draft(ask: Ask, key: str, *, epoch: int) -> Call:
    return Call(
        number=0,
        key=key,
        step=ask.step,
        tool=ask.tool,
        call_class=ask.call_class,
        fingerprint=ask.fingerprint,
        state=CallState.INTENT,
        epoch=epoch,
        upstream_key=upstream_key(ask.run, key),
        is_named=_own_key(ask) is not None,
        business_key=ask.business,
        settle_s=ask.settle_s,
        key_lifetime_s=ask.key_lifetime_s,
        summary=ask.summary,
        is_relayed=ask.is_relayed,
        handler=ask.handler,
        undo=ask.undo,
        is_irreversible=ask.is_irreversible,
    )
