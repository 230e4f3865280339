from typing import Any

import pytest

from coatcheck.wire import ErrorCode, Request, Retry
from coatcheck_sidecar.core.session import (
    FIELDS,
    INCARNATION_BYTES,
    TEXT_CHARS_MAX,
    WITH_RUN,
    Phase,
    Refusal,
    Session,
    check_fields,
)

GOOD: dict[Request, dict[str, Any]] = {
    Request.HELLO: {"protocol": [1, 1], "client": "py", "incarnation": bytes(INCARNATION_BYTES)},
    Request.OPEN: {"queue": "default", "schema": 1, "create": True, "wait_s": 5},
    Request.COMMIT: {"step": 1, "level": "node", "schema": 1},
    Request.CALL: {"step": 1, "tool": "charge", "effect": "once", "identity": "content"},
    Request.ETA: {"seconds": 1.5},
    Request.OUTCOME: {"call": 3, "attempt": 1, "kind": "result"},
    Request.PROBED: {"call": 3, "attempt": 1, "applied": False},
    Request.RESOLVE: {"call": 3, "verdict": "applied"},
    Request.UNDO: {},
    Request.WAIT: {"name": "approval", "step": 1},
    Request.FINISH: {"step": 1},
    Request.FAIL: {"error": "no"},
    Request.RELEASE: {"reason": "left"},
    Request.RESULT: {"run": "invoice-4711"},
}
ALL_FIELDS = [(request, name) for request, fields in FIELDS.items() for name in fields]
WRONG: tuple[Any, ...] = (True, 7, -1.5, "text", b"bytes", [1], {"a": 1})


def session_in(phase: Phase) -> Session:
    session = Session()
    session.phase = phase
    return session


# Order

LEGAL = {
    Phase.GREETING: {Request.HELLO},
    Phase.IDLE: {Request.OPEN, Request.RESULT},
    Phase.OPENING: {Request.RESULT},
    Phase.OPEN: {Request.RESULT, *WITH_RUN},
    Phase.CLOSED: {Request.RESULT, Request.FINISH, Request.FAIL, Request.OUTCOME},
}
"""An end may be said again: its answer may have been lost. An outcome may come late."""


@pytest.mark.parametrize("request_", Request)
@pytest.mark.parametrize("phase", Phase)
def test_each_request_in_each_phase(phase: Phase, request_: Request) -> None:
    session = session_in(phase)
    if request_ in LEGAL[phase]:
        assert session.receive(request_.value, GOOD[request_]) is request_
        return
    with pytest.raises(Refusal, match=f"^{request_.value}") as refused:
        session.receive(request_.value, GOOD[request_])
    is_fenced = phase is Phase.CLOSED and request_ in WITH_RUN
    assert refused.value.code is (ErrorCode.FENCED if is_fenced else ErrorCode.PROTOCOL_ERROR)
    assert session.phase is phase


def test_a_connection_from_its_greeting_to_its_end() -> None:
    session, seen = Session(), []
    for request in ("hello", "open"):
        session.receive(request, GOOD[Request(request)])
        seen.append(session.phase)
    session.opened(is_open=False)
    seen.append(session.phase)
    session.receive("open", GOOD[Request.OPEN])
    session.opened(is_open=True)
    session.receive("commit", GOOD[Request.COMMIT])
    seen.append(session.phase)
    assert seen == [Phase.IDLE, Phase.OPENING, Phase.IDLE, Phase.OPEN]
    session.closed()
    with pytest.raises(Refusal, match="was given up"):
        session.receive("commit", GOOD[Request.COMMIT])


def test_an_unknown_request_is_named() -> None:
    with pytest.raises(Refusal, match=r"^'rewind' is no request of this protocol$"):
        Session().receive("rewind", {})


def test_a_refused_request_moves_nothing() -> None:
    session = Session()
    with pytest.raises(Refusal):
        session.receive("hello", {})
    assert session.phase is Phase.GREETING


# Fields


def test_every_request_has_its_fields() -> None:
    assert set(FIELDS) == set(GOOD) == set(Request)
    for request, body in GOOD.items():
        check_fields(request, {**body, "unknown": object()})


@pytest.mark.parametrize(("request_", "name"), ALL_FIELDS)
def test_a_field_of_a_wrong_type_is_named(request_: Request, name: str) -> None:
    for wrong in WRONG:
        if type(wrong) not in FIELDS[request_][name].kinds:
            with pytest.raises(Refusal, match=f"^{request_.value}: field '{name}' is ") as refused:
                check_fields(request_, {**GOOD[request_], name: wrong})
            assert type(wrong).__name__ in refused.value.message


@pytest.mark.parametrize(("request_", "name"), ALL_FIELDS)
def test_a_field_may_be_missing_only_if_it_is_optional(request_: Request, name: str) -> None:
    bare = {key: value for key, value in GOOD[request_].items() if key != name}
    for body in (bare, {**bare, name: None}):
        if FIELDS[request_][name].is_required:
            with pytest.raises(Refusal, match=f"^{request_.value}: field '{name}' is missing$"):
                check_fields(request_, body)
        else:
            check_fields(request_, body)


@pytest.mark.parametrize(
    ("request_", "name"),
    [(r, n) for r, n in ALL_FIELDS if {int, float} & {*FIELDS[r][n].kinds}],
)
def test_a_number_is_neither_negative_nor_endless(request_: Request, name: str) -> None:
    for wrong in (-1, -0.5, float("nan"), float("inf")):
        if type(wrong) in FIELDS[request_][name].kinds:
            with pytest.raises(Refusal, match=f"^{request_.value}: '{name}' is .*number from 0$"):
                check_fields(request_, {**GOOD[request_], name: wrong})


@pytest.mark.parametrize(
    ("request_", "name"), [(r, n) for r, n in ALL_FIELDS if FIELDS[r][n].values]
)
def test_a_word_is_one_of_those_listed(request_: Request, name: str) -> None:
    for word in FIELDS[request_][name].values:
        check_fields(request_, {**GOOD[request_], name: word})
    with pytest.raises(Refusal, match=f"^{request_.value}: '{name}' is 'luck', not one of"):
        check_fields(request_, {**GOOD[request_], name: "luck"})


def test_text_is_what_utf_8_can_hold() -> None:
    for text in ("\ud800", "a\udfff"):
        with pytest.raises(Refusal, match="'tool' has a lone surrogate"):
            check_fields(Request.CALL, {**GOOD[Request.CALL], "tool": text})
    check_fields(Request.CALL, {**GOOD[Request.CALL], "tool": "\U0001f9e5"})


def test_text_has_a_limit_since_it_goes_into_heads() -> None:
    check_fields(Request.WAIT, {"step": 1, "name": "x" * TEXT_CHARS_MAX})
    with pytest.raises(Refusal, match="wait: 'name' has 4097 of 4096 characters"):
        check_fields(Request.WAIT, {"step": 1, "name": "x" * (TEXT_CHARS_MAX + 1)})


def test_what_an_agent_says_of_a_failure_is_cut_and_not_refused() -> None:
    check_fields(Request.FAIL, {"error": "x" * (TEXT_CHARS_MAX + 1)})


@pytest.mark.parametrize(
    ("request_", "name"),
    [(Request.OPEN, "run"), (Request.OPEN, "queue"), (Request.RESULT, "run")],
)
@pytest.mark.parametrize("wrong", ["", "-a", "a/b", "a b", "ä", "a" * 129, "a\n"])
def test_names_are_safe_in_urls_shells_and_stores(request_: Request, name: str, wrong: str) -> None:
    with pytest.raises(Refusal, match=f"^{request_.value}: {name} "):
        check_fields(request_, {**GOOD[request_], name: wrong})
    check_fields(request_, {**GOOD[request_], name: "a" * 128})


@pytest.mark.parametrize("length", [0, 15, 17])
def test_an_incarnation_is_sixteen_bytes(length: int) -> None:
    with pytest.raises(Refusal, match=r"^hello: incarnation must be 16 bytes$"):
        check_fields(Request.HELLO, {**GOOD[Request.HELLO], "incarnation": bytes(length)})


def test_a_refusal_says_all_that_a_client_needs() -> None:
    refusal = Refusal(ErrorCode.FENCED, "over", retry=Retry.LATER, run="r", epoch=3)
    assert refusal.body() == {
        "code": "fenced",
        "message": "over",
        "retry": "later",
        "run": "r",
        "epoch": 3,
    }
    assert str(refusal) == "over"
