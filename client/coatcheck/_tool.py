"""What a tool says of itself, and one call of it as the sidecar sees it."""

import inspect
from collections.abc import Callable
from contextvars import ContextVar, Token
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple, TypedDict, TypeVar, Unpack, cast

from coatcheck import _clock
from coatcheck._codec import encode
from coatcheck._session import Session

Effect = Literal["read", "idempotent", "once"]
Durability = Literal["process", "node", "remote"]
Function = TypeVar("Function", bound=Callable[..., Any])

_EFFECTS: Final = ("read", "idempotent", "once")
_IDENTITIES: Final = ("content", "positional")
_LEVELS: Final = (None, "process", "node", "remote")
_ATTRIBUTE: Final = "__coatcheck_tool__"
_KEY: ContextVar[str | None] = ContextVar("coatcheck_key", default=None)


class TooLate(Exception):  # noqa: N818 - says what is the case
    """The window in which a guarded call may start is over."""


class ToolOptions(TypedDict, total=False):
    """What `coatcheck.tool` and `step.tool` take; see `Declaration`."""

    name: str
    effect: Effect
    key: str | Callable[..., str]
    record: bool
    probe: Callable[..., Any]
    undo: Callable[..., Any]
    irreversible: bool
    probe_settle_s: float
    key_lifetime_s: float
    identity: Literal["content", "positional"]
    repeats: bool
    unresolved_ok: bool
    durability: Durability


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What sending a call of a tool twice would do, and what can be done about doubt."""

    name: str
    effect: Effect = "once"
    """`read`: nothing. `idempotent`: nothing, under the same key. `once`: harm."""
    key: str | Callable[..., str] | None = None
    """A JSON pointer into the arguments (`/invoice_id`: the business key), or the key itself, or
    a function of the arguments that returns it. Without one a call is what it asks for."""
    record: bool = False
    """For `read`: keep the answer, and give it again when the step is done again."""
    probe: Callable[..., Any] | None = None
    """For `once`: asked with the same arguments whether it took place. Returns what the tool would
    have returned; or `None` or `False`, or raises `NotApplied`, if it didn't."""
    undo: Callable[..., Any] | None = None
    """Takes back what a call did; for compensation."""
    irreversible: bool = False
    """Can't be taken back: never started while the pod drains."""
    probe_settle_s: float | None = None
    """How long after a send a probe may still miss it. Unset: a negative probe proves nothing."""
    key_lifetime_s: float | None = None
    """For `idempotent`: how long the upstream honours a key."""
    identity: Literal["content", "positional"] = "content"
    repeats: bool = False
    """An equal call in the same step is meant: it is made again."""
    unresolved_ok: bool = False
    """May be made while an earlier call of this tool is in doubt."""
    durability: Durability | None = None
    """How far the record of a call must have got before it leaves; `once` is always `remote`."""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        for name, value, legal in (
            ("effect", self.effect, _EFFECTS),
            ("identity", self.identity, _IDENTITIES),
            ("durability", self.durability, _LEVELS),
        ):
            if value not in legal:
                raise ValueError(f"{self.name}: {name} is {value!r}; one of {legal} is legal")
        for function in (self.probe, self.undo):
            if function is not None and not callable(function):
                raise TypeError(f"{self.name}: {function!r} can't be called")
        for is_wrong, why in (
            (self.probe and self.effect != "once", "only a tool of effect once has a probe"),
            (self.probe_settle_s and not self.probe, "probe_settle_s needs a probe"),
            (self.record and self.effect != "read", "every call but a read is recorded anyway"),
            (self.is_unrecorded and self.key, "a read that isn't recorded takes no key"),
            (self.effect == "read" and self.undo, "a read leaves nothing to undo"),
            (self.irreversible and self.undo, "irreversible and undo exclude each other"),
            (self.key == "", "a key has at least one character"),
        ):
            if is_wrong:
                raise ValueError(f"{self.name}: {why}")

    @property
    def is_unrecorded(self) -> bool:
        """Its calls are nobody's business but the agent's."""
        return self.effect == "read" and not self.record


def tool(**options: Unpack[ToolOptions]) -> Callable[[Function], Function]:
    """Declare a function as a tool; it stays what it was, and can be called as before."""

    def attach(function: Function) -> Function:
        setattr(function, _ATTRIBUTE, declare(function, options))
        return function

    return attach


def declare(function: Callable[..., Any], options: ToolOptions) -> Declaration:
    """What `function` said of itself, with `options` in place of what they name.

    A function that said nothing is of effect `once`: the safe one.
    """
    declared: Declaration | None = getattr(function, _ATTRIBUTE, None)
    if declared is not None:
        return replace(declared, **options)
    name = options.get("name") or getattr(function, "__name__", None)
    if name is None:
        raise ValueError(f"{function!r} has no name of its own: give it one with name=")
    return Declaration(**cast(Any, {**options, "name": name}))


class Call(NamedTuple):
    """One call about to be made: the step and the declared tool, and how it was called."""

    step: int
    tool: Declaration
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def arguments(self) -> dict[str, Any]:
        """The arguments by parameter name, as given.

        Defaults are left out, so that a new parameter in the next release leaves recorded calls as
        they are; but not one that the business key points into.
        """
        bound = inspect.signature(self.function).bind(*self.args, **self.kwargs)
        given = dict(bound.arguments)
        if self.business is not None:
            bound.apply_defaults()
            name = self.business[1:].partition("/")[0].replace("~1", "/").replace("~0", "~")
            if name not in bound.arguments:
                raise ValueError(f"{self.tool.name} has no parameter for its key {self.business}")
            given[name] = bound.arguments[name]
        return given

    @property
    def business(self) -> str | None:
        """The JSON pointer of the business key."""
        key = self.tool.key
        return key if isinstance(key, str) and key.startswith("/") else None

    def explicit_key(self) -> str | None:
        """The key that the agent gives."""
        key = self.tool.key
        if key is None or self.business is not None:
            return None
        value: Any = key(*self.args, **self.kwargs) if callable(key) else key
        if not isinstance(value, str) or not value:
            raise TypeError(f"the key of {self.tool.name} is {value!r}, not a str with characters")
        return value

    def encoded(self) -> bytes:
        """The arguments as msgpack. Raises `NotEncodable`."""
        return encode(self.arguments(), self.tool.name)


class Invoke:
    """A function to be called by a driver: `with invoke: invoke.start()`.

    The clock is read in `start`, in the very thread that calls, right before it calls.
    """

    def __init__(
        self,
        call: Call,
        session: Session,
        *,
        number: int = 0,
        key: str | None = None,
        until_boot_s: float | None = None,
    ) -> None:
        """`number` is 0 for a call that the sidecar knows nothing of."""
        self.call = call
        self._session = session
        self._number = number
        self._key = key
        self._until_boot_s = until_boot_s
        self._token: Token[str | None] | None = None

    def start(self) -> Any:
        """Call it: a value, or something to await. Raises `TooLate`, or what it raises."""
        if self._until_boot_s is not None and _clock.boottime() >= self._until_boot_s:
            raise TooLate
        if self._number and not self._session.begin(self._number):
            raise TooLate
        return self.call.function(*self.call.args, **self.call.kwargs)

    def __enter__(self) -> None:
        """Make the key known to `current_key`."""
        self._token = _KEY.set(self._key)

    def __exit__(self, *exc_info: object) -> None:
        """Forget it."""
        if self._token is not None:
            _KEY.reset(self._token)


def current_key() -> str:
    """The key under which the running tool call goes upstream.

    Raises `LookupError` outside a tool, and in a `read` that isn't recorded: there is no key.
    """
    key = _KEY.get()
    if key is None:
        raise LookupError("there is no tool call here: call the tool by step.tool(...)(...)")
    return key
