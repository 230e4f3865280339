"""A socket of its own for each test."""

from pathlib import Path

import pytest


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the fake sidecar listens, and the client looks."""
    for name in ("COATCHECK_RUN_ID", "COATCHECK_CODE_VERSION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COATCHECK_SOCKET", str(tmp_path / "agent.sock"))
    return tmp_path / "agent.sock"
