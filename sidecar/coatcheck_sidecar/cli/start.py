"""What `coatcheck sidecar` does, once its command line is read. Knows nothing of click."""

import os
import sys
from collections.abc import Mapping

from coatcheck_sidecar.config import EX_USAGE, load_config
from coatcheck_sidecar.config_sources import ConfigError


def start(flags: Mapping[str, object], *, config_file: str | None = None) -> int:
    """Run the sidecar until SIGTERM; the exit status. Mistakes in its settings are all told."""
    try:
        config = load_config(flags, environ=os.environ, config_file=config_file)
    except ConfigError as error:
        print(f"coatcheck: {error}", file=sys.stderr)
        return EX_USAGE
    from coatcheck_sidecar.__main__ import main  # the engine: not for a mistake in the settings

    return main(config)
