"""What agents saw, written where no kill reaches it: the evidence against our own promises.

One file for all, appended to by one `write` a line, so that its order is what happened. A line is
an agent saying that it opened a run, began a step, or had a step's checkpoint acknowledged.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path


class What(StrEnum):
    """What an agent says."""

    OPENED = "opened"
    BEGAN = "began"
    ACKNOWLEDGED = "acknowledged"


@dataclass(frozen=True, slots=True)
class Saying:
    """One line: `step` is the one to do next, begun, or acknowledged."""

    what: What
    run: str
    step: int
    epoch: int
    disk: str
    """The data folder of the pod: what `process` and `node` are kept by."""
    level: str = ""


class Witness:
    """An agent's pen."""

    def __init__(self, path: Path, *, disk: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._disk = disk

    def say(self, what: What, run: str, *, step: int, epoch: int, level: str = "") -> None:
        saying = Saying(what, run, step, epoch, self._disk, level)
        os.write(self._file, json.dumps(asdict(saying)).encode() + b"\n")


def read_witness(path: Path) -> list[Saying]:
    """All that was said so far."""
    whole = path.read_bytes() if path.exists() else b""
    raw = map(json.loads, whole[: whole.rfind(b"\n") + 1].splitlines())
    return [Saying(**{**fields, "what": What(fields["what"])}) for fields in raw]


def lost_checkpoints(sayings: Iterable[Saying]) -> list[str]:
    """Acknowledged steps that were to survive and did not, one sentence each.

    What was acknowledged as `remote` survives everything. What was acknowledged below that
    survives as long as the run stays with the disk that it was acknowledged on; whoever opens it
    elsewhere goes on from what was shipped, and from then on that is what must survive.
    """
    remote: Counter[str] = Counter()
    local: dict[str, tuple[str, int]] = {}
    lost = []
    for saying in sayings:
        run, step = saying.run, saying.step
        disk, kept = local.get(run, (saying.disk, 0))
        if saying.what is What.ACKNOWLEDGED:
            if disk == saying.disk:
                local[run] = (disk, max(kept, step))
            if saying.level == "remote":
                remote[run] = max(remote[run], step)
        elif saying.what is What.OPENED:
            needed = max(remote[run], kept if disk == saying.disk else 0)
            if step <= needed:
                lost.append(
                    f"{run} was opened at step {step} on {saying.disk} (epoch {saying.epoch}), "
                    f"but step {needed} had been acknowledged"
                )
            local[run] = (saying.disk, max(remote[run], step - 1))
    return lost


def steps_again(sayings: Iterable[Saying]) -> int:
    """Steps that were begun more than once: each began anew after a kill."""
    began = Counter((s.run, s.step) for s in sayings if s.what is What.BEGAN)
    return sum(count - 1 for count in began.values())
