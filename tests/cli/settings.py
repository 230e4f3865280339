"""Settings as tests write them."""

from pathlib import Path

import pytest

from coatcheck_sidecar.config import Config, load_config
from coatcheck_sidecar.config_sources import ConfigError, Mistake
from coatcheck_sidecar.core.tool import Tool


def load(folder: Path, text: str = "", **environ: str) -> Config:
    path = folder / "config.yaml"
    path.write_text(text)
    return load_config({}, environ=environ, config_file=str(path))


def mistakes(folder: Path, text: str = "", **environ: str) -> list[Mistake]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, **environ)
    return caught.value.mistakes


def tool(folder: Path, text: str) -> Tool:
    return load(folder, f"tools: {{t: {{{text}}}}}").tools["t"]
