from pathlib import Path

import pytest

from tests.cli.settings import mistakes, tool

UP = "upstream: https://a.example"
WRONG = [
    ("", "tools.t", "neither"),
    ("effect: once", "tools.t", "neither"),
    ("upstream: https://a, mcp: https://b", "tools.t", "both"),
    (f"{UP}, efect: once", "tools.t.efect", "did you mean effect?"),
    (f"{UP}, zzz: 1", "tools.t.zzz", "there are upstream, mcp"),
    (f"{UP}, upstream_key: {{heder: X}}", "tools.t.upstream_key.heder", "mean header?"),
    (f"{UP}, upstream_key: {{saves: [3xx]}}", "tools.t.upstream_key.saves", "'2xx'"),
    (f"{UP}, upstream_key: {{header: Set-Cookie}}", "tools.t.upstream_key.header", "credentials"),
    (f"{UP}, upstream_key: true", "tools.t.upstream_key", "dictionary"),
    (f"{UP}, effect: twice", "tools.t.effect", "'read', 'idempotent' or 'once'"),
    (f"{UP}, effects: {{/search: read}}", "tools.t.effects./search", "METHOD /path"),
    (f'{UP}, effects: {{"POST /s": rad}}', "tools.t.effects.POST /s", "'read'"),
    (f"{UP}, probe: {{path: '/{{key}}'}}", "tools.t.probe.applied_when", "is needed"),
    (f"{UP}, probe: {{path: /x, applied_when: /a}}", "tools.t.probe.path", "which call"),
    (f"{UP}, probe: {{path: '/{{id}}', applied_when: /a}}", "tools.t.probe.path", "{key} and"),
    (f"{UP}, probe: {{path: '/{{key}}', applied_when: a}}", "tools.t.probe.applied_when", "6901"),
    (f"{UP}, probe: {{path: 'x{{key}}', applied_when: /a}}", "tools.t.probe.path", "a path"),
    (f"{UP}, probe_settle_s: 3", "tools.t.probe_settle_s", "no `probe`"),
    (
        f"{UP}, effect: read, probe: {{path: '/{{key}}', applied_when: /a}}",
        "tools.t.probe",
        "has none",
    ),
    (f"{UP}, effect: once, record: true", "tools.t.record", "Leave one out"),
    (f"{UP}, trust_hints: true", "tools.t.trust_hints", "is for an MCP server"),
    ("mcp: https://a, upstream_key: {}", "tools.t.upstream_key", "is for an `upstream`"),
    (f"{UP}, key: invoice", "tools.t.key", "must be a JSON pointer"),
    (f"{UP}, key: ''", "tools.t.key", "at least 1"),
    (f"{UP}, redact: [a~2]", "tools.t.redact", "must be a JSON pointer"),
    (f"{UP}, env: [1A]", "tools.t.env", "environment variable"),
    (f"{UP}, recorded_headers: [Set-Cookie]", "tools.t.recorded_headers", "credentials"),
    (f"{UP}, headers: [Host]", "tools.t.headers", "of the connection"),
    (f"{UP}, headers: ['a b']", "tools.t.headers", "name of a header"),
    (f"{UP}, ca_file: ca.pem", "tools.t.ca_file", "absolute"),
    (f"{UP}, head_s: 0", "tools.t.head_s", "greater than 0"),
    (f"{UP}, record_bytes_max: 8", "tools.t.record_bytes_max", "1024"),
    ("upstream: api.example.com", "tools.t.upstream", "must be a URL"),
    ("upstream: ftp://a", "tools.t.upstream", "must be a URL"),
    ("upstream: 'https://[::1'", "tools.t.upstream", "must be a URL"),
    ("upstream: https://a b", "tools.t.upstream", "must be a URL"),
    ("upstream: https://a:x/", "tools.t.upstream", "must be a URL"),
    ("upstream: https://a:0/", "tools.t.upstream", "must be a URL"),
    ("upstream: https://a?x=1", "tools.t.upstream", "without a query"),
    ("upstream: https://-a-/", "tools.t.upstream", "must be host"),
    ("mcp: 'https://a#x'", "tools.t.mcp", "without a fragment"),
    ("upstream: http://169.254.169.254/latest", "tools.t.upstream", "never reached"),
    ("upstream: http://0xA9FEA9FE, private: true", "tools.t.upstream", "never reached"),
    ("upstream: http://localhost., mcp: ''", "tools.t.mcp", "at least 1"),
    ("upstream: http://127.1:80", "tools.t.upstream", "private: true"),
    ("mcp: 'http://[::1]:80'", "tools.t.mcp", "private: true"),
]


@pytest.mark.parametrize(("text", "key", "part"), WRONG)
def test_each_rule(tmp_path: Path, text: str, key: str, part: str) -> None:
    found = mistakes(tmp_path, f"tools: {{t: {{{text}}}}}")
    assert (key, True) in [(m.key, part in m.problem) for m in found], found


def test_loopback_is_reached_where_the_tool_says_so(tmp_path: Path) -> None:
    assert tool(tmp_path, "upstream: 'http://127.0.0.1:8080', private: true").private


@pytest.mark.parametrize("name", ["Mail", "v1", "a" * 33, "ab" * 16, "-a", "a.b", "caf\u00e9"])
def test_names_that_are_no_place_in_a_url(tmp_path: Path, name: str) -> None:
    (mistake,) = mistakes(tmp_path, f"tools: {{{name}: {{{UP}}}}}")
    assert mistake.key == f"tools.{name}"


def test_every_mistake_is_told_at_once_with_its_place(tmp_path: Path) -> None:
    text = """
toolz: {a: {upstream: https://a}}
tools:
  a: {upstream: "https://me:hunter2@a", probe: {path: x, aplied_when: /}, record: perhaps}
  b: 3
  c: {effect: once, probe_settle_s: soon}
prices: {gpt: {input: -1, outputs: 3}}
forward: {allow: ["a b"], conect: []}
"""
    found = mistakes(
        tmp_path,
        text,
        COATCHECK_TOOLS__D__UPSTREAM="https://d",
        COATCHECK_TOOLS__D__PROBE__CREDENTIALS="hunter3",
        COATCHECK_TOOLS__E__EFFECT="read",
        COATCHECK_PRICES__X="cheap",
    )
    told = "\n".join(map(str, found))
    assert "hunter" not in told
    keys = {m.key: m for m in found}
    assert set(keys) == {
        "toolz.a.upstream",
        "tools.a.upstream",
        "tools.a.probe.path",
        "tools.a.probe.applied_when",
        "tools.a.probe.aplied_when",
        "tools.a.record",
        "tools.b",
        "tools.c",
        "tools.c.probe_settle_s",
        "prices.gpt.input",
        "prices.gpt.output",
        "prices.gpt.outputs",
        "forward.allow",
        "forward.conect",
        "COATCHECK_TOOLS__D__PROBE__PATH",
        "COATCHECK_TOOLS__D__PROBE__APPLIED_WHEN",
        "COATCHECK_TOOLS__D__PROBE__CREDENTIALS",
        "COATCHECK_TOOLS__E",
        "COATCHECK_PRICES__X",
    }
    assert "did you mean tools?" in keys["toolz.a.upstream"].problem
    assert "did you mean connect?" in keys["forward.conect"].problem
    assert keys["COATCHECK_TOOLS__E"].source == "environment"
    assert keys["tools.c.probe_settle_s"].source.startswith("file ")
