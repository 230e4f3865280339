"""Each status that the rules name, and those around it."""

import pytest

from coatcheck_sidecar.core.call_events import Ending
from coatcheck_sidecar.core.http_outcome import Profile, ending

PLAIN = Profile()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, Ending.FINAL),
        (204, Ending.FINAL),
        (301, Ending.FINAL),
        (304, Ending.FINAL),
        (399, Ending.FINAL),
        (400, Ending.REJECTED),
        (401, Ending.DENIED),
        (402, Ending.REJECTED),
        (403, Ending.DENIED),
        (404, Ending.REJECTED),
        (407, Ending.DENIED),
        (408, Ending.BUSY),
        (409, Ending.CONFLICT),
        (410, Ending.REJECTED),
        (421, Ending.SHED),
        (422, Ending.REJECTED),
        (425, Ending.SHED),
        (429, Ending.SHED),
        (499, Ending.REJECTED),
        (500, Ending.ERROR),
        (502, Ending.ERROR),
        (503, Ending.BUSY),
        (504, Ending.ERROR),
        (599, Ending.ERROR),
        (101, Ending.ERROR),
        (999, Ending.ERROR),
    ],
)
def test_status(status: int, expected: Ending) -> None:
    assert ending(status, profile=PLAIN) is expected


def test_profile_says_more() -> None:
    sheds, saves = Profile(sheds_by_503=True), Profile(saves_errors=True)
    assert ending(503, profile=sheds, has_retry_after=True) is Ending.SHED
    assert ending(503, profile=sheds) is Ending.BUSY
    assert ending(503, profile=PLAIN, has_retry_after=True) is Ending.BUSY
    assert ending(500, profile=saves) is Ending.ERROR_SAVED
    assert ending(503, profile=saves) is Ending.BUSY


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, Ending.CUT),
        (302, Ending.CUT),
        (404, Ending.CUT),
        (429, Ending.SHED),
        (401, Ending.DENIED),
        (409, Ending.CUT),
        (500, Ending.ERROR),
        (503, Ending.BUSY),
    ],
)
def test_a_cut_body_matters_only_where_it_would_be_kept(status: int, expected: Ending) -> None:
    assert ending(status, profile=PLAIN, is_cut=True) is expected
    assert ending(status, profile=Profile(saves_errors=True), is_cut=True) is expected


@pytest.mark.parametrize("status", [307, 400, 404, 405, 406, 409, 415, 422])
def test_where_tools_answer_in_the_body_a_refusal_is_of_the_message(status: int) -> None:
    assert ending(status, profile=Profile(refuses_first=True)) is Ending.DENIED


def test_what_any_status_says_goes_before_that() -> None:
    profile = Profile(refuses_first=True)
    found = [ending(status, profile=profile) for status in (200, 408, 429, 500)]
    assert found == [Ending.FINAL, Ending.BUSY, Ending.SHED, Ending.ERROR]
