"""Deploy long-running AI agents without losing in-flight work: what an agent imports.

The names are loaded as they are used, so that the import itself costs next to nothing.
`coatcheck.sync` has the same ones for agents without asyncio.
"""

TYPE_CHECKING = False  # as `typing` has it, whose import costs more than all else here
if TYPE_CHECKING:
    from coatcheck import sync as sync
    from coatcheck._run import *  # noqa: F403 - as its __all__ says
    from coatcheck.errors import *  # noqa: F403 - likewise


def __getattr__(name: str) -> object:
    """Load the module that `name` lives in, the first time it is used."""
    from importlib import import_module

    if name == "sync":
        return import_module("coatcheck.sync")
    for home in ("coatcheck.errors", "coatcheck._run"):
        module = import_module(home)
        if name in module.__all__:
            globals()[name] = value = getattr(module, name)
            return value
    raise AttributeError(f"module 'coatcheck' has no attribute {name!r}")
