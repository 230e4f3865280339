"""What takes a call back, made of what its answer says.

A template has places to be filled in: `{/id}` is what the JSON pointer `/id` finds in the recorded
answer, `{key}` the key under which the call went upstream, `{business}` its business key. A text
that is one place alone becomes the value found there, of its own type; within a longer text, or in
a path, it must be text or a number.

It is filled in when its call is done, since the answer is kept no longer than its step needs it.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote

import msgpack

from coatcheck_sidecar.core.fingerprint import pointer
from coatcheck_sidecar.core.model import NO_BODY, Body, Call, CallState, Outcome, OutcomeKind
from coatcheck_sidecar.core.recorded import Head, decode_head, is_encoded
from coatcheck_sidecar.core.undo_records import Undo

PLACE: Final = re.compile(r"\{(key|business|/[^{}]*)\}")
BODY_BYTES_MAX: Final = 65_536
"""Of a rendered body: an undo names what it undoes, and carries no data."""
DOTS: Final = frozenset({".", ".."})
"""RFC 3986, section 5.2.4: whoever reads such a path leaves them out, with what is before them."""
Fill = Callable[[str], Any]


def pointers(path: str, body: Any) -> Iterator[str]:
    """Those of a template into the call's answer."""
    for text in (path, *_texts(body)):
        yield from (place for place in PLACE.findall(text) if place.startswith("/"))


def mistake(text: str) -> str:
    """What is wrong with a text of a template, or an empty string."""
    rest = PLACE.sub("", text)
    if "{" in rest or "}" in rest:
        return "has braces around what is no place: {key}, {business} and {/pointer} are"
    return ""


def mistakes(body: Any) -> str:
    """The first thing that is wrong with a template's body, or an empty string."""
    return next((wrong for text in _texts(body) if (wrong := mistake(text))), "")


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list():
            for item in value:
                yield from _texts(item)
        case dict():
            for item in value.values():
                yield from _texts(item)
        case _:
            pass


def undo_of(call: Call) -> Undo | None:
    """What takes back a call that is done; `None` if it did nothing, or nothing was said of it."""
    outcome = call.outcome
    is_said = call.handler or call.undo or call.is_irreversible
    if not is_said or outcome is None or call.state is not CallState.DONE or call.is_undo:
        return None
    if outcome.kind is OutcomeKind.UNKNOWN or not 200 <= _head(outcome).status < 300:
        return None
    made = Undo(call=call.number, key=call.key, tool=call.tool, step=call.step)
    if call.is_irreversible:
        return replace(made, is_irreversible=True)
    if call.handler:
        return replace(made, handler=call.handler, body=Body(outcome.body.data))
    try:
        method, path, body = _rendered(call, outcome)
    except ValueError as error:
        return replace(made, why=str(error))
    return replace(made, method=method, path=path, body=body)


def _head(outcome: Outcome) -> Head:
    """Of what a function returned, or somebody said, there is none: it was done."""
    return decode_head(outcome.head) if outcome.head else Head(200)


def _rendered(call: Call, outcome: Outcome) -> tuple[str, str, Body]:
    """Method, path and body; raises `ValueError` with what is missing."""
    method, path, body, prefix = json.loads(call.undo)
    answer: list[Any] = []

    def fill(place: str) -> Any:
        if place == "key":
            return prefix + call.upstream_key
        if place == "business":
            if not call.business_key:
                raise ValueError("the call has no business key")
            return call.business_key
        if not answer:
            answer.append(_answer(outcome))
        try:
            return pointer(answer[0], place)
        except LookupError:
            raise ValueError(f"there is nothing at {place} in its answer") from None

    made = _path(path, fill)
    if body is None:
        return method, made, NO_BODY
    try:
        data = json.dumps(_filled(body, fill), separators=(",", ":")).encode()
    except TypeError as error:
        raise ValueError(f"its answer has a value that is no JSON: {error}") from None
    if len(data) > BODY_BYTES_MAX:
        raise ValueError(f"its body would have {len(data)} bytes, {BODY_BYTES_MAX} are allowed")
    return method, made, Body(data)


def _path(template: str, fill: Fill) -> str:
    made = PLACE.sub(lambda found: quote(_as_text(fill(found[1]), found[1]), safe=""), template)
    if DOTS.intersection(made.partition("?")[0].split("/")):
        raise ValueError(f"its path would be {made}, which is another place")
    return made


def _answer(outcome: Outcome) -> Any:
    """The call's answer as a value; raises `ValueError`."""
    data = outcome.body.data
    if outcome.kind is not OutcomeKind.RESULT:
        raise ValueError(f"its answer is {outcome.kind.value}")
    if data is None:
        raise ValueError("nobody said what its answer is")
    if not outcome.head:
        return msgpack.unpackb(data, strict_map_key=False)
    if is_encoded(_head(outcome).headers):
        raise ValueError("its answer is compressed")
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("its answer is no JSON") from None


def _filled(value: Any, fill: Fill) -> Any:
    match value:
        case str():
            alone = PLACE.fullmatch(value)
            if alone is not None:
                return fill(alone[1])
            return PLACE.sub(lambda found: _as_text(fill(found[1]), found[1]), value)
        case list():
            return [_filled(item, fill) for item in value]
        case dict():
            return {name: _filled(item, fill) for name, item in value.items()}
        case _:
            return value


def _as_text(value: Any, place: str) -> str:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return json.dumps(value)
    raise ValueError(f"what is at {place} in its answer is no text and no number")
