"""Deploy long-running AI agents without losing in-flight work: what an agent imports.

The names are loaded as they are used, so that the import itself costs next to nothing.
`coatcheck.sync` has the same ones for agents without asyncio.
"""

TYPE_CHECKING = False  # as `typing` has it, whose import costs more than all else here
if TYPE_CHECKING:
    from coatcheck import sync
    from coatcheck._ops import RunResult
    from coatcheck._run import Run, Step, claim_runs, open_run, result
    from coatcheck._tool import Declaration, current_key, tool
    from coatcheck.errors import (
        CoatcheckError,
        Conflict,
        Damaged,
        DeadlineExceeded,
        Draining,
        Fenced,
        Held,
        InDoubt,
        InFlight,
        NotApplied,
        NotEncodable,
        NotFound,
        OwnedElsewhere,
        Parked,
        ProtocolError,
        ReplayDivergence,
        SchemaMismatch,
        StepOver,
        StoreUnavailable,
        TooLarge,
        Unavailable,
    )

__all__ = [
    "CoatcheckError",
    "Conflict",
    "Damaged",
    "DeadlineExceeded",
    "Declaration",
    "Draining",
    "Fenced",
    "Held",
    "InDoubt",
    "InFlight",
    "NotApplied",
    "NotEncodable",
    "NotFound",
    "OwnedElsewhere",
    "Parked",
    "ProtocolError",
    "ReplayDivergence",
    "Run",
    "RunResult",
    "SchemaMismatch",
    "Step",
    "StepOver",
    "StoreUnavailable",
    "TooLarge",
    "Unavailable",
    "claim_runs",
    "current_key",
    "open_run",
    "result",
    "sync",
    "tool",
]

_HOMES = {
    "Declaration": "_tool",
    "Run": "_run",
    "RunResult": "_ops",
    "Step": "_run",
    "claim_runs": "_run",
    "current_key": "_tool",
    "open_run": "_run",
    "result": "_run",
    "tool": "_tool",
}


def __getattr__(name: str) -> object:
    """Load the module that `name` lives in, the first time it is used."""
    if name not in __all__:
        raise AttributeError(f"module 'coatcheck' has no attribute {name!r}")
    from importlib import import_module

    if name == "sync":
        return import_module("coatcheck.sync")
    value = getattr(import_module(f"coatcheck.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value
