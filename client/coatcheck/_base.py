"""What a run is to an agent, with or without asyncio: what it knows, and how it is left."""

import os
from collections.abc import Mapping
from typing import Any, Final, Required, TypedDict

from coatcheck import _clock
from coatcheck._codec import encode
from coatcheck._ops import Migrations, Opened
from coatcheck._session import Opening, Session
from coatcheck.errors import Draining, Held, InDoubt, Parked, ReplayDivergence

SOCKET_PATH: Final = "/run/coatcheck/agent.sock"
"""Where the injected sidecar listens."""
CLAIM_WAIT_S: Final = 60.0
"""One long poll; short enough that a queue's claimer is seen to live."""
NAME_CHARS_MAX: Final = 128
"""Run and queue names are part of an object's name."""
ERROR_CHARS_MAX: Final = 1_000
"""What a release says of an exception: enough to know it by."""


class OpenOptions(TypedDict, total=False):
    """What `open_run` takes beside the run's id."""

    schema: Required[int]
    """Version of the state's shape; older states are lifted by `migrations`."""
    queue: str
    """Where the run waits when nobody owns it (`default`)."""
    input: Any
    """What a new run is given; an existing one keeps its own."""
    code_version: str
    """Opaque, such as a git hash; else `COATCHECK_CODE_VERSION`."""
    pinned: bool
    """Only the same `code_version` may go on with the run."""
    create: bool
    """Begin the run if there is none (the default); else `NotFound`."""
    wait_s: float
    """How long to wait for a run that can't be had yet (60)."""
    address: str
    """Where this owner can be reached; told to others by `OwnedElsewhere`."""
    step_timeout_s: float
    """A step that takes longer is reported as stuck."""
    migrations: Migrations
    """From schema n to n + 1: `{1: lift_to_2}`."""


class ClaimOptions(TypedDict, total=False):
    """What `claim_runs` takes beside the queue; as for `open_run`."""

    schema: Required[int]
    code_version: str
    address: str
    step_timeout_s: float
    migrations: Migrations


def socket_path() -> str:
    """The sidecar's socket: `COATCHECK_SOCKET`, or where it is in a pod."""
    return os.environ.get("COATCHECK_SOCKET") or SOCKET_PATH


def opening_of(run: str | None, options: OpenOptions) -> Opening:
    """The opening of one run; its id from `COATCHECK_RUN_ID` if none is given."""
    run = run or os.environ.get("COATCHECK_RUN_ID")
    if run is None:
        raise ValueError("which run? give its id, or set COATCHECK_RUN_ID")
    given = options.get("input")
    return Opening(
        run=_named("run", run),
        queue=_named("queue", options.get("queue", "default")),
        schema=options["schema"],
        code_version=options.get("code_version"),
        is_pinned=options.get("pinned", False),
        create=options.get("create", True),
        wait_s=options.get("wait_s", CLAIM_WAIT_S),
        address=options.get("address"),
        step_timeout_s=options.get("step_timeout_s"),
        input=None if given is None else encode(given, "input"),
    )


def claiming_of(queue: str, options: ClaimOptions) -> Opening:
    """The opening of whichever run of a queue is ready next."""
    return Opening(
        run=None,
        queue=_named("queue", queue),
        schema=options["schema"],
        code_version=options.get("code_version"),
        create=False,
        wait_s=CLAIM_WAIT_S,
        address=options.get("address"),
        step_timeout_s=options.get("step_timeout_s"),
    )


def asking_of(run: str) -> Opening:
    """For a connection that opens nothing, and only asks about a run."""
    return Opening(run=_named("run", run), queue="default", schema=0)


def _named(kind: str, name: str) -> str:
    """A legal run or queue name: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`."""
    rest = name.replace(".", "").replace("_", "").replace("-", "")
    if not name[:1].isalnum() or not (rest.isalnum() and rest.isascii()):
        raise ValueError(f"{name!r:.150} is no {kind} name: letters, digits and ._- are legal")
    if len(name) > NAME_CHARS_MAX:
        raise ValueError(f"the {kind} name {name:.20}... has more than {NAME_CHARS_MAX} characters")
    return name


class RunBase:
    """What is known of an open run."""

    def __init__(self, session: Session, migrations: Migrations | None) -> None:
        self._session = session
        self._migrations: Mapping[int, Any] = migrations or {}
        self._is_looping = False
        self.state: Any = None
        """The newest checkpoint as this process knows it; `None` for a new run."""
        self.input: Any = None
        """What the run was created with."""

    def _opened(self, opened: Opened) -> None:
        self.state, self.input = opened

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
    def draining(self) -> bool:
        """The pod stops: commit, and leave."""
        return self._session.is_draining

    @property
    def drain_left_s(self) -> float | None:
        """Seconds until the drain's deadline; `None` if none was told."""
        return _left(self._session.drain_at_s)

    @property
    def deadline_left_s(self) -> float | None:
        """Seconds until the run's own deadline, once it is near."""
        return _left(self._session.deadline_at_s)

    @property
    def checkpoint_wanted(self) -> bool:
        """The sidecar asks for a commit soon: much is unshipped."""
        return self._session.checkpoint_wanted

    @property
    def signals(self) -> frozenset[str]:
        """Names of signals that came and were not waited for yet."""
        return frozenset(self._session.signals)

    def _committed(self, state: Any) -> None:
        """Note a checkpoint. Raises `Draining` in a loop that nothing else would end."""
        self.state = state
        if self.draining and not self._is_looping:
            raise Draining(f"the pod stops; run {self.id} is safe, and goes on elsewhere")


def exit_reason(run: RunBase, error: BaseException | None) -> tuple[str, str | None]:
    """Why a run is left unfinished, and what to say of it."""
    match error:
        case None | Draining() | Parked():
            return ("draining" if run.draining else "left"), None
        case InDoubt():
            reason = "in_doubt"
        case Held() | ReplayDivergence():
            reason = "held"
        case Exception():
            reason = "error"
        case _:  # the agent is being stopped, which is nobody's fault
            return ("draining" if run.draining else "left"), None
    return reason, f"{type(error).__name__}: {error}"[:ERROR_CHARS_MAX]


def _left(at_s: float | None) -> float | None:
    return None if at_s is None else max(0.0, at_s - _clock.monotonic())
