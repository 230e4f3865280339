"""Two rounds of the two owners in each `make test`, at once."""

import asyncio
from pathlib import Path

import pytest

from tests.e2e.two_owners import tell


@pytest.mark.timeout(100)
async def test_an_old_owner_that_wakes_up_is_fenced_before_it_charges(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    stories = await asyncio.gather(*(tell(f, seed=seed) for seed, f in enumerate(folders)))
    assert [story.late for story in stories] == [(), ()]
    assert [story.faults for story in stories] == [(), ()]
