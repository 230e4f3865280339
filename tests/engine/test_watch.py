import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import msgpack
import pytest

from coatcheck.wire import ErrorCode
from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.core.model import CallClass, Effect, Level
from coatcheck_sidecar.core.policy import Ask
from coatcheck_sidecar.core.session import Refusal
from coatcheck_sidecar.core.tool import Tool
from coatcheck_sidecar.engine.bindings import Binding
from coatcheck_sidecar.engine.exchange import Wanted
from coatcheck_sidecar.engine.passing import Passing
from coatcheck_sidecar.engine.sidecar import Sidecar
from coatcheck_sidecar.engine.watch import Watch
from coatcheck_sidecar.ports import Headers, Lost, NotSent, Outgoing, Upstream, UpstreamAnswer
from tests.engine.harness import Link, Notes, Pod, Yard

UNANSWERED_S = 0.05


def watched(sidecar: Sidecar) -> Watch:
    watch = Watch(SystemClock(), owned=lambda: sidecar.keepers, bypass=lambda: {"192.0.2.1": 1})
    sidecar.mode = "observe"
    sidecar.make_calls = watch.calls
    return watch


@pytest.fixture
async def pod(yard: Yard) -> Pod:
    return await yard.pod()


async def test_an_equal_once_call_goes_at_once_and_is_told_as_doubled(pod: Pod) -> None:
    watch = watched(pod.sidecar)
    agent = await pod.agent()
    for n in range(2):
        go = await agent.call("charge", "once", args={"invoice": 7})
        assert (go.body["decision"], go.body["attempt"]) == ("go", 1)
        assert "until_boot_s" not in go.body
        await agent.outcome(go, result={"id": n})
    hanging = await agent.call("charge", "once", args={"invoice": 8})
    told = watch.told()
    assert (told["lost_steps"], told["never_saved"], told["doubled"]) == (1, 1, 3)
    assert [call["outcome"] for call in told["in_flight"]] == ["doubled"]
    (tool,) = told["tools"]
    assert (tool["calls"], tool["again"], tool["effect"]) == (3, 1, Effect.ONCE)
    await agent.outcome(hanging, result={"id": 2})
    await agent.commit()
    told = watch.told()
    assert (told["lost_steps"], told["doubled"], told["in_flight"]) == (0, 0, ())


async def test_keys_differ_so_that_no_upstream_takes_one_call_for_another(pod: Pod) -> None:
    watched(pod.sidecar)
    agent = await pod.agent()
    keys = [(await agent.call(args={"n": 1})).body["upstream_key"] for _ in range(2)]
    assert len(set(keys)) == 2
    named = [(await agent.call(args={"n": 1}, key="k")).body["upstream_key"] for _ in range(2)]
    assert len(set(named)) == 1


async def test_nothing_is_held_though_the_store_is_away(pod: Pod, yard: Yard) -> None:
    watched(pod.sidecar)
    agent = await pod.agent()
    link = cast("Link", yard.store)
    link.is_away = True
    async with asyncio.timeout(UNANSWERED_S * 20):
        go = await agent.call("charge", "once")
        await agent.outcome(go, "failed")
        again = await agent.call("charge", "once")
        await agent.outcome(again, "not_applied")
    link.is_away = False


async def test_an_agent_that_died_does_its_step_again(pod: Pod) -> None:
    watch = watched(pod.sidecar)
    agent = await pod.agent()
    await agent.outcome(await agent.call("search", "read"), result=1)
    await agent.drop()
    second = await pod.agent()
    await second.outcome(await second.call("search", "read"), result=1)
    told = watch.told()
    assert told["tools"][0]["again"] == 1
    assert told["at_risk"][0]["calls"] == 2
    await second.finish()
    assert watch.told()["runs"] == 0


async def test_a_reconnecting_agent_goes_on(pod: Pod) -> None:
    watched(pod.sidecar)
    agent = await pod.agent()
    go = await agent.call("charge", "once")
    await agent.drop()
    resume = {"epoch": agent.epoch, "calls": {go.body["call"]: "running"}}
    second = await pod.wire(incarnation=agent.incarnation)
    await second.open(agent.run, resume=resume)
    await second.outcome(go, result=1)
    stray = go._replace(body=go.body | {"call": 2**41})
    await second.outcome(stray, result=1)
    assert (await second.call("charge", "once")).body["decision"] == "go"


async def test_hello_tells_the_mode(pod: Pod) -> None:
    pod.sidecar.mode = "off"
    wire = await pod.wire(is_greeted=False)
    assert (await wire.hello()).body["mode"] == "off"


async def test_the_report_goes_to_the_log(pod: Pod) -> None:
    watch = watched(pod.sidecar)
    agent = await pod.agent()
    await agent.call("charge", "once")
    notes = Notes()
    told = watch.tell(notes)
    assert notes.of("observed") == [
        {"bypass": {"192.0.2.1": 1}} | {name: told[name] for name in (
            "observed_s", "calls", "runs", "lost_steps", "never_saved", "doubled",
            "bought_again", "worst_share")}
    ]  # fmt: skip
    assert notes.of("observed_call") == list(told["tools"])


# Over HTTP


@dataclass
class Answer:
    status: int = 200
    headers: Headers = ()
    body: tuple[bytes, ...] = (b"{}",)
    is_cut: bool = False

    async def pieces(self) -> AsyncIterator[bytes]:
        for piece in self.body:
            yield piece
        if self.is_cut:
            raise Lost("reset")


@dataclass
class Scripted:
    """An upstream that does what the test says."""

    does: Callable[[Outgoing], Answer]
    asked: list[Outgoing] = field(default_factory=list)

    @asynccontextmanager
    async def send(self, request: Outgoing) -> AsyncIterator[UpstreamAnswer]:
        self.asked.append(request)
        yield self.does(request)

    async def close(self) -> None: ...


@dataclass
class Reply:
    is_gone: bool = False
    goes_after: int = 99
    status: int = 0
    headers: Headers = ()
    body: bytes = b""
    how: str = ""

    async def start(self, status: int, headers: Headers) -> None:
        self.status, self.headers = status, headers

    async def write(self, data: bytes) -> None:
        self.body += data
        self.goes_after -= 1
        self.is_gone = self.goes_after <= 0

    async def end(self) -> None:
        self.how = "ended"

    def cut(self) -> None:
        self.how = "cut"


def wanted(method: str = "POST", path: str = "/search", **more: Any) -> Wanted:
    ask = Ask(run="r1", step=1, tool="web", call_class=CallClass.ONCE, fingerprint=b"f")
    outgoing = Outgoing(
        method=method, url=f"https://web.example/api{path}", body=b"{}",
        connect_s=1, head_s=1, idle_s=1, **more,
    )  # fmt: skip
    tool = Tool(name="web", upstream="https://web.example/api/")
    return Wanted(tool=tool, ask=ask, outgoing=outgoing, is_recorded=False, level=Level.NODE)


async def bound(pod: Pod) -> Binding:
    await pod.agent()
    keeper = pod.sidecar.keepers["r1"]
    return Binding(keeper, pod.sidecar.make_calls(keeper), b"i" * 16)


def to(upstream: Upstream) -> Callable[[Tool], Upstream]:
    return lambda _: upstream


async def test_requests_pass_and_a_search_comes_out_as_read(pod: Pod) -> None:
    watch = watched(pod.sidecar)
    binding = await bound(pod)
    body = (b'{"items": [{"id": 1}, ', b'{"id": 2}], "total": 2}')
    upstream = Scripted(lambda _: Answer(headers=(("X-A", "1"),), body=body))
    passing = Passing(lambda _: upstream, watch=watch)
    for _ in range(2):
        reply = Reply()
        await passing.perform(binding, wanted(), reply=reply)
        assert (reply.status, reply.body, reply.how) == (200, b"".join(body), "ended")
        assert reply.headers == (("X-A", "1"), ("Coatcheck-Decision", "sent"))
    assert len(upstream.asked) == 2
    (tool,) = watch.told()["tools"]
    assert (tool["pattern"], tool["declared"], tool["effect"]) == ("POST /search", "once", "read")


@pytest.mark.parametrize(
    ("want", "answer", "effect", "record", "key"),
    [
        (wanted("GET", "/x"), Answer(), "read", False, False),
        (wanted("POST", "/chat/completions"), Answer(), "read", True, False),
        (wanted("POST", "/chat/completions"), Answer(429), "once", False, False),
        (wanted("POST", "/invoices"), Answer(201), "once", False, False),
        (wanted("POST", "/search"), Answer(200, (("Location", "/x"),)), "once", False, False),
        (wanted("POST", "/search"), Answer(302, (("Location", "/x"),)), "once", False, False),
        (
            wanted("POST", "/charges", headers=(("Idempotency-Key", "u"),)),
            Answer(),
            "idempotent",
            False,
            True,
        ),
    ],
)
async def test_what_is_suggested(
    pod: Pod, want: Wanted, answer: Answer, effect: str, record: bool, key: bool
) -> None:
    watch = watched(pod.sidecar)
    binding = await bound(pod)
    await Passing(to(Scripted(lambda _: answer)), watch=watch).perform(binding, want, reply=Reply())
    (tool,) = watch.told()["tools"]
    assert (tool["effect"], tool["record"], tool["upstream_key"]) == (effect, record, key)


async def test_a_tool_of_an_mcp_server_is_named_as_it_names_itself(pod: Pod) -> None:
    watch = watched(pod.sidecar)
    binding = await bound(pod)
    base = wanted()
    want = replace(
        base,
        tool=Tool(name="kb", mcp="https://kb.example/mcp"),
        ask=replace(base.ask, tool="list_pages"),
    )
    await Passing(to(Scripted(lambda _: Answer())), watch=watch).perform(
        binding, want, reply=Reply()
    )
    (tool,) = watch.told()["tools"]
    assert (tool["tool"], tool["pattern"], tool["effect"]) == ("kb", "list_pages", "read")


async def test_what_goes_wrong_goes_wrong_as_without_a_proxy(pod: Pod) -> None:
    watch = watched(pod.sidecar)
    binding = await bound(pod)

    def refuse(_: Outgoing) -> Answer:
        raise NotSent("connection refused")

    with pytest.raises(Refusal, match="web did not answer: connection refused") as caught:
        await Passing(to(Scripted(refuse)), watch=watch).perform(binding, wanted(), reply=Reply())
    assert caught.value.code is ErrorCode.UNAVAILABLE
    cut, left = Reply(), Reply(goes_after=1)
    await Passing(to(Scripted(lambda _: Answer(is_cut=True)))).perform(binding, wanted(), reply=cut)
    assert (cut.how, cut.body) == ("cut", b"{}")
    endless = Answer(body=(b"a", b"b"))
    await Passing(to(Scripted(lambda _: endless)), watch=watch).perform(
        binding, wanted(), reply=left
    )
    assert (left.how, left.body) == ("", b"a")
    told = watch.told()
    assert cast("dict[str, Any]", told["tools"][0])["lost"] == 2
    assert told["in_flight"] == ()
    assert msgpack.packb(told["bypass"])
