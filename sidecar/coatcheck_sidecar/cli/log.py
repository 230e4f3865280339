"""`coatcheck log`."""

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
from coatcheck_sidecar.core.record import Record

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
    fields = plain(record.event)
    birth = fields.pop("birth", {})
    shown = {**fields, **{k: birth[k] for k in ("tool", "call_class", "step") if k in birth}}
    return " ".join(
        f"{name}={value}"
        for name, value in shown.items()
        if isinstance(value, str | int | float) and value not in ("", False)
    )
