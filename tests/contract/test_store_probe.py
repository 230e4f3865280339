"""Each way in which a store can fall short is found, and told from an answer that is lost."""

import pytest

from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.ports import Stored, StoreError, StoreRefused, StoreUnfit
from coatcheck_sidecar.stores.memory import MemoryStore
from coatcheck_sidecar.stores.probe import RACERS, ROUNDS_MAX, probe

RACE_REFUSALS = 2 * (RACERS - 1)


class Liar(MemoryStore):
    """Sound until a subclass says otherwise."""

    def __init__(self) -> None:
        super().__init__(now_ms=lambda: 0)
        self.refusals = 0
        self.swaps = 0

    async def swap(self, name: str, data: bytes, *, expected: str | None) -> str:
        self.swaps += 1
        try:
            return await super().swap(name, data, expected=expected)
        except StoreRefused:
            self.refusals += 1
            return await self.on_refusal(name, expected=expected)

    async def on_refusal(self, name: str, *, expected: str | None) -> str:
        raise StoreRefused(name)


class RefusesAll(Liar):
    async def swap(self, name: str, data: bytes, *, expected: str | None) -> str:
        raise StoreRefused(name)


class KeepsSomethingElse(Liar):
    async def get(self, name: str) -> Stored | None:
        stored = await super().get(name)
        return stored and Stored(b"else", stored.tag)


class ReadsOtherTags(Liar):
    async def get(self, name: str) -> Stored | None:
        stored = await super().get(name)
        return stored and Stored(stored.data, f"W/{stored.tag}")


class TakesStaleTags(Liar):
    async def on_refusal(self, name: str, *, expected: str | None) -> str:
        if self.refusals == RACE_REFUSALS + 1:
            return "tag"
        raise StoreRefused(name)


class CreatesTwice(Liar):
    async def on_refusal(self, name: str, *, expected: str | None) -> str:
        if self.refusals > RACE_REFUSALS and expected is None:
            return "tag"
        raise StoreRefused(name)


class ReplacesNothing(Liar):
    async def on_refusal(self, name: str, *, expected: str | None) -> str:
        if expected is not None and await self.get(name) is None:
            return "tag"
        raise StoreRefused(name)


class LosesAnswers(Liar):
    """Of the first `lost` swaps, which happen all the same."""

    def __init__(self, lost: int) -> None:
        super().__init__()
        self.lost = lost

    async def swap(self, name: str, data: bytes, *, expected: str | None) -> str:
        tag = await super().swap(name, data, expected=expected)
        if self.swaps <= self.lost:
            raise StoreError("no answer in time")
        return tag


@pytest.mark.parametrize(
    ("store", "deed"),
    [
        (RefusesAll(), "refused all of 16 creates of one object"),
        (KeepsSomethingElse(), "told one writer that it won and kept something else"),
        (ReadsOtherTags(), "gave one tag to the writer of an object, another to a reader"),
        (TakesStaleTags(), "replaced an object although its tag had changed"),
        (CreatesTwice(), "created an object that was there"),
        (ReplacesNothing(), "replaced an object that was not there"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_liar_is_caught(store: Liar, deed: str) -> None:
    with pytest.raises(StoreUnfit, match=f"^memory:// {deed}$"):
        await probe(store, clock=SystemClock())
    assert await store.list("") == []


async def test_a_race_whose_winner_is_not_known_is_run_again() -> None:
    store = LosesAnswers(lost=1)
    await probe(store, clock=SystemClock())
    assert store.swaps == RACERS + 2 * RACERS + 3
    assert await store.list("") == []


async def test_a_store_that_never_answers_clearly_is_not_called_unfit() -> None:
    store = LosesAnswers(lost=1000)
    with pytest.raises(StoreError, match="no answer in time"):
        await probe(store, clock=SystemClock())
    assert store.swaps == ROUNDS_MAX * RACERS
