"""For commands that ask the sidecar of their own pod, by its run API."""

import json
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

import click

from coatcheck_sidecar.cli.common import EX_REFUSED, EX_UNAVAILABLE

URL: Final = "http://127.0.0.1:7070"
ANSWER_S: Final = 10.0

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def url_option(command: Decorated) -> Decorated:
    """`--url`, also from what agents find their proxy by."""
    return click.option(
        "--url",
        default=URL,
        envvar="COATCHECK_PROXY_URL",
        show_default=True,
        help="Where the sidecar listens for agents.",
    )(command)


def asked(url: str, path: str, *, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the sidecar answers; with a `body` it is a POST. Ends the program if it does not."""
    from urllib.request import ProxyHandler, Request, build_opener

    parts = urlsplit(url)  # of an agent's URL: without its token
    place = f"{parts.scheme}://{parts.netloc}"
    if parts.scheme != "http" or not parts.netloc:
        raise click.UsageError(f"--url {url}: must be such as {URL}")
    data = None if body is None else json.dumps(body).encode()
    headers = {} if body is None else {"Content-Type": "application/json"}
    request = Request(f"{place}{path}", data=data, headers=headers)  # noqa: S310 - http, as checked
    opener = build_opener(ProxyHandler({}))  # loopback is not reached through a proxy
    try:
        with opener.open(request, timeout=ANSWER_S) as answer:
            told: dict[str, Any] = json.load(answer)
    except HTTPError as error:
        with error:
            click.echo(f"Error: {place}: {_detail(error)}", err=True)
        sys.exit(EX_REFUSED)
    except (URLError, OSError, ValueError) as error:
        click.echo(f"Error: {place}: {getattr(error, 'reason', error)}", err=True)
        sys.exit(EX_UNAVAILABLE)
    return told


def _detail(error: HTTPError) -> str:
    """What a problem answer says, else the status."""
    try:
        return str(json.load(error)["detail"])
    except (ValueError, LookupError, TypeError):
        return f"{error.code} {error.reason}"
