"""Templates for the doctor: one that is well, and ways to make it ill."""

import copy
from collections.abc import Callable
from typing import Any

from coatcheck_sidecar.core.doctor import examine
from coatcheck_sidecar.core.inject import Choice, inject

Template = dict[str, Any]
Change = Callable[[Template], object]
QUIET = {"needs-1.29"}
"""What is said of every pod that is well."""

AGENT: Template = {
    "metadata": {"annotations": {}},
    "spec": {
        "terminationGracePeriodSeconds": 120,
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1000},
        "containers": [{"name": "agent", "image": "agent:1", "command": ["python", "agent.py"]}],
    },
}
CHOICE = Choice(store="s3://bucket/prefix", image="coatcheck:1", version="1")


def well() -> Template:
    """As `coatcheck inject` makes it."""
    return inject(copy.deepcopy(AGENT), CHOICE).template


def sidecar(template: Template) -> Any:
    return template["spec"]["initContainers"][0]


def agent(template: Template) -> Any:
    return template["spec"]["containers"][0]


def volume(template: Template, name: str) -> Any:
    (found,) = (one for one in template["spec"]["volumes"] if one["name"] == name)
    return found


def say(name: str, value: str | None, *, of: Callable[[Template], Any] = sidecar) -> Change:
    """Set a variable, or take it out."""

    def change(template: Template) -> None:
        container = of(template)
        kept = [one for one in container.get("env") or [] if one["name"] != name]
        container["env"] = kept if value is None else [*kept, {"name": name, "value": value}]

    return change


def codes(*changes: Change, template: Template | None = None, is_pod: bool = False) -> list[str]:
    """What is found after these changes, but for what is always said."""
    made = well() if template is None else template
    for change in changes:
        change(made)
    found = examine(made, is_pod=is_pod)
    assert all(one.what and one.why for one in found)
    return [one.code for one in found if one.code not in QUIET]


def severity(code: str, *changes: Change) -> str:
    """How bad it is."""
    made = well()
    for change in changes:
        change(made)
    (found,) = (one for one in examine(made) if one.code == code)
    return found.severity.value
