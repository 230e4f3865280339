"""SDKs as their makers ship them, through the proxy: killed by SIGKILL, resumed, paid for once.

The agents know nothing of coatcheck (`sdk_agents.py`); each life has other API tokens. What was
sold and what was charged is told by the servers themselves.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import boto3
import pytest

from examples.demo.processes import LOOPBACK, Child, free_ports
from examples.demo.scenario import wait_for_http
from tests.e2e.sdk_agents import LINES
from tests.e2e.sdk_world import LONG_S, World, get_json, npm, sdk_agent, until_said
from tests.servers import ministack

pytestmark = pytest.mark.timeout(180)
TURNS = LINES + 1
REFS = [f"inv-{n}" for n in range(LINES)]
RESPONSES = "tests.e2e.responses_model"
SUMMARY = f"done: Charged {LINES} lines, 4.06 in all."


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


async def killed_and_resumed(
    world: World, agent: str, *, model: str, kills: tuple[str, ...] = ("^turn 2$", "^turn 4$")
) -> None:
    """The sidecar lives on: what was under way when the agent died is answered at once."""
    await world.start(model, "pay")
    said = await world.live(sdk_agent(agent), kills=kills)
    assert len(said) == len(kills) + 1, said
    assert SUMMARY in said[-1]
    turns = [line for line in said[-1].splitlines() if line.startswith("turn")]
    assert turns == [f"turn {n}" for n in range(1, TURNS + 1)]
    assert world.charged() == REFS
    assert world.sold(model) == {"completions": TURNS, "distinct": TURNS}


async def test_openai_streaming(world: World) -> None:
    await killed_and_resumed(world, "openai-stream", model="openai", kills=("^turn 3$",))


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["openai-sync", "openai-async"])
async def test_openai(world: World, agent: str) -> None:
    await killed_and_resumed(world, agent, model="openai")


@pytest.mark.slow
async def test_openai_responses_streaming(world: World) -> None:
    """The first kill is in the middle of a stream: the sidecar takes it in to its end."""
    world.openai_server = RESPONSES
    kills = ("^begun 2$", "^turn 4$")
    await killed_and_resumed(world, "responses-stream", model="openai", kills=kills)


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["responses-sync", "responses-async"])
async def test_openai_responses(world: World, agent: str) -> None:
    world.openai_server = RESPONSES
    await killed_and_resumed(world, agent, model="openai")


@pytest.mark.parametrize(
    "agent",
    [
        "anthropic-stream",
        pytest.param("anthropic-sync", marks=pytest.mark.slow),
        pytest.param("anthropic-async", marks=pytest.mark.slow),
    ],
)
async def test_anthropic(world: World, agent: str) -> None:
    await killed_and_resumed(world, agent, model="anthropic")


def judge_cut(world: World, last: str, *, kills: int) -> None:
    """Sidecar and agent died together: a completion that was under way may be bought again."""
    assert SUMMARY in last
    assert world.charged() == REFS
    sold = world.sold("openai")
    assert sold["distinct"] == TURNS
    assert sold["completions"] <= TURNS + kills


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "server"),
    [("openai-sync", "examples.demo.model"), ("responses-stream", RESPONSES)],
)
async def test_a_sidecar_killed_with_its_agent(world: World, name: str, server: str) -> None:
    """Its journal is all that is left. A payment under way is in doubt, and the probe tells."""
    world.openai_server = server
    await world.start("openai", "pay")
    agent = world.agent(sdk_agent(name), life=0, env={})
    await until_said(agent, "^turn 3$")
    world.sidecar.kill()
    agent.kill()
    await world.start_sidecar()
    said = await world.live(sdk_agent(name), kills=[])
    judge_cut(world, said[-1], kills=1)


async def test_curl(world: World, tmp_path: Path) -> None:
    script = tmp_path / "agent.sh"
    script.write_text(
        "set -e\n"
        "for n in 0 1 2 3; do\n"
        '  curl -sSf -H "Authorization: Bearer $PAY_TOKEN" --json "{\\"ref\\": \\"inv-$n\\", '
        '\\"cents\\": 10}" "$COATCHECK_PROXY_URL/pay/charges"\n'
        '  echo; echo "turn $n"\n'
        "done\n"
        "echo done\n"
    )
    await world.start("pay")
    said = await world.live(["bash", str(script)], kills=["^turn 1$", "^turn 2$"])
    assert said[-1].endswith("done\n")
    assert world.charged() == REFS


@pytest.fixture(scope="session")
def stripe_mock(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The command of `stripe-stateful-mock`."""
    folder, why = npm(tmp_path_factory.mktemp("npm"), "stripe-stateful-mock")
    if folder is None:
        pytest.skip(why)
    return f"{folder}/stripe-stateful-mock"


@pytest.mark.timeout(300)
async def test_stripe(world: World, stripe_mock: str) -> None:
    (port,) = free_ports(1)
    url = f"http://{LOOPBACK}:{port}"
    env = {"PORT": str(port), "LOG_LEVEL": "silent"}
    world.children.append(Child([stripe_mock], env=env, log=world.folder / "stripe.log"))
    await wait_for_http(f"{url}/v1/charges")
    key = {"header": "Idempotency-Key", "lifetime_s": 86_400, "saves": ["2xx", "4xx", "5xx"]}
    world.tools = {
        "stripe": {"upstream": url, "effect": "idempotent", "upstream_key": key}
        | {"env": "STRIPE_API_BASE"}
    }
    await world.start()
    said = await world.live(sdk_agent("stripe"), kills=["^turn 2$", "^turn 4$"])
    ids = said[-1].splitlines()[-1].removeprefix("done: ").split()
    assert len(set(ids)) == TURNS
    made = get_json(f"{url}/v1/charges?limit=100", bearer="sk_test_any")["data"]
    assert sorted(charge["id"] for charge in made) == sorted(ids)


async def test_boto3(world: World) -> None:
    with ministack(services="s3,sqs") as aws:
        aws.make_bucket("agents")
        region, keys = aws.env["AWS_REGION"], aws.env["AWS_SECRET_ACCESS_KEY"]
        sqs = boto3.client(
            "sqs",
            endpoint_url=aws.endpoint,
            region_name=region,
            aws_access_key_id=aws.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=keys,
        )
        queue = sqs.create_queue(QueueName="mails")["QueueUrl"]
        common = {"upstream": aws.endpoint}
        world.tools = {
            "s3": {**common, "env": "S3_URL"},
            "sqs": {**common, "effect": "once", "headers": ["x-amz-target"], "env": "SQS_URL"},
        }
        await world.start()
        env = {"QUEUE_URL": queue, "AWS_DEFAULT_REGION": region, "AWS_SECRET_ACCESS_KEY": keys}
        said = await world.live(sdk_agent("boto3"), kills=["^turn 2$", "^turn 4$"], env=env)
        ids = said[-1].splitlines()[-1].removeprefix("done: ").split()
        assert len(set(ids)) == TURNS
        about = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
        assert int(about["ApproximateNumberOfMessages"]) == TURNS


@pytest.mark.slow
async def test_coatcheck_run_serves_an_agent_without_the_sdk(world: World) -> None:
    """`coatcheck run --run`: sidecar and agent together, and again."""
    world.starter = "run"
    await world.start("openai", "pay")
    said = await world.live(sdk_agent("openai-sync"), kills=["^turn 2$", "^turn 4$"])
    judge_cut(world, said[-1], kills=2)


async def test_off_an_agent_is_told_the_upstream_itself(world: World) -> None:
    world.sidecar_env["COATCHECK_MODE"] = "off"
    await world.start()
    ask = "with s.open_run('r', schema=1) as run: print('url', run.proxy_url('openai'))"
    command = [sys.executable, "-c", f"import coatcheck.sync as s\n{ask}"]
    socket = {"COATCHECK_SOCKET": world.sidecar_env["COATCHECK_SOCKET"]}
    child = Child(command, env=socket, log=world.folder / "off.log")
    world.children.append(child)
    assert await asyncio.to_thread(child.wait, LONG_S) == 0, child.last_words()
    assert child.last_words() == f"url {world.tools['openai']['upstream']}\n"
