from collections.abc import AsyncIterator

import pytest

from coatcheck_sidecar.core import ownership
from tests.engine.harness import Pod, Yard, still_serves
from tests.engine.harness import yard as make_yard
from tests.engine.proxying import Far, far_server


@pytest.fixture
async def yard() -> AsyncIterator[Yard]:
    """Pods around one memory store whose link can be cut."""
    async with make_yard() as made:
        yield made


@pytest.fixture
async def pod(yard: Yard) -> AsyncIterator[Pod]:
    """A sidecar that must still serve when the test is over."""
    made = await yard.pod()
    yield made
    await still_serves(made)
    assert not made.notes.of("task_failed")


@pytest.fixture
async def far() -> AsyncIterator[Far]:
    """An upstream that does what its script says."""
    async with far_server() as made:
        yield made


@pytest.fixture(autouse=True)
def _quick_breaker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The breaker's delays in hundredths."""
    monkeypatch.setattr(ownership, "DELAY_BASE_S", 0.05)
