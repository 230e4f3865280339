"""What an HTTP answer says about the attempt that it ends, by status and the tool's profile."""

from dataclasses import dataclass
from typing import Final

from coatcheck_sidecar.core.call_events import Ending

SHED: Final = frozenset({421, 425, 429})
"""RFC 9110 15.5.20, RFC 8470, RFC 6585: said before the request is acted upon."""
DENIED: Final = frozenset({401, 403, 407})
"""Not final: the agent may come back with other credentials."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What is known of an upstream beyond HTTP itself; the defaults promise nothing."""

    saves_errors: bool = False
    """It keeps a 5xx under the idempotency key, and gives the same one for ever."""
    sheds_by_503: bool = False
    """A 503 with `Retry-After` is said before anything is done."""
    refuses_first: bool = False
    """A 3xx or 4xx is said of the message, before a tool is called: what a tool refuses comes as an
    answer (MCP)."""


def ending(
    status: int, *, profile: Profile, has_retry_after: bool = False, is_cut: bool = False
) -> Ending:
    """Classify an answer whose head came. `is_cut`: its body did not come whole.

    A status that settles what happened does so without its body; an answer that would be kept
    does not. 1xx and what is no status at all count as failures of the upstream.
    """
    found = _by_status(status, profile=profile, has_retry_after=has_retry_after)
    if is_cut and found in (Ending.FINAL, Ending.REJECTED, Ending.CONFLICT):
        return Ending.CUT
    return Ending.ERROR if is_cut and found is Ending.ERROR_SAVED else found


def _by_status(status: int, *, profile: Profile, has_retry_after: bool) -> Ending:
    if status in SHED or (status == 503 and has_retry_after and profile.sheds_by_503):
        return Ending.SHED
    if status in (408, 503):
        return Ending.BUSY
    if status in DENIED:
        return Ending.DENIED
    if profile.refuses_first and 300 <= status < 500:
        return Ending.DENIED
    if status == 409:
        return Ending.CONFLICT
    if 200 <= status < 400:
        return Ending.FINAL
    if 400 <= status < 500:
        return Ending.REJECTED
    return Ending.ERROR_SAVED if profile.saves_errors else Ending.ERROR
