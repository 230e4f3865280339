"""What a tool says of itself, and one call of it as the sidecar sees it."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final, Literal, NamedTuple, ParamSpec, TypedDict, TypeVar, Unpack, get_args

from coatcheck import _clock
from coatcheck._session import Session
from coatcheck.errors import NotApplied

Effect = Literal["read", "idempotent", "once"]
Identity = Literal["content", "positional"]
Durability = Literal["process", "node", "remote"]
Function = TypeVar("Function", bound=Callable[..., Any])
Params = ParamSpec("Params")

_ATTRIBUTE: Final = "__coatcheck_tool__"
UNDOS: Final[dict[tuple[str, str], Callable[..., Any]]] = {}
"""By the tool's name and the function's own: what takes a call back."""


class Here(NamedTuple):
    """What is under way: known to the tasks that are begun here, and to `asyncio.to_thread`."""

    session: Session
    step: int | None = None
    key: str | None = None
    """Under which the running tool call goes upstream."""
    is_named: bool = False
    """The tool has a key of its own: it is that of the request that the call makes, too."""


HERE: ContextVar[Here | None] = ContextVar("coatcheck_here", default=None)


class TooLate(NotApplied):
    """The window in which a guarded call may start is over, or its `go` was given back."""


class ToolOptions(TypedDict, total=False):
    """What sending a call of a tool twice would do, and what can be done about doubt.

    For `coatcheck.tool` and `step.tool`.
    """

    name: str
    """What the tool is called in the run's log (the function's own name)."""
    effect: Effect
    """`read`: nothing. `idempotent`: nothing, under the same key. `once` (the default): harm."""
    key: str | Callable[..., str]
    """A JSON pointer into the arguments (`/invoice_id`: the business key), or the key itself, or
    a function of the arguments that returns it. Without one a call is what it asks for."""
    show: Sequence[str]
    """JSON pointers into the arguments (`/amount`) whose values operators see in lists of doubts,
    beside that of the business key. Of all else they see the names."""
    record: bool
    """For `read`: keep the answer, and give it again when the step is done again."""
    probe: Callable[..., Any]
    """For `once`: asked with the same arguments whether it took place. Returns what the tool would
    have returned; or `None` or `False`, or raises `NotApplied`, if it didn't."""
    undo: Callable[..., Any]
    """Takes back what a call did: called with its result when the run is compensated. To be found
    then, in whichever process, the tool is declared as its module is loaded."""
    irreversible: bool
    """Nothing takes it back: never started while the pod drains, and nothing before it is undone
    once it is done."""
    probe_settle_s: float
    """How long after a send a probe may still miss it. Unset: a negative probe proves nothing."""
    key_lifetime_s: float
    """For `idempotent`: how long the upstream honours a key."""
    identity: Identity
    """A call without a key is the same one if it asks for the same (the default), or if it comes
    in the same place."""
    repeats: bool
    """An equal call in the same step is meant: it is made again."""
    unresolved_ok: bool
    """May be made while an earlier call of this tool is in doubt."""
    durability: Durability
    """How far the record of a call must have got before it leaves; `once` is always `remote`."""


def tool(**options: Unpack[ToolOptions]) -> Callable[[Function], Function]:
    """Declare a function as a tool; it stays what it was, and can be called as before."""

    def attach(function: Function) -> Function:
        setattr(function, _ATTRIBUTE, declare(function, options))
        return function

    return attach


def declare(function: Callable[..., Any], options: ToolOptions) -> ToolOptions:
    """What `function` said of itself, with `options` in place of what they name; checked.

    A function that said nothing is of effect `once`: the safe one.
    """
    silent: ToolOptions = {"name": getattr(function, "__name__", ""), "effect": "once"}
    declared: ToolOptions = {**silent, **getattr(function, _ATTRIBUTE, {}), **options}
    _check(declared)
    if undo := undo_name(declared):
        UNDOS[declared["name"], undo] = declared["undo"]
    return declared


def undo_name(tool: ToolOptions) -> str | None:
    """What the function that takes a call back is called in the run's log."""
    return getattr(tool["undo"], "__name__", "undo") if tool.get("undo") else None


def _check(tool: ToolOptions) -> None:
    """Refuse what is unknown, and what contradicts itself."""
    refuse_unknown(tool, ToolOptions)
    name, effect = tool["name"], tool["effect"]
    for option, kind in ("effect", Effect), ("identity", Identity), ("durability", Durability):
        value, legal = tool.get(option), get_args(kind)
        if value not in (None, *legal):
            raise ValueError(f"{name}: {option} is {value!r}; one of {legal} is legal")
    for function in (tool.get("probe"), tool.get("undo")):
        if function is not None and not callable(function):
            raise TypeError(f"{name}: {function!r} can't be called")
    is_read, has, shown = effect == "read", tool.get, tool.get("show", ())
    for is_wrong, why in (
        (not name, "a tool that has no name of its own: give it one with name="),
        (has("probe") and effect != "once", "only a tool of effect once has a probe"),
        (has("probe_settle_s") and not has("probe"), "probe_settle_s needs a probe"),
        (has("record") and not is_read, "every call but a read is recorded anyway"),
        (is_read and has("key") and not has("record"), "a read that isn't recorded takes no key"),
        (is_read and has("undo"), "a read leaves nothing to undo"),
        (has("irreversible") and (is_read or has("undo")), "what is irreversible has no undo"),
        (has("key") == "", "a key has at least one character"),
        (any(path[:1] != "/" for path in shown), "show lists JSON pointers: ['/amount']"),
    ):
        if is_wrong:
            raise ValueError(f"{name}: {why}")


def refuse_unknown(options: Mapping[str, Any], legal: type) -> None:
    """Raise `TypeError` for an option that the TypedDict `legal` has not."""
    for name in options.keys() - legal.__annotations__.keys():
        raise TypeError(f"there is no option {name!r}; there are {sorted(legal.__annotations__)}")


class Call(NamedTuple):
    """One call about to be made: the step and the declared tool, and how it was called."""

    step: int
    tool: ToolOptions
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def name(self) -> str:
        """What the tool is called."""
        return self.tool["name"]

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
                raise ValueError(f"{self.name} has no parameter for its key {self.business}")
            given[name] = bound.arguments[name]
        return given

    @property
    def business(self) -> str | None:
        """The JSON pointer of the business key."""
        key = self.tool.get("key")
        return key if isinstance(key, str) and key.startswith("/") else None

    def explicit_key(self) -> str | None:
        """The key that the agent gives."""
        key = self.tool.get("key")
        if key is None or self.business is not None:
            return None
        value: Any = key(*self.args, **self.kwargs) if callable(key) else key
        if not isinstance(value, str) or not value:
            raise TypeError(f"the key of {self.name} is {value!r}, not a str with characters")
        return value


class Invoke:
    """A function to be called by a driver: `with invoke: invoke.start()`.

    The clock is read in `start`, in the very thread that calls, right before it calls.
    """

    def __init__(self, call: Call, session: Session, *, said: Mapping[str, Any]) -> None:
        """`said` is what the sidecar said of the call, empty if it wasn't asked."""
        self.call = call
        self._session = session
        self._said = said

    def start(self) -> Any:
        """Call it: a value, or something to await. Raises `TooLate`, or what it raises."""
        is_late = _clock.boottime() >= self._said.get("until_boot_s", math.inf)
        is_go = self._said.get("decision") == "go"
        if is_late or (is_go and not self._session.begin(self._said["call"])):
            raise TooLate("it could not start in time")
        return self.call.function(*self.call.args, **self.call.kwargs)

    def __enter__(self) -> None:
        """Make the key known to `current_key`."""
        is_named = self._said.get("decision") == "go" and "key" in self.call.tool
        key: str | None = self._said.get("upstream_key")
        self._token = HERE.set(Here(self._session, self.call.step, key, is_named))

    def __exit__(self, *exc_info: object) -> None:
        """Forget it."""
        HERE.reset(self._token)


def current_key() -> str:
    """The key under which the running tool call goes upstream.

    Raises `LookupError` outside a tool, and in a `read` that isn't recorded: there is no key.
    """
    here = HERE.get()
    if here is None or here.key is None:
        raise LookupError("there is no tool call here: call the tool by step.tool(...)(...)")
    return here.key
