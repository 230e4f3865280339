"""The document is what it says it is, and says what the API is."""

from collections.abc import AsyncIterator

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from coatcheck.wire import Request
from coatcheck_sidecar.core.session import FIELDS
from coatcheck_sidecar.servers.openapi import WHY, statuses_of
from coatcheck_sidecar.servers.operations import OPERATIONS
from coatcheck_sidecar.servers.problems import STATUS
from tests.engine.harness import Pod, Yard
from tests.engine.http_agent import DOCUMENT, Http, ProblemError, serving

OF_WIRE = {
    "open": Request.OPEN,
    "commit": Request.COMMIT,
    "call": Request.CALL,
    "eta": Request.ETA,
    "outcome": Request.OUTCOME,
    "probed": Request.PROBED,
    "wait": Request.WAIT,
    "finish": Request.FINISH,
    "fail": Request.FAIL,
    "release": Request.RELEASE,
}
ELSEWHERE = {"patch", "state_length", "run", "call"}
"""Of the wire alone, or in the path."""


@pytest.fixture
async def http(pod: Pod, yard: Yard) -> AsyncIterator[Http]:
    async with serving(pod, yard) as made:
        yield made


async def test_it_is_served_and_valid(http: Http) -> None:
    served = await http.get("/v1/openapi.json")
    assert served == DOCUMENT
    OpenAPIV31SpecValidator(served).validate()


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.id)
async def test_each_route_is_there_and_described(http: Http, operation: object) -> None:
    (known,) = [o for o in OPERATIONS if o is operation]
    described = DOCUMENT["paths"][known.path][known.method.lower()]
    assert described["operationId"] == known.id
    assert {int(status) for status in described["responses"]} == {200, *statuses_of(known)}
    path = known.path.format(run="r1", queue="q", call="1")
    body: dict[str, object] | None = {} if known.method == "POST" else None
    try:
        await http.ask(known.method, path, body=body)
        told = ""
    except ProblemError as error:
        told = f"{error.status} {error.detail}"
    assert "no such path" not in told
    assert not told.startswith("405")


def test_no_two_routes_are_one() -> None:
    routes = [(o.method, o.path) for o in OPERATIONS]
    assert len(set(routes)) == len(routes) == len({o.id for o in OPERATIONS})
    assert set(DOCUMENT["paths"]) == {path for _, path in routes}


@pytest.mark.parametrize("name", OF_WIRE)
def test_bodies_have_the_fields_of_the_wire(name: str) -> None:
    (operation,) = [o for o in OPERATIONS if o.id == name]
    missing = set(FIELDS[OF_WIRE[name]]) - set(operation.fields) - ELSEWHERE
    assert missing <= {"step"} if name == "wait" else not missing


def test_every_status_of_the_engine_is_known() -> None:
    assert set(STATUS.values()) <= set(WHY)
