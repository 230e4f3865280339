"""The run API's own description, OpenAPI 3.1, made of the table that its routes are made of."""

import re
from collections.abc import Mapping
from typing import Any, Final

from coatcheck_sidecar.servers.operations import OPERATIONS, Operation
from coatcheck_sidecar.servers.schemas import PROBLEM

WHY: Final = {
    400: "Not well formed, or not what this operation takes.",
    401: "No token, or none of this run's agent: open the run again.",
    403: "From a page or a host that is not this machine's loopback.",
    404: "There is nothing of this name.",
    405: "Not by this method.",
    408: "The body did not come in time.",
    409: "Not now, or no longer: `code` says why.",
    410: "This agent no longer has the run, and never will again.",
    413: "Too large: `limit` says how much is allowed.",
    415: "The body is not application/json.",
    422: "The key was used with other arguments.",
    424: "In doubt, held or damaged: somebody must decide.",
    500: "A fault of the sidecar's own.",
    503: "The store, the pod or this sidecar can't do it now: try again.",
}
OF_ALL: Final = (400, 403, 405, 500, 503)
OF_BODIES: Final = (408, 413, 415)
TOKEN: Final = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "token": {"type": "apiKey", "in": "header", "name": "Coatcheck-Token"},
}
PARAMETER: Final = re.compile(r"\{(\w+)\}")


def document(version: str) -> dict[str, Any]:
    """The whole document; `version` is this release's."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "coatcheck run API",
            "version": version,
            "summary": "Durable agent runs over loopback HTTP, for any language.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://127.0.0.1:7070"}],
        "paths": paths,
        "components": {"schemas": {"Problem": PROBLEM}, "securitySchemes": TOKEN},
    }


def _described(operation: Operation) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": operation.id,
        "summary": operation.says,
        "parameters": [_parameter(name) for name in PARAMETER.findall(operation.path)],
        "responses": {
            "200": {
                "description": "Done.",
                "content": {"application/json": {"schema": operation.answer}},
            },
            **{str(status): _problem(status) for status in sorted(statuses_of(operation))},
        },
        "security": [{"bearer": []}, {"token": []}] if operation.is_agents else [],
    }
    if operation.takes is not None:
        made["requestBody"] = {"content": {"application/json": {"schema": operation.takes}}}
    return made


def statuses_of(operation: Operation) -> set[int]:
    """Every status that an operation's errors may have."""
    statuses = {*OF_ALL, *operation.statuses}
    if operation.takes is not None:
        statuses |= {*OF_BODIES}
    if operation.is_agents:
        statuses |= {401, 410}
    return statuses


def _parameter(name: str) -> Mapping[str, Any]:
    schema = {"type": "integer", "minimum": 0} if name == "call" else {"type": "string"}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _problem(status: int) -> Mapping[str, Any]:
    return {
        "description": WHY[status],
        "content": {
            "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
        },
    }
