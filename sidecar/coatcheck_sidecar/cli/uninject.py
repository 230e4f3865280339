"""`coatcheck uninject`."""

from typing import Final

import click

from coatcheck_sidecar.cli.manifests import finish, manifest_options, rewritten, selection
from coatcheck_sidecar.core.inject_text import uninject_text

EXAMPLE: Final = """\b
Example: coatcheck uninject -f injected.yaml > deployment.yaml
Out of a cluster: kubectl get deployment/agents -o yaml | coatcheck uninject -f -
"""


@click.command(epilog=EXAMPLE)
@manifest_options
def command(*, path: str, only: tuple[str, ...], is_diff: bool) -> None:
    """Take out what `coatcheck inject` put in, and write the manifests to standard output.

    A text that is still as it was written is given back byte for byte. What was edited since is
    taken out as well as can be, and told on standard error. The exit status is 1 if nothing was
    injected.
    """
    text, done = rewritten(path, lambda text: uninject_text(text, select=selection(only)))
    nothing = "nothing was injected here by `coatcheck inject`"
    finish(path, text, done=done, is_diff=is_diff, nothing=nothing)
