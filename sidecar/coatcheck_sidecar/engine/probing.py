"""Asking an upstream whether a call took place, as its tool's configuration says how."""

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgpack

from coatcheck_sidecar.core.fingerprint import pointer
from coatcheck_sidecar.core.model import Call
from coatcheck_sidecar.core.relay import join
from coatcheck_sidecar.core.tool import HttpProbe, Tool
from coatcheck_sidecar.ports import Lost, NotSent, Outgoing, Upstream

ANSWER_BYTES_MAX: Final = 1_048_576
"""A list of a mailbox's messages fits; a probe should ask for one."""
PROBE_S: Final = 30.0
"""An agent waits meanwhile."""


class NoAnswer(Exception):  # noqa: N818 - says what came
    """The probe told neither that the call took place nor that it did not."""


@dataclass(frozen=True, slots=True)
class Found:
    """What an upstream says. `value` is msgpack: what to give as the call's answer."""

    applied: bool
    value: bytes | None = None


async def ask_upstream(upstream: Upstream, *, tool: Tool, call: Call) -> Found:
    """Whether `call` took place; raises `NoAnswer`."""
    probe = tool.probe
    if probe is None:
        raise NoAnswer(f"{tool.name} has no probe")
    try:
        request = await _request(probe, tool=tool, call=call)
        async with asyncio.timeout(PROBE_S), upstream.send(request) as answer:
            body = bytearray()
            async for data in answer.pieces():
                body += data
                if len(body) > ANSWER_BYTES_MAX:
                    raise NoAnswer(f"more than {ANSWER_BYTES_MAX} bytes")
            return _found(probe, status=answer.status, body=bytes(body))
    except (NotSent, Lost, OSError, KeyError, TimeoutError) as error:
        raise NoAnswer(f"{type(error).__name__}: {error}") from error


async def _request(probe: HttpProbe, *, tool: Tool, call: Call) -> Outgoing:
    prefix = tool.upstream_key.prefix if tool.upstream_key else ""
    path = probe.path.replace("{key}", quote(prefix + call.upstream_key, safe=""))
    path = path.replace("{business}", quote(call.business_key or "", safe=""))
    rest, _, query = path.partition("?")
    headers = [("Accept", "application/json")]
    if probe.credentials:
        headers.append((probe.header, await secret(probe.credentials)))
    return Outgoing(
        method=probe.method,
        url=join(tool.upstream, rest, query=query).url,
        headers=tuple(headers),
        connect_s=tool.connect_s,
        head_s=PROBE_S,
        idle_s=PROBE_S,
    )


async def secret(reference: str) -> str:
    """What `env:NAME` or `file:/path` refers to, read anew each time: secrets rotate."""
    kind, _, name = reference.partition(":")
    if kind == "env":
        return os.environ[name]
    return (await asyncio.to_thread(Path(name).read_text)).strip()


def _found(probe: HttpProbe, *, status: int, body: bytes) -> Found:
    if status == 404:
        return Found(applied=False)
    if not 200 <= status < 300:
        raise NoAnswer(f"status {status}")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise NoAnswer("an answer that is no JSON") from error
    try:
        found = pointer(value, probe.applied_when)
    except LookupError:
        found = None
    if not found:
        return Found(applied=False)
    try:
        result = found if probe.result is None else pointer(value, probe.result)
    except LookupError:
        result = None
    packed: bytes = msgpack.packb(result)
    return Found(applied=True, value=packed)
