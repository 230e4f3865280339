"""The way for work that nobody waits for: its places, its order, its rests."""

import asyncio

from coatcheck_sidecar.engine.lane import Lane


def granted(turn: "asyncio.Future[bool]") -> bool:
    return turn.done() and turn.result()


async def test_places_are_granted_in_order_and_given_back() -> None:
    lane = Lane(1)
    first, second, third = lane.enter(), lane.enter(), lane.enter()
    assert [granted(turn) for turn in (first, second, third)] == [True, False, False]
    second.set_result(False)
    lane.leave(after_s=10.0)
    assert granted(third)


async def test_a_place_rests_for_its_share() -> None:
    lane = Lane(1, share=0.2)
    assert granted(lane.enter())
    waiting = lane.enter()
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    lane.leave(after_s=0.01)
    assert not granted(waiting)
    assert await asyncio.wait_for(waiting, 5)
    assert loop.time() - began_s >= 0.04
