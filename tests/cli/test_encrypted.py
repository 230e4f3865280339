"""The commands on an encrypted store: with the keys as ever, without them told which is wanted."""

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from coatcheck_sidecar.cli.group import cli
from coatcheck_sidecar.config import help_of, load_config
from coatcheck_sidecar.core.envelope import key_id_of

Ask = Callable[..., Result]
KEY = base64.b64encode(bytes(range(32))).decode()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "ring"
    path.write_text(f"k1: {KEY}")
    return path


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    folder = tmp_path / "store"
    folder.mkdir()

    def ask(*args: str, keys: Path | None, status: int = 0) -> Result:
        environ = {"COATCHECK_STORE": folder.as_uri(), "COLUMNS": "200"}
        if keys is not None:
            environ["COATCHECK_ENCRYPTION_KEYS"] = str(keys)
        result = CliRunner().invoke(cli, args, env=environ)
        assert result.exit_code == status, result.output + repr(result.exception)
        return result

    return ask


def test_commands_take_the_keys_of_the_sidecars(ask: Ask, keys: Path, tmp_path: Path) -> None:
    ask("submit", "r1", "--input", '"a secret"', keys=keys)
    assert "r1" in ask("runs", keys=keys).output
    assert "a secret" in ask("show", "r1", "--json", keys=keys).output
    head = (tmp_path / "store" / "runs" / "r1" / "head").read_bytes()
    assert key_id_of(head) == "k1"
    assert b"a secret" not in head


def test_without_them_the_key_is_named(ask: Ask, keys: Path) -> None:
    ask("submit", "r1", keys=keys)
    told = ask("show", "r1", keys=None, status=1).stderr
    assert "runs/r1/head: encrypted with key k1, which is not here; put it (back) into" in told
    keys.write_text(f"k2: {KEY}")
    told = ask("show", "r1", keys=keys, status=1).stderr
    assert "runs/r1/head: encrypted with key k1, which the key ring lacks" in told


def test_a_wrong_file_is_a_mistake_of_usage_and_shows_no_key(ask: Ask, keys: Path) -> None:
    keys.write_text(f"k1: {KEY}AA")
    told = ask("runs", keys=keys, status=2).stderr
    assert "line 1: must be `id: key`" in told
    assert KEY not in told


def test_it_is_a_setting_of_the_sidecar(keys: Path) -> None:
    environ = {"COATCHECK_ENCRYPTION_KEYS": str(keys)}
    assert load_config({}, environ=environ).encryption_keys == keys
    assert load_config({}, environ={}).encryption_keys is None
    assert not help_of("encryption_keys").endswith("]")
