"""`coatcheck inject`."""

from typing import Final

import click

from coatcheck_sidecar.cli.manifests import finish, manifest_options, rewritten, selection
from coatcheck_sidecar.config import EX_USAGE, MODES, load_config, release
from coatcheck_sidecar.config_sources import ConfigError
from coatcheck_sidecar.core.inject_choice import IMAGE, Choice
from coatcheck_sidecar.core.inject_text import inject_text

EXAMPLE: Final = """\b
Example: coatcheck inject -f deployment.yaml --store s3://bucket/agents | kubectl apply -f -
Look first: coatcheck inject -f deployment.yaml --store s3://bucket/agents --diff
A chart: helm template agents ./chart | coatcheck inject -f - --store s3://bucket/agents
"""
RELEASE: Final = release()
DEFAULT_IMAGE: Final = IMAGE if RELEASE == "unknown" else f"{IMAGE}:{RELEASE}"
"""Of a checkout nobody knows the release.
"""


@click.command(epilog=EXAMPLE)
@manifest_options
@click.option("--store", envvar="COATCHECK_STORE", show_envvar=True, required=True,
              metavar="URL", help="Where the runs are kept: s3://bucket/prefix.")  # fmt: skip
@click.option("--image", metavar="IMAGE", default=DEFAULT_IMAGE, show_default=True,
              help="The sidecar's.")  # fmt: skip
@click.option("--container", "containers", multiple=True, metavar="NAME",
              help="An agent's container, of several. More than once: these.")  # fmt: skip
@click.option("--grace-s", type=click.IntRange(min=2), metavar="SECONDS",
              help="The pod's terminationGracePeriodSeconds.  [default: as it is]")  # fmt: skip
@click.option("--mode", type=click.Choice(MODES), default="enforce", show_default=True,
              help="observe: watch and report, hold nothing; off: out of the way.")  # fmt: skip
@click.option("--hook-token", default="", metavar="TOKEN",
              help="What the kubelet's hooks must say, 16 characters or more.")  # fmt: skip
@click.option("--config", "config_map", default="", metavar="CONFIGMAP",
              help="With config.yaml: tools, prices.")  # fmt: skip
@click.option("--secret", default="", metavar="SECRET",
              help="For the sidecar's environment: the store's credentials, say.")  # fmt: skip
@click.option("--plain", "is_plain", is_flag=True,
              help="As a plain second container: clusters before 1.29.")  # fmt: skip
def command(
    *,
    path: str,
    only: tuple[str, ...],
    is_diff: bool,
    store: str,
    image: str,
    containers: tuple[str, ...],
    grace_s: int | None,
    mode: str,
    hook_token: str,
    config_map: str,
    secret: str,
    is_plain: bool,
) -> None:
    """Put the sidecar into the pods of manifests, and write them to standard output.

    Comments, order and layout stay as they are. Twice is once, and `coatcheck uninject` gives the
    text back. What the pods' owner should know goes to standard error. The exit status is 1 if a
    pod can't be injected: then nothing is written; 65 if it is not YAML.
    """
    choice = Choice(
        store=store,
        image=image,
        version=RELEASE,
        containers=containers,
        grace_s=grace_s,
        mode=mode,
        hook_token=hook_token,
        config_map=config_map,
        secret=secret,
        is_plain=is_plain,
    )
    _check(choice)
    text, done = rewritten(path, lambda text: inject_text(text, choice, select=selection(only)))
    finish(path, text, done=done, is_diff=is_diff, nothing="there is no workload to inject into")


def _check(choice: Choice) -> None:
    """As the sidecar will: it would not start by a slip here."""
    flags = {"store": choice.store, "mode": choice.mode}
    if choice.hook_token:
        flags["hook_token"] = choice.hook_token
    try:
        load_config(flags, environ={})
    except ConfigError as error:
        click.echo(f"Error: {error}", err=True)
        raise click.exceptions.Exit(EX_USAGE) from error
