"""The error tree, the names of the package, and what its import costs."""

import pickle
import subprocess
import sys

import pytest

import coatcheck
from coatcheck import _base, _run, errors
from coatcheck.wire import ErrorCode, Retry


@pytest.mark.parametrize("code", list(ErrorCode))
def test_each_code_has_its_error_and_survives_the_wire(code: ErrorCode) -> None:
    body = {"code": str(code), "message": "what and why", "retry": "same_key", "run": "r"}
    error = errors.from_wire(body)
    assert type(error).__name__ == code.title().replace("_", "")
    assert getattr(coatcheck, type(error).__name__) is type(error)
    assert (error.code, error.retry, error.run, str(error)) == (
        code,
        "same_key",
        "r",
        body["message"],
    )
    assert error.details == {"run": "r"}
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (again.code, again.retry, again.run, str(again)) == (code, "same_key", "r", str(error))
    assert again.details == error.details


def test_a_code_of_a_newer_sidecar_is_kept() -> None:
    error = errors.from_wire({"code": "too_sunny", "message": "m", "retry": "at noon"})
    assert (error.code, error.retry) == ("too_sunny", Retry.NEVER)
    assert errors.from_wire({}).code == ErrorCode.PROTOCOL_ERROR


def test_errors_know_what_they_are_about() -> None:
    held = errors.Held("m", call=3, tool="charge", step=2, first_sent_ms=5, calls=[{"call": 1}])
    assert (held.call, held.tool, held.step, held.first_sent_ms) == (3, "charge", 2, 5)
    assert held.calls == [{"call": 1}]
    assert errors.Unavailable("m", retry=Retry.NEVER).retry == "never"


CODES = [{"code": str(code)} for code in ErrorCode]


def test_every_name_is_there() -> None:
    exceptions = {name for name, value in vars(errors).items() if isinstance(value, type)}
    exceptions &= {kind.__name__ for kind in map(type, map(errors.from_wire, CODES))}
    assert len(exceptions) == len(ErrorCode)
    others = ["CoatcheckError", "NotApplied", "NotEncodable", "StepOver", "sync"]
    for name in (*exceptions, *others, *_run.__all__):
        assert getattr(coatcheck, name) is not None
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = coatcheck.nothing_such


def test_agents_without_asyncio_do_not_pay_for_it() -> None:
    code = "import sys, coatcheck.sync; print({'asyncio', 'coatcheck._run'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_import_loads_neither_asyncio_nor_msgpack() -> None:
    code = "import sys, coatcheck; print({'asyncio', 'msgpack', 'typing'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("name", ["", "-a", ".a", "a/b", "a b", "é", "a" * 129, "a\n"])
def test_a_name_that_could_harm_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COATCHECK_RUN_ID", raising=False)
    with pytest.raises(ValueError, match=r"name|which run"):
        coatcheck.open_run(name, schema=1)


def test_what_is_not_said_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COATCHECK_RUN_ID", "from-env")
    assert _base.opening_of(None, {"schema": 1}).body["run"] == "from-env"
    monkeypatch.delenv("COATCHECK_SOCKET", raising=False)
    assert _base.socket_path() == "/run/coatcheck/agent.sock"
    monkeypatch.delenv("COATCHECK_RUN_ID")
    with pytest.raises(ValueError, match="COATCHECK_RUN_ID"):
        coatcheck.open_run(schema=1)


def test_options_are_told_as_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COATCHECK_CODE_VERSION", "abc")
    opening = _base.opening_of("r", {"schema": 2, "pinned": True, "input": [1], "wait_s": 0})
    body = {"run": "r", "schema": 2, "schema_from": 2, "pinned": True, "create": True, "wait_s": 0}
    assert opening.body == {**body, "queue": "default", "code_version": "abc"}
    assert opening.attachment == b"\x91\x01"
    claiming = _base.claiming_of("q", {"schema": 1, "code_version": "d"})
    body = {"queue": "q", "schema": 1, "code_version": "d", "create": False, "wait_s": 60.0}
    body["schema_from"] = 1
    assert claiming.body == body


def test_options_that_are_none_or_missing_are_refused() -> None:
    with pytest.raises(TypeError, match="no option 'shema'"):
        coatcheck.open_run("r", shema=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="which schema"):
        coatcheck.open_run("r")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="no option 'input'"):
        _base.claiming_of("q", {"schema": 1, "input": 3})  # type: ignore[typeddict-unknown-key]
