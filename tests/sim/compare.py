"""Whether a head, with the objects that it names, says what the records say that led to it."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from coatcheck.wire import STATE_BYTES_MAX
from coatcheck_sidecar.core.delta import BadDelta, decode_delta
from coatcheck_sidecar.core.head import Head, decode_pack, decode_sealed
from coatcheck_sidecar.core.model import Body, Call
from coatcheck_sidecar.core.objects import BadObject, Kind, check, unseal
from coatcheck_sidecar.core.pages import Paged
from coatcheck_sidecar.core.patch_delta import next_state
from coatcheck_sidecar.core.record import BadRecord
from coatcheck_sidecar.core.runlog import restore
from coatcheck_sidecar.core.runstate import RunState

Peek = Callable[[str], bytes | None]
FIELDS = ("status", "epoch", "seq", "step", "checkpoint_seq", "commands", "claimed", "crashes")
"""The last of them says nothing of a run that is over."""


def restored_state(head: Head, peek: Peek) -> RunState | str:
    """The state that a claimer would find now; a sentence if it would find damage."""
    objects: dict[str, bytes] = {}
    try:
        for ref in head.named_objects():
            objects[ref.name] = check(ref, peek(ref.name))
        packs = [decode_pack(pack.ref.name, objects.pop(pack.ref.name)) for pack in head.packs]
        for sealed in (head.chain.base, head.chain.mid):
            if sealed is not None:
                objects.pop(sealed.name)
        bodies = {name: unseal(name, data, kind=Kind.BODY)[0] for name, data in objects.items()}
        return restore(head, tag="", packs=packs, bodies=bodies).state
    except (BadObject, BadDelta, BadRecord) as error:
        return str(error)


def restored_checkpoint(head: Head, peek: Peek) -> bytes | str:
    """The state that a claimer would give to its agent."""
    state = b""
    try:
        for sealed, kind in ((head.chain.base, Kind.BASE), (head.chain.mid, Kind.MID)):
            if sealed is not None:
                whole = check(sealed, peek(sealed.name))
                _, data = decode_sealed(sealed.name, whole, kind=kind)
                state = decode_delta(state, data, bytes_max=STATE_BYTES_MAX)
        last = Paged(state)
        for delta in head.chain.deltas:
            last = next_state(last, delta.data, bytes_max=STATE_BYTES_MAX)
    except (BadObject, BadDelta) as error:
        return str(error)
    return last.data


def differences(found: RunState, wanted: RunState) -> Iterator[str]:
    """What the head tells otherwise than its records."""
    for name in FIELDS if not wanted.status.is_final else FIELDS[:-1]:
        yield from _differ(name, getattr(found, name), getattr(wanted, name))
    for name in ("created", "parked"):
        yield from _differ(name, _bare(getattr(found, name)), _bare(getattr(wanted, name)))
    for name in ("result",):
        yield from _differ(name, _data(getattr(found, name)), _data(getattr(wanted, name)))
    yield from _differ("compensating", found.compensating, wanted.compensating)
    undos = [{n: _bare(undo) for n, undo in state.undos.items()} for state in (found, wanted)]
    yield from _differ("undos", *undos)
    yield from _differ(
        "signals",
        {seq: _bare(signal) for seq, signal in found.signals.items()},
        {seq: _bare(signal) for seq, signal in wanted.signals.items()},
    )
    numbers = found.calls.keys() | wanted.calls.keys()
    for number in sorted(numbers):
        calls = [_call(state.calls.get(number)) for state in (found, wanted)]
        yield from _differ(f"call {number}", *calls)
    if not wanted.status.is_final:  # then nobody asks any more, and tombstones go
        keys = [{k: call.state for k, call in state.by_key.items()} for state in (found, wanted)]
        yield from _differ("keys", *keys)


def _differ(name: str, found: Any, wanted: Any) -> Iterator[str]:
    if found != wanted:
        yield f"{name} is {found!r:.600}; its records say {wanted!r:.600}"


def _bare(event: Any) -> Any:
    """A record's event with its body's bytes alone, wherever they lie."""
    for name in ("input", "payload", "value", "body"):
        body = getattr(event, name, None)
        if isinstance(body, Body):
            return replace(event, **{name: Body(body.data)})
    return event


def _data(body: Body | None) -> bytes | None:
    return None if body is None or body.data is None else hashlib.sha256(body.data).digest()


def _call(call: Call | None) -> Call | None:
    if call is None or call.outcome is None:
        return call
    return replace(call, outcome=replace(call.outcome, body=Body(_data(call.outcome.body))))
