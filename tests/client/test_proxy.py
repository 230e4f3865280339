"""Where a run's tools are found over HTTP, and what is known to be under way."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import coatcheck
from coatcheck import sync
from coatcheck._tool import HERE
from coatcheck.http import carried, headers_for
from tests.client.fake import HELLO, LEFT, AwaitClose, Drop, Expect, Fake, Line, Ok, opened

PROXY = "http://127.0.0.1:7070/0123456789abcdef0123456789abcdef"
GO = {"decision": "go", "call": 7, "attempt": 1, "upstream_key": "k-7"}
COMMITTED: list[Line] = [Expect("commit"), Ok({"seq": 5, "step": 2})]
FINISHED: list[Line] = [Expect("finish"), Ok({"seq": 6}), AwaitClose()]
URL = f"{PROXY}/mail/send"


async def test_a_tool_has_a_url_for_the_run(path: Path) -> None:
    run = coatcheck.open_run("r", schema=1)
    with pytest.raises(coatcheck.Unavailable, match="is the run open"):
        run.proxy_url("openai")
    with Fake(path, [*opened(proxy=PROXY), *LEFT]):
        async with run:
            assert run.proxy_url("openai") == f"{PROXY}/openai"


def test_the_url_stays_over_a_break_and_a_new_one_is_taken(path: Path) -> None:
    moved = PROXY.replace("7070", "7171")
    commit = Expect("commit", {"step": 1})
    second = [*HELLO, Expect("open"), Ok({"epoch": 2}), commit, Drop()]
    third = [*HELLO, Expect("open"), Ok({"epoch": 3, "proxy": moved}), *COMMITTED, *LEFT]
    fake = Fake(path, [*opened(proxy=PROXY), commit, Drop()], second, third)
    with fake, sync.open_run("r", schema=1) as run:
        assert run.proxy_url("mail") == f"{PROXY}/mail"
        run.commit({})
        assert run.proxy_url("mail") == f"{moved}/mail"


def test_a_sidecar_without_http_is_named(path: Path) -> None:
    fake = Fake(path, [*opened(), *LEFT])
    is_refused = pytest.raises(coatcheck.Unavailable, match=r"no URL for mail: .* has its sidecar")
    with fake, sync.open_run("r", schema=1) as run, is_refused as caught:
        run.proxy_url("mail")
    assert caught.value.retry == "never"


async def test_the_step_is_known_where_it_is_given(path: Path) -> None:
    async def in_a_task() -> dict[str, str]:
        return headers_for(URL)

    script = [*opened(proxy=PROXY), *COMMITTED, *FINISHED]
    said = []
    with Fake(path, script):
        async with coatcheck.open_run("r", schema=1) as run:
            assert headers_for(URL) == {"Coatcheck-Run": "r"}
            async for step in run.steps():
                said.append(headers_for(URL))
                said.append(await asyncio.to_thread(headers_for, URL))
                async with asyncio.TaskGroup() as group:
                    task = group.create_task(in_a_task())
                said.append(task.result())
                await (step.commit({}) if step.number == 1 else run.finish())
            assert headers_for(URL) == {"Coatcheck-Run": "r"}
    assert headers_for(URL) == {}
    steps = [{"Coatcheck-Run": "r", "Coatcheck-Step": str(number)} for number in (1, 2)]
    assert said == [steps[0]] * 3 + [steps[1]] * 3


def test_a_thread_pool_needs_a_word(path: Path) -> None:
    with Fake(path, [*opened(proxy=PROXY), *LEFT]), ThreadPoolExecutor() as pool:
        with sync.open_run("r", schema=1) as run:
            for _ in run.steps():
                found = pool.submit(headers_for, URL).result()
                assert found == {}
                found = pool.submit(carried(headers_for), URL).result()
                assert found == {"Coatcheck-Run": "r", "Coatcheck-Step": "1"}
                break
            assert headers_for(URL) == {"Coatcheck-Run": "r"}
        assert pool.submit(HERE.get).result() is None


@pytest.mark.parametrize(
    "url",
    [
        "https://api.openai.com/v1/models",
        PROXY.replace("7070", "7071") + "/mail",
        PROXY[:-1] + "0/mail",
        PROXY + "0/mail",
        "http://evil.test/" + PROXY + "/mail",
    ],
)
def test_no_other_host_is_told(path: Path, url: str) -> None:
    with Fake(path, [*opened(proxy=PROXY), *LEFT]), sync.open_run("r", schema=1):
        assert headers_for(url) == {}


def test_a_tool_with_a_key_gives_it_to_what_it_sends(path: Path) -> None:
    def send(invoice: str) -> list[dict[str, str]]:
        return [headers_for(URL), headers_for(URL, method="GET")]

    told: list[Line] = [Expect("call"), Ok(GO), Expect("outcome"), Ok({"seq": 9})]
    run_and_step = {"Coatcheck-Run": "r", "Coatcheck-Step": "1"}
    fake = Fake(path, [*opened(proxy=PROXY), *told, *told, *LEFT])
    with fake, sync.open_run("r", schema=1) as run:
        keyed = run.step.tool(send, key="/invoice")("i")
        assert keyed == [{**run_and_step, "Coatcheck-Key": "k-7"}, run_and_step]
        assert run.step.tool(send)("i") == [run_and_step] * 2
