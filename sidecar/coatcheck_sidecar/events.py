"""What happens, as log lines and metrics: one table for both; and how things stand.

Labels have few values: a run's name is on its log lines, never on a metric.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from coatcheck_sidecar import logs

if TYPE_CHECKING:
    from coatcheck_sidecar.metrics import Metrics

PUT_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""From a local disk's fsync to a store that is all but gone."""
WAIT_BUCKETS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 2.5, 10, 60)
"""An acknowledgement: from the journal's group commit to back-pressure of a slow link."""
UPSTREAM_BUCKETS_S: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
"""From a cache in the cluster to a model that thinks for minutes."""
CLAIM_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
"""A claim: two round trips, or a lease to wait for."""
HOOKS: Final = ("seen", "missed")
STOPS: Final = ("boundary", "cut")
"""How a drain went: whether its preStop hook came, and where a run stopped."""
KEPT_MAX: Final = 4_096
"""Events kept for metrics that are still to be made: what the engine notes in about a second."""


@dataclass(frozen=True, slots=True)
class Count:
    """A counter: `coatcheck_<name>_total`. Adds the figure of field `amount`, or 1."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    amount: str = ""
    known: tuple[tuple[str, ...], ...] = ()
    """Labels that are there from the start, at 0: the first of a series is no increase."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A histogram of the figures of field `amount`: `coatcheck_<name>`."""

    name: str
    help: str
    amount: str
    buckets: tuple[float, ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """What an event is worth: the level of its log line, and what it counts."""

    level: str
    instruments: tuple[Count | Spread, ...] = ()


def _count(
    level: str, name: str, *labels: str, help: str, known: tuple[tuple[str, ...], ...] = ()
) -> Line:
    return Line(level, (Count(name, help, labels, known=known),))


CALLS: Final = Count("calls", "Decisions on tool calls.", ("tool", "decision"))
"""Of calls that the SDK makes, and of those over HTTP."""
HELD: Final = Count(
    "calls_held",
    "Askings that nobody may answer before somebody decides.",
    ("tool", "reason"),
    "held",
)
"""Of both, with why: `replay_divergence` is among the reasons."""


TABLE: Final[Mapping[str, Line]] = {
    "shipped": Line(
        "debug",
        (
            Count("ships", "Swaps of a head that succeeded."),
            Count("shipped_bytes", "Bytes put into the store.", amount="bytes"),
            Count("store_puts", "Objects put into the store, heads included.", amount="puts"),
            Spread("ship_seconds", "Time of one swap of a head.", "seconds", PUT_BUCKETS_S),
        ),
    ),
    "ship_failed": _count("warning", "ship_failures", help="Puts or swaps without a clear answer."),
    "fenced": _count("warning", "fenced", help="Runs lost to a newer owner."),
    "store_paced": Line(
        "info",
        (
            Count(
                "store_paced_seconds",
                "Time that calls and commits waited since the store takes one write of an object "
                "in so long.",
                amount="seconds",
            ),
        ),
    ),
    "repaired": _count("error", "runs_repaired", help="Runs that went on from what was whole."),
    "collected": Line(
        "debug",
        (
            Count("collected_objects", "Superseded objects deleted.", (), "objects"),
            Count("collected_bytes", "Bytes of superseded objects deleted.", (), "bytes"),
        ),
    ),
    "damaged": _count("error", "damaged_objects", help="Objects found missing or damaged."),
    "set_aside": Line(
        "warning",
        (Count("set_aside_records", "Local records that diverged from the log.", (), "records"),),
    ),
    "row_damaged": _count("error", "damaged_rows", help="Rows of the journal that can't be read."),
    "spool_failed": _count("error", "spool_failures", help="Files of the spool that failed."),
    "committed": Line(
        "debug",
        (Spread("commit_seconds", "Until acknowledged.", "seconds", WAIT_BUCKETS_S, ("level",)),),
    ),
    "claimed": Line(
        "info",
        (Spread("claim_seconds", "Time of a claim.", "seconds", CLAIM_BUCKETS_S, ("cause",)),),
    ),
    "call": Line("debug", (CALLS, HELD)),
    "crashed": _count(
        "warning",
        "crashes",
        "how",
        help="Agents that went without letting go of their run.",
        known=(("agent",), ("error",), ("restart",), ("takeover",)),
    ),
    "held": _count(
        "warning",
        "runs_held",
        "why",
        help="Runs that nobody may go on with before an operator decides.",
        known=(("crash_loop",), ("damaged",), ("held",), ("in_doubt",), ("other",)),
    ),
    "inherited": Line(
        "info",
        (
            Count(
                "runs_inherited",
                "Runs that went on here after the drain of their pod, by how that went.",
                ("hook", "stop"),
                known=tuple((hook, stop) for hook in HOOKS for stop in STOPS),
            ),
            Spread(
                "handover_seconds",
                "From the release of such a run to its next owner.",
                "waited_s",
                CLAIM_BUCKETS_S,
            ),
        ),
    ),
    "store": Line(
        "debug",
        (
            Spread(
                "store_seconds",
                "Time of a request to the store.",
                "seconds",
                PUT_BUCKETS_S,
                ("operation", "outcome"),
            ),
        ),
    ),
    "completion_replayed": Line(
        "debug",
        (
            Count("completions_replayed", "Model answers given from the log.", ("tool",)),
            Count("replayed_input_tokens", "Tokens of their prompts.", ("tool",), "input_tokens"),
            Count("replayed_output_tokens", "Tokens in them.", ("tool",), "output_tokens"),
            Count("replayed_dollars", "What they did not cost again.", ("tool",), "dollars"),
        ),
    ),
    "bypass": Line("warning"),
    "observed": Line("info"),
    "observed_call": Line("info"),
    "exchange": Line(
        "debug",
        (
            CALLS,
            HELD,
            Spread(
                "call_added_seconds",
                "What a call over HTTP took, less its upstream's part and its waits.",
                "added_s",
                WAIT_BUCKETS_S,
                ("decision",),
            ),
            Spread(
                "upstream_seconds",
                "What an upstream took to answer a recorded call in whole, tries included.",
                "upstream_s",
                UPSTREAM_BUCKETS_S,
                ("tool",),
            ),
        ),
    ),
    "probe_failed": _count("warning", "probe_failures", "tool", help="Probes without an answer."),
    "answer_cut": _count(
        "warning", "answers_cut", "tool", help="Answers broken off, as they could not be recorded."
    ),
    "heartbeat_failed": _count(
        "warning", "heartbeat_failures", help="Heartbeats not acknowledged."
    ),
    "store_away": _count("warning", "store_outages", help="Times that the store went away."),
    "store_back": Line("info"),
    "journal_dead": _count("critical", "journal_deaths", help="I/O errors that ended the journal."),
    "command": _count(
        "info", "commands", "what", help="Commands from outside, carried out or not."
    ),
    "task_failed": _count("error", "task_failures", help="Faults of ours: tasks that broke."),
    "restored": Line(
        "info",
        (
            Spread("restore_seconds", "Time to bring a run back.", "seconds", CLAIM_BUCKETS_S),
            Count("restored_objects", "Objects read to bring runs back.", (), "objects"),
        ),
    ),
    "alarm": _count("error", "alarms", help="Outcomes that contradict what was decided."),
    "let_go": _count(
        "info",
        "let_go",
        "status",
        help="Runs given up, by what they are now.",
        known=(("failed",), ("finished",), ("held",), ("parked",), ("ready",)),
    ),
    "look_failed": _count("warning", "look_failures", help="Reads that failed and are repeated."),
    "passed_over": Line("debug"),
    "not_accepted": _count(
        "warning", "runs_not_accepted", help="Runs left where they are: no agent here takes them."
    ),
    "adopt_failed": Line("warning"),
    "unprotected": _count(
        "info", "unprotected", "host", "how", help="Tunnels, in which no call is deduplicated."
    ),
    "run_expired": _count("warning", "runs_expired", help="Runs ended by their own deadline."),
    "step_stuck": _count(
        "warning", "steps_stuck", help="Steps that outlasted the time their agent gives one."
    ),
    "drain": _count("info", "drains", "cause", help="Drains begun, by what triggered them first."),
    "budget_waited": Line(
        "debug",
        (
            Spread(
                "flush_budget_wait_seconds",
                "What acknowledgements waited, since the grace might not have sufficed for them.",
                "seconds",
                WAIT_BUCKETS_S,
            ),
        ),
    ),
    "budget_broken": _count(
        "debug",
        "flush_budget_warnings",
        help="Acknowledgements of what the grace might not suffice for.",
    ),
    "budget_warning": Line("warning"),
    "drain_hook_missed": _count(
        "warning", "drain_hooks_missed", help="SIGTERMs that no preStop hook came before."
    ),
    "run_cut": _count(
        "error", "runs_cut", help="Runs released in the middle of a step, at the deadline."
    ),
    "undone": _count("info", "undos", "tool", help="Calls that a sidecar took back."),
    "undo_forward": _count(
        "warning", "undos_refused", help="Runs not taken back: they did what is irreversible."
    ),
    "late_outcome": _count(
        "info", "late_outcomes", help="Outcomes that came after their run was let go of."
    ),
    "drained": Line(
        "info",
        (
            Spread(
                "drain_seconds", "From trigger to nothing left here.", "seconds", CLAIM_BUCKETS_S
            ),
        ),
    ),
    "drain_cut": _count("error", "drains_cut", help="Drains that ended with runs not shipped."),
}
"""Every event that the engine notes."""
UNKNOWN: Final = Line("info")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How things stand, read at each scrape."""

    runs: Mapping[str, int] = field(default_factory=dict)
    """By status."""
    unshipped_records: int = 0
    unshipped_bytes: int = 0
    in_doubt: int = 0
    journal_bytes: int = 0
    journal_bytes_max: int = 0
    is_journal_dead: bool = False
    is_store_reachable: bool = True
    is_unfenced: bool = False
    """The store lies inside the data folder: no other pod can be fenced by it."""
    is_draining: bool = False
    runs_stuck: int = 0
    budget_bytes: int = 0
    budget_used_bytes: int = 0
    bytes_per_s: float = 0.0
    latency_s: float = 0.0
    waiting: Mapping[tuple[str, str], tuple[int, float]] = field(default_factory=dict)
    """Runs of the whole store that nobody owns, and for how long the first has waited, in seconds;
    by status and queue."""
    bypass: Mapping[str, int] = field(default_factory=dict)
    """Connections of the pod that do not go through the proxy, by remote host; few hosts."""


class Events:
    """Implements `ports.Observer`: writes what is noted to the log, and has it counted.

    The library that counts takes 40 ms to import, which a sidecar has after its agents are served.
    What is noted until then is kept, and counted when `metrics` is first asked for.
    """

    def __init__(self) -> None:
        self._metrics: Metrics | None = None
        self._kept: list[tuple[str, Mapping[str, object]]] = []
        self.place: Callable[[str], Mapping[str, object]] = lambda run: {}
        """The step and epoch that a run is at here, for its lines."""
        self.on_call: Callable[[Mapping[str, object]], None] | None = None
        """Told of each call over HTTP that is over, where somebody traces them."""

    def note(self, event: str, /, **fields: object) -> None:
        """Log and count. An event that the table does not know is logged."""
        line = TABLE.get(event, UNKNOWN)
        if line.instruments and self._metrics is not None:
            self._metrics.count(event, fields)
        elif line.instruments:
            self._kept.append((event, fields))
            if len(self._kept) >= KEPT_MAX:
                self.metrics()  # better a wait than a wrong count, or memory without bounds
        if self.on_call is not None and event == "exchange":
            self.on_call(fields)
        if logs.is_written(line.level):
            place = self.place(run) if isinstance(run := fields.get("run"), str) else {}
            logs.write(line.level, event, **{**place, **fields})

    def metrics(self) -> "Metrics":
        """What counts, with all that was noted; made by the first call, in the loop's thread."""
        if self._metrics is None:
            from coatcheck_sidecar.config import release
            from coatcheck_sidecar.metrics import Metrics

            self._metrics = Metrics(version=release())
            kept, self._kept = self._kept, []
            for event, fields in kept:
                self._metrics.count(event, fields)
        return self._metrics
