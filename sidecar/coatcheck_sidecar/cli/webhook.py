"""`coatcheck webhook`."""

import asyncio
import signal
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import uvloop

from coatcheck_sidecar import logs
from coatcheck_sidecar.clock import SystemClock
from coatcheck_sidecar.config import Address, parse_address, release
from coatcheck_sidecar.core.inject_choice import IMAGE, Choice
from coatcheck_sidecar.servers.certificates import BUNDLE, CHAIN, DAYS, KEY, write_certificate
from coatcheck_sidecar.servers.webhook import Certificate, Webhook, webhook_server

if TYPE_CHECKING:
    from coatcheck_sidecar.ports import Clock

EXAMPLE: Final = """\b
Example: coatcheck webhook --store s3://bucket/prefix --image registry.example/coatcheck:0.1.0
Example: coatcheck webhook --tls tls --self-signed coatcheck-webhook.coatcheck.svc --write-only
Pods ask for it by the annotation coatcheck.dev/inject: "true".
"""
DENY: Final = "deny"
ALLOW: Final = "allow"
LINGER_S: Final = 5.0
"""After SIGTERM requests still come until each node knows that this pod is gone."""
EX_FAILED: Final = 1


def _address(_ctx: click.Context, _param: click.Parameter, text: str) -> Address:
    try:
        return parse_address(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command(epilog=EXAMPLE)
@click.option("--store", metavar="URL", help="Where pods keep their runs, if they don't say.")
@click.option("--image", metavar="IMAGE", help=f"The sidecar's.  [{IMAGE}, of this release]")
@click.option("--config-map", metavar="NAME", default="",
              help="ConfigMap with config.yaml, in each pod's namespace.")  # fmt: skip
@click.option("--secret", metavar="NAME", default="",
              help="Secret whose entries become the sidecar's environment.")  # fmt: skip
@click.option("--refused", type=click.Choice([DENY, ALLOW]), default=DENY, show_default=True,
              help="What becomes of an annotated pod that can't have its sidecar.")  # fmt: skip
@click.option("--listen", metavar="HOST:PORT", default="0.0.0.0:8443", show_default=True,
              callback=_address, help="For the API server and the kubelet.")  # fmt: skip
@click.option("--tls", "folder", metavar="FOLDER", default="/tls", show_default=True,
              type=click.Path(path_type=Path, file_okay=False),
              help=f"With {CHAIN} and {KEY}; new ones are taken in as they come.")  # fmt: skip
@click.option("--self-signed", "names", metavar="NAME", multiple=True,
              help=f"Make them for this DNS name, and {BUNDLE}, good for {DAYS} days.")  # fmt: skip
@click.option("--write-only", is_flag=True, help="With --self-signed: make them, and end.")
def command(
    *,
    store: str | None,
    image: str | None,
    config_map: str,
    secret: str,
    refused: str,
    listen: Address,
    folder: Path,
    names: Sequence[str],
    write_only: bool,
) -> None:
    """Answer the API server as a mutating admission webhook, until SIGTERM."""
    if write_only and not names:
        raise click.UsageError("--write-only makes a certificate: for which --self-signed NAME?")
    clock = SystemClock()
    if names:
        _self_sign(folder, names, clock=clock, may_be_there=not write_only)
    if write_only:
        return
    if not store:
        raise click.UsageError("which store? Give --store URL")
    version = release()
    choice = Choice(
        store=store,
        image=image or f"{IMAGE}:{version}",
        version=version,
        config_map=config_map,
        secret=secret,
    )
    logs.configure(level="info", format="auto")
    try:
        certificate = Certificate(folder / CHAIN, folder / KEY)
        webhook = Webhook(choice, denies=refused == DENY)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(webhook, certificate, clock=clock, listen=listen))
    except (OSError, ssl.SSLError) as error:
        logs.write("critical", "start_failed", error=str(error))
        sys.exit(EX_FAILED)


def _self_sign(folder: Path, names: Sequence[str], *, clock: "Clock", may_be_there: bool) -> None:
    if may_be_there and (folder / KEY).exists():
        return
    try:
        write_certificate(folder, names, now_ms=clock.wall_ms())
    except FileExistsError as error:
        raise click.ClickException(f"{error.filename} is there already: move it away") from error
    except ImportError as error:
        why = "--self-signed needs the extra [webhook]: pip install 'coatcheck[sidecar,webhook]'"
        raise click.ClickException(why) from error
    except OSError as error:
        raise click.ClickException(f"{folder}: {error}") from error
    click.echo(f"{folder / BUNDLE} is the webhook's caBundle", err=True)


async def _serve(
    webhook: Webhook, certificate: Certificate, *, clock: "Clock", listen: Address
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    host, port = listen
    async with webhook_server(webhook, certificate, clock=clock, host=host, port=port) as server:
        logs.write("info", "started", listen=f"{host}:{server.port}")
        await stop.wait()
        webhook.is_leaving = True
        await clock.sleep(LINGER_S)
