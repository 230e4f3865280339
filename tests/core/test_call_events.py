"""The values of the call table against what the wire promises."""

import re
from dataclasses import FrozenInstanceError, fields, is_dataclass
from pathlib import Path
from typing import get_args

import pytest

from coatcheck_sidecar.core.call_events import CallEffect, Code, Decision, Event, Life, Restarted

PROTOCOL = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()


def test_refusals_use_codes_of_the_wire() -> None:
    section = PROTOCOL.partition("Codes:")[2].partition("##")[0]
    assert set(Code) <= set(re.findall(r"[a-z_]+", section))


def test_lives_are_those_that_a_client_reports() -> None:
    assert all(f"`{life}`" in PROTOCOL for life in Life)


def test_events_and_effects_are_values() -> None:
    for kind in (*get_args(Event), *get_args(CallEffect), Decision):
        assert is_dataclass(kind)
        assert all(field.name == field.name.lower() for field in fields(kind))
    assert Restarted() == Restarted()
    with pytest.raises(FrozenInstanceError):
        setattr(Decision(None), "state", None)  # noqa: B010 - mypy knows better than to let us
