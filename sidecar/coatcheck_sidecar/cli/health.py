"""`coatcheck health`."""

import os
import sys
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Final

import click

from coatcheck_sidecar.config import Address, load_config
from coatcheck_sidecar.config_sources import ConfigError

EXAMPLE: Final = """\b
Example: coatcheck health --ready
In docker compose: healthcheck: {test: [CMD, coatcheck, health]}
"""
UNWELL: Final = 1
"""Container engines know this status and 0, and keep the others to themselves."""
ANSWER_S: Final = 2.0
"""Health is told from memory: who takes longer is not well."""
ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - asked for, not bound
"""Where a listener on all addresses is reached from beside it."""


@click.command(epilog=EXAMPLE)
@click.option("--ready", is_flag=True, help="Ask /readyz, not /livez.")
def command(*, ready: bool) -> None:
    """Ask the sidecar of this pod how it is, for a container's health check.

    The exit status is 0 if it is well, else 1.
    """
    try:
        address = load_config({}, environ=os.environ).admin_listen
    except ConfigError as error:
        click.echo(f"coatcheck: {error}", err=True)
        sys.exit(UNWELL)
    path = "/readyz" if ready else "/livez"
    try:
        status, said = _asked(address, path)
    except (OSError, HTTPException) as error:
        click.echo(f"Error: {address}: {error}", err=True)
        sys.exit(UNWELL)
    click.echo(said.strip())
    sys.exit(0 if status == HTTPStatus.OK else UNWELL)


def _asked(address: Address, path: str) -> tuple[int, str]:
    """Status and text. Raises `OSError` or `HTTPException`."""
    host = ANY.get(address.host, address.host)
    connection = HTTPConnection(host, address.port, timeout=ANSWER_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()
