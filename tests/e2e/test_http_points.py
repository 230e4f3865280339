"""Each class of effect, killed at each point of a call over HTTP: the outcome that the table names.

The sidecar, the agent, or both die by SIGKILL; the data folder stays. The sidecar is back at once,
and the agent asks the same again: from the life that was cut off, or from a new one. What was sent
and what was charged is told by the upstream.
"""

from typing import Final

import pytest

from tests.e2e.points_world import Told, play

pytestmark = pytest.mark.timeout(90)

SENT_AGAIN: Final = (200, {"sent"}, 2)
RECORD: Final = (200, {"joined", "replayed"}, 1)
"""Of the one send: it is over by then, or it is waited for."""
HELD: Final = (424, {"held"}, 1)

Expected = tuple[int, set[str], int]
TABLE: Final[dict[tuple[str, str], tuple[Expected, Expected]]] = {
    # tool       point      the sidecar died  the agent alone
    ("read", "sent"):       (SENT_AGAIN, RECORD),
    ("read", "late"):       (SENT_AGAIN, RECORD),
    ("read", "lost"):       (SENT_AGAIN, SENT_AGAIN),
    ("read", "head"):       (SENT_AGAIN, RECORD),
    ("read", "unread"):     (RECORD,     RECORD),
    ("put", "sent"):        (SENT_AGAIN, RECORD),
    ("put", "late"):        (SENT_AGAIN, RECORD),
    ("put", "lost"):        (SENT_AGAIN, SENT_AGAIN),
    ("put", "head"):        (SENT_AGAIN, RECORD),
    ("put", "unread"):      (RECORD,     RECORD),
    ("keyed", "sent"):      (SENT_AGAIN, RECORD),
    ("keyed", "late"):      (SENT_AGAIN, RECORD),
    ("keyed", "lost"):      (SENT_AGAIN, SENT_AGAIN),
    ("keyed", "head"):      (SENT_AGAIN, RECORD),
    ("keyed", "unread"):    (RECORD,     RECORD),
    ("probed", "sent"):     (RECORD,     RECORD),
    ("probed", "lost"):     (SENT_AGAIN, SENT_AGAIN),
    ("probed", "head"):     (RECORD,     RECORD),
    ("probed", "unread"):   (RECORD,     RECORD),
    ("unsettled", "late"):  (HELD,       RECORD),
    ("unsettled", "lost"):  (HELD,       HELD),
    ("once", "sent"):       (HELD,       RECORD),
    ("once", "late"):       (HELD,       RECORD),
    ("once", "lost"):       (HELD,       HELD),
    ("once", "head"):       (HELD,       RECORD),
    ("once", "unread"):     (RECORD,     RECORD),
}  # fmt: skip
SETTLED_LATER: Final = {("unsettled", "late")}
"""Held while a "no" proves nothing; then the charge is there, and the probe's "yes" counts."""


@pytest.fixture(
    scope="module",
    params=[pytest.param("sidecar"), pytest.param("agent", marks=pytest.mark.slow), "both"],
)
def victim(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def told(victim: str, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Told]:
    return play(tmp_path_factory.mktemp(victim), victim, TABLE)


@pytest.mark.parametrize("case", TABLE, ids="-".join)
def test_a_call_comes_to_what_the_table_names(
    case: tuple[str, str], victim: str, told: dict[tuple[str, str], Told]
) -> None:
    tool, point = case
    status, decisions, sends = TABLE[case][victim == "agent"]
    got = told[case]
    assert (got.status, got.sends) == (status, sends), got
    assert got.decision in decisions, got
    assert got.keys == 1, "each attempt under the same key, or none"
    is_charged = tool != "read" and (status == 200 or point != "lost")
    assert got.charges == int(is_charged), "money, by the ledger"

    assert got.sends_in_all == sends, "a life later nothing is sent any more"
    if case in SETTLED_LATER:
        assert got.last[0] == 200
    elif status == 200:
        assert got.last == (200, "replayed", got.body), "byte for byte"
    else:
        assert got.last[:2] == (status, "held")
