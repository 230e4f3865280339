"""What the run API must not take: other people's tokens, other ways to say it, too much of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from coatcheck_sidecar.servers import agents, runapi
from coatcheck_sidecar.servers.operations import OPERATIONS
from tests.engine.harness import FAST, Pod, Yard, link
from tests.engine.http_agent import Agent, Http, ProblemError, serving

TOKEN = "0" * 32


@pytest.fixture
async def http(pod: Pod, yard: Yard) -> AsyncIterator[Http]:
    async with serving(pod, yard) as made:
        yield made


async def status_of(http: Http, method: str, path: str, **more: Any) -> tuple[int, str]:
    with pytest.raises(ProblemError) as refused:
        await http.ask(method, path, **more)
    return refused.value.status, refused.value.code


def path_of(operation: Any) -> str:
    return str(operation.path.format(run="r1", queue="q", call="3"))


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if o.is_agents], ids=lambda o: o.id)
async def test_each_request_of_an_agent_needs_its_token(http: Http, operation: Any) -> None:
    agent, other = await Agent.open(http), await Agent.open(http, "r2")
    body = minimal(operation)
    for headers in (
        {},
        {"Authorization": f"Bearer {TOKEN}"},
        {"Authorization": agent.token},
        {"Authorization": f"Basic {agent.token}"},
        {"Authorization": f"Bearer {other.token}"},
        {"Coatcheck-Token": other.token},
        {"Coatcheck-Token": agent.token, "Authorization": f"Bearer {other.token}"},
        {"Coatcheck-Token": ""},
    ):
        found = await status_of(http, "POST", path_of(operation), body=body, headers=headers)
        assert found == (401, "unknown_token")
    headers = {"Coatcheck-Token": agent.token, "Authorization": f"bearer {agent.token}"}
    assert await http.post("/v1/runs/r1/alive", {}, headers=headers)


def minimal(operation: Any) -> dict[str, Any]:
    kinds = {"integer": 1, "number": 1.5, "string": "x", "boolean": True}
    fields = operation.fields
    return {
        name: fields[name].get("enum", [kinds[fields[name]["type"]]])[0]
        for name in operation.takes.get("required", ())
    }


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"step": 1, "stat": 1}, "no field 'stat'"),
        ({"step": "1", "state": 0}, "not of type integer"),
        ({"step": True, "state": 0}, "not of type integer"),
        ({"step": -1, "state": 0}, "out of its range"),
        ({"state": 0}, "'step' is missing"),
        ({"step": 1}, "'state' is missing"),
        ({"step": 1, "state": 0, "state_base64": "wA=="}, "one of them"),
        ({"step": 1, "state_base64": "?"}, "no base64 of msgpack"),
        ({"step": 1, "state_base64": 7}, "not of type string"),
        ({"step": 1, "state_base64": "wQ=="}, "no base64 of msgpack"),
        ({"step": 1, "state": 0, "level": "moon"}, "not one of"),
        ({"step": 1, "state": 0, "signals": [1, "2"]}, "signals'[1]"),
        ([], "not of type object"),
        (None, "not of type object"),
    ],
)
async def test_a_wrong_body_is_told_what_is_wrong_with_it(http: Http, body: Any, says: str) -> None:
    agent = await Agent.open(http)
    headers = {"Coatcheck-Token": agent.token, "Content-Type": "application/json"}
    with pytest.raises(ProblemError, match=r"^400 protocol_error") as refused:
        await http.post("/v1/runs/r1/commit", data=json.dumps(body), headers=headers)
    assert says in refused.value.detail


@pytest.mark.parametrize(
    "data",
    [
        b"{", b'{"step": 1, "step": 2}', b'{"step": NaN}',
        b'{"step": 1, "state": 12345678901234567}',
        b'{"step": 1, "state": "\\ud800"}', b"\xff", b"[" * 100_000,
        b'{"step": 1, "state": ' + b"[" * 2_000 + b"]" * 2_000 + b"}",
    ],
    ids=["cut", "twice", "nan", "long", "surrogate", "no utf-8", "deep", "deep state"],
)  # fmt: skip
async def test_what_is_no_json_or_would_not_come_back_as_it_was(http: Http, data: bytes) -> None:
    agent = await Agent.open(http)
    headers = {"Coatcheck-Token": agent.token, "Content-Type": "application/json"}
    path = "/v1/runs/r1/commit"
    assert await status_of(http, "POST", path, data=data, headers=headers) == (
        400, "protocol_error",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"incarnation": "xyz"}, "must match"),
        ({"queue": "a/b"}, "must match"),
        ({"resume": {"calls": {}}}, "'epoch' is missing"),
        ({"resume": {"epoch": 1, "calls": {"one": "done"}}}, "no call"),
        ({"resume": {"epoch": 1, "calls": {"1": "dead"}}}, "not one of"),
        ({"wait_s": -1}, "out of its range"),
        ({"address": "x" * 5_000}, "5000 of 4096 characters"),
    ],
)
async def test_a_wrong_opening(http: Http, body: Any, says: str) -> None:
    with pytest.raises(ProblemError, match=r"^400 protocol_error") as refused:
        await http.post("/v1/runs/r1/open", body)
    assert says in refused.value.detail


@pytest.mark.parametrize(
    "path",
    [
        "/v1", "/v1/", "/v1/runs/", "/v1//runs", "//v1/runs", "/v1/runs/r1/", "/v1/runs/%72%31",
        "/v1/runs/..%2fr1", "/v1/./runs", "/v1/runs/../runs", "/v1/runs?x=1",
        "/v1/runs/r1/calls/-1", "/v1/runs/r1/calls/1e3/outcome", "/v1/runs/r1%00", "/V1/runs",
        "/v1/runs;a=b", "/v1/runs/a b", "http://127.0.0.1/v1/runs",
        "http://169.254.169.254/v1/runs", "*", "/v1/runs/r1/open/commit",
        "/v1/runs/" + "x" * 129, "/v1/runs/r\u00e4",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_no_path_is_made_fit(http: Http, method: str, path: str) -> None:
    head, _body = await raw(http, f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert head[:3] in (b"404", b"400", b"403")


async def raw(http: Http, request: bytes) -> tuple[bytes, bytes]:
    """Status line from its status on, and what follows, of a request that no library would send."""
    url = http.session._base_url
    assert url is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", url.port)
    writer.write(request)
    try:
        async with asyncio.timeout(5):
            line = await reader.readline()
            rest = await reader.read(65_536)
    finally:
        writer.close()
        await writer.wait_closed()
    return line.partition(b" ")[2], rest


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get"])
async def test_one_method_each(http: Http, method: str) -> None:
    headers = "Host: localhost\r\nX-HTTP-Method-Override: POST\r\nContent-Length: 0\r\n"
    request = f"{method} /v1/runs/r1/open HTTP/1.1\r\n{headers}\r\n"
    head, _ = await raw(http, request.encode())
    assert head[:3] in (b"405", b"400")
    with pytest.raises(ProblemError) as refused:
        await http.get("/v1/runs/r1/open")
    assert (refused.value.status, refused.value.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
        b"Transfer-Encoding: chunked, identity\r\n\r\n{}",
        b"Content-Length: +2\r\n\r\n{}",
        b"Content-Length : 2\r\n\r\n{}",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"X: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
        b"X: \x00\r\n\r\n",
    ],
)
async def test_no_request_hides_in_another(http: Http, pod: Pod, headers: bytes) -> None:
    hidden = b"POST /v1/runs/hidden/open HTTP/1.1\r\nHost: localhost\r\n\r\n"
    start = (
        b"POST /v1/runs/r1/alive HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    )
    head, rest = await raw(http, start + headers + hidden)
    assert head[:3] in (b"400", b"401")
    assert "hidden" not in pod.sidecar.keepers or b"200 OK" not in rest


async def test_pages_from_elsewhere_get_nothing(http: Http, pod: Pod) -> None:
    for headers in (
        {"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Origin": "null"},
    ):  # fmt: skip
        assert await status_of(http, "GET", "/v1/runs", headers=headers) == (403, "forbidden")
        path = "/v1/runs/r1/open"
        assert (await status_of(http, "POST", path, body={}, headers=headers))[0] == 403
    head, _ = await raw(http, b"GET /v1/runs HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n")
    assert head[:3] in (b"400", b"403")
    # What a form can send without asking first.
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        path, headers = "/v1/runs/r1/open", {"Content-Type": kind}
        found = await status_of(http, "POST", path, data=b"{}", headers=headers)
        assert found == (415, "protocol_error")
    assert not pod.sidecar.keepers


async def test_bodies_have_limits(http: Http) -> None:
    agent = await Agent.open(http)
    headers = {"Coatcheck-Token": agent.token, "Content-Type": "application/json"}
    big = b'"%s"' % (b"x" * runapi.PLAIN_BYTES_MAX)

    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"reason": '
        yield big
        yield b"}"

    for data in (big, pieces()):
        path = "/v1/runs/r1/release"
        with pytest.raises(ProblemError) as refused:
            await http.post(path, data=data, headers=headers)
        assert (refused.value.status, refused.value.code) == (413, "too_large")
        assert refused.value.body["limit"] == runapi.PLAIN_BYTES_MAX
    packed = {**headers, "Content-Encoding": "gzip"}
    found = await status_of(http, "POST", "/v1/runs/r1/release", data=big, headers=packed)
    assert found[0] in (400, 415)
    with pytest.raises(ProblemError) as refused:
        await agent.call(arguments={"x": "x" * runapi.VALUE_BYTES_MAX})
    assert refused.value.status == 413
    with pytest.raises(ProblemError) as refused:
        await http.post("/v1/runs/r2/open", {"input": "x" * 1_000_001})
    assert (refused.value.status, refused.value.code) == (413, "too_large")
    body = b"GET /v1/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"
    assert (await raw(http, body))[0].startswith(b"400")


async def test_there_is_a_limit_to_agents(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "AGENTS_MAX", 2)
    first, _ = await Agent.open(http), await Agent.open(http, "r2")
    assert await status_of(http, "POST", "/v1/runs/r3/open", body={}) == (503, "unavailable")
    await first.ask("finish")
    await Agent.open(http, "r3")


async def test_a_state_has_the_limit_of_states(yard: Yard) -> None:
    pod = await yard.pod(settings=replace(FAST, state_bytes_max=1 << 20))
    async with serving(pod, yard) as http:
        agent = await Agent.open(http)
        with pytest.raises(ProblemError) as refused:
            await agent.commit("x" * ((1 << 20) + 1))
        assert (refused.value.status, refused.value.body["limit"]) == (413, 1 << 20)
        state = ["y" * (1 << 19)]
        await agent.commit(state)
        again = await Agent.open(http, replace=True)
        assert again.opened["state"] == state


async def test_a_body_must_come_in_time(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runapi, "BODY_S", 0.1)
    start = b"POST /v1/runs/r1/open HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\n{"
    head, rest = await raw(http, start)
    assert head.startswith(b"408")
    assert b"Connection: close" in rest


async def test_where_uids_are_checked_the_port_is_no_way_around(pod: Pod, yard: Yard) -> None:
    async with serving(pod, yard, is_for_agents=False) as http:
        assert await status_of(http, "POST", "/v1/runs/r1/open", body={}) == (403, "forbidden")
        order = {"by": "ann"}
        assert (await status_of(http, "POST", "/v1/runs/r1/cancel", body=order))[0] == 403
        assert await http.get("/v1/runs") == {"runs": []}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("resolve", {"call": 1, "verdict": "applied"}, 400),
        ("resolve", {"call": 1, "verdict": "maybe", "by": "x"}, 400),
        ("signal", {"name": "n", "by": "x", "id": "../../owners/x"}, 400),
        ("signal", {"name": "n" * 2_000, "by": "x"}, 400),
        ("cancel", {"by": "x", "timeout_s": 1e9}, 400),
        ("cancel", {"by": "x"}, 404),
        ("retry", {"by": "x"}, 404),
        ("result", None, 404),
        ("doubts", None, 404),
    ],
)
async def test_wrong_orders(http: Http, path: str, body: Any, status: int) -> None:
    method = "GET" if body is None else "POST"
    assert (await status_of(http, method, f"/v1/runs/none/{path}", body=body))[0] == status


async def test_a_store_that_is_away_is_said_so(http: Http, yard: Yard) -> None:
    await Agent.open(http)
    link(yard).is_away = True
    found = await status_of(http, "GET", "/v1/runs/r1/result")
    assert found == (503, "store_unavailable")
    link(yard).is_away = False


async def test_a_fault_of_ours_is_an_answer_too(
    pod: Pod, http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(pod.sidecar, "keepers", None)
        assert await status_of(http, "GET", "/v1/runs") == (500, "unavailable")
    assert pod.notes.of("task_failed")
    pod.notes.all.clear()


async def test_a_call_that_was_taken_back_by_hand_counts_no_more(http: Http) -> None:
    agent = await Agent.open(http)
    go = await agent.call(arguments={"cents": 5})
    await agent.outcome(go, result={"id": "ch_1"})
    order = {"call": go["call"], "by": "ann", "why": "refunded", "verdict": "compensate"}
    assert (await http.post("/v1/runs/r1/resolve", order))["status"] == "owned"
    again = await Agent.open(http, replace=True)
    with pytest.raises(ProblemError) as refused:
        await again.call(arguments={"cents": 5})
    assert (refused.value.status, refused.value.code) == (424, "held")
    assert refused.value.body["reason"] == "compensated"
