"""Deploy long-running AI agents without losing in-flight work: what an agent imports.

The names are loaded as they are used, so that the import itself costs next to nothing.
`coatcheck.sync` has the same ones for agents without asyncio.
"""

TYPE_CHECKING = False  # as `typing` has it, whose import costs more than all else here
if TYPE_CHECKING:
    from coatcheck import sync as sync
    from coatcheck._run import *  # noqa: F403 - what its __all__ says
    from coatcheck.errors import *  # noqa: F403 - every exception there is public

_OF_RUNS = ["Run", "RunResult", "Step", "claim_runs", "current_key", "open_run", "result", "tool"]


def __getattr__(name: str) -> object:
    """Load the module that `name` lives in, the first time it is used."""
    from importlib import import_module

    if name == "sync":
        return import_module("coatcheck.sync")
    home = import_module("coatcheck._run" if name in _OF_RUNS else "coatcheck.errors")
    value = getattr(home, name, None)
    if name not in _OF_RUNS and not (isinstance(value, type) and issubclass(value, Exception)):
        raise AttributeError(f"module 'coatcheck' has no attribute {name!r}")
    globals()[name] = value
    return value
