import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.config import (
    ENGINE_HELP,
    SETTINGS,
    Address,
    Config,
    help_of,
    load_config,
    to_engine,
)
from coatcheck_sidecar.config_sources import KNOWN_ELSEWHERE, SERVICE_LINK, ConfigError, Mistake
from coatcheck_sidecar.engine.settings import Settings

IMPORT_MS_MAX = 60
"""Processor time of the settings alone, on a slow machine; pydantic's models take 90 and more."""


def load(
    environ: Mapping[str, str] | None = None, *, file: Path | None = None, **flags: object
) -> Config:
    return load_config(
        flags, environ=environ or {}, config_file=None if file is None else str(file)
    )


def mistakes(
    environ: Mapping[str, str] | None = None, *, file: Path | None = None, **flags: object
) -> list[Mistake]:
    with pytest.raises(ConfigError) as caught:
        load(environ, file=file, **flags)
    for mistake in caught.value.mistakes:
        assert mistake.source in str(caught.value)
        assert mistake.key in str(caught.value)
    return caught.value.mistakes


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def test_without_anything_said_the_defaults_hold() -> None:
    config = load()
    assert config.store == "file:///var/lib/coatcheck/store"
    assert str(config.socket) == "/run/coatcheck/agent.sock"
    assert config.listen == Address("127.0.0.1", 7070)
    assert str(config.admin_listen) == "0.0.0.0:7071"
    assert to_engine(config) == Settings()


def test_a_flag_beats_the_environment_and_the_environment_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "lease_s: 40\nheartbeat_s: 11\nlog_level: debug\n")
    environ = {"COATCHECK_LEASE_S": "50", "COATCHECK_HEARTBEAT_S": "12"}
    config = load(environ, file=file, lease_s=60)
    assert (config.lease_s, config.heartbeat_s, config.log_level) == (60.0, 12.0, "debug")
    assert to_engine(config).lease_s == 60.0


def test_the_environment_names_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, f"data: {tmp_path}\nallowed_uids: [65532, 1000]\n")
    config = load({"COATCHECK_CONFIG": str(file)})
    assert config.allowed_uids == (65532, 1000)
    assert config.store == f"file://{tmp_path}/store"


def test_every_mistake_is_told_at_once_with_its_source_and_a_mend(tmp_path: Path) -> None:
    file = written(tmp_path, "heart_beat_s: 3\nstores:\n  charge: {effect: once}\ntools: 3\n")
    environ = {
        "COATCHECK_LEASE": "3",
        "COATCHECK_SHIP_INTERVAL_S": "soon",
        "COATCHECK_MODE": "watch",
        "COATCHECK_LISTEN": "0.0.0.0:7070",
        "COATCHECK_ADMIN_LISTEN": "7071",
        "COATCHECK_JOURNAL_BYTES_MAX": "256",
        "COATCHECK_X__Y": "1",
    }
    found = {m.key: m for m in mistakes(environ, file=file, puts_maxx=3)}
    assert found["heart_beat_s"].source == f"file {file}"
    assert found["heart_beat_s"].problem.endswith("did you mean heartbeat_s?")
    assert "no such setting" in found["stores.charge.effect"].problem
    assert "must be a map" in found["tools"].problem
    assert found["COATCHECK_LEASE"].problem.endswith("did you mean COATCHECK_LEASE_S?")
    assert found["--puts-maxx"].problem.endswith("did you mean --puts-max?")
    assert "number" in found["COATCHECK_SHIP_INTERVAL_S"].problem
    assert "'soon'" in found["COATCHECK_SHIP_INTERVAL_S"].problem
    assert "'enforce', 'observe' or 'off'" in found["COATCHECK_MODE"].problem
    assert "loopback" in found["COATCHECK_LISTEN"].problem
    assert "host:port" in found["COATCHECK_ADMIN_LISTEN"].problem
    assert "1048576" in found["COATCHECK_JOURNAL_BYTES_MAX"].problem
    assert "no such setting" in found["COATCHECK_X__Y"].problem
    assert len(found) == 11


@pytest.mark.parametrize(
    ("environ", "key", "part"),
    [
        ({"COATCHECK_LEASE_S": "19"}, "COATCHECK_LEASE_S", "at least twice heartbeat_s (10)"),
        ({"COATCHECK_HEARTBEAT_S": "16"}, "COATCHECK_HEARTBEAT_S", "lease_s (30) must be"),
        ({"COATCHECK_MARGIN_S": "30"}, "COATCHECK_MARGIN_S", "grace_s (30) must be more than"),
        ({"COATCHECK_LEASE_S": "inf"}, "COATCHECK_LEASE_S", "finite"),
        ({"COATCHECK_LEASE_S": "0"}, "COATCHECK_LEASE_S", "greater than 0"),
        ({"COATCHECK_STORE_FORMAT": "3"}, "COATCHECK_STORE_FORMAT", "less than or equal to 2"),
        ({"COATCHECK_POD_UID": "a.b"}, "COATCHECK_POD_UID", "pattern"),
        ({"COATCHECK_ALLOWED_UIDS": "1,-1"}, "COATCHECK_ALLOWED_UIDS", "greater than or equal"),
        ({"COATCHECK_LOG_LEVEL": "INFO"}, "COATCHECK_LOG_LEVEL", "'info'"),
        ({"COATCHECK_SOCKET": ""}, "COATCHECK_SOCKET", "at least 1 character"),
        ({"COATCHECK_MODE": "on"}, "COATCHECK_MODE", "must be 'enforce'"),
        ({"COATCHECK_FLUSH_BUDGET": "on"}, "COATCHECK_FLUSH_BUDGET", "'enforce', 'warn' or 'off'"),
        ({"COATCHECK_DATA_BYTES_MAX": "-1"}, "COATCHECK_DATA_BYTES_MAX", "greater than or equal"),
        ({"COATCHECK_DATA_BYTES_MAX": "1000000000"}, "COATCHECK_DATA_BYTES_MAX", "1481637888"),
        ({"COATCHECK_DATA_BYTES_MAX": "1481637887"}, "COATCHECK_DATA_BYTES_MAX", "evicted"),
    ],
)
def test_each_rule(environ: dict[str, str], key: str, part: str) -> None:
    (mistake,) = mistakes(environ)
    assert (mistake.source, mistake.key) == ("environment", key)
    assert part in mistake.problem


def test_what_may_lie_in_the_data_folder_fits_its_volume() -> None:
    assert load({"COATCHECK_DATA_BYTES_MAX": "1481637888"}).data_bytes_max == 1_481_637_888
    given = {"COATCHECK_DATA_BYTES_MAX": "1481637888", "COATCHECK_SPOOL_BYTES_MAX": "1073741825"}
    (mistake,) = mistakes(given)
    assert "raise sizeLimit and data_bytes_max to 1481637889, or lower" in mistake.problem
    (mistake,) = mistakes({**given, "COATCHECK_SPOOL_BYTES_MAX": "1"})
    assert mistake.key == "COATCHECK_SPOOL_BYTES_MAX"  # and not both


def test_a_secret_in_a_wrong_url_is_not_repeated() -> None:
    (mistake,) = mistakes({"COATCHECK_STORE": "ftp://me:hunter2@host/x"})
    assert "s3://" in mistake.problem
    assert "hunter2" not in mistake.problem


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: [1", "is not YAML"),
        ("- 1", "must be a map"),
        ("!!python/object/apply:os.getcwd []", "is not YAML"),
        ("\x00", "is not YAML"),
    ],
)
def test_a_file_that_holds_no_settings(tmp_path: Path, text: str, part: str) -> None:
    (mistake,) = mistakes(file=written(tmp_path, text))
    assert part in mistake.problem


def test_a_file_that_is_named_must_be_there_and_be_text(tmp_path: Path) -> None:
    assert "there is none" in mistakes(file=tmp_path / "gone.yaml")[0].problem
    (tmp_path / "raw").write_bytes(b"\xff\xfe")
    assert "can't be read" in mistakes(file=tmp_path / "raw")[0].problem
    assert "can't be read" in mistakes(file=tmp_path)[0].problem


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    assert load(file=written(tmp_path, "")) == load()


LINKS = [
    "SERVICE_HOST",
    "SERVICE_PORT",
    "SERVICE_PORT_HTTP",
    "PORT",
    "PORT_7070_TCP",
    "PORT_7070_TCP_ADDR",
    "ADMIN_SERVICE_HOST",
    "ADMIN_SERVICE_PORT_METRICS",
    "ADMIN_PORT",
    "ADMIN_PORT_7071_TCP",
    "STORE_SERVICE_HOST",
    "STORE_PORT_80_TCP_PROTO",
]


def test_service_links_and_the_clients_variables_are_passed_over() -> None:
    environ = {f"COATCHECK_{link}": "tcp://10.0.0.1:80" for link in LINKS}
    environ |= dict.fromkeys(KNOWN_ELSEWHERE - {"COATCHECK_CONFIG"}, "x")
    environ["COATCHECK_UPSTREAM_OPENAI"] = "https://api.openai.com/v1"
    assert load(environ | {"COATCHECKED": "1", "PATH": "/bin"}) == load()


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_no_setting_looks_like_a_service_link(name: str) -> None:
    assert SERVICE_LINK.match(f"COATCHECK_{name.upper()}") is None
    assert f"COATCHECK_{name.upper()}" not in KNOWN_ELSEWHERE
    assert "__" not in name


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_every_setting_has_help_and_takes_its_default_as_text(name: str) -> None:
    assert help_of(name).partition(" [")[0]
    default = SETTINGS[name].default
    if default not in ("", (), None):
        config = load({f"COATCHECK_{name.upper()}": str(default)})
        assert getattr(config, name) == default


def test_help_is_there_for_each_setting_of_the_engine() -> None:
    assert set(Settings.__slots__) == set(ENGINE_HELP)


NAMES = st.sampled_from([f"COATCHECK_{name.upper()}" for name in SETTINGS])


@given(st.dictionaries(NAMES, st.text(max_size=20).filter(lambda text: "\0" not in text)))
def test_nothing_but_mistakes_comes_of_any_text(environ: dict[str, str]) -> None:
    caught: list[Mistake] = []
    try:
        load(environ)
    except ConfigError as error:
        caught = error.mistakes
    assert {mistake.key for mistake in caught} <= set(environ)


def test_the_settings_cost_little_to_import() -> None:
    code = """
import sys, time
import coatcheck_sidecar.core.head, coatcheck_sidecar.stores.url, coatcheck_sidecar.engine.settings
began = time.process_time()
from coatcheck_sidecar.config import load_config
load_config({}, environ={})
print((time.process_time() - began) * 1e3, "yaml" in sys.modules, "pydantic" in sys.modules)
"""
    runs = [
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        for _ in range(5)
    ]
    told = [run.stdout.split() for run in runs]
    assert min(float(ms) for ms, *_ in told) < IMPORT_MS_MAX
    assert all(rest == ["False", "False"] for _, *rest in told)
