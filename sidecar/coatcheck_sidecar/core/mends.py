"""What lets a held call go on: said to the agent, and so to whoever reads its log."""

from collections.abc import Mapping
from typing import Final

from coatcheck_sidecar.core.call_events import Ending, Reason

DECIDE: Final = "see `coatcheck doubts {run}`, decide with `coatcheck resolve {run} {call} ...`"
GIVE_ANSWER: Final = "give it by `coatcheck resolve {run} {call} --applied --value JSON`"
MENDS: Final[Mapping[str, str]] = {
    Reason.DIVERGENCE: (
        "ask for what is recorded first; what was taken back by hand, `coatcheck resolve {run} "
        "{call} --compensate` puts out of the way"
    ),
    Reason.NOT_RETAINED: f"it took place and its answer was too big to keep: {GIVE_ANSWER}",
    Reason.TOMBSTONE: (
        "call {call} took place under this key, and its answer went with the checkpoint of its "
        "step: what is to happen once more needs a key of its own"
    ),
    Reason.COMPENSATED: (
        "call {call} was taken back: what is to happen once more needs a key of its own"
    ),
    Reason.OTHER_REQUEST: "a key stands for one request: take another key, or ask as before",
    Reason.NO_IDENTITY: "ask through the URL of a run, or send a Coatcheck-Key",
    Reason.TRUNCATED: GIVE_ANSWER,
    **dict.fromkeys(
        (
            Reason.RESTARTED,
            Reason.RECORD_MISSING,
            Reason.NOT_SETTLED,
            Reason.KEY_EXPIRED,
            Reason.PREDECESSOR,
            *Ending,
        ),
        DECIDE,
    ),
}
"""By the reason of a hold or refusal. One that passes by itself has none."""


def mend_of(reason: str, *, run: str, call: int | None) -> str:
    """What to do about it; `call` is the first in the way. Empty if nothing is to be done."""
    return MENDS.get(reason, "").format(run=run, call="CALL" if call is None else call)
