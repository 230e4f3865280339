"""What a request's fields say, beyond their types: as values of the engine."""

from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgpack

from coatcheck_sidecar.core.call_events import Life
from coatcheck_sidecar.core.fingerprint import (
    business_value,
    decode_arguments,
    of_arguments,
    summary,
)
from coatcheck_sidecar.core.model import Effect
from coatcheck_sidecar.core.policy import Ask, Identity, class_of
from coatcheck_sidecar.core.runstate import RunState
from coatcheck_sidecar.core.session import malformed
from coatcheck_sidecar.core.undo import Take, print_of, summary_of, upcoming

SAID_CHARS_MAX: Final = 4_000
"""Of what an agent says of a failure: enough for its message and the end of its traceback."""


def said(body: dict[str, Any], name: str) -> str:
    """What an agent says of a failure, cut to what a head can carry."""
    return str(body.get(name) or "")[:SAID_CHARS_MAX]


def ask_of(run: str, body: dict[str, Any], *, arguments: bytes) -> Ask:
    """What is asked for by a `call`; raises `Refusal`."""
    effect = Effect(body["effect"])
    has_probe, lifetime_s = bool(body.get("probe")), body.get("key_lifetime_s")
    try:
        decoded = decode_arguments(arguments)
        business = business_value(decoded, body["business"]) if body.get("business") else None
    except (ValueError, msgpack.UnpackException) as error:
        raise malformed(f"call of {body['tool']}: {error}") from error
    if body.get("business") and business is None:
        raise malformed(f"call of {body['tool']}: nothing at {body['business']} in its arguments")
    return Ask(
        run=run,
        step=body["step"],
        tool=body["tool"],
        call_class=class_of(effect, has_probe=has_probe, key_lifetime_s=lifetime_s),
        fingerprint=of_arguments(body["tool"], arguments),
        key=body.get("key"),
        business=business,
        identity=Identity(body["identity"]),
        repeats_ok=bool(body.get("repeats")),
        unresolved_ok=bool(body.get("unresolved_ok")),
        settle_s=body.get("settle_s"),
        key_lifetime_s=lifetime_s,
        summary=summary(decoded, _shown(body)),
        handler=body.get("undo") or "",
        is_irreversible=bool(body.get("irreversible")),
    )


def _shown(body: dict[str, Any]) -> list[str]:
    """JSON pointers to what operators see of the arguments; raises `Refusal`."""
    show, business = body.get("show") or [], body.get("business")
    if not all(type(path) is str and path.startswith("/") for path in show):
        raise malformed(f"call of {body['tool']}: show is {show!r:.80}, not JSON pointers")
    return [business, *show] if business else show


def undo_asked(state: RunState, ask: Ask) -> Ask:
    """A call of a run that is taken back: the undo that is next, or none of its agent's business.

    It is named by what it takes back, not by its arguments: those are recorded.
    """
    todo = upcoming(state)
    if not isinstance(todo, Take) or ask.key != todo.undo.key or not todo.undo.handler:
        return ask
    return replace(ask, is_undo=True, fingerprint=print_of(todo.undo), business=None,
                   handler="", is_irreversible=False, summary=summary_of(todo.undo))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Resume:
    """What an agent says of itself when it comes back."""

    epoch: int | None = None
    """`None`: it does not come back, it begins."""
    lives: dict[int, Life] = field(default_factory=dict)
    answered: frozenset[int] | None = None
    """Calls of its step whose answer it has; `None`: it doesn't say."""


def resume_of(raw: dict[str, Any] | None) -> Resume:
    """How an agent that comes back stands; raises `Refusal`."""
    if raw is None:
        return Resume()
    epoch, calls = raw.get("epoch"), raw.get("calls", {})
    if type(epoch) is not int or type(calls) is not dict:
        raise malformed("open: resume is not {epoch: int, calls: map}")
    lives = {life.value for life in Life}
    for number, life in calls.items():
        if type(number) is not int or type(life) is not str or life not in lives:
            raise malformed(
                f"open: resume: call {number!r:.40} is {life!r:.40}, not one of {sorted(lives)}"
            )
    told = raw.get("answered")
    answered = None if told is None else frozenset(numbers_of(told, "resume: answered"))
    return Resume(epoch, {number: Life(life) for number, life in calls.items()}, answered)


def versions_of(raw: list[Any]) -> tuple[int, int]:
    """Lowest and highest version that a client speaks; raises `Refusal`."""
    match raw:
        case [int(lowest), int(highest)]:
            return lowest, highest
        case _:
            raise malformed(f"hello: protocol {raw!r:.40} is not [lowest, highest]")


def numbers_of(raw: Any, what: str = "signals") -> tuple[int, ...]:
    """Signals that a step received, or calls that were answered; raises `Refusal`."""
    if raw is None:
        return ()
    if not isinstance(raw, list) or not all(isinstance(number, int) for number in raw):
        raise malformed(f"{what}: a list of numbers, as the sidecar gave them")
    return tuple(raw)
