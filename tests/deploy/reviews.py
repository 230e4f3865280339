"""AdmissionReviews as an API server writes them, and what becomes of a pod by the answer."""

import base64
import copy
import json
from typing import Any

Json = dict[str, Any]


def pod(*, annotations: Json | None = None, **spec: Any) -> Json:
    made: Json = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "invoice-agent-6d4f-",
            "labels": {"app.kubernetes.io/name": "invoice-agent"},
        },
        "spec": {
            "containers": [{"name": "agent", "image": "registry.example/invoice-agent:1.4.2"}],
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 60,
            **spec,
        },
    }
    if annotations is not None:
        made["metadata"]["annotations"] = annotations
    return made


def wanted(**more: str) -> Json:
    """Annotations of a pod that asks for its sidecar; `more` are others of coatcheck's."""
    others = {f"coatcheck.dev/{name.replace('_', '-')}": text for name, text in more.items()}
    return {"coatcheck.dev/inject": "true", **others}


def review(pod: Json | None, *, uid: str = "705ab4f5", **changes: Any) -> Json:
    request = {
        "uid": uid,
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
        "namespace": "agents",
        "operation": "CREATE",
        "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
        "object": pod,
        "oldObject": None,
        "dryRun": False,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        **changes,
    }
    return {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}


def patched(pod: Json, response: Json) -> Json:
    """The pod as the API server makes it: RFC 6902 by the book, and no operation but three."""
    if "patch" not in response:
        return pod
    assert response["patchType"] == "JSONPatch"
    whole: Any = copy.deepcopy(pod)
    for operation in json.loads(base64.b64decode(response["patch"], validate=True)):
        steps = [
            step.replace("~1", "/").replace("~0", "~") for step in operation["path"].split("/")[1:]
        ]
        place = whole
        for step in steps[:-1]:
            place = place[int(step)] if isinstance(place, list) else place[step]
        _operate(place, steps[-1], operation)
    result: Json = whole
    return result


def _operate(place: Any, last: str, operation: Json) -> None:
    match operation["op"], place:
        case "add", list():
            at = len(place) if last == "-" else int(last)
            assert at <= len(place)
            place.insert(at, operation["value"])
        case "add", dict():
            place[last] = operation["value"]
        case "replace", list():
            place[int(last)] = operation["value"]
        case "replace", dict():
            assert last in place
            place[last] = operation["value"]
        case "remove", list():
            del place[int(last)]
        case "remove", dict():
            del place[last]
        case op, _:
            raise AssertionError(f"{op} of {operation['path']}")
