"""What a run is to an agent, with or without asyncio: how it is opened, used and left."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Generic, Literal, Required, TypedDict, TypeVar

from coatcheck import _ops, errors
from coatcheck._codec import encode
from coatcheck._ops import UNSET, ToolOp
from coatcheck._session import UNOPENED, Ask, Session
from coatcheck._tool import HERE, Durability, Here, refuse_unknown
from coatcheck.http.runs import HasBlobs
from coatcheck.wire import Request, Retry

SOCKET_PATH: Final = "/run/coatcheck/agent.sock"
"""Where the injected sidecar listens."""
CLAIM_WAIT_S: Final = 60.0
"""One long poll; short enough that a queue's claimer is seen to live."""

NAME: Final = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Run and queue names are part of an object's name."""

Verdict = Literal["applied", "not_applied", "retry", "compensate"]
Done = TypeVar("Done")
"""What a method without a value returns: `None`, or with asyncio what is to be awaited."""


class ClaimOptions(TypedDict, total=False):
    """What `claim_runs` takes beside the queue."""

    schema: Required[int]
    """Version of the state's shape; a run whose state has another is refused."""
    migrate: Mapping[int, Callable[[Any], Any]]
    """By schema: what lifts a state of it to the next, up to `schema`. Done anew at each opening,
    until a step is committed."""
    code_version: str
    """Opaque, such as a git hash; else `COATCHECK_CODE_VERSION`."""
    address: str
    """Where this owner can be reached; told to others by `OwnedElsewhere`."""
    step_timeout_s: float
    """A step that takes longer is reported as stuck."""
    on_drain: Literal["auto", "drain", "migrate", "compensate"]
    """What becomes of the run when the pod stops: `auto` (the default), `drain` to its end if
    there is time, or `migrate` at its next step."""


class OpenOptions(ClaimOptions, total=False):
    """What `open_run` takes beside the run's id."""

    queue: str
    """Where the run waits when nobody owns it (`default`)."""
    deadline_s: float
    """How long a new run may take in all; an existing one keeps its own deadline."""
    input: Any
    """What a new run is given; an existing one keeps its own."""
    pinned: bool
    """Only the same `code_version` may go on with the run."""
    create: bool
    """Begin the run if there is none (the default); else `NotFound`."""
    wait_s: float
    """How long to wait for a run that can't be had yet (60)."""


def socket_path() -> str:
    """The sidecar's socket: `COATCHECK_SOCKET`, or where it is in a pod."""
    return os.environ.get("COATCHECK_SOCKET") or SOCKET_PATH


def opening_of(run: str | None, options: OpenOptions) -> Ask:
    """How to ask for one run; its id from `COATCHECK_RUN_ID` if none is given."""
    refuse_unknown(options, OpenOptions)
    run = run or os.environ.get("COATCHECK_RUN_ID")
    if run is None:
        raise ValueError("which run? give its id, or set COATCHECK_RUN_ID")
    return _opening({"create": True, **options, "run": _named("run", run)})


def claiming_of(queue: str, options: ClaimOptions) -> Ask:
    """How to ask for whichever run of a queue is ready next."""
    refuse_unknown(options, ClaimOptions)
    return _opening({**options, "queue": queue, "create": False})


def _opening(options: Mapping[str, Any]) -> Ask:
    if "schema" not in options:
        raise TypeError("which schema has the state? give its version, such as schema=1")
    given = {name: value for name, value in options.items() if value is not None}
    implied = {"wait_s": CLAIM_WAIT_S, "code_version": os.environ.get("COATCHECK_CODE_VERSION", "")}
    body = {**implied, **given, "queue": _named("queue", given.get("queue", "default"))}
    lifts, value = body.pop("migrate", {}), body.pop("input", None)
    body["schema_from"] = oldest = body["schema"] - len(lifts)
    if sorted(lifts) != [*range(oldest, body["schema"])]:
        raise ValueError(f"migrate takes {sorted(lifts)}; up to {body['schema'] - 1}, without gaps")
    return Ask(Request.OPEN, body, None if value is None else encode(value, "input"), lifts=lifts)


def asking_of(run: str) -> Ask:
    """For a connection that opens nothing, and only asks about a run."""
    return Ask(Request.RESULT, {"run": _named("run", run)})


def _named(kind: str, name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r:.150} is no {kind} name, which matches {NAME.pattern}")
    return name


class StepBase(Generic[Done]):
    """The work between two checkpoints."""

    def __init__(self, run: "RunBase[Done]") -> None:
        self._run = run
        self.number = run.step_number
        """From 1; the same when the step is done again."""

    def commit(self, state: Any, *, durability: Durability = "node") -> Done:
        """End the step with a checkpoint; durable when it returns.

        Raises `NotEncodable` with the path of what can't be stored, `StepOver` if the step was
        committed before, `InFlight` while a guarded call is open, `TooLarge`, `Fenced`.
        """
        return self._run._end(self._run._commit(self.number, state, level=durability))


class RunBase(HasBlobs, Generic[Done]):
    """What is known of a run, and what is done with it."""

    _driver: Callable[[Session, str], Any]
    """The class of its connection."""
    _end: Callable[[ToolOp[None]], Done]
    """As `_perform`, for what has no value."""

    def __init__(self, opening: Ask, on_close: Callable[[], None] = lambda: None) -> None:
        self._session = Session(opening)
        self._perform = self._end = self._driver(self._session, socket_path()).perform
        self._on_close = on_close
        self._is_looping = False
        self.state: Any = None
        """The newest checkpoint as this process knows it; `None` for a new run."""
        self.input: Any = None
        """What the run was created with."""
        self.result: Any = None
        """What the run finished with."""
        self.error: str | None = None
        """Why the run is over, if it was not finished."""

    @property
    def id(self) -> str:
        """The run's name, unique in its store."""
        return self._session.run

    @property
    def epoch(self) -> int:
        """The fencing token of this ownership; every later owner's is higher."""
        return self._session.epoch

    @property
    def step_number(self) -> int:
        """The step that is to be done next, or under way; from 1."""
        return self._session.step

    @property
    def status(self) -> str:
        """`owned` while it is this process's, else `finished`, `failed`, `cancelled`, ...

        A run that was over before is opened all the same: it has no next step, and its `result`.
        """
        return self._session.status

    @property
    def is_finished(self) -> bool:
        """There is a result."""
        return self.status == "finished"

    @property
    def draining(self) -> bool:
        """The pod stops: commit, and leave."""
        return self._session.is_draining

    def proxy_url(self, tool: str) -> str:
        """A tool's URL, for this run: `OpenAI(base_url=run.proxy_url("openai"))`.

        Calls that go there are decided by the sidecar: replayed, sent once, or held. In mode `off`
        it is the upstream's, from `COATCHECK_UPSTREAM_<TOOL>`. Raises `Unavailable` if there is
        none.
        """
        session, name = self._session, "COATCHECK_UPSTREAM_" + re.sub(r"\W", "_", tool).upper()
        proxied = session.proxy and f"{session.proxy}/{tool}"
        url = {**session.environ, **os.environ}.get(name) if session.is_off else proxied
        if not url:
            why = f"set {name}" if session.is_off else "is the run open? has its sidecar HTTP?"
            raise errors.Unavailable(f"no URL for {tool}: {why}", retry=Retry.NEVER, run=self.id)
        return url

    def _environ(self) -> dict[str, str]:
        """By what a process finds this run and its tools. Raises `Unavailable`."""
        found = {} if self._session.is_off else {"COATCHECK_PROXY_URL": self.proxy_url("")[:-1]}
        return {**self._session.environ, **found, "COATCHECK_RUN_ID": self.id}

    def commit(self, state: Any, *, durability: Durability = "node") -> Done:
        """End the step under way; as `Step.commit`.

        Outside `steps()` it raises `Draining` when the state is safe and the pod stops, which ends
        the loop and is absorbed by `with`.
        """
        return StepBase(self).commit(state, durability=durability)

    def wait_for(self, name: str, payload: Any = None) -> Any:
        """The value of a signal. Raises `Parked` if it has not come: leave, and be woken by it.

        `payload` is shown to whoever is to send the signal.
        """
        return self._perform(_ops.wait_for(self._session, name, payload=payload))

    def finish(self, result: Any = None, *, state: Any = UNSET) -> Done:
        """End the run with a result, and a last checkpoint in the same append."""
        return self._end(self._finish(result, state))

    def fail(self, error: str | BaseException) -> Done:
        """End the run as failed, for good."""
        return self._end(_ops.tell(self._session, Request.FAIL, error=str(error)))

    def eta(self, seconds: float) -> Done:
        """Say how long the run still needs: a pod that drains waits for its end if it can."""
        return self._end(_ops.tell(self._session, Request.ETA, seconds=seconds))

    def resolve(
        self, call: int, verdict: Verdict, *, value: Any = None, why: str = "", force: bool = False
    ) -> Done:
        """Decide a call, by the number in the `details` of `InDoubt` or `Held`; then ask again.

        `applied`: it took place, and `value` came of it. `not_applied`, `retry`: it is sent again,
        with `force` even while a send may still be on its way. `compensate`: it was taken back, and
        counts no more. Raises `Conflict` with why it can't be decided so.
        """
        body = {"call": call, "verdict": verdict, "why": why, "force": force}
        return self._end(_ops.tell(self._session, Request.RESOLVE, value=value, **body))

    def _turns(self) -> Iterator[None]:
        """Once for each step, until the run ends or the pod drains."""
        self._is_looping = True
        try:
            while self._session.has_next_step:
                HERE.set(Here(self._session, self.step_number))
                yield
        finally:
            self._is_looping = False
            HERE.set(Here(self._session))

    def _enter(self) -> ToolOp[None]:
        """Open it, if it isn't: a run that was claimed is open before it is entered."""
        HERE.set(Here(self._session))
        if self.status != UNOPENED:
            return
        try:
            opened = yield from _ops.open_run(self._session)
        except BaseException as error:
            yield from self._leave(error)
            raise
        self.state, self.input, (_, self.result, self.error) = opened

    def _leave(self, error: BaseException | None) -> ToolOp[bool]:
        """Release it, unless it ended; true for what is no failure."""
        reason = self._exit_reason(error)
        said = None if reason in ("left", "draining") else _ops.said_of(error)
        try:
            yield from _ops.leave(self._session, reason, error=said)
        except (errors.CoatcheckError, TimeoutError) as failure:
            # What was committed is safe, and the lease gives the run up in our place; but the first
            # word on being fenced or damaged is not swallowed.
            if error is None and not isinstance(failure, errors.Unavailable | TimeoutError):
                raise
        finally:
            HERE.set(None)
            self._on_close()
            yield None
        return isinstance(error, errors.Draining | errors.Parked)

    def _exit_reason(self, error: BaseException | None) -> str:
        if isinstance(error, errors.InDoubt):
            return "in_doubt"
        if isinstance(error, errors.Held | errors.ReplayDivergence):
            return "held"
        if isinstance(error, Exception) and not isinstance(error, errors.Draining | errors.Parked):
            return "error"
        # Also when the agent is being stopped, which is nobody's fault.
        return "draining" if self.draining else "left"

    def _commit(self, step: int, state: Any, *, level: Durability) -> ToolOp[None]:
        """A checkpoint. Raises `Draining` in a loop that nothing else would end."""
        yield from _ops.commit(self._session, step, state=state, level=level)
        self.state = state
        if self.draining and not self._is_looping:
            raise errors.Draining(f"the pod stops; run {self.id} is safe, and goes on elsewhere")

    def _finish(self, result: Any, state: Any) -> ToolOp[None]:
        yield from _ops.finish(self._session, result, state=state)
        self.result = result
