"""Every setting of a tool, a price and the forward proxy: how it is checked, and one line of help.

Names are those of `core/tool.py`, `core/completions.py` and `core/forward.py`.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from pydantic_core import CoreSchema, core_schema

from coatcheck_sidecar.core import undo_template
from coatcheck_sidecar.core.forward import CONNECT_PORT, Place, place
from coatcheck_sidecar.core.mcp import STDIO
from coatcheck_sidecar.core.model import Effect, Level
from coatcheck_sidecar.core.policy import Identity
from coatcheck_sidecar.core.tool import HttpProbe, HttpUndo, UpstreamKey

Fields = Mapping[str, tuple[CoreSchema, str]]
"""By name: the check, and the help."""

SECONDS_MAX: Final = 86_400.0
"""A day: every wait of the sidecar is far shorter."""
LIFETIME_S_MAX: Final = 31_536_000.0
"""A year: who keeps keys longer may say so."""
COUNT_MAX: Final = 100_000
"""More connections than a pod has ports is a slip."""
BYTES_MIN: Final = 1_024
"""A limit below 1 KiB is a slip of the unit."""
BYTES_CAP: Final = 2**40
"""1 TiB: beyond any disk of a pod."""
DOLLARS_MAX: Final = 1e6
"""A dollar a token."""
TEXT_MAX: Final = 2_048
"""Longer than any URL or pointer of use."""
SECRET: Final = frozenset({"credentials", "upstream", "mcp"})
"""Whoever put a password into one of these should not find it in a log."""
FIELD_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}", re.ASCII)
"""RFC 9110, section 5.1."""
CREDENTIAL_FIELDS: Final = frozenset(
    {"authorization", "cookie", "proxy-authorization", "set-cookie", "x-api-key", "api-key"}
)
"""Never recorded and never part of a call's identity: they are secret, and they rotate."""
HOP_FIELDS: Final = frozenset(
    {"connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding"}
)
"""Each connection has its own."""
POINTER: Final = re.compile(r"(/([^~/]|~[01])*)*")
"""RFC 6901."""
METHOD_PATH: Final = re.compile(r"[A-Z*?]+ [/*]\S*", re.ASCII)
VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
REFERENCE: Final = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:/\S+", re.ASCII)
PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")


def _text(check: Callable[[str], Any]) -> CoreSchema:
    return core_schema.no_info_after_validator_function(
        check, core_schema.str_schema(min_length=1, max_length=TEXT_MAX)
    )


def _matching(pattern: re.Pattern[str], problem: str) -> CoreSchema:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(problem)
        return text

    return core_schema.no_info_after_validator_function(
        check, core_schema.str_schema(max_length=TEXT_MAX)
    )


def _commas(value: object) -> object:
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


def _many(item: CoreSchema, collect: Callable[[Any], Any] = tuple) -> CoreSchema:
    """A list, in the environment with commas."""
    listed = core_schema.no_info_before_validator_function(
        _commas, core_schema.list_schema(item, max_length=100)
    )
    return core_schema.no_info_after_validator_function(collect, listed)


def _made(fields: Fields, make: Callable[..., Any], *needed: str) -> CoreSchema:
    """A map as the value that it makes."""
    entries = {
        name: core_schema.typed_dict_field(schema, required=name in needed)
        for name, (schema, _) in fields.items()
    }
    schema = core_schema.typed_dict_schema(entries, extra_behavior="forbid")
    return core_schema.no_info_after_validator_function(lambda values: make(**values), schema)


def _url(text: str) -> str:
    parts = _split(text)
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise ValueError("must be a URL without a query: that is each request's own")
    return text.rstrip("/") if parts.path else text


def _mcp_url(text: str) -> str:
    if text == STDIO:
        return text
    parts = _split(text)
    if parts.fragment or "#" in text:
        raise ValueError("must be a URL without a fragment")
    return text


def _split(text: str) -> SplitResult:
    wrong = ValueError("must be a URL such as https://api.example.com/v1")
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        raise wrong
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise wrong
    if "@" in parts.netloc:
        raise ValueError("must have no user and password: agents bring their own credentials")
    place(parts.hostname if ":" not in parts.hostname else f"[{parts.hostname}]")
    return parts


def _field_name(text: str) -> str:
    name = text.lower()
    if not FIELD_NAME.fullmatch(name):
        raise ValueError("must be the name of a header")
    if name in CREDENTIAL_FIELDS:
        raise ValueError("must be no header with credentials: those are secret, and rotate")
    if name in HOP_FIELDS:
        raise ValueError("must be no header of the connection itself")
    return name


def _key_header(text: str) -> str:
    _field_name(text)
    return text


def _probe_path(text: str) -> str:
    if not text.startswith("/") or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError('must be a path such as "/sent?ref={key}"')
    unknown = set(PLACEHOLDER.findall(text)) - {"key", "business"}
    if unknown or "{" in PLACEHOLDER.sub("", text) or "}" in PLACEHOLDER.sub("", text):
        raise ValueError("may name nothing in braces but {key} and {business}")
    if not PLACEHOLDER.search(text):
        raise ValueError("must say which call is meant, by {key} or {business}")
    return text


def _undo_path(text: str) -> str:
    if not text.startswith("/") or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError('must be a path such as "/charges/{/id}/refund"')
    if wrong := undo_template.mistake(text):
        raise ValueError(wrong)
    return text


def _undo_body(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError("must be JSON: maps, lists, texts, numbers, true, false, null") from None
    if wrong := undo_template.mistakes(value):
        raise ValueError(wrong)
    return value


def _connect(text: str) -> Place:
    return place(text, default_port=CONNECT_PORT)


_EFFECT: Final = core_schema.no_info_after_validator_function(
    Effect, core_schema.literal_schema([effect.value for effect in Effect])
)
_LEVEL: Final = core_schema.no_info_after_validator_function(
    Level, core_schema.literal_schema([level.value for level in Level])
)
_IDENTITY: Final = core_schema.no_info_after_validator_function(
    Identity, core_schema.literal_schema([identity.value for identity in Identity])
)
_FLAG: Final = core_schema.bool_schema()
_SECONDS: Final = core_schema.float_schema(gt=0, le=SECONDS_MAX, allow_inf_nan=False)
_SECONDS_OR_0: Final = core_schema.float_schema(ge=0, le=SECONDS_MAX, allow_inf_nan=False)
_LIFETIME: Final = core_schema.float_schema(gt=0, le=LIFETIME_S_MAX, allow_inf_nan=False)
_DOLLARS: Final = core_schema.float_schema(ge=0, le=DOLLARS_MAX, allow_inf_nan=False)
_COUNT: Final = core_schema.int_schema(ge=1, le=COUNT_MAX)
_COUNT_OR_0: Final = core_schema.int_schema(ge=0, le=COUNT_MAX)
_BYTES: Final = core_schema.int_schema(ge=BYTES_MIN, le=BYTES_CAP)
_POINTER: Final = _matching(POINTER, "must be a JSON pointer, such as /items/0 (RFC 6901)")
_INNER: Final = core_schema.chain_schema([core_schema.str_schema(min_length=1), _POINTER])
"""A pointer to a part, not to the whole."""
_FIELD_NAMES: Final = _many(_text(_field_name), frozenset)
_REFERENCE: Final = _matching(REFERENCE, "must be env:NAME or file:/path: no secret stands here")
_VARIABLE: Final = _matching(VARIABLE, "must be the name of an environment variable")
_PREFIX: Final = _matching(re.compile(r"[!-~]{0,100}"), "must be printable, without spaces")
_ABSOLUTE: Final = _matching(re.compile(r"/\S+"), "must be an absolute path")

KEY: Final[Fields] = {
    "header": (_text(_key_header), "header that takes the key"),
    "prefix": (_PREFIX, "what the upstream wants before the key"),
    "lifetime_s": (_LIFETIME, "how long the upstream remembers a key"),
    "saves": (
        _many(core_schema.literal_schema(["2xx", "4xx", "5xx"]), frozenset),
        "classes of answers that it gives again under the key",
    ),
}
PROBE: Final[Fields] = {
    "method": (core_schema.literal_schema(["GET", "HEAD", "POST", "QUERY"]), "how to ask"),
    "path": (_text(_probe_path), "where to ask; {key} and {business} are filled in"),
    "applied_when": (_POINTER, "applied if this pointer into a 2xx answer finds something"),
    "result": (_POINTER, "pointer to what the agent gets as the call's answer"),
    "credentials": (_REFERENCE, "env:NAME or file:/path, read when it is asked"),
    "header": (_text(lambda name: name), "header that the credentials go into"),
}
UNDO: Final[Fields] = {
    "method": (core_schema.literal_schema(["POST", "PUT", "PATCH", "DELETE"]), "how to undo"),
    "path": (_text(_undo_path), "where; {/pointer} into the answer, {key}, {business}"),
    "body": (
        core_schema.no_info_after_validator_function(_undo_body, core_schema.any_schema()),
        "JSON with the same places in its texts",
    ),
    "of": (
        _matching(METHOD_PATH, 'must be "METHOD /path", such as "POST /charges"'),
        "calls that it takes back: all but reads if left out",
    ),
    "effect": (_EFFECT, "idempotent or once; by method and upstream_key if left out"),
    "probe": (_made(PROBE, HttpProbe, "path", "applied_when"), "how to ask if it took place"),
    "probe_settle_s": (_SECONDS_OR_0, "a probe's no counts after this, and pause_max_s"),
    "credentials": (_REFERENCE, "env:NAME or file:/path, read when it is sent"),
    "header": (_text(lambda name: name), "header that the credentials go into"),
}
TOOL: Final[Fields] = {
    "upstream": (_text(_url), "URL that the rest of a route is put behind"),
    "mcp": (_text(_mcp_url), "URL of an MCP server (streamable HTTP), or `stdio:`"),
    "effect": (_EFFECT, "read, idempotent or once; by method if left out"),
    "effects": (
        core_schema.dict_schema(core_schema.str_schema(min_length=1), _EFFECT),
        'by "METHOD /path" with * for anything, or by the name of an MCP server\'s tool',
    ),
    "record": (_FLAG, "keep the answers of reads for replay"),
    "upstream_key": (_made(KEY, UpstreamKey), "the upstream honours an idempotency key"),
    "probe": (_made(PROBE, HttpProbe, "path", "applied_when"), "how to ask if a call took place"),
    "probe_settle_s": (_SECONDS_OR_0, "a probe's no counts after this, and pause_max_s"),
    "undo": (_made(UNDO, HttpUndo, "path"), "the request that takes a call back"),
    "irreversible": (_FLAG, "nothing takes its calls back; none starts while the pod drains"),
    "key": (_INNER, "pointer to the business key in the request's JSON"),
    "show": (_many(_INNER), "pointers into requests whose values operators see"),
    "identity": (_IDENTITY, "content, or positional for strictly serial loops"),
    "repeats": (_FLAG, "an equal once call in one step is meant as another"),
    "unresolved_ok": (_FLAG, "a new once call may go while one is in doubt"),
    "trust_key": (_FLAG, "an incoming Idempotency-Key is the agent's own"),
    "trust_hints": (_FLAG, "MCP: believe readOnlyHint and idempotentHint"),
    "durability": (_LEVEL, "process, node or remote; once is always remote"),
    "account": (core_schema.str_schema(max_length=200), "part of each call's identity"),
    "headers": (_FIELD_NAMES, "request headers that make another request"),
    "ignore": (_many(_INNER), "pointers into requests that make no other one"),
    "redact": (_many(_POINTER), "pointers into answers, blanked before recording"),
    "recorded_headers": (_FIELD_NAMES, "headers of answers that are recorded"),
    "sheds_by_503": (_FLAG, "a 503 with Retry-After means that nothing was done"),
    "concurrency": (_COUNT, "calls in flight at once"),
    "queue_max": (_COUNT_OR_0, "calls that wait for their turn"),
    "connect_s": (_SECONDS, "until a connection stands"),
    "head_s": (_SECONDS, "until an answer begins"),
    "idle_s": (_SECONDS, "between two pieces of an answer"),
    "patience_s": (_SECONDS_OR_0, "how long a request waits for retries"),
    "request_bytes_max": (_BYTES, "the longest request"),
    "record_bytes_max": (_BYTES, "the longest answer that is recorded"),
    "env": (_many(_VARIABLE), "variables that run and exec set to this tool's URL"),
    "private": (_FLAG, "the upstream may have a loopback or private address"),
    "ca_file": (_ABSOLUTE, "certificates to trust besides the system's"),
}
PRICE: Final[Fields] = {
    "input": (_DOLLARS, "dollars for a million input tokens"),
    "output": (_DOLLARS, "dollars for a million output tokens"),
    "cached_input": (_DOLLARS, "dollars for a million input tokens from the upstream's cache"),
}
FORWARD: Final[Fields] = {
    "allow": (_many(_text(place)), "host or host:port of plain HTTP"),
    "connect": (_many(_text(_connect)), "host:port of opaque tunnels"),
}
