"""A saga whose sidecars are killed, in small; `python -m tests.e2e.saga` kills at each refund."""

from pathlib import Path

import pytest

from tests.e2e.saga import play


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("honours_keys", "point"), [(True, "applied"), (False, "came"), (False, "applied")]
)
async def test_each_undo_takes_place_once_newest_first(
    tmp_path: Path, honours_keys: bool, point: str
) -> None:
    saga = await play(tmp_path, honours_keys=honours_keys, point=point, kills=2)
    assert saga.faults() == []
    assert len(saga.doubts) == (0 if honours_keys else 2)
