"""Policies and lifecycle rules to copy: they bite where they should, and spare what lives."""

import asyncio
import contextlib
import fnmatch
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

import botocore.session
import botocore.validate
import pytest

from coatcheck_sidecar.engine.tasks import TaskSet
from examples.demo.processes import LOOPBACK
from tests.deploy.manifests import EXAMPLES
from tests.e2e.real_sidecar import real_sidecar
from tests.servers import ministack

BUCKET: Final = "example-runs"
PREFIX: Final = "invoices"
HEAD_OF_REQUEST: Final = re.compile(
    rb"(GET|HEAD|PUT|POST|DELETE) (\S+) HTTP/1\.1\r\n((?:[^\r\n]+\r\n)*)\r\n"
)


class Asked(NamedTuple):
    """A request as S3 judges it."""

    action: str
    resource: str
    context: Mapping[str, str]


def policy(name: str) -> Any:
    return json.loads((EXAMPLES / "s3" / f"{name}.json").read_text())


def asked(method: str, url: str, headers: Mapping[str, str]) -> Asked:
    """In the words of IAM: action, resource and the condition keys of a request."""
    parts = urlsplit(url)
    resource = f"arn:aws:s3:::{unquote(parts.path).strip('/')}"
    context = {
        f"s3:{name}": headers[name] for name in ("if-match", "if-none-match") if name in headers
    }
    if method == "GET" and "list-type" in parts.query:
        found = re.search(r"(?:^|&)prefix=([^&]*)", parts.query)
        return Asked("s3:ListBucket", resource, {"s3:prefix": unquote(found[1])} if found else {})
    verbs = {"GET": "Get", "HEAD": "Get", "PUT": "Put", "DELETE": "Delete"}
    return Asked(f"s3:{verbs[method]}Object", resource, context)


def applies(statement: Mapping[str, Any], one: Asked) -> bool:
    """As IAM has it: an operator's keys must all hold, a pattern of a list any."""
    actions, resources = (many(statement[name]) for name in ("Action", "Resource"))
    if not any(fnmatch.fnmatchcase(one.action, each) for each in actions):
        return False
    if not any(fnmatch.fnmatchcase(one.resource, each) for each in resources):
        return False
    for operator, keys in statement.get("Condition", {}).items():
        for key, wanted in keys.items():
            said = one.context.get(key)
            match operator:
                case "Null":
                    holds = (said is None) == (wanted == "true")
                case "StringLikeIfExists":
                    holds = said is None or any(fnmatch.fnmatchcase(said, w) for w in many(wanted))
                case "Bool":
                    holds = one.context.get(key, "true") == wanted
                case _:
                    raise AssertionError(operator)
            if not holds:
                return False
    return True


def many(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def is_denied(one: Asked) -> bool:
    return any(applies(each, one) for each in policy("bucket-policy")["Statement"])


def is_allowed(one: Asked) -> bool:
    return any(applies(each, one) for each in policy("role-policy")["Statement"])


@asynccontextmanager
async def heard(endpoint: str) -> AsyncIterator[tuple[str, list[Asked]]]:
    """A way to the server on which every request is noted."""
    host, port = endpoint.removeprefix("http://").split(":")
    streams: list[bytearray] = []
    writers: list[asyncio.StreamWriter] = []
    found: list[Asked] = []
    work = TaskSet(lambda _name, _error: None)

    async def pass_on(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: bytearray | None
    ) -> None:
        while data := await reader.read(65_536):
            if seen is not None:
                seen += data
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        writers.extend((writer, far_writer))
        streams.append(bytearray())
        work.start(pass_on(reader, far_writer, streams[-1]), name="up")
        work.start(pass_on(far_reader, writer, None), name="down")

    server = await asyncio.start_server(serve, LOOPBACK, 0)
    try:
        yield f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}", found
    finally:
        server.close()
        await work.close()
        for writer in writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        for stream in streams:
            for method, url, lines in HEAD_OF_REQUEST.findall(bytes(stream)):
                pairs = (line.split(":", 1) for line in lines.decode().strip().split("\r\n"))
                headers = {name.lower(): value.strip() for name, value in pairs}
                found.append(asked(method.decode(), url.decode(), headers))


async def test_all_that_a_sidecar_asks_for_is_allowed_and_nothing_else_may_write_heads(
    tmp_path: Path,
) -> None:
    with ministack() as s3:
        s3.make_bucket(BUCKET)
        async with heard(s3.endpoint) as (url, found):
            env = {**s3.env, "AWS_ENDPOINT_URL": url}
            env["COATCHECK_STORE"] = f"s3://{BUCKET}/{PREFIX}"
            async with real_sidecar(tmp_path, {}, **env) as real:
                for _ in range(2):
                    wire, _ = await real.agent("r1")
                    await wire.commit(b"x" * 300_000, level="remote")
                    await wire.outcome(await wire.call(), result="paid")
                    await wire.commit(b"state", level="remote")
                    await wire.release()
                    await wire.drop()
        heads = [each for each in found if each.resource.endswith("/runs/r1/head")]
        swaps = [each for each in heads if each.action == "s3:PutObject"]
        assert len(swaps) >= 8
        assert {"s3:if-none-match", "s3:if-match"} == {
            key for each in swaps for key in each.context
        }
        assert {each.action for each in found} == {
            f"s3:{name}" for name in ("GetObject", "PutObject", "DeleteObject", "ListBucket")
        }
        for each in found:
            assert is_allowed(each), each
            assert not is_denied(each), each


@pytest.mark.parametrize("name", ["runs/r1/head", "invoices/runs/r1/head"])
def test_an_unconditional_put_of_a_head_is_denied(name: str) -> None:
    resource = f"arn:aws:s3:::{BUCKET}/{name}"
    assert is_denied(Asked("s3:PutObject", resource, {}))
    assert not is_denied(Asked("s3:PutObject", resource, {"s3:if-match": '"tag"'}))
    assert not is_denied(Asked("s3:PutObject", resource, {"s3:if-none-match": "*"}))
    assert not is_denied(Asked("s3:PutObject", f"{resource}x", {}))
    assert is_denied(Asked("s3:GetObject", resource, {"aws:SecureTransport": "false"}))


@pytest.mark.parametrize(
    "one",
    [
        Asked("s3:GetObject", f"arn:aws:s3:::{BUCKET}/other/runs/r1/head", {}),
        Asked("s3:PutObject", f"arn:aws:s3:::{BUCKET}/runs/r1/head", {"s3:if-match": "x"}),
        Asked("s3:ListBucket", f"arn:aws:s3:::{BUCKET}", {"s3:prefix": "other/owners/"}),
        Asked("s3:DeleteBucket", f"arn:aws:s3:::{BUCKET}", {}),
    ],
)
def test_a_tenant_has_its_own_prefix_alone(one: Asked) -> None:
    assert not is_allowed(one)


def test_lifecycle_rules_are_taken_and_expire_nothing_that_lives() -> None:
    rules = policy("lifecycle")
    service = botocore.session.get_session().get_service_model("s3")
    shape = service.operation_model("PutBucketLifecycleConfiguration").input_shape
    given = {"Bucket": BUCKET, "LifecycleConfiguration": rules}
    report: Any = botocore.validate.ParamValidator().validate(given, shape)
    assert not report.has_errors(), report.generate_report()
    for rule in rules["Rules"]:
        if rule.get("Expiration", {}).keys() - {"ExpiredObjectDeleteMarker"}:
            assert rule["Filter"]["Prefix"] == f"{PREFIX}/probe/"
