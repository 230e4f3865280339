"""A trace goes through the proxy as it came, and makes no call another one."""

from coatcheck_sidecar.core.model import Effect
from tests.engine.harness import Yard
from tests.engine.proxying import Far, near, tool_of

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
AGAIN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
STATE = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"


async def test_the_trace_of_a_call_reaches_its_upstream_untouched(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far, effect=Effect.ONCE))
    await at.agent()
    headers = {"traceparent": PARENT, "tracestate": STATE}
    assert (await at.ask("mail/x", headers=headers)).status == 200
    (seen,) = far.seen
    assert (seen.headers["traceparent"], seen.headers["tracestate"]) == (PARENT, STATE)


async def test_another_trace_of_an_equal_call_is_still_that_call(yard: Yard, far: Far) -> None:
    at = await near(yard, tool_of(far, effect=Effect.ONCE))
    await at.agent()
    for parent in (PARENT, AGAIN):
        headers = {"traceparent": parent, "Coatcheck-Key": "k1"}
        assert (await at.ask("mail/x", headers=headers)).status == 200
    assert len(far.seen) == 1
    notes = at.pod.notes.of("exchange")
    assert [note["traceparent"] for note in notes] == [PARENT, AGAIN]
    assert [note["decision"] for note in notes] == ["sent", "replayed"]
    assert {note["effect"] for note in notes} == {"once"}
    assert {note["run"] for note in notes} == {"r1"}
