import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from coatcheck_sidecar.cli.group import cli
from coatcheck_sidecar.config_fields import FORWARD, KEY, PRICE, PROBE, TOOL, UNDO
from coatcheck_sidecar.core.completions import Price
from coatcheck_sidecar.core.forward import Forward, Place
from coatcheck_sidecar.core.model import CallClass, Effect, Level
from coatcheck_sidecar.core.policy import Identity
from coatcheck_sidecar.core.tool import HttpProbe, HttpUndo, Tool, UpstreamKey
from coatcheck_sidecar.engine.settings import Settings
from tests.cli.settings import load, mistakes, tool

EXAMPLE = """
tools:
  openai:   {upstream: https://api.openai.com/v1, effect: read, record: true}
  stripe:   {upstream: https://api.stripe.com, effect: idempotent, upstream_key: {header: Idempotency-Key, lifetime_s: 86400, saves: [2xx, 4xx, 5xx]}}
  mail:     {upstream: https://mail.internal, effect: once, probe_settle_s: 30, probe: {method: GET, path: "/sent?ref={key}", applied_when: "/items/0", credentials: env:MAIL_TOKEN}}
  search:   {mcp: https://tools.internal/mcp, trust_hints: true}
"""  # noqa: E501 - as users write it


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    tools = load(tmp_path, EXAMPLE).tools
    openai = tools["openai"]
    assert openai.record
    effects = {name: openai.effect_of("POST", f"/{name}") for name in ("responses", "files")}
    assert effects == {"responses": Effect.READ, "files": Effect.ONCE}
    assert openai.effect_of("DELETE", "/files/f1") is Effect.IDEMPOTENT
    assert tools["stripe"].upstream_key == UpstreamKey(saves=frozenset({"2xx", "4xx", "5xx"}))
    assert tools["stripe"].class_of(tools["stripe"].effect_of("POST", "/")) is CallClass.KEYED
    assert tools["stripe"].profile.saves_errors
    assert tools["mail"].probe == HttpProbe(
        path="/sent?ref={key}", applied_when="/items/0", credentials="env:MAIL_TOKEN"
    )
    assert tools["mail"].probe_settle_s == 30
    assert tools["mail"].class_of(tools["mail"].effect_of("POST", "/")) is CallClass.PROBED
    assert tools["search"] == Tool(
        name="search", mcp="https://tools.internal/mcp", trust_hints=True
    )


def test_the_environment_says_the_same_and_goes_before_the_file(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "tools: {mail: {upstream: https://a, effect: read, env: [A]}}",
        COATCHECK_TOOLS__MAIL__EFFECT="once",
        COATCHECK_TOOLS__MAIL__ENV="MAIL_URL, MAIL_BASE",
        COATCHECK_TOOLS__MAIL__PROBE__PATH="/sent?ref={key}",
        COATCHECK_TOOLS__MAIL__PROBE__APPLIED_WHEN="",
        COATCHECK_TOOLS__MAIL__PROBE_SETTLE_S="30",
        COATCHECK_TOOLS__MY_SERVICE_A__UPSTREAM="https://b",
        COATCHECK_TOOLS__MY_SERVICE_A__EFFECTS='{"POST /v1.0/find": "read"}',
        COATCHECK_TOOLS__MY_SERVICE_A__PRIVATE="true",
        COATCHECK_PRICES='{"gpt-4.1": {"input": 2, "output": 8}}',
        COATCHECK_FORWARD__ALLOW="[::1]:80,example.com",
    )
    mail, other = config.tools["mail"], config.tools["my_service_a"]
    assert mail.effect is Effect.ONCE
    assert mail.env == ("MAIL_URL", "MAIL_BASE")
    assert mail.probe == HttpProbe(path="/sent?ref={key}", applied_when="")
    assert mail.probe_settle_s == 30
    assert other.effect_of("POST", "/v1.0/find") is Effect.READ
    assert other.private
    assert config.prices == {"gpt-4.1": Price(input=2, output=8)}
    assert config.forward == Forward(allow=(Place("::1", 80), Place("example.com")))


def test_nothing_said_is_nothing_there(tmp_path: Path) -> None:
    for text in ("", "tools:\nprices:\nforward:\n", "tools: {}\nforward: {}", "forward: off"):
        config = load(tmp_path, text)
        assert (config.tools, config.prices, config.forward) == ({}, {}, None)
    assert load(tmp_path, "forward: {allow: [], connect: []}").forward is None


FULL = """
tools:
  full:
    upstream: https://api.example.com/base/
    effect: idempotent
    effects: {"POST /search*": read, "* /pay": once}
    record: true
    upstream_key: {header: X-Key, prefix: "k-", lifetime_s: 3600, saves: [2xx]}
    probe: {method: POST, path: "/p/{business}", applied_when: /a, result: /b,
            credentials: "file:/run/secrets/x", header: X-Auth}
    probe_settle_s: 0
    key: /invoice_id
    show: [/amount]
    identity: positional
    repeats: true
    unresolved_ok: true
    trust_key: true
    durability: remote
    account: acme
    headers: [X-Tenant]
    ignore: [/metadata/at]
    redact: ["", "/card~1number"]
    recorded_headers: [X-Total, ETag]
    sheds_by_503: true
    concurrency: 4
    queue_max: 0
    connect_s: 1
    head_s: 2
    idle_s: 3
    patience_s: 0
    request_bytes_max: 2048
    record_bytes_max: 4096
    env: [EXAMPLE_URL]
    private: true
    ca_file: /etc/ca.pem
  server: {mcp: "https://example.com/mcp?tenant=1", trust_hints: false}
"""
FULL_TOOL = Tool(
    name="full",
    upstream="https://api.example.com/base",
    effect=Effect.IDEMPOTENT,
    effects={"POST /search*": Effect.READ, "* /pay": Effect.ONCE},
    record=True,
    upstream_key=UpstreamKey(
        header="X-Key", prefix="k-", lifetime_s=3600, saves=frozenset({"2xx"})
    ),
    probe=HttpProbe(
        method="POST",
        path="/p/{business}",
        applied_when="/a",
        result="/b",
        credentials="file:/run/secrets/x",
        header="X-Auth",
    ),
    probe_settle_s=0,
    key="/invoice_id",
    show=("/amount",),
    identity=Identity.POSITIONAL,
    repeats=True,
    unresolved_ok=True,
    trust_key=True,
    durability=Level.REMOTE,
    account="acme",
    headers=frozenset({"x-tenant"}),
    ignore=("/metadata/at",),
    redact=("", "/card~1number"),
    recorded_headers=frozenset({"x-total", "etag"}),
    sheds_by_503=True,
    concurrency=4,
    queue_max=0,
    connect_s=1,
    head_s=2,
    idle_s=3,
    patience_s=0,
    request_bytes_max=2048,
    record_bytes_max=4096,
    env=("EXAMPLE_URL",),
    private=True,
    ca_file="/etc/ca.pem",
)


def test_every_setting_of_a_tool(tmp_path: Path) -> None:
    found = load(tmp_path, FULL).tools
    assert found["server"].mcp == "https://example.com/mcp?tenant=1"
    assert found["full"] == FULL_TOOL


@pytest.mark.parametrize(
    ("made", "table"),
    [
        (Tool, TOOL),
        (UpstreamKey, KEY),
        (HttpProbe, PROBE),
        (Price, PRICE),
        (Forward, FORWARD),
    ],
)
def test_every_field_can_be_set_and_has_help(
    made: type[Tool], table: dict[str, tuple[object, str]]
) -> None:
    assert {f.name for f in fields(made)} - {"name"} == set(table)
    assert all(help for _, help in table.values())


def test_tunnels_are_for_tls_where_no_port_is_said(tmp_path: Path) -> None:
    forward = load(tmp_path, "forward: {connect: [a.example, 'b.example:8443']}").forward
    assert forward == Forward(connect=(Place("a.example", 443), Place("b.example", 8443)))


def test_model_apis_are_read_and_recorded_where_nothing_is_said(tmp_path: Path) -> None:
    openai = tool(tmp_path, "upstream: https://api.openai.com/v1")
    assert openai.record
    for path in ("/chat/completions", "/responses", "/embeddings", "/moderations"):
        assert openai.effect_of("POST", path) is Effect.READ
    for path in ("/files", "/fine_tuning/jobs", "/threads/t/messages", "/responses/r/cancel"):
        assert openai.effect_of("POST", path) is Effect.ONCE
    anthropic = tool(tmp_path, "upstream: https://API.anthropic.com")
    assert anthropic.effect_of("POST", "/v1/messages") is Effect.READ
    assert anthropic.effect_of("POST", "/v1/messages/batches") is Effect.ONCE
    gemini = tool(tmp_path, "upstream: https://generativelanguage.googleapis.com")
    path = "/v1beta/models/gemini-2.5-pro:streamGenerateContent"
    assert gemini.effect_of("POST", path) is Effect.READ
    assert not tool(tmp_path, "upstream: https://api.openai.com.evil.example").record


def test_what_is_said_goes_before_what_is_known(tmp_path: Path) -> None:
    once = tool(tmp_path, "upstream: https://api.openai.com/v1, effect: once")
    assert once.effect_of("POST", "/responses") is Effect.ONCE
    assert not once.record
    passed = tool(tmp_path, "upstream: https://api.openai.com/v1, effect: read, record: false")
    assert not passed.record
    assert tool(tmp_path, "upstream: https://api.openai.com/v1, effect: read").record
    own = tool(tmp_path, 'upstream: https://api.openai.com, effects: {"POST */responses": once}')
    assert own.effect_of("POST", "/v1/responses") is Effect.ONCE
    assert own.effect_of("POST", "/v1/embeddings") is Effect.READ


def test_stripe_honours_keys(tmp_path: Path) -> None:
    stripe = tool(tmp_path, "upstream: https://api.stripe.com, effect: idempotent")
    assert stripe.upstream_key is not None
    assert stripe.profile.saves_errors
    bare = tool(tmp_path, "upstream: https://api.stripe.com")
    assert bare.class_of(bare.effect_of("POST", "/v1/charges")) is CallClass.KEYED
    once = tool(tmp_path, "upstream: https://api.stripe.com, effect: once")
    assert once.class_of(once.effect_of("POST", "/v1/charges")) is CallClass.ONCE


def test_maps_in_the_environment_are_json(tmp_path: Path) -> None:
    both = {"a": {"upstream": "https://a"}, "b": {"mcp": "https://b", "env": ["B"]}}
    config = load(tmp_path, COATCHECK_TOOLS=json.dumps(both))
    assert set(config.tools) == {"a", "b"}
    (mistake,) = mistakes(tmp_path, COATCHECK_TOOLS="{a")
    assert mistake.key == "COATCHECK_TOOLS"


def test_modes(tmp_path: Path) -> None:
    assert load(tmp_path, "mode: off").mode == "off"
    assert load(tmp_path, "mode: observe").mode == "observe"
    assert load(tmp_path, COATCHECK_MODE="off").mode == "off"


def test_help_shows_every_setting_of_the_maps() -> None:
    shown = CliRunner().invoke(cli, ["sidecar", "--help-file"])
    assert shown.exit_code == 0
    for table in (TOOL, KEY, PROBE, UNDO, PRICE, FORWARD):
        for name in table:
            assert f"  {name} " in shown.output


def test_the_page_on_calls_names_every_setting_and_parses(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "calls.md").read_text()
    for name in TOOL:
        assert f"`{name}`" in page, name
    prices = page.partition("```yaml\n")[2].partition("```")[0]
    assert load(tmp_path, prices).prices["gpt-4.1"].cached_input == 0.5
    for name, example in re.findall(r"^\| `(\w+)` \| `(.+?)` \|", page, re.MULTILINE):
        more = {"mcp": "", "upstream": "", "trust_hints": ", mcp: 'https://a.example'"}
        more["probe_settle_s"] = (
            ", upstream: 'https://a.example', probe: {path: '/{key}', applied_when: /a}"
        )
        assert (
            tool(
                tmp_path, f"{name}: {example}{more.get(name, ', upstream: https://a.example')}"
            ).name
            == "t"
        )


def test_the_page_on_calls_has_each_limit_with_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "calls.md").read_text()
    part = page.partition("### Limits")[2].partition("###")[0]
    told: dict[str, float] = {}
    for names, values in re.findall(r"^\| (`.+?`) \| (\d.*?) \|", part, re.MULTILINE):
        numbers = [value.replace(",", "").split(" ") for value in values.split(", ")]
        sizes = [float(n[0]) * {"MiB": 2**20, "GiB": 2**30}.get(n[-1], 1) for n in numbers]
        told |= dict(zip(re.findall(r"`(\w+)`", names), sizes, strict=True))
    bounds = {f.name: f.default for f in fields(Tool) if f.type in ("int", "float", int, float)}
    waits = {f.name: f.default for f in fields(Settings) if f.name.endswith("_wait_s")}
    del waits["agent_wait_s"]  # of runs, not of calls
    assert told == bounds | waits


# Undos

BANK = "tools: {bank: {upstream: 'https://bank', undo: %s}}"


def test_an_undo_as_the_documentation_has_it(tmp_path: Path) -> None:
    undo = """{of: POST /charges, method: POST, path: /refunds, credentials: env:BANK_TOKEN,
      body: {charge: "{/id}", amount: "{/amount}", reason: "undo of {/id}"},
      probe: {path: "/refunds/{key}", applied_when: /id}, probe_settle_s: 5, effect: once}"""
    assert load(tmp_path, BANK % undo).tools["bank"].undo == HttpUndo(
        of="POST /charges",
        path="/refunds",
        body={"charge": "{/id}", "amount": "{/amount}", "reason": "undo of {/id}"},
        credentials="env:BANK_TOKEN",
        probe=HttpProbe(path="/refunds/{key}", applied_when="/id"),
        probe_settle_s=5,
        effect=Effect.ONCE,
    )
    final = load(tmp_path, "tools: {door: {mcp: 'https://door', irreversible: true}}")
    assert final.tools["door"].irreversible


@pytest.mark.parametrize(
    ("undo", "problem"),
    [
        ("{method: POST}", "is needed here"),
        ("{path: refunds}", "must be a path"),
        ("{path: '/r/{id}'}", "braces around what is no place"),
        ("{path: /r, body: {a: ['x{']}}", "braces around what is no place"),
        ("{path: /r, body: {a: .nan}}", "must be JSON"),
        ("{path: /r, method: GET}", "'POST', 'PUT', 'PATCH' or 'DELETE'"),
        ("{path: /r, of: charges}", "METHOD /path"),
        ("{path: /r, effect: read}", "must be idempotent or once"),
        ("{path: /r, probe_settle_s: 3}", "there is no `probe`"),
        ("{path: /r, pathh: /r}", "did you mean path?"),
        ("{path: /r, probe: {path: '/{key}', applied_when: a}}", "must be a JSON pointer"),
        ("{path: '/r/{/card/id}'}, redact: [/card]", "needs /card/id of the answer"),
        ("{path: '/r', body: '{/card}'}, redact: [/card/number]", "needs /card of the answer"),
        ("{path: /r}, irreversible: true", "leave one out"),
        ("{path: '/r/{business}'}", "no `key` that points to one"),
        ("{path: /r, body: {a: '{business}'}}", "no `key` that points to one"),
        (
            "{path: /r}, probe: {path: '/{business}', applied_when: /a}",
            "key='tools.bank.probe', problem='names {business}, and",
        ),
    ],
)
def test_what_is_wrong_with_an_undo_is_told_at_start(
    tmp_path: Path, undo: str, problem: str
) -> None:
    (found,) = mistakes(tmp_path, BANK % undo)
    assert problem in str(found)


def test_an_mcp_server_has_no_undo(tmp_path: Path) -> None:
    (found,) = mistakes(tmp_path, "tools: {t: {mcp: 'https://a', undo: {path: /r}}}")
    assert "is for an `upstream`" in str(found)
