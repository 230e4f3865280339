"""Does the sidecar know its pod's grace, and does a shutdown fit into it? Pure."""

from collections.abc import Iterator
from typing import Final

from coatcheck_sidecar.core.doctor_pod import Subject, error, warning
from coatcheck_sidecar.core.inject_choice import GRACE_S, Finding
from coatcheck_sidecar.core.map import AUTOSCALER_S, MARGIN_S, SHIP_S

STEP_S_MIN: Final = 5.0
"""What a model call takes: with less between the first hook and the cut every step is cut."""
FIELD: Final = "terminationGracePeriodSeconds"


def of_grace(subject: Subject) -> Iterator[Finding]:
    """What the spec says, and what the sidecar was told."""
    grace_s = subject.pod.grace_s
    told_s = subject.number("GRACE_S", GRACE_S)
    if told_s is None:
        yield warning(
            "grace-unknown",
            what="COATCHECK_GRACE_S is not written in the template",
            why=f"nobody can see whether it is the pod's {FIELD} ({grace_s}), which a pod can't "
            "find out itself",
            mend=f"write COATCHECK_GRACE_S: {grace_s} into the sidecar's env",
        )
    elif told_s > grace_s:
        yield error(
            "grace-disagrees",
            what=f"COATCHECK_GRACE_S is {told_s:g}, {FIELD} is {grace_s}",
            why="the sidecar plans for time that it does not have: what it ships last is cut off "
            "by SIGKILL, and more is acknowledged than fits",
            mend=f"set both to the same number of seconds: {told_s:g} or {grace_s}",
        )
    elif told_s < grace_s:
        yield warning(
            "grace-disagrees",
            what=f"COATCHECK_GRACE_S is {told_s:g}, {FIELD} is {grace_s}",
            why=f"runs are cut {grace_s - told_s:g} s before they would have to be",
            mend=f"set COATCHECK_GRACE_S to {grace_s}",
        )
    yield from grace_fits(grace_s, margin_s=subject.number("MARGIN_S", MARGIN_S) or MARGIN_S)


def grace_fits(grace_s: float, *, margin_s: float) -> Iterator[Finding]:
    """Is it long enough to be of use, and short enough to be granted: what speaks against it."""
    held_s = margin_s + SHIP_S
    if grace_s > AUTOSCALER_S:
        yield warning(
            "grace-long",
            what=f"the grace is {grace_s:g} s",
            why=f"cluster autoscalers grant {AUTOSCALER_S:g} s at most and kill what is left then; "
            "the sidecar would still plan for more",
            mend=f"set it to {AUTOSCALER_S:g}, here and in COATCHECK_GRACE_S",
        )
    elif grace_s <= held_s:
        yield error(
            "grace-short",
            what=f"the grace is {grace_s:g} s",
            why=f"shipping takes {SHIP_S:.1f} s at least, and {margin_s:g} s are held back: "
            "nothing is left, and what was acknowledged last is lost",
            mend="set 30 or more; `coatcheck map` says what your runs need",
        )
    elif grace_s < held_s + STEP_S_MIN:
        yield warning(
            "grace-short",
            what=f"the grace is {grace_s:g} s",
            why=f"{grace_s - held_s:.1f} s are left for a step to end: most are cut, and their "
            "calls left in doubt",
            mend="set 30 or more; `coatcheck map` says what your runs need",
        )
