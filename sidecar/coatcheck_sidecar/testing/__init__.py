"""For agents' own unit tests: a sidecar in this process, and agents that are killed everywhere.

A sidecar for the length of a block, over stores in memory; agents find it by `COATCHECK_SOCKET`:

    from coatcheck_sidecar import testing

    async def test_the_refund_waits_for_approval():
        with testing.sidecar() as s:
            await agent("refund-4711")                       # runs until it parks
            s.signal("refund-4711", "approval", True)
            await agent("refund-4711")
            assert (await coatcheck.result("refund-4711")).result == "refunded"

And the question that no other test answers: what if the pod dies *here*?

    def test_nobody_is_charged_twice():
        async def agent(effects):
            @coatcheck.tool(effect="once")
            async def charge(invoice):
                effects.add("charge", invoice)               # what can't be undone
                return "ok"

            async with coatcheck.open_run(schema=1) as run:
                async for step in run.steps():
                    await step.tool(charge)("4711")
                    await run.finish("done")

        def look(doubt, effects):                            # what an operator would do
            is_charged = effects.count("charge", "4711")
            return testing.Applied("ok") if is_charged else testing.NOT_APPLIED

        report = testing.kill_everywhere(agent, resolve=look)
        assert report.is_safe, report
"""

from coatcheck_sidecar.testing.local import Doubt, LocalSidecar, sidecar
from coatcheck_sidecar.testing.nursery import Effects
from coatcheck_sidecar.testing.trials import (
    NOT_APPLIED,
    Applied,
    Miscount,
    NotApplied,
    Report,
    kill_everywhere,
)

__all__ = [
    "NOT_APPLIED",
    "Applied",
    "Doubt",
    "Effects",
    "LocalSidecar",
    "Miscount",
    "NotApplied",
    "Report",
    "kill_everywhere",
    "sidecar",
]
