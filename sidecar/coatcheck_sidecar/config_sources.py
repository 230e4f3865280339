"""Where settings come from: file and environment, each value with the place where it was said."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

PREFIX: Final = "COATCHECK_"
CONFIG_FILE: Final = "/etc/coatcheck/config.yaml"
KNOWN_ELSEWHERE: Final = frozenset(
    {
        "COATCHECK_CONFIG",
        "COATCHECK_RUN_ID",
        "COATCHECK_CODE_VERSION",
        "COATCHECK_PROXY_URL",
        "COATCHECK_PING_URL",
    }
)
"""Variables under our prefix that are no settings: the file's place, and the client's own."""
UPSTREAM: Final = "COATCHECK_UPSTREAM_"
"""Where a client whose mode is off finds a tool: its own, too."""
SERVICE_LINK: Final = re.compile(r"COATCHECK_(SERVICE_|PORT|.*_SERVICE_|.*_PORT).*")
"""What Kubernetes puts into every container for services named `coatcheck` or `coatcheck-...`."""
SECTIONS: Final = ("tools", "prices", "forward")
"""Settings that are maps of their own: no flags, nested in the environment by `__`."""
NESTED: Final = re.compile(rf"COATCHECK_({'|'.join(SECTIONS).upper()})(__|$)")
"""Ours, whatever a tool is called: `COATCHECK_TOOLS__MY_SERVICE_A__UPSTREAM` is no link."""
CLOSE: Final = 0.6
"""How like a name must be to be suggested, from 0 to 1 (difflib's own default)."""

Path_ = tuple[str, ...]
"""A key with its nesting. Names in it may hold dots, as those of models do."""


class Mistake(NamedTuple):
    """One thing wrong with the settings: where it was said, what it is called, how to mend it."""

    source: str
    key: str
    problem: str


class ConfigError(Exception):
    """All mistakes of the settings; whoever starts the program exits with `EX_USAGE`."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        """There is at least one."""
        lines = [f"  {m.source}: {m.key}: {m.problem}" for m in mistakes]
        count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
        super().__init__("\n".join([f"{count} in the settings:", *lines]))
        self.mistakes = mistakes


class Given(NamedTuple):
    """A value, and where it came from: the source, and what the key is called there."""

    source: str
    key: str
    value: object


ENVIRONMENT: Final = "environment"
Entry = tuple[Path_, Given]


def from_environ(environ: Mapping[str, str]) -> list[Entry]:
    """All that is ours. A map or list of a section may be written as JSON."""
    entries: list[Entry] = []
    for variable, text in sorted(environ.items()):
        is_ours = variable.startswith(PREFIX) and not variable.startswith(UPSTREAM)
        if not is_ours or variable in KNOWN_ELSEWHERE:
            continue
        path = tuple(variable.removeprefix(PREFIX).lower().split("__"))
        if NESTED.match(variable):
            entries += [
                (inner, Given(ENVIRONMENT, variable, value))
                for inner, value in _flat(_json(text), path)
            ]
        elif not SERVICE_LINK.match(variable):
            entries.append((path, Given(ENVIRONMENT, variable, text)))
    return entries


def _json(text: str) -> object:
    """What JSON says; what only looks like it (`[::1]:80`) is text."""
    if not text.startswith(("{", "[")):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def from_file(named: str | None, mistakes: list[Mistake]) -> list[Entry]:
    """What the YAML file says: `named` must be there, the usual one need not."""
    path = named or CONFIG_FILE
    source = f"file {path}"
    try:
        text = Path(path).read_text()
    except FileNotFoundError:
        if named:
            mistakes.append(Mistake(source, "(file)", "there is none; correct the path"))
        return []
    except (OSError, UnicodeDecodeError) as error:
        mistakes.append(Mistake(source, "(file)", f"can't be read: {error}"))
        return []
    import yaml  # only where there is a file: 15 ms

    try:
        content = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - safe
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mistakes.append(Mistake(source, "(file)", f"is not YAML: {' '.join(str(error).split())}"))
        return []
    if not isinstance(content, dict | None):
        mistakes.append(Mistake(source, "(file)", "must be a map of settings, `name: value`"))
        return []
    entries = [pair for name, value in (content or {}).items() for pair in _flat(value, (name,))]
    return [(path, Given(source, dotted(path), value)) for path, value in entries]


def dotted(path: Iterable[object]) -> str:
    """As the file's keys are told: `tools.mail.probe.path`."""
    return ".".join(map(str, path))


def _flat(value: object, above: tuple[Any, ...]) -> list[tuple[Path_, object]]:
    """Nested maps as paths; an empty one stands for itself."""
    if not isinstance(value, dict) or not value:
        return [(tuple(map(str, above)), value)]
    return [pair for name, inner in value.items() for pair in _flat(inner, (*above, name))]


def near(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant."""
    import difflib  # only for a mistake

    found = difflib.get_close_matches(name, list(known), n=1, cutoff=CLOSE)
    return found[0] if found else None


Tree = dict[str, "Tree | Given"]
"""Settings of a section by name; each leaf knows where it was said."""


def tree(entries: Iterable[Entry]) -> Tree:
    """Entries nested; a later one takes the place of an earlier."""
    root: Tree = {}
    for path, given in entries:
        *above, name = path
        place = root
        for step in above:
            inner = place.get(step)
            if not isinstance(inner, dict):
                inner = place[step] = {}
            place = inner
        place[name] = given
    return root


def plain(node: "Tree | Given") -> Any:
    """The values alone."""
    if isinstance(node, Given):
        return node.value
    return {name: plain(inner) for name, inner in node.items()}


def where(root: Tree, path: Iterable[object]) -> tuple[str, str]:
    """Source and key of what `path` leads to; of a part that nobody said, those around it."""
    node: Tree | Given = root
    walked: list[str] = []
    for step in path:
        if isinstance(node, Given):
            break
        walked.append(str(step))
        if str(step) not in node:
            break
        node = node[str(step)]
    leaf = node
    while not isinstance(leaf, Given):
        leaf = next(iter(leaf.values()))
    if node is leaf:
        return leaf.source, leaf.key
    is_variable = leaf.source == ENVIRONMENT
    return leaf.source, PREFIX + "__".join(walked).upper() if is_variable else dotted(walked)
