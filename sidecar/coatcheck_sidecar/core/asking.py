"""Which call an HTTP request is: what it asks for, by its tool's rules."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from coatcheck_sidecar.core.effects import pattern_of
from coatcheck_sidecar.core.fingerprint import (
    JSON_TYPE,
    SUMMARY_CHARS_MAX,
    HttpRequest,
    business_value,
    of_request,
    summary,
)
from coatcheck_sidecar.core.model import CallClass
from coatcheck_sidecar.core.policy import Ask
from coatcheck_sidecar.core.relay import BadRequest, Headers, Place, header, is_retry
from coatcheck_sidecar.core.tool import Tool

KEY_CHARS_MAX: Final = 256
"""Of a key that an agent gives: it goes into heads, which stay small."""
SUMMARY_BYTES_MAX: Final = 65_536
"""A bigger body is not read for the sake of a line for operators."""
FORM: Final = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request that was taken in: what its call is found by."""

    method: str
    place: Place
    headers: Headers
    said: Mapping[str, str]
    body: bytes = b""
    body_digest: bytes = b""
    """Of a body that lies in a file; then `body` is empty."""


def class_of_request(tool: Tool, method: str, *, rest: str) -> CallClass:
    """The column of the call table. `rest` is the path behind the tool's URL."""
    return tool.class_of(tool.effect_of(method, rest or "/"))


def check_keys(said: Mapping[str, str]) -> None:
    """Raises `BadRequest` for a key that can be none, whether or not it will be used."""
    for name in ("coatcheck-key", "idempotency-key"):
        key = said.get(name, "")
        if len(key) > KEY_CHARS_MAX:
            raise BadRequest(f"{name} has {len(key)} of {KEY_CHARS_MAX} characters")
        if not key.isprintable():  # what is no UTF-8 comes as lone surrogates
            raise BadRequest(f"{name} must be of printable characters, in UTF-8")


def ask_of_request(
    tool: Tool, request: Request, *, run: str, step: int, call_class: CallClass
) -> Ask:
    """The asking for a call; raises `BadRequest`."""
    said, place = request.said, request.place
    check_keys(said)
    marker = said.get("idempotency-key", "")
    key = said.get("coatcheck-key") or (marker if tool.trust_key else "") or None
    fingerprint = of_request(
        HttpRequest(
            method=request.method,
            scheme=place.scheme,
            authority=place.authority,
            path=place.path,
            query=place.query,
            headers=request.headers,
            account=tool.account,
            body=request.body,
            body_digest=request.body_digest,
        ),
        allowed_headers=tool.headers,
        ignored_pointers=tool.ignore,
    )
    value = _value(request, is_needed=bool(tool.key), is_read=call_class is CallClass.READ)
    lifetime_s = tool.upstream_key.lifetime_s if tool.upstream_key else None
    line = pattern_of(request.method, place.path)
    if shown := summary(value, tool.shown):
        line = f"{line} ({shown})"
    return Ask(
        run=run,
        step=step,
        tool=tool.name,
        call_class=call_class,
        fingerprint=fingerprint,
        key=key,
        business=business_value(value, tool.key) if tool.key else None,
        identity=tool.identity,
        repeats_ok=tool.repeats,
        unresolved_ok=tool.unresolved_ok,
        marker=marker,
        is_retry=is_retry(said),
        is_relayed=True,
        settle_s=tool.probe_settle_s,
        key_lifetime_s=lifetime_s if call_class is CallClass.KEYED else None,
        summary=line[:SUMMARY_CHARS_MAX],
    )


def _value(request: Request, *, is_needed: bool, is_read: bool) -> dict[str, Any] | None:
    """The body, if it is a JSON object or a form; for a key, or for a line about the call."""
    is_shown = not is_read and len(request.body) <= SUMMARY_BYTES_MAX
    if not request.body or not (is_needed or is_shown):
        return None
    kind = header(request.headers, "content-type").lower()
    if kind and not JSON_TYPE.match(kind) and not kind.startswith(FORM):
        return None
    if kind.startswith(FORM):
        return dict(parse_qsl(request.body.decode("utf-8", "replace")))
    try:
        value = json.loads(request.body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
