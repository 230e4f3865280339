"""`coatcheck log`."""

from dataclasses import fields
from enum import Enum
from typing import Any, Final

import click

from coatcheck_sidecar.cli.common import (
    json_option,
    outside,
    plain,
    print_json,
    print_table,
    store_option,
    when,
)
from coatcheck_sidecar.core.record import Intent, Record

EXAMPLE: Final = """\b
Example: coatcheck log invoice-4711
"""


@click.command(epilog=EXAMPLE)
@click.argument("run")
@json_option
@store_option
def command(*, run: str, is_json: bool, store: str | None) -> None:
    """Show the records of a run that no newer one has superseded, in order."""
    restored = outside(store, lambda o: o.show(run))
    records = sorted(restored.log.state.records.values(), key=lambda record: record.seq)
    if is_json:
        print_json([_line(record) for record in records])
        return
    rows = [
        (record.seq, record.epoch, when(record.at_ms), record.event.kind, _words(record))
        for record in records
    ]
    print_table(("SEQ", "EPOCH", "AT", "WHAT", "DETAILS"), rows, empty="no records")


def _line(record: Record) -> dict[str, Any]:
    return {
        "seq": record.seq,
        "epoch": record.epoch,
        "at_ms": record.at_ms,
        "kind": record.event.kind,
        **plain(record.event),
    }


def _words(record: Record) -> str:
    """Fields that say something, but for bytes."""
    event = record.event
    shown = {field.name: getattr(event, field.name) for field in fields(event)}
    if isinstance(event, Intent):
        birth = event.birth
        shown |= {"tool": birth.tool, "effect": birth.call_class.name.lower(), "step": birth.step}
    return " ".join(
        f"{name}={plain(value)}"
        for name, value in shown.items()
        if isinstance(value, str | int | float | Enum) and value not in ("", 0)
    )
