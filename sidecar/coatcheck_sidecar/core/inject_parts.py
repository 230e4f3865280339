"""What is put into a pod: the sidecar's container and its volumes. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from coatcheck_sidecar.core.inject_choice import (
    ADMIN_PORT,
    CONFIG_PATH,
    CONFIG_VOLUME,
    DATA_PATH,
    DATA_VOLUME,
    RUN_PATH,
    RUN_VOLUME,
    SIDECAR,
    SOCKET,
    USER_ID,
    Choice,
)
from coatcheck_sidecar.core.inject_hooks import DRAIN, hook
from coatcheck_sidecar.core.inject_pod import Pod, is_guaranteed, limits_storage

RUN_SIZE: Final = "16Mi"
"""A socket needs nothing; a limit keeps the volume from being used for anything else."""
DATA_BYTES: Final = 2_147_483_648
"""2 GiB: the journal and the spool at most take 1,413 MiB, the rest is for requests under way."""
DATA_SIZE: Final = "2Gi"
"""The same as a quantity."""
STORAGE_SIZE: Final = "2112Mi"
"""Both volumes and logs, where limits of ephemeral storage are summed up for the pod."""
EVEN: Final = {"cpu": "250m", "memory": "512Mi"}
"""Requests and limits in a Guaranteed pod."""
REQUESTS: Final = {"cpu": "50m", "memory": "128Mi"}
"""An idle sidecar takes 100 MB."""
LIMITS: Final = {"cpu": "1", "memory": "512Mi"}
"""Several states of the largest size, 64 MiB, at once; and a core, to ship them in time."""
STARTUP_PERIOD_S: Final = 1
STARTUP_FAILURES: Final = 60
"""It starts in a second; a minute is for a node that is busy pulling images."""
LIVE_PERIOD_S: Final = 10
LIVE_TIMEOUT_S: Final = 5
LIVE_FAILURES: Final = 6
"""A minute of silence: a restart is worse than being slow."""


def sidecar(choice: Choice, pod: Pod, *, grace_s: int) -> dict[str, Any]:
    """The container."""
    container: dict[str, Any] = {"name": SIDECAR, "image": choice.image, "args": ["sidecar"]}
    if not choice.is_plain:
        container["restartPolicy"] = "Always"
    container["env"] = environment(choice, grace_s=grace_s)
    if choice.secret:
        container["envFrom"] = [{"secretRef": {"name": choice.secret}}]
    container |= {
        "ports": [{"name": SIDECAR, "containerPort": ADMIN_PORT}],
        "startupProbe": {
            "httpGet": {"path": "/startupz", "port": SIDECAR},
            "periodSeconds": STARTUP_PERIOD_S,
            "failureThreshold": STARTUP_FAILURES,
        },
        "livenessProbe": {
            "httpGet": {"path": "/livez", "port": SIDECAR},
            "periodSeconds": LIVE_PERIOD_S,
            "timeoutSeconds": LIVE_TIMEOUT_S,
            "failureThreshold": LIVE_FAILURES,
        },
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": SIDECAR},
            "periodSeconds": LIVE_PERIOD_S,
            "timeoutSeconds": LIVE_TIMEOUT_S,
        },
        "lifecycle": {"preStop": hook(DRAIN, token=choice.hook_token)},
    }
    if resources := resources_in(pod):
        container["resources"] = resources
    container["securityContext"] = {
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "runAsGroup": USER_ID,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container["volumeMounts"] = [
        {"name": RUN_VOLUME, "mountPath": RUN_PATH},
        {"name": DATA_VOLUME, "mountPath": DATA_PATH},
    ]
    if choice.config_map:
        mount = {"name": CONFIG_VOLUME, "mountPath": CONFIG_PATH, "readOnly": True}
        container["volumeMounts"].append(mount)
    return container


def environment(choice: Choice, *, grace_s: int) -> list[dict[str, Any]]:
    """The sidecar's. What `$(...)` refers to must stand before it."""
    pairs = {
        "COATCHECK_ADMIN_LISTEN": f"$(POD_IP):{ADMIN_PORT}",
        "COATCHECK_STORE": choice.store,
        "COATCHECK_MODE": choice.mode,
        "COATCHECK_GRACE_S": str(grace_s),
        "COATCHECK_SOCKET": SOCKET,
        "COATCHECK_DATA": DATA_PATH,
        "COATCHECK_DATA_BYTES_MAX": str(DATA_BYTES),
    }
    if choice.hook_token:
        pairs["COATCHECK_HOOK_TOKEN"] = choice.hook_token
    return [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "COATCHECK_POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
        *({"name": name, "value": value} for name, value in pairs.items()),
    ]


def agent_environment(choice: Choice) -> Mapping[str, str]:
    """An agent's: where the socket is, and whether to use it."""
    return {"COATCHECK_SOCKET": SOCKET, "COATCHECK_MODE": choice.mode}


def volumes(choice: Choice) -> list[dict[str, Any]]:
    """On the node's disk: what lies in memory doesn't survive the node, and counts as memory."""
    found: list[dict[str, Any]] = [
        {"name": RUN_VOLUME, "emptyDir": {"sizeLimit": RUN_SIZE}},
        {"name": DATA_VOLUME, "emptyDir": {"sizeLimit": DATA_SIZE}},
    ]
    if choice.config_map:
        found.append({"name": CONFIG_VOLUME, "configMap": {"name": choice.config_map}})
    return found


def resources_in(pod: Pod) -> dict[str, dict[str, str]]:
    """What keeps a Guaranteed pod one. None where the pod as a whole has a budget of its own."""
    if pod.spec.get("resources"):
        return {}
    found = {"requests": REQUESTS, "limits": LIMITS}
    if is_guaranteed(pod):
        found = {"requests": EVEN, "limits": EVEN}
    if limits_storage(pod):
        storage = {"ephemeral-storage": STORAGE_SIZE}
        return {part: {**amounts, **storage} for part, amounts in found.items()}
    return {part: dict(amounts) for part, amounts in found.items()}
