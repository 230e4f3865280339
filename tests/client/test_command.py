"""The `coatcheck` command of a distribution whose extra may be missing."""

import subprocess
import sys
import types

import pytest

from coatcheck import __main__ as command

CLI = "coatcheck_sidecar.cli.main"


def test_runs_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    cli = types.ModuleType(CLI)
    cli.main = lambda: 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, CLI, cli)
    assert command.main() == 3


def fail_import(missing: str) -> object:
    def import_module(name: str) -> types.ModuleType:
        assert name == CLI
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    return import_module


@pytest.mark.parametrize("missing", ["click", "coatcheck_sidecar"])
def test_says_what_to_install(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.import_module", fail_import(missing))
    assert command.main() == command.EXIT_UNAVAILABLE
    told = capsys.readouterr()
    assert told.out == ""
    assert missing in told.err
    assert "coatcheck[sidecar]" in told.err


def test_a_hole_in_the_distribution_is_not_blamed_on_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.import_module", fail_import(f"{CLI}.gone"))
    with pytest.raises(ModuleNotFoundError):
        command.main()


def test_the_client_loads_neither_the_sidecar_nor_its_parts() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import coatcheck, sys; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert not {"coatcheck_sidecar", "aiohttp", "click", "obstore", "pydantic"} & set(loaded)
