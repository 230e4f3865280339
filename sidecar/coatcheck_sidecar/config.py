"""Settings: flag over environment over file, checked whole before anything starts.

Every mistake is reported at once, each with its source, its key and what to do. Checked by
pydantic's core without pydantic's models: those take 0.1 s to import, the core a quarter of that.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple
from urllib.parse import urlsplit

from pydantic_core import CoreSchema, SchemaValidator, ValidationError, core_schema

from coatcheck_sidecar.config_sources import (
    ENVIRONMENT,
    PREFIX,
    SECTIONS,
    ConfigError,
    Entry,
    Given,
    Mistake,
    dotted,
    from_environ,
    from_file,
    near,
    tree,
)
from coatcheck_sidecar.core.objects import FORMAT, FORMAT_BEFORE
from coatcheck_sidecar.core.retention import KEEP_MAX
from coatcheck_sidecar.core.space import data_bytes
from coatcheck_sidecar.engine.settings import ENFORCE, OFF, WARN, Settings
from coatcheck_sidecar.stores.url import QUERY_KEYS

if TYPE_CHECKING:
    from coatcheck_sidecar.core.bypass import Meant
    from coatcheck_sidecar.core.completions import Price
    from coatcheck_sidecar.core.forward import Forward
    from coatcheck_sidecar.core.tool import Tool

EX_USAGE: Final = 64
"""EX_USAGE of sysexits.h: the exit status for mistakes in the settings."""
BYTES_MIN: Final = 1_048_576
"""A limit below 1 MiB is a slip of the unit."""
BYTES_CAP: Final = 2**46
"""64 TiB: beyond any disk, so a slip as well."""
SECONDS_MAX: Final = 86_400.0
"""A day: every wait of the sidecar is far shorter."""
COUNT_MAX: Final = 10_000
"""More puts, heads or crashes than this is a slip too."""
FLUSH_BUDGETS: Final = (ENFORCE, WARN, OFF)
MODES: Final = ("enforce", "observe", "off")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("auto", "json", "text")
SECRETS: Final = frozenset({"store", "hook_token"})
"""Whoever put a password into one of these should not find it in a log."""


class Address(NamedTuple):
    """Where a listener binds; port 0 takes any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        """As it is written in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


LISTEN: Final = Address("127.0.0.1", 7070)
ADMIN_LISTEN: Final = Address("0.0.0.0", 7071)  # noqa: S104 - kubelet and scraper come from outside


def parse_address(text: str) -> Address:
    """Of a listener, as it is written in a setting. Raises `ValueError`."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError("must be host:port, such as 127.0.0.1:7070")
    return Address(host or "0.0.0.0", int(port))  # noqa: S104 - a port alone asks for just that


def is_loopback(host: str) -> bool:
    """Only this machine (in a pod: this pod) can reach it."""
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None


def _loopback(text: str) -> Address:
    address = parse_address(text)
    if not is_loopback(address.host):
        raise ValueError("must be a loopback address, such as 127.0.0.1:7070: it has no password")
    return address


def _store(text: str) -> str:
    if urlsplit(text).scheme not in QUERY_KEYS:
        known = ", ".join(f"{scheme}://" for scheme in QUERY_KEYS)
        raise ValueError(f"must be a URL that begins with one of {known}")
    return text


def _mode(value: object) -> object:
    return "off" if value is False else value  # YAML 1.1 reads `off` so


def _commas(value: object) -> object:
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


def _meant(text: str) -> "Meant":
    from coatcheck_sidecar.core.bypass import meant  # only where there is something

    return meant(text)


def _parsed(parse: Callable[[str], Any]) -> CoreSchema:
    return core_schema.no_info_after_validator_function(parse, core_schema.str_schema(min_length=1))


def _words(*words: str) -> CoreSchema:
    return core_schema.literal_schema(list(words))


_PATH: Final = _parsed(lambda text: Path(os.path.expanduser(text)))
_BYTES: Final = core_schema.int_schema(ge=BYTES_MIN, le=BYTES_CAP)
_BYTES_OR_0: Final = core_schema.int_schema(ge=0, le=BYTES_CAP)
_POD_UID: Final = core_schema.str_schema(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
_TOKEN: Final = core_schema.str_schema(pattern=r"^[!-~]{16,256}$")
_URL: Final = core_schema.str_schema(max_length=1024)
_MODE: Final = core_schema.no_info_before_validator_function(_mode, _words(*MODES))
_ENGINE: Final[Mapping[str, CoreSchema]] = {
    "store_format": core_schema.int_schema(ge=FORMAT_BEFORE, le=FORMAT),
    "flush_budget": core_schema.no_info_before_validator_function(_mode, _words(*FLUSH_BUDGETS)),
    "keep_checkpoints": core_schema.int_schema(ge=1, le=KEEP_MAX),
}
"""Settings of the engine that are no plain number."""
_MEANT: Final = core_schema.no_info_before_validator_function(
    _commas, core_schema.list_schema(_parsed(_meant), max_length=100)
)
_UIDS: Final = core_schema.no_info_before_validator_function(
    _commas, core_schema.tuple_schema([core_schema.int_schema(ge=0)], variadic_item_index=0)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Everything that can be set. The engine's own settings are inherited."""

    store: Annotated[
        str,
        _parsed(_store),
        "URL of the store: s3://, gs://bucket/prefix, az://container/prefix or file:///path",
    ] = ""
    encryption_keys: Annotated[
        Path | None, _PATH, "file of keys, `id: base64` a line; the first encrypts what leaves"
    ] = None
    data: Annotated[Path, _PATH, "folder of the journal"] = Path("/var/lib/coatcheck")
    socket: Annotated[Path, _PATH, "unix socket for agents"] = Path("/run/coatcheck/agent.sock")
    allowed_uids: Annotated[
        tuple[int, ...], _UIDS, "user ids that may use the socket, with commas; none: any"
    ] = ()
    mode: Annotated[
        str, _MODE, "enforce; observe: watch and report, hold nothing; off: out of the way"
    ] = "enforce"
    log_level: Annotated[str, _words(*LOG_LEVELS), ", ".join(LOG_LEVELS)] = "info"
    log_format: Annotated[str, _words(*LOG_FORMATS), "json, text; auto: text on a terminal"] = (
        "auto"
    )
    listen: Annotated[Address, _parsed(_loopback), "address for agents, loopback only"] = LISTEN
    admin_listen: Annotated[
        Address, _parsed(parse_address), "address for health and metrics, best $(POD_IP):7071"
    ] = ADMIN_LISTEN
    hook_token: Annotated[
        str, _TOKEN, "what the kubelet's hooks must say by Coatcheck-Hook-Token; none: anybody may"
    ] = ""
    pod_uid: Annotated[
        str, _POD_UID, "name of this pod, metadata.uid; one is made up and kept if absent"
    ] = ""
    address: Annotated[str, _URL, "URL at which others find this pod's agents"] = ""
    bypass_ok: Annotated[
        tuple["Meant", ...], _MEANT, "connections meant to pass the proxy, as 10.0.0.0/8 or *:5432"
    ] = ()
    blob_bytes_max: Annotated[int, _BYTES, "one blob"] = 1_073_741_824
    """1 GiB: 512 parts."""
    journal_bytes_max: Annotated[int, _BYTES, "rows that the journal keeps"] = 268_435_456
    """256 MiB of rows not yet shipped: hours of deltas while the store is away."""
    spool_bytes_max: Annotated[int, _BYTES, "big values that the spool keeps"] = 1_073_741_824
    """1 GiB: sixteen states of the largest size."""
    data_bytes_max: Annotated[
        int, _BYTES_OR_0, "sizeLimit of the volume that the data folder lies in; 0: unknown"
    ] = 0
    tools: Mapping[str, "Tool"] = field(default_factory=dict)
    """By name; this and the next two are maps of their own in the file, see `config_tools.py`."""
    prices: Mapping[str, "Price"] = field(default_factory=dict)
    """By model."""
    forward: "Forward | None" = None
    """Off if absent."""


ENGINE_HELP: Final[Mapping[str, str]] = {
    "heartbeat_s": "from one heartbeat to the next",
    "lease_s": "a silent owner's runs may be taken over after this",
    "ship_interval_s": "from one swap of a run's head to the next",
    "pause_max_s": "the longest that a process is assumed to be paused",
    "state_bytes_max": "one checkpoint",
    "store_format": "format of the heads to write: the one before, while that release runs too",
    "keep_checkpoints": "checkpoints that a run can be set back to, sealed and not",
    "collect_s": "how often superseded objects of this pod's runs are deleted",
    "breaker_crashes": "crashes without progress after which a run is held",
    "claim_poll_s": "how often a queue with idle agents is listed",
    "agent_wait_s": "how long a run waits here for a new agent",
    "agent_silence_s": "how long an agent over HTTP may ask for nothing",
    "orphan_wait_s": "how long a new call waits for recorded ones to be asked for",
    "join_wait_s": "how long an equal call waits for the one in flight",
    "puts_max": "objects on their way to the store at once",
    "grace_s": "the pod's terminationGracePeriodSeconds",
    "margin_s": "what a drain holds back of the grace",
    "flush_budget": "what the grace might not suffice for: enforce: waits; warn: is told of; off",
    "budget_probe_s": "an unused link is measured by a probe after this",
    "scan_heads": "heads read each heartbeat in search of lost markers",
}
ENGINE: Final = tuple(f.name for f in fields(Settings))
SETTINGS: Final[Mapping[str, Field[Any]]] = {
    f.name: f for f in fields(Config) if f.name not in SECTIONS
}
"""All settings with one value, by name."""
_NOTES: Final = Config.__annotations__


def release() -> str:
    """This distribution's version."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("coatcheck")
    except PackageNotFoundError:
        return "unknown"


def help_of(name: str) -> str:
    """One line for `--help`, with the default."""
    text = ENGINE_HELP.get(name, "") if name in ENGINE else _NOTES[name].__metadata__[1]
    default = SETTINGS[name].default
    if isinstance(default, tuple) and not isinstance(default, Address):
        default = ",".join(map(str, default))
    return f"{text} [{default}]" if default not in ("", None) else str(text)


def _schema(setting: Field[Any]) -> CoreSchema:
    if setting.name not in ENGINE:
        given: CoreSchema = _NOTES[setting.name].__metadata__[0]
        return given
    if setting.name in _ENGINE:
        return _ENGINE[setting.name]
    if setting.type is int and setting.name.endswith("_bytes_max"):
        return _BYTES
    if setting.type is int:
        return core_schema.int_schema(ge=1, le=COUNT_MAX)
    return core_schema.float_schema(gt=0, le=SECONDS_MAX, allow_inf_nan=False)


def _validator() -> SchemaValidator:
    entries = {
        name: core_schema.typed_dict_field(_schema(setting), required=False)
        for name, setting in SETTINGS.items()
    }
    return SchemaValidator(core_schema.typed_dict_schema(entries))


def load_config(
    flags: Mapping[str, object], *, environ: Mapping[str, str], config_file: str | None = None
) -> Config:
    """The settings, checked. Raises `ConfigError` with every mistake there is.

    `flags` are those given on the command line, by the settings' names. `config_file` must exist
    if named, here or by COATCHECK_CONFIG.
    """
    mistakes: list[Mistake] = []
    given: dict[str, Given] = {}
    nested: list[Entry] = []
    for path, entry in [
        *from_file(config_file or environ.get("COATCHECK_CONFIG"), mistakes),
        *from_environ(environ),
        *(((name,), Given("flag", _flag(name), value)) for name, value in flags.items()),
    ]:
        if path[0] in SECTIONS:
            nested.append((path, entry))
        elif dotted(path) in SETTINGS:
            given[dotted(path)] = entry
        else:
            mistakes.append(Mistake(entry.source, entry.key, _unknown(path, entry)))
    values, wrong = _check({name: entry.value for name, entry in given.items()})
    for name, problem in wrong.items():
        mistakes.append(Mistake(given[name].source, given[name].key, problem))
    config = Config(**values, **_sections(nested, mistakes))
    mistakes += _check_together(config, given, wrong=wrong)
    if mistakes:
        raise ConfigError(mistakes)
    return replace(config, store=config.store or (config.data.absolute() / "store").as_uri())


def _sections(entries: list[Entry], mistakes: list[Mistake]) -> dict[str, Any]:
    if not entries:
        return {}
    from coatcheck_sidecar.config_tools import read_sections  # only where there is something

    found = read_sections(tree(entries), mistakes)
    return {name: getattr(found, name) for name in SECTIONS}


def to_engine(config: Config) -> Settings:
    """The part of the settings that the engine reads."""
    return Settings(**{name: getattr(config, name) for name in ENGINE})


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _unknown(path: tuple[str, ...], entry: Given) -> str:
    called = near(dotted(path), SETTINGS) or near(path[0], SECTIONS)
    if called is None:
        return "no such setting; `coatcheck sidecar --help` lists them"
    if entry.source == ENVIRONMENT:
        called = PREFIX + called.upper()
    elif entry.source == "flag":
        called = _flag(called)
    return f"no such setting; did you mean {called}?"


def _check(values: Mapping[str, object]) -> tuple[dict[str, Any], dict[str, str]]:
    """(what is right, what is wrong with the rest), by name."""
    validator = _validator()
    try:
        return validator.validate_python(dict(values)), {}
    except ValidationError as error:
        wrong: dict[str, str] = {}
        for found in error.errors(include_url=False):
            name = str(found["loc"][0])
            problem = found["msg"].removeprefix("Value error, ").replace("Input should", "must")
            shown = "" if name in SECRETS else f"; it is {values[name]!r}"
            wrong.setdefault(name, problem + shown)
    right = {name: value for name, value in values.items() if name not in wrong}
    return validator.validate_python(right), wrong


def _check_together(
    config: Config, given: Mapping[str, Given], *, wrong: Mapping[str, str]
) -> list[Mistake]:
    """What no setting shows alone."""
    rules = [
        ("lease_s", "heartbeat_s", config.lease_s >= 2 * config.heartbeat_s, "at least twice"),
        ("grace_s", "margin_s", config.grace_s > config.margin_s, "more than"),
    ]
    mistakes = _check_space(config, given, wrong=wrong)
    for name, other, is_kept, relation in rules:
        if is_kept or name in wrong or other in wrong:
            continue
        entry = given.get(name) or given[other]
        mistakes.append(
            Mistake(
                entry.source,
                entry.key,
                f"{name} ({getattr(config, name):g}) must be {relation} "
                f"{other} ({getattr(config, other):g})",
            )
        )
    return mistakes


def _check_space(
    config: Config, given: Mapping[str, Given], *, wrong: Mapping[str, str]
) -> list[Mistake]:
    """A volume that grows past its sizeLimit has its pod evicted: what may lie in it must fit."""
    if not config.data_bytes_max:
        return []
    limits = {
        "data_bytes_max": config.data_bytes_max,
        "journal_bytes_max": config.journal_bytes_max,
        "spool_bytes_max": config.spool_bytes_max,
    }
    most = data_bytes(
        journal_bytes_max=config.journal_bytes_max, spool_bytes_max=config.spool_bytes_max
    )
    if most <= config.data_bytes_max or limits.keys() & wrong.keys():
        return []
    entry = next(given[name] for name in limits if name in given)
    told = ", ".join(f"{name} ({value})" for name, value in limits.items())
    problem = (
        f"{told}: up to {most} bytes may lie in the data folder, half as much again as the "
        "journal's rows, the spool and a ballast, and a pod whose volume outgrows its sizeLimit is "
        f"evicted; raise sizeLimit and data_bytes_max to {most}, or lower the other two"
    )
    return [Mistake(entry.source, entry.key, problem)]
