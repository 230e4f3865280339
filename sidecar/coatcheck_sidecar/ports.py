"""The only doors out of the engine. Each has one contract suite under `tests/contract/`."""

from asyncio import Future
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from coatcheck_sidecar.core.model import Level


class StoreError(Exception):
    """The store did not answer, or not clearly: what was asked may or may not have happened."""


class StoreRefused(Exception):  # noqa: N818 - a refusal is an answer, not an error
    """The condition of a swap did not hold at the moment the store looked.

    After a lost answer this may be our own earlier write: only a read of the head tells.
    """


class StoreUnfit(Exception):  # noqa: N818 - says what the store is, as its users do
    """The store can't be a fence: it broke a condition, or its kind is known not to hold any."""

    def __init__(self, store: str, deed: str) -> None:
        """`store` is its URL without credentials, `deed` what it did, as the rest of a sentence."""
        super().__init__(f"{store} {deed}")
        self.store = store
        self.deed = deed


class JournalDead(Exception):  # noqa: N818 - names a state, as its users do
    """The journal met an I/O error and takes nothing more in this life of the process."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as read: its bytes and the tag that a swap must name to replace it."""

    data: bytes
    tag: str


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of a listing. `version` changes whenever the object is written again."""

    name: str
    length: int
    version: str
    modified_ms: int


class Store(Protocol):
    """The off-pod copy. Names are relative and use `/`; every verb has a time limit of its own.

    Any verb may raise `StoreError`. No verb retries a swap by itself.
    """

    @property
    def url(self) -> str:
        """Where it is, without credentials."""

    @property
    def background_puts_max(self) -> int:
        """Writes at once, of those that nobody waits for, before they slow down the others."""

    @property
    def background_share(self) -> float:
        """The share of the time, up to 1, that each of those may take."""

    @property
    def writes_apart_s(self) -> float:
        """It takes no two writes of one object within this: a swap waits. 0: it has no limit."""

    async def get(self, name: str) -> Stored | None:
        """Read one object; `None` if there is none."""

    async def put(self, name: str, data: bytes) -> None:
        """Write an object under a name that only this caller uses; may be repeated."""

    async def swap(self, name: str, data: bytes, *, expected: str | None) -> str:
        """Replace the object tagged `expected`, or create it if `None`; the new tag.

        Raises `StoreRefused` if the object is not as expected.
        """

    async def delete(self, name: str) -> None:
        """Remove one object; nothing happens if there is none."""

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> list[Listed]:
        """Objects whose name begins with `prefix`, strictly after the name `after`.

        A page goes on from the last name of the one before. The order is that of the bytes within
        a folder, and fixed everywhere; where `a-b` and `a/b` meet it may differ between stores.
        """

    async def now_ms(self) -> int:
        """The store's own clock, in ms since 1970, as told by its last answer or asked now."""

    async def close(self) -> None:
        """Release connections and threads."""


class NotSent(Exception):  # noqa: N818 - says what is known
    """An attempt is known not to have left: DNS, TCP, TLS, a lapsed lease, a forbidden address."""


class Lost(Exception):  # noqa: N818 - says what is known
    """Bytes may have gone, and no answer came, or not all of it."""


Headers = tuple[tuple[str, str], ...]
"""Names and values in their order, as they were given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One attempt at an HTTP request, as it leaves."""

    method: str
    url: str
    headers: Headers = ()
    body: bytes | Path = b""
    """In memory, or a file of the spool."""
    is_alone: bool = False
    """By a connection of its own: a `once` call is never sent twice by a stale pooled one."""
    until_boot_s: float | None = None
    """Not after this moment, looked at right before the first byte is written."""
    connect_s: float
    head_s: float
    idle_s: float


class UpstreamAnswer(Protocol):
    """An answer whose head came."""

    @property
    def status(self) -> int:
        """Three digits; 1xx were passed over."""

    @property
    def headers(self) -> Headers:
        """As they came, hop-by-hop ones left out."""

    def pieces(self) -> AsyncIterator[bytes]:
        """The body, still encoded as it came; raises `Lost` if it is cut."""


class Upstream(Protocol):
    """The one who sends tool calls. Never sends anything twice by itself."""

    def send(self, request: Outgoing) -> AbstractAsyncContextManager[UpstreamAnswer]:
        """Make one attempt; the answer is open until the block ends. Raises `NotSent`, `Lost`."""

    async def close(self) -> None:
        """Release connections."""


class AgentReply(Protocol):
    """The other end of an exchange: what the agent gets. Nothing is raised if it has gone."""

    @property
    def is_gone(self) -> bool:
        """The agent hung up: its answer is kept for when it asks again."""

    async def start(self, status: int, headers: Headers) -> None:
        """The head, once."""

    async def write(self, data: bytes) -> None:
        """A piece of the body; waits while the agent reads slowly."""

    async def end(self) -> None:
        """The answer is whole."""

    def cut(self) -> None:
        """It is not, and never will be: the connection is broken off."""


class Row(NamedTuple):
    """One record on its way to the journal: `data` is the encoded record, whole."""

    run: str
    epoch: int
    seq: int
    data: bytes


class Journal(Protocol):
    """The local copy of logs: takes each record first, survives container restarts.

    After the first I/O error every verb raises `JournalDead`, for good.
    """

    @property
    def is_dead(self) -> bool:
        """An I/O error was seen."""

    @property
    def is_inherited(self) -> bool:
        """Another process wrote here before: agents of its time may be on their way back."""

    def append(self, rows: Sequence[Row], *, level: Level) -> "Future[None]":
        """Take rows, in the order of calls; the future is done when they are durable at `level`.

        `level` is `process` or `node`. Rows are atomic together. Appends are grouped. The future
        may be dropped; it fails with `JournalDead`.
        """

    def trim(self, run: str, *, up_to_epoch: int, up_to_seq: int) -> None:
        """Forget rows at or before (epoch, seq): they are shipped. Lazy; never waited for."""

    async def load(self) -> list[Row]:
        """All rows kept, ordered by run, epoch, seq."""

    async def set_aside(self, run: str, *, reason: str) -> int:
        """Move a run's rows out of the way, kept for an operator; how many there were."""

    async def close(self) -> None:
        """Stop the writer and close the file; what was appended before is durable."""


class Clock(Protocol):
    """Time and chance. The engine has no other source of either."""

    def monotonic(self) -> float:
        """Seconds; for windows and waits inside this process."""

    def boottime(self) -> float:
        """Seconds since boot, suspended time included; the same for all processes of a node."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970 by this node; for people, never for safety."""

    async def sleep(self, delay_s: float) -> None:
        """Wait."""

    def random_bytes(self, count: int) -> bytes:
        """For nonces and names."""

    def uniform(self, low: float, high: float) -> float:
        """For jitter."""


class Observer(Protocol):
    """Hears what happened; metrics and logs are made of it. Must not raise, must not wait."""

    def note(self, event: str, /, **fields: object) -> None:
        """`event` is a name of `events.py`; fields are its figures and names."""
