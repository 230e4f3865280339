"""Does the store keep its word? Asked at start, before anything relies on its conditions.

Some look-alikes of S3 ignore the condition of a PUT, some check it without a lock. Only a race
shows the second kind: asked one after another it answers as it should.
"""

import asyncio
import contextlib
from typing import Final

from coatcheck_sidecar.ports import Clock, Store, StoreError, StoreRefused, StoreUnfit

RACERS: Final = 16
"""With this many at once, a store that checks without a lock let two win in every race."""

ROUNDS_MAX: Final = 3
"""A race may stay open when answers are lost or the store limits writes; then another is run."""


async def probe(store: Store, *, clock: Clock) -> None:
    """Race creates, race swaps, then try what must be refused. Leaves nothing behind.

    Raises `StoreUnfit` if a condition did not hold, and `StoreError` if the store can't be
    reached or did not answer clearly enough to tell.
    """
    await store.get(_new_name(clock))
    for round_left in reversed(range(ROUNDS_MAX)):
        name = _new_name(clock)
        try:
            await _try_once(store, name, clock=clock)
        except StoreError:
            if round_left == 0:
                raise
        else:
            return
        finally:
            with contextlib.suppress(StoreError):
                await store.delete(name)


def _new_name(clock: Clock) -> str:
    return f"probe/{clock.random_bytes(8).hex()}"


async def _try_once(store: Store, name: str, *, clock: Clock) -> None:
    created = await _race(store, name, expected=None, clock=clock)
    swapped = await _race(store, name, expected=created, clock=clock)
    for expected, deed in (
        (created, "replaced an object although its tag had changed"),
        (None, "created an object that was there"),
    ):
        await _must_refuse(store, name, expected=expected, deed=deed)
    await store.delete(name)
    deed = "replaced an object that was not there"
    await _must_refuse(store, name, expected=swapped, deed=deed)


async def _race(store: Store, name: str, *, expected: str | None, clock: Clock) -> str:
    """The winner's tag."""
    bodies = [clock.random_bytes(16) for _ in range(RACERS)]
    answers = await asyncio.gather(
        *(store.swap(name, body, expected=expected) for body in bodies), return_exceptions=True
    )
    winners = {tag: body for tag, body in zip(answers, bodies, strict=True) if isinstance(tag, str)}
    wins = sum(isinstance(answer, str) for answer in answers)
    unclear = None
    for answer in answers:
        if isinstance(answer, StoreError):
            unclear = answer
        elif isinstance(answer, BaseException) and not isinstance(answer, StoreRefused):
            raise answer
    verb = "creates" if expected is None else "swaps"
    if wins > 1:
        deed = f"let {wins} of {RACERS} {verb} of one object win: it can't fence (If-Match and "
        raise StoreUnfit(store.url, deed + "If-None-Match are ignored, or checked without a lock)")
    if not winners and unclear is not None:
        raise unclear
    if not winners:
        raise StoreUnfit(store.url, f"refused all of {RACERS} {verb} of one object")
    [(tag, body)] = winners.items()
    await _must_hold(store, name, tag=tag, body=body)
    return tag


async def _must_hold(store: Store, name: str, *, tag: str, body: bytes) -> None:
    stored = await store.get(name)
    if stored is None or stored.data != body:
        raise StoreUnfit(store.url, "told one writer that it won and kept something else")
    if stored.tag != tag:
        raise StoreUnfit(store.url, "gave one tag to the writer of an object, another to a reader")


async def _must_refuse(store: Store, name: str, *, expected: str | None, deed: str) -> None:
    with contextlib.suppress(StoreRefused):
        await store.swap(name, b"", expected=expected)
        raise StoreUnfit(store.url, deed)
