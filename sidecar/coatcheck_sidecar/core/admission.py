"""AdmissionReview v1 in, AdmissionReview v1 out: which pods get the sidecar, by what JSON patch.

Nothing is changed but a pod that is being made, is annotated `coatcheck.dev/inject: "true"` and has
no sidecar yet. What is changed is what `inject` says; here it is only put into the API's words
(https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/).
"""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from coatcheck_sidecar.core.inject import inject
from coatcheck_sidecar.core.inject_choice import (
    ANNOTATION,
    CONTAINERS,
    INJECTED,
    Choice,
    Finding,
    Refused,
)

API_VERSION: Final = "admission.k8s.io/v1"
KIND: Final = "AdmissionReview"
PREFIX: Final = "coatcheck.dev/"
DENIED: Final = 403
"""HTTP's Forbidden, which `kubectl` shows with the message."""
WARNING_CHARS_MAX: Final = 250
"""The API server cuts a warning at 256 characters."""
WARNINGS_MAX: Final = 10
"""Together below the 4,096 characters after which the API server drops the rest."""

Json = Mapping[str, Any]


class BadReview(Exception):  # noqa: N818 - says what it is, as its users do
    """What came is no AdmissionReview v1; the text says which part of it is wrong."""


@dataclass(frozen=True, slots=True)
class Review:
    """What the API server asks."""

    uid: str
    pod: Json | None
    """The pod that is being made; `None` for all else, which is let pass as it is."""
    namespace: str = ""

    @property
    def name(self) -> str:
        """Of the pod, or the beginning of one that the API server is still to find."""
        metadata = _map((self.pod or {}).get("metadata"))
        return str(metadata.get("name") or metadata.get("generateName") or "")

    @property
    def annotations(self) -> Json:
        """Of the pod."""
        return _map(_map((self.pod or {}).get("metadata")).get("annotations"))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is answered. No patch: the pod stays as it is."""

    patch: tuple[Json, ...] = ()
    """Operations of RFC 6902."""
    warnings: tuple[str, ...] = ()
    """`kubectl` shows them to whoever made the pod."""
    refused: str = ""
    """Why the pod can't have what it asks for."""
    is_denied: bool = False


def parse(document: object) -> Review:
    """Raises `BadReview`."""
    if not isinstance(document, dict):
        raise BadReview("the body is no JSON object")
    found = (document.get("apiVersion"), document.get("kind"))
    if found != (API_VERSION, KIND):
        raise BadReview(f"this is {found[0]!r:.60} {found[1]!r:.60}, not {API_VERSION} {KIND}")
    request = document.get("request")
    if not isinstance(request, dict):
        raise BadReview("request is missing: this is no question")
    uid = request.get("uid")
    if not isinstance(uid, str) or not uid:
        raise BadReview("request.uid is missing: no answer could be told from another")
    namespace = str(request.get("namespace") or "")
    kind = _map(request.get("kind"))
    is_pod = (kind.get("group"), kind.get("kind")) == ("", "Pod")
    if not is_pod or request.get("operation") != "CREATE" or request.get("subResource"):
        return Review(uid, None, namespace)
    pod = request.get("object")
    if not isinstance(pod, dict) or not isinstance(pod.get("spec"), dict):
        raise BadReview("request.object is no pod with a spec")
    for name in ("metadata", "metadata.annotations"):
        part: Any = pod
        for step in name.split("."):
            part = part.get(step) or {}
            if not isinstance(part, dict):
                raise BadReview(f"request.object.{name} is no map")
    return Review(uid, pod, namespace)


def decide(review: Review, choice: Choice, *, denies: bool) -> Verdict:
    """What becomes of the pod. With `denies` one that can't have its sidecar is not made at all."""
    if review.pod is None or INJECTED in review.annotations:
        return Verdict()
    wanted = review.annotations.get(ANNOTATION)
    if wanted != "true":
        return Verdict(warnings=_unclear(wanted))
    try:
        injection = inject(review.pod, _chosen(choice, review.annotations))
    except Refused as error:
        why = f"coatcheck: {error.reason}"
        return Verdict(warnings=(why,), refused=why, is_denied=denies)
    patch = tuple(edit.to_json() for edit in injection.edits)
    return Verdict(patch, tuple(map(_told, injection.findings)))


def answer(review: Review, verdict: Verdict) -> dict[str, Any]:
    """The AdmissionReview to send back."""
    response: dict[str, Any] = {"uid": review.uid, "allowed": not verdict.is_denied}
    if verdict.is_denied:
        response["status"] = {"code": DENIED, "message": verdict.refused}
    elif verdict.warnings:
        cut = [text[:WARNING_CHARS_MAX] for text in verdict.warnings[:WARNINGS_MAX]]
        response["warnings"] = cut
    if verdict.patch:
        response["patchType"] = "JSONPatch"
        packed = json.dumps(verdict.patch, separators=(",", ":")).encode()
        response["patch"] = base64.b64encode(packed).decode()
    return {"apiVersion": API_VERSION, "kind": KIND, "response": response}


def _told(finding: Finding) -> str:
    """As a warning of the API, which is one line."""
    return f"coatcheck: {finding.what}" + (f"; {finding.mend}" if finding.mend else "")


def _unclear(wanted: object) -> tuple[str, ...]:
    if wanted in (None, "false"):
        return ()
    return (f'coatcheck: {ANNOTATION} is {wanted!r:.40}, and only "true" adds the sidecar',)


# -- what a pod may say for itself


OVERRIDES: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "store": ("store", str),
    "mode": ("mode", str),
    "image": ("image", str),
    "grace-s": ("grace_s", int),
    "config-map": ("config_map", str),
    "secret": ("secret", str),
}
"""Annotations of a pod, after the prefix: the field of `Choice`, and how it is read.

The agents' containers are named by one as well, which `inject` reads.
"""


def _chosen(choice: Choice, annotations: Json) -> Choice:
    said: dict[str, Any] = {}
    for name, text in annotations.items():
        if not name.startswith(PREFIX) or name in (ANNOTATION, CONTAINERS):
            continue
        field = OVERRIDES.get(name.removeprefix(PREFIX))
        if field is None:
            known = ", ".join([*(f"{PREFIX}{each}" for each in OVERRIDES), CONTAINERS])
            why = f"there is no annotation {name}; a pod may say {known}"
            raise Refused("annotation-unknown", why)
        try:
            said[field[0]] = field[1](str(text))
        except ValueError:
            why = f"annotation {name} is {text!r:.40}, no whole number"
            raise Refused("annotation-malformed", why) from None
    return replace(choice, **said)


def _map(value: object) -> Json:
    return value if isinstance(value, dict) else {}
