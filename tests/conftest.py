from pathlib import Path

import pytest
from hypothesis import settings

# A shared machine stalls for longer than any single example takes.
settings.register_profile("coatcheck", deadline=None)
settings.load_profile("coatcheck")
HERE = Path(__file__).parent
E2E = HERE / "e2e"
LONG = ("sim", "e2e", "deploy")
"""Files of few tests that take long: first, or two workers would end with one of them at work."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if E2E in item.path.parents:
            item.add_marker(pytest.mark.e2e)
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    """Files keep their order, and so do the tests within them."""
    folder = item.path.relative_to(HERE).parts[0]
    return LONG.index(folder) if folder in LONG else len(LONG)
