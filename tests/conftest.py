from pathlib import Path

import pytest
from hypothesis import settings

# A shared machine stalls for longer than any single example takes.
settings.register_profile("coatcheck", deadline=None)
settings.load_profile("coatcheck")
E2E = Path(__file__).parent / "e2e"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if E2E in item.path.parents:
            item.add_marker(pytest.mark.e2e)
