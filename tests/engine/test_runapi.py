"""Runs over HTTP, against the real engine; each answer is held against the document."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import msgpack
import pytest
from aiohttp import web

from coatcheck_sidecar.core.forward import Forward, place
from coatcheck_sidecar.core.tool import Tool
from coatcheck_sidecar.servers.admin import HttpServer
from tests.engine.harness import FAST, Pod, Yard, until
from tests.engine.http_agent import Agent, Http, ProblemError, serving

STATE = {"messages": [{"role": "user", "content": "Grüße \U0001f9e5"}], "cost": 0.25, "n": None}


@pytest.fixture
async def http(pod: Pod, yard: Yard) -> AsyncIterator[Http]:
    async with serving(pod, yard) as made:
        yield made


async def test_a_run_from_its_first_step_to_its_result(http: Http) -> None:
    agent = await Agent.open(http, input={"order": 4711}, queue="mail")
    assert agent.opened["input"] == {"order": 4711}
    assert agent.opened["status"] == "owned"
    assert "state" not in agent.opened
    assert await agent.commit(STATE) == {"seq": 3, "step": 2, "draining": False}
    (summary,) = (await http.get("/v1/runs"))["runs"]
    assert summary == await http.get("/v1/runs/r1")
    assert (summary["run"], summary["queue"], summary["step"]) == ("r1", "mail", 1)
    await agent.ask("finish", result=["paid", 3])
    told = await http.get("/v1/runs/r1/result")
    assert told == {"run": "r1", "status": "finished", "result": ["paid", 3]}
    over = await Agent.open(http)
    assert (over.opened["status"], over.opened["result"]) == ("finished", ["paid", 3])


async def test_a_python_agent_goes_on_with_the_run_and_the_other_way_round(
    http: Http, pod: Pod
) -> None:
    agent = await Agent.open(http, input=[1])
    await agent.commit(STATE)
    await agent.ask("release")
    python = await pod.wire()
    reply = await python.open("r1")
    assert msgpack.unpackb(reply.attachment) == STATE
    assert msgpack.unpackb(reply.body["input"]) == [1]
    state = msgpack.packb({**STATE, "by": "python"})
    await python.commit(state)
    await python.release()
    again = await Agent.open(http)
    assert again.opened["state"] == {**STATE, "by": "python"}
    assert (again.opened["step"], again.opened["input"]) == (3, [1])


async def test_what_json_cannot_hold_travels_as_it_is(http: Http, pod: Pod) -> None:
    for number, value in enumerate([{"pdf": b"%PDF"}, {"id": 2**60}, {1: "x"}, float("nan")]):
        python = await pod.agent(f"b{number}")
        data = msgpack.packb(value)
        await python.commit(data)
        await python.release()
        agent = await Agent.open(http, f"b{number}")
        assert "state" not in agent.opened
        assert base64.b64decode(agent.opened["state_base64"]) == data
        step = {"step": agent.step, "state_base64": agent.opened["state_base64"]}
        await agent.ask("commit", **step)
        await agent.ask("release")
        found = await pod.agent(f"b{number}")
        assert (found.step, await released_state(pod, found)) == (3, data)


async def released_state(pod: Pod, wire: Any) -> bytes:
    keeper = pod.sidecar.keepers[wire.run]
    await wire.release()
    return bytes(keeper.log.checkpoint_bytes)


async def test_a_call_is_made_once_and_replayed_to_the_next_life(http: Http) -> None:
    agent = await Agent.open(http)
    asked: dict[str, Any] = {"key": "4711/1", "arguments": {"cents": 1250, "rate": 1.0}}
    go = await agent.call(**asked)
    assert go["decision"] == "go"
    assert 0 < go["left_s"] <= FAST.lease_s
    assert go["until_boot_s"] > 0
    await agent.outcome(go, result={"id": "ch_1"})
    again = await Agent.open(http, replace=True)
    told = await again.call(**asked)
    assert (told["decision"], told["kind"], told["result"]) == ("replay", "result", {"id": "ch_1"})
    with pytest.raises(ProblemError) as refused:
        await again.call(key="4711/1", arguments={"cents": 1})
    assert (refused.value.status, refused.value.code) == (422, "conflict")
    assert refused.value.headers["x-should-retry"] == "false"


async def test_a_call_of_a_process_that_died_is_in_doubt_until_somebody_decides(
    http: Http,
) -> None:
    agent = await Agent.open(http)
    go = await agent.call(arguments={"cents": 5})
    again = await Agent.open(http, replace=True)
    with pytest.raises(ProblemError) as held:
        await again.call(arguments={"cents": 5})
    assert (held.value.status, held.value.code) == (424, "in_doubt")
    assert held.value.headers["Stripe-Should-Retry"] == "false"
    (doubt,) = (await http.get("/v1/runs/r1/doubts"))["doubts"]
    assert (doubt["call"], doubt["tool"], doubt["summary"]) == (go["call"], "charge", "cents")
    order = {"call": go["call"], "by": "ann", "why": "in Stripe"}
    found = {"verdict": "applied", "value": {"id": "ch_7"}}
    done = await http.post("/v1/runs/r1/resolve", {**order, **found, "id": "ticket-1"})
    assert done == {"id": "ticket-1", "status": "owned"}
    told = await again.call(arguments={"cents": 5})
    assert told["result"] == {"id": "ch_7"}
    with pytest.raises(ProblemError) as late:
        await http.post("/v1/runs/r1/resolve", {**order, "verdict": "not_applied"})
    assert (late.value.status, late.value.code) == (409, "conflict")


async def test_the_upstream_is_asked_what_became_of_a_call(http: Http) -> None:
    agent = await Agent.open(http)
    first = await agent.call(probe=True, settle_s=0)
    again = await Agent.open(http, replace=True)
    told = await again.call(probe=True, settle_s=0)
    assert (told["decision"], told["upstream_key"]) == ("probe", first["upstream_key"])
    at = {"attempt": told["attempt"]}
    told = await again.ask(f"calls/{told['call']}/probed", **at, applied=True, result="done")
    assert (told["decision"], told["result"]) == ("replay", "done")


async def test_a_call_that_failed_is_told_with_its_reason(http: Http) -> None:
    agent = await Agent.open(http)
    go = await agent.call(key="k")
    await agent.outcome(go, kind="not_applied", reason="no route")
    go = await agent.call(key="k")
    assert go["attempt"] == 2
    await agent.outcome(go, kind="failed", reason="reset by peer")
    with pytest.raises(ProblemError) as held:
        await agent.call(key="k")
    assert held.value.code == "in_doubt"
    with pytest.raises(ProblemError) as wrong:
        await agent.outcome(go, kind="failed", result=1)
    assert wrong.value.status == 400


async def test_a_process_that_lost_its_connection_goes_on_where_it_was(http: Http) -> None:
    agent = await Agent.open(http)
    mine = agent.opened["incarnation"]
    await agent.commit({"n": 1})
    go = await agent.call(arguments={})
    resume = {"epoch": agent.opened["epoch"], "calls": {str(go["call"]): "running"}}
    back = await Agent.open(http, incarnation=mine, resume=resume)
    assert (back.step, back.opened["state"]) == (2, {"n": 1})
    assert back.opened["epoch"] == agent.opened["epoch"] + 1
    await back.outcome(go, result="it was made")
    await back.ask("finish", result=None)


async def test_a_sidecar_that_comes_back_knows_no_token(yard: Yard) -> None:
    pod = await yard.pod()
    async with serving(pod, yard) as http:
        agent = await Agent.open(http)
        await agent.commit({"n": 1})
        go = await agent.call(arguments={})
        read = await agent.call("look", "read", arguments={})
    await pod.die()
    pod = await yard.pod("pod1.s2", journal=pod.journal)
    async with serving(pod, yard) as http:
        with pytest.raises(ProblemError) as gone:
            await Agent(http, agent.opened).outcome(go, result=1)
        assert gone.value.code == "unknown_token"
        running = {str(call["call"]): "running" for call in (go, read)}
        resume = {"epoch": agent.opened["epoch"], "calls": running, "answered": []}
        mine = agent.opened["incarnation"]
        back = await Agent.open(http, incarnation=mine, resume=resume)
        assert (back.step, back.opened["state"]) == (2, {"n": 1})
        await back.outcome(go, result="made once")
        assert (await back.call(arguments={}))["result"] == "made once"


async def test_the_answer_to_an_opening_may_be_lost(http: Http, yard: Yard) -> None:
    agent = await Agent.open(http)
    mine = agent.opened["incarnation"]
    again = await Agent.open(http, incarnation=mine)
    assert (await yard.log()).state.crashes == 0
    await again.commit({"n": 1})
    with pytest.raises(ProblemError) as other:
        await Agent.open(http)
    assert (other.value.status, other.value.code) == (409, "conflict")
    assert other.value.headers["Retry-After"] == "1"


async def test_an_agent_that_asks_for_nothing_counts_as_gone(yard: Yard) -> None:
    pod = await yard.pod(settings=replace(FAST, agent_silence_s=0.3, agent_wait_s=60.0))
    async with serving(pod, yard) as http:
        agent, lively = await Agent.open(http), await Agent.open(http, "r2")
        async with asyncio.TaskGroup() as group:
            group.create_task(stay_alive(lively))
            await until(lambda: pod.sidecar.keepers["r1"].agent is None)
        assert pod.sidecar.keepers["r2"].agent is not None
        with pytest.raises(ProblemError) as gone:
            await agent.ask("alive")
        assert (gone.value.status, gone.value.code) == (401, "unknown_token")
        assert gone.value.headers["WWW-Authenticate"] == "Bearer"
        resume = {"epoch": agent.opened["epoch"]}
        mine = agent.opened["incarnation"]
        back = await Agent.open(http, incarnation=mine, resume=resume)
        assert await back.ask("alive") == {"epoch": 2, "step": 1, "draining": False}


async def stay_alive(agent: Agent) -> None:
    for _ in range(8):
        await agent.ask("alive")
        await asyncio.sleep(0.1)


async def test_a_request_under_way_is_a_sign_of_life(yard: Yard) -> None:
    pod = await yard.pod(settings=replace(FAST, agent_silence_s=0.2))
    async with serving(pod, yard) as http:
        agent = await Agent.open(http)
        go = await agent.call(key="slow")
        async with asyncio.TaskGroup() as group:
            joined = group.create_task(agent.call(key="slow"))
            await asyncio.sleep(0.6)
            assert not joined.done()
            await agent.outcome(go, result=1)
        assert (await joined)["result"] == 1


async def test_a_tool_call_through_the_proxy_is_a_sign_of_life(yard: Yard) -> None:
    pod = await yard.pod(settings=replace(FAST, agent_silence_s=0.2))
    async with counting() as upstream:
        model = Tool(name="model", upstream=upstream.url, private=True)
        async with serving(pod, yard, tools=[model]) as http:
            agent = await Agent.open(http)
            assert agent.opened["proxy"] == f"{http.url}/{agent.token}"
            upstream.pause_s = 0.6
            async with http.session.get(f"/{agent.token}/model/think") as answer:
                assert await answer.text() == "1"
            assert (await agent.ask("alive"))["step"] == 1
            await until(lambda: pod.sidecar.keepers["r1"].agent is None)


async def test_tools_that_speak_http_are_replayed_to_the_next_life(pod: Pod, yard: Yard) -> None:
    async with counting() as upstream:
        tool = Tool(name="mail", upstream=f"{upstream.url}/api", private=True)
        forward = Forward(allow=(place("127.0.0.1"),))
        async with serving(pod, yard, tools=[tool], forward=forward) as http:
            agent = await Agent.open(http)
            for life in range(2):
                agent = await Agent.open(http, replace=True)
                sent = [
                    await send(http, f"{agent.opened['proxy']}/mail/send", {"to": "ann"}),
                    # By the forward proxy it is the same call, if the tool has this upstream.
                    await send(http, f"{upstream.url}/api/send", {"to": "bert"}, via=agent.token),
                    await send(http, f"{upstream.url}/other", {"to": "carl"}, via=agent.token),
                ]
                assert [text for text, _ in sent] == ["1", "2", "3"]
                wanted = {"sent"} if life == 0 else {"replayed"}
                assert {decision for _, decision in sent} == wanted
            assert upstream.count == 3
            repeated = await send(http, f"{agent.opened['proxy']}/mail/send", {"to": "bert"})
            assert repeated == ("2", "replayed")
            assert not upstream.secrets


async def send(http: Http, url: str, body: Any, *, via: str = "") -> tuple[str, str]:
    """What came back, and the decision."""
    login = "Basic " + base64.b64encode(f"{via}:".encode()).decode()
    more: dict[str, Any] = {"proxy": http.url, "headers": {"Proxy-Authorization": login}}
    async with http.session.post(url, json=body, **(more if via else {})) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.text(), answer.headers["Coatcheck-Decision"]


@dataclass
class Upstream:
    """Counts what it is asked."""

    url: str = ""
    count: int = 0
    pause_s: float = 0.0
    secrets: list[str] = field(default_factory=list)

    async def answer(self, request: web.BaseRequest) -> web.Response:
        self.count += 1
        self.secrets += [name for name in request.headers if name.lower().startswith("proxy-")]
        await asyncio.sleep(self.pause_s)
        return web.Response(text=str(self.count))


@asynccontextmanager
async def counting() -> AsyncIterator[Upstream]:
    made = Upstream()
    server = HttpServer(made.answer, host="127.0.0.1", port=0)
    await server.start()
    made.url = f"http://127.0.0.1:{server.port}"
    try:
        yield made
    finally:
        await server.close()


async def test_a_run_parks_until_it_is_signalled(http: Http) -> None:
    agent = await Agent.open(http)
    with pytest.raises(ProblemError) as parked:
        await agent.ask("wait", name="approval", payload={"cents": 5})
    assert (parked.value.status, parked.value.code) == (409, "parked")
    order = {"name": "approval", "by": "ann", "value": {"ok": True}}
    assert (await http.post("/v1/runs/r1/signal", order))["status"] == "ready"
    again = await Agent.open(http)
    told = await again.ask("wait", name="approval")
    assert told["value"] == {"ok": True}
    await again.commit({}, signals=[told["signal"]])
    with pytest.raises(ProblemError):
        await again.ask("wait", name="approval")


async def test_the_next_run_of_a_queue(http: Http) -> None:
    for run in ("a", "b"):
        agent = await Agent.open(http, run, queue="mails")
        await agent.ask("release")
    taken = [await http.post("/v1/queues/mails/open", {}) for _ in range(2)]
    assert {opened["run"] for opened in taken} == {"a", "b"}
    with pytest.raises(ProblemError) as none:
        await http.post("/v1/queues/mails/open", {"wait_s": 0.01})
    assert (none.value.status, none.value.code) == (503, "unavailable")


async def test_runs_are_failed_cancelled_held_and_retried(http: Http) -> None:
    agent = await Agent.open(http, "failed")
    await agent.ask("fail", error="no money")
    told = await http.get("/v1/runs/failed/result")
    assert (told["status"], told["error"]) == ("failed", "no money")
    agent = await Agent.open(http, "cancelled")
    done = await http.post("/v1/runs/cancelled/cancel", {"by": "ann", "why": "paid by hand"})
    assert done["status"] == "cancelled"
    with pytest.raises(ProblemError) as fenced:
        await agent.commit({})
    assert (fenced.value.status, fenced.value.code) == (410, "fenced")
    with pytest.raises(ProblemError) as over:
        await agent.ask("alive")
    assert over.value.code == "fenced"
    agent = await Agent.open(http, "held")
    await agent.ask("release", reason="held", error="look at this")
    with pytest.raises(ProblemError) as held:
        await Agent.open(http, "held")
    assert (held.value.status, held.value.code) == (424, "held")
    assert (await http.post("/v1/runs/held/retry", {"by": "ann"}))["status"] == "ready"
    await (await Agent.open(http, "held")).ask("release")


async def test_the_last_state_goes_with_the_result(http: Http, yard: Yard) -> None:
    agent = await Agent.open(http)
    first = await agent.ask("finish", state={"last": True}, result="r")
    assert await agent.ask("finish", state={"last": True}, result="r") == first
    assert (await yard.log()).state.step == 1


async def test_what_happens_to_an_agent_whose_pod_drains(yard: Yard) -> None:
    pod = await yard.pod()
    async with serving(pod, yard) as http:
        agent = await Agent.open(http)
        async with asyncio.TaskGroup() as group:
            pod.sidecar.drain.begin("test", grace_s=6.0)
            drain = group.create_task(pod.sidecar.drain.finish())
            assert (await agent.ask("alive"))["draining"]
            assert (await agent.commit({"n": 1}))["draining"]
            with pytest.raises(ProblemError) as draining:
                await Agent.open(http, "r2")
            assert (draining.value.status, draining.value.code) == (503, "draining")
            await agent.ask("release", reason="draining")
            await drain
    assert (await yard.log()).state.status.value == "ready"


async def test_an_opening_that_nobody_waits_for_any_more_takes_no_run(http: Http, pod: Pod) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await http.post("/v1/queues/later/open", {"wait_s": 30})
    await asyncio.sleep(1.2)  # a connection is looked at each second
    late = await pod.agent("late", queue="later")
    await late.release()
    await asyncio.sleep(0.2)
    assert "late" not in pod.sidecar.keepers


async def test_what_was_observed(pod: Pod, yard: Yard) -> None:
    async with serving(pod, yard, report=lambda: {"lost": 1}) as http:
        assert await http.get("/v1/observe") == {"lost": 1}
    async with serving(pod, yard) as http:
        with pytest.raises(ProblemError) as none:
            await http.get("/v1/observe")
        assert none.value.status == 404
