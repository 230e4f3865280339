"""What passes through a route: whose it is, where it goes, which headers go along. Pure.

A route is `/<token>/<tool>/<rest>`. Nothing of it is interpreted twice: what an upstream could read
otherwise than we do (dot segments, however they are spelled, NUL, line ends, backslashes) is
refused, all else is passed on as it came.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

Headers = tuple[tuple[str, str], ...]

TARGET_CHARS_MAX: Final = 8_000
"""RFC 9112, section 3: servers should take this much, and many take no more."""
TOKEN: Final = re.compile(r"[0-9a-f]{32}")
TOOL: Final = re.compile(r"[A-Za-z0-9~][A-Za-z0-9._-]{0,63}")
"""As it is configured, or with a tilde first: a place of the sidecar's own."""
TARGET: Final = re.compile(r"/[\x21\x22\x24-\x7e]*")
"""Visible ASCII without `#`: a fragment is no part of a request."""
ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
SUSPECT: Final = re.compile(r"%|\\|/\.")
"""Where none of these is, no segment can be a dot segment."""
UNREADABLE: Final = re.compile(rb"[\0\r\n]")
HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""RFC 9110, section 7.6.1: they speak of one connection, not of the message."""
REBUILT: Final = HOP_BY_HOP | {"host", "content-length", "expect"}
OURS: Final = "coatcheck-"
HEARD: Final = frozenset(
    {
        "coatcheck-key",
        "coatcheck-run",
        "coatcheck-step",
        "coatcheck-wait",
        "amz-sdk-request",
        "content-type",
        "idempotency-key",
        "prefer",
        "x-stainless-retry-count",
    }
)
"""Request headers that say something to us."""
ATTEMPT: Final = re.compile(r"attempt=(\d{1,9})\b", re.ASCII)
COUNT: Final = re.compile(r"\d{1,9}", re.ASCII)
WAIT: Final = re.compile(
    r"(?:^|[,;])\s*wait\s*=\s*\"?(\d{1,9})\"?\s*(?:$|[,;])", re.IGNORECASE | re.ASCII
)
SECONDS: Final = re.compile(r"\d{1,9}(?:\.\d{1,9})?", re.ASCII)


class BadRequest(Exception):  # noqa: N818 - says what the request is
    """A request that is not passed on; the text says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """A route's target, in its parts. `rest` begins with `/` or is empty."""

    token: str
    tool: str
    rest: str
    query: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request goes: the parts of its URL, as they are sent."""

    scheme: str
    authority: str
    path: str
    query: str = ""

    @property
    def url(self) -> str:
        """All in one."""
        tail = f"?{self.query}" if self.query else ""
        return f"{self.scheme}://{self.authority}{self.path}{tail}"


@dataclass(frozen=True, slots=True)
class Sifted:
    """A request's headers: those that go along, and what was said to us, by name."""

    passed: Headers
    said: dict[str, str]


def split_target(raw: str) -> Target:
    """The parts of `/<token>/<tool>/<rest>?<query>`; raises `BadRequest`."""
    check_target(raw)
    path, _, query = raw.partition("?")
    _, token, *more = path.split("/", 3)
    tool = more[0] if more else ""
    if not TOKEN.fullmatch(token) or not TOOL.fullmatch(tool):
        raise BadRequest("the path must begin with /<token>/<tool>")
    rest = f"/{more[1]}" if len(more) > 1 else ""
    check_path(rest)
    return Target(token, tool, rest, query)


def check_target(raw: str) -> None:
    """Raises `BadRequest` for what is no path on this server."""
    if len(raw) > TARGET_CHARS_MAX:
        raise BadRequest(f"the target has {len(raw)} of {TARGET_CHARS_MAX} characters")
    if not TARGET.fullmatch(raw):
        raise BadRequest("the target is no path of visible ASCII characters")


def check_path(path: str) -> None:
    """Raises `BadRequest` for a path that somebody else might read otherwise."""
    if not SUSPECT.search(path):
        return
    if ESCAPE.search(path):
        raise BadRequest("the path has a % that begins no escape")
    plain = unquote_to_bytes(path)
    if UNREADABLE.search(plain):
        raise BadRequest("the path has an escaped NUL or line end")
    if b"\\" in plain:
        raise BadRequest("the path has a backslash")
    if any(part.partition(b";")[0] in (b".", b"..") for part in plain.split(b"/")):
        raise BadRequest("the path has a dot segment")


def join(upstream: str, rest: str, *, query: str = "") -> Place:
    """`rest` behind the tool's URL, whose own path stays."""
    scheme, authority, base = _base(upstream)
    return Place(scheme, authority, f"{base}{rest}" or "/", query)


@lru_cache(maxsize=256)
def _base(upstream: str) -> tuple[str, str, str]:
    parts = urlsplit(upstream)
    return parts.scheme.lower(), parts.netloc.rpartition("@")[2], parts.path.rstrip("/")


def sift(headers: Iterable[tuple[str, str]]) -> Sifted:
    """Take apart a request's headers; raises `BadRequest` for one of ours that comes twice."""
    kept: list[tuple[str, str]] = []
    said: dict[str, str] = {}
    named: frozenset[str] = frozenset()
    for name, value in headers:
        low = name.lower()
        if low in HEARD:
            if low in said and low.startswith((OURS, "idempotency")) and said[low] != value:
                raise BadRequest(f"{name} is given twice")
            said.setdefault(low, value)
        if low == "connection":
            named = named | _tokens(value)
        if low not in REBUILT and not low.startswith(OURS):
            kept.append((name, value))
    if named - HOP_BY_HOP:
        kept = [(name, value) for name, value in kept if name.lower() not in named]
    return Sifted(tuple(kept), said)


def end_to_end(headers: Iterable[tuple[str, str]]) -> Headers:
    """An answer's headers without those of its connection, and without any of our names."""
    listed = [(name, value, name.lower()) for name, value in headers]
    named = {token for _, value, low in listed if low == "connection" for token in _tokens(value)}
    return tuple(
        (name, value)
        for name, value, low in listed
        if low not in HOP_BY_HOP and low not in named and not low.startswith(OURS)
    )


def _tokens(value: str) -> frozenset[str]:
    return frozenset(token.strip().lower() for token in value.split(","))


def without(headers: Headers, *names: str) -> Headers:
    """Headers but for these, by name in lower case."""
    return tuple((name, value) for name, value in headers if name.lower() not in names)


def header(headers: Headers, name: str) -> str:
    """The first header of this name, given in lower case; empty if there is none."""
    return next((value for known, value in headers if known.lower() == name), "")


def is_retry(said: Mapping[str, str]) -> bool:
    """An SDK says that it asked for this before, in this process."""
    count = said.get("x-stainless-retry-count", "")
    attempt = ATTEMPT.search(said.get("amz-sdk-request", ""))
    again = COUNT.fullmatch(count) is not None and int(count) > 0
    return again or (attempt is not None and int(attempt[1]) > 1)


def wait_s(said: Mapping[str, str]) -> float:
    """How long the agent will wait for a decision on a call that is held; 0: not at all.

    By `Coatcheck-Wait: seconds` or `Prefer: wait=seconds` (RFC 7240, section 4.3).
    """
    own = said.get("coatcheck-wait", "").strip()
    if SECONDS.fullmatch(own):
        return float(own)
    preferred = WAIT.search(said.get("prefer", ""))
    return float(preferred[1]) if preferred else 0.0


def retry_after_s(headers: Headers, *, now_ms: int) -> float | None:
    """`Retry-After` in seconds, of both its forms; `None` if there is none that can be read."""
    value = header(headers, "retry-after").strip()
    if SECONDS.fullmatch(value):
        return float(value)
    try:
        at = parsedate_to_datetime(value)
        if at.tzinfo is None:  # RFC 9110, section 5.6.7: the form of asctime is in GMT too
            at = at.replace(tzinfo=UTC)
        return max(0.0, at.timestamp() - now_ms / 1000)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
