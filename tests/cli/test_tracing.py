"""A span for each call, sent to a real receiver; and nothing at all where nobody asked for it."""

import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from examples.demo.processes import LOOPBACK, environment
from tests.e2e.real_sidecar import real_sidecar
from tests.engine.harness import until

trace_service = pytest.importorskip(
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2",
    reason="the extra `otel` is not installed",
)
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
pytestmark = pytest.mark.timeout(60)


class Receiver:
    """An upstream, and where spans are sent."""

    def __init__(self) -> None:
        self.spans: list[tuple[dict[str, str], object]] = []
        self.headers: list[str] = []
        self.url = ""

    async def traces(self, request: web.Request) -> web.Response:
        told = trace_service.ExportTraceServiceRequest.FromString(await request.read())
        for resource in told.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    said = {pair.key: pair.value.string_value for pair in span.attributes}
                    self.spans.append((said, span))
        return web.Response(content_type="application/x-protobuf")

    async def mail(self, request: web.Request) -> web.Response:
        self.headers.append(request.headers.get("traceparent", ""))
        return web.json_response({"sent": True})


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    found = Receiver()
    app = web.Application()
    app.router.add_post("/v1/traces", found.traces)
    app.router.add_post("/mail/send", found.mail)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, LOOPBACK, 0).start()
    found.url = f"http://{LOOPBACK}:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


async def test_a_call_is_a_span_below_that_of_its_agent(receiver: Receiver, tmp_path: Path) -> None:
    tools = {"mail": {"upstream": f"{receiver.url}/mail", "effect": "once", "private": True}}
    otel = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    parent = f"00-{TRACE}-{PARENT}-01"
    async with real_sidecar(tmp_path / "pod", tools, **otel) as real:
        agent, url = await real.agent("r1")
        async with aiohttp.ClientSession() as http:
            for _ in range(2):
                headers = {"traceparent": parent, "Coatcheck-Key": "k1"}
                async with http.post(f"{url}/mail/send", headers=headers, data=b"{}") as reply:
                    assert reply.status == 200
        await until(lambda: len(receiver.spans) == 2)
        await agent.drop()
    assert receiver.headers == [parent]
    assert [said for said, _ in receiver.spans] == [
        {"coatcheck.tool": "mail", "coatcheck.decision": decision, "coatcheck.effect": "once",
         "coatcheck.run": "r1"}
        for decision in ("sent", "replayed")
    ]  # fmt: skip
    for _, span in receiver.spans:
        assert getattr(span, "trace_id").hex() == TRACE  # noqa: B009 - of a generated class
        assert getattr(span, "parent_span_id").hex() == PARENT  # noqa: B009
        assert getattr(span, "end_time_unix_nano") >= getattr(span, "start_time_unix_nano")  # noqa: B009


def test_nothing_is_imported_unless_it_is_asked_for() -> None:
    asks = (
        "import sys; from coatcheck_sidecar.clock import SystemClock;"
        "from coatcheck_sidecar.tracing import tracing;"
        "assert tracing(SystemClock(), version='1') is None;"
        "assert not [name for name in sys.modules if 'opentelemetry' in name]"
    )
    clean = {k: v for k, v in environment().items() if not k.startswith("OTEL_")}
    subprocess.run([sys.executable, "-c", asks], env=clean, check=True, timeout=30)


def test_a_collector_that_never_answers_holds_up_no_end() -> None:
    """Measured without a bound of our own: 10 s for each 512 spans."""
    lives = (
        "from coatcheck_sidecar.clock import SystemClock;"
        "from coatcheck_sidecar.tracing import tracing;"
        "on_call, flush = tracing(SystemClock(), version='1');"
        "[on_call({'tool': 't', 'seconds': 0.1}) for _ in range(600)];"
        "clock = SystemClock(); began_s = clock.monotonic(); flush();"
        "assert clock.monotonic() - began_s < 2"
    )
    with socket.create_server((LOOPBACK, 0)) as silent:
        url = f"http://{LOOPBACK}:{silent.getsockname()[1]}"
        env = environment() | {"OTEL_EXPORTER_OTLP_ENDPOINT": url}
        subprocess.run([sys.executable, "-c", lives], env=env, check=True, timeout=8)


def test_an_extra_that_is_not_there_is_said_and_stops_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from coatcheck_sidecar import tracing
    from coatcheck_sidecar.clock import SystemClock

    said: list[str] = []
    monkeypatch.setenv(tracing.ENDPOINT, "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    monkeypatch.setattr(
        "coatcheck_sidecar.logs.write", lambda level, event, **_: said.append(event)
    )
    assert tracing.tracing(SystemClock(), version="1") is None
    assert said == ["tracing_off"]
