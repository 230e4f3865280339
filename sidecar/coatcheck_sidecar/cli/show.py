"""`coatcheck show`."""

from typing import Any, Final

import click

from coatcheck_sidecar.cli.common import (
    json_option,
    outside,
    plain,
    print_json,
    print_table,
    store_option,
    unpacked,
    when,
)
from coatcheck_sidecar.core.blob_records import Blob
from coatcheck_sidecar.core.model import Call
from coatcheck_sidecar.core.ownership import summary_of
from coatcheck_sidecar.core.runstate import RunState
from coatcheck_sidecar.core.undo import call_of, is_undone
from coatcheck_sidecar.core.undo_records import Undo
from coatcheck_sidecar.engine.restore import Restored

EXAMPLE: Final = """\b
Example: coatcheck show invoice-4711 --json
"""


@click.command(epilog=EXAMPLE)
@click.argument("run")
@click.option("--state", "with_state", is_flag=True, help="Print the state itself too.")
@json_option
@store_option
def command(*, run: str, with_state: bool, is_json: bool, store: str | None) -> None:
    """Show one run: where it stands, its state's size, its calls and signals."""
    restored = outside(store, lambda o: o.show(run))
    shown = _shown(restored, with_state=with_state)
    if is_json:
        print_json(shown)
        return
    calls, signals, undos = shown.pop("calls"), shown.pop("signals"), shown.pop("undos")
    kept, blobs = shown.pop("kept"), shown.pop("blobs")
    shown["deadline_ms"] = when(shown["deadline_ms"])
    print_table(("", ""), [(k, v) for k, v in shown.items() if v not in (None, "")], empty="")
    columns = ("CALL", "TOOL", "EFFECT", "STATE", "STEP", "ATTEMPT", "FIRST SENT", "WHAT")
    if kept:
        rows = [tuple(line.values()) for line in kept]
        print_table(("CHECKPOINT", "STEP", "SCHEMA", "CODE VERSION"), rows, empty="")
    if calls:
        rows = [_row(call) for call in restored.log.state.calls.values()]
        print_table(columns, rows, empty="")
    if undos:
        rows = [(u["call"], u["tool"], u["state"], summary_line(u)) for u in reversed(undos)]
        print_table(("UNDO OF", "TOOL", "STATE", "HOW"), rows, empty="")
    if blobs:
        print_table(("BLOB", "BYTES"), [tuple(line.values()) for line in blobs], empty="")
    if signals:
        print_table(("SIGNAL", "VALUE"), [(s["name"], s["value"]) for s in signals], empty="")


def _shown(restored: Restored, *, with_state: bool) -> dict[str, Any]:
    head, state = restored.head, restored.log.state
    shown: dict[str, Any] = plain(summary_of(head, in_doubt=len(state.in_doubt)))
    shown |= {
        "owner": head.owner if head.status.value == "owned" else "",
        "seq": head.seq,
        "crashes": state.crashes,
        "state_bytes": len(restored.log.checkpoint_bytes),
        "input": None if state.created.input is None else unpacked(state.created.input.data),
        "waits_for": "" if state.parked is None else state.parked.name,
        "payload": None if state.parked is None else unpacked(state.parked.payload.data),
        "result": None if state.result is None else unpacked(state.result.data),
        "kept": [
            {name: getattr(each, name) for name in ("seq", "step", "schema", "code_version")}
            for each in head.kept
        ],
        "blobs": [
            {"name": record.event.digest.hex(), "length": record.event.length}
            for record in state.records.values()
            if isinstance(record.event, Blob)
        ],
        "calls": [plain(call) for call in state.calls.values()],
        "undos": [{"state": _undo_state(state, u), **plain(u)} for u in state.undos.values()],
        "signals": [
            {"name": s.name, "value": unpacked(s.value.data), "by": s.by}
            for s in state.signals.values()
        ],
    }
    if with_state:
        shown["state"] = unpacked(restored.log.checkpoint_bytes)
    return shown


def _undo_state(state: RunState, undo: Undo) -> str:
    if undo.is_irreversible:
        return "irreversible"
    call = call_of(state, undo)
    if is_undone(state, undo):
        return "undone"
    return "" if call is None else call.state.value


def summary_line(undo: dict[str, Any]) -> str:
    """How a call is taken back."""
    request = f"{undo['method']} {undo['path']}".strip()
    return undo["handler"] or request or undo["why"]


def _row(call: Call) -> tuple[object, ...]:
    what = call.reason or call.summary
    return (
        call.number,
        call.tool,
        call.call_class.name.lower(),
        call.state.value,
        call.step,
        call.attempt,
        when(call.first_sent_ms),
        what,
    )
