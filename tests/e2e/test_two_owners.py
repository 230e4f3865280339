"""Two rounds of the two owners in each `make test`."""

from pathlib import Path

import pytest

from tests.e2e.two_owners import tell


@pytest.mark.timeout(100)
@pytest.mark.parametrize("seed", [0, 1])
async def test_an_old_owner_that_wakes_up_is_fenced_before_it_charges(
    tmp_path: Path, seed: int
) -> None:
    story = await tell(tmp_path, seed=seed)
    assert story.late == ()
    assert story.faults == ()
