"""What a run is when its owner lets go of it: anybody's, or an operator's."""

from coatcheck_sidecar.core.ownership import crash_delay_s
from coatcheck_sidecar.core.record import Held, Released
from coatcheck_sidecar.core.runstate import IN_DOUBT, RunState


def release_event(  # noqa: PLR0917 - reason and error belong together
    state: RunState, reason: str, error: str, *, breaker_crashes: int, now_ms: int
) -> Released | Held:
    """The end of an ownership, by the reason that an agent or the sidecar gives.

    `breaker_crashes` without progress hold the run; `now_ms` is store time.
    """
    doubts = [call.number for call in state.in_doubt]
    if reason == "in_doubt" and doubts:
        return Held(reason=f"{IN_DOUBT}: calls {doubts}", error=error)
    if reason == "held":
        return Held(reason=f"held: {error}", error=error)
    if reason != "error":
        return Released(reason=reason, error=error, crashes=state.crashes)
    crashes = state.crashes + 1
    if crashes >= breaker_crashes:
        return Held(reason=f"crash_loop: {crashes} crashes without progress", error=error)
    not_before_ms = now_ms + int(crash_delay_s(crashes) * 1000)
    return Released(reason="error", error=error, crashes=crashes, not_before_ms=not_before_ms)
