import pytest

from coatcheck_sidecar.core.http_outcome import Profile
from coatcheck_sidecar.core.model import CallClass, Effect
from coatcheck_sidecar.core.tool import HttpProbe, HttpUndo, Tool, UpstreamKey

PROBE = HttpProbe(path="/sent?ref={key}", applied_when="/items/0")


@pytest.mark.parametrize(
    ("method", "path", "effect"),
    [
        ("GET", "/search", Effect.READ),
        ("get", "/anything", Effect.READ),
        ("POST", "/search", Effect.READ),
        ("POST", "/search/deep", Effect.READ),
        ("post", "/charges/7/capture", Effect.ONCE),
        ("POST", "/charges", Effect.IDEMPOTENT),
        ("PUT", "/x", Effect.IDEMPOTENT),
        ("GET", "/charges/7/capture", Effect.ONCE),
    ],
)
def test_what_is_said_of_a_path_comes_first(method: str, path: str, effect: Effect) -> None:
    effects = {"POST /search*": Effect.READ, "* /charges/*/capture": Effect.ONCE}
    tool = Tool(name="t", effect=Effect.IDEMPOTENT, effects=effects)
    assert tool.effect_of(method, path) is effect


@pytest.mark.parametrize(
    ("method", "effect"),
    [("GET", Effect.READ), ("DELETE", Effect.IDEMPOTENT), ("POST", Effect.ONCE)],
)
def test_where_nothing_is_said_the_method_decides(method: str, effect: Effect) -> None:
    assert Tool(name="t").effect_of(method, "/x") is effect


@pytest.mark.parametrize(
    ("tool", "effect", "call_class"),
    [
        (Tool(name="t"), Effect.READ, CallClass.READ),
        (Tool(name="t"), Effect.IDEMPOTENT, CallClass.IDEMPOTENT),
        (Tool(name="t", upstream_key=UpstreamKey()), Effect.IDEMPOTENT, CallClass.KEYED),
        (Tool(name="t", probe=PROBE), Effect.ONCE, CallClass.PROBED),
        (Tool(name="t", upstream_key=UpstreamKey()), Effect.ONCE, CallClass.ONCE),
    ],
)
def test_the_column_of_the_call_table(tool: Tool, effect: Effect, call_class: CallClass) -> None:
    assert tool.class_of(effect) is call_class


def test_the_profile_says_what_answers_mean() -> None:
    assert Tool(name="t").profile == Profile()
    saving = Tool(name="t", upstream_key=UpstreamKey(saves=frozenset({"5xx"})), sheds_by_503=True)
    assert saving.profile == Profile(saves_errors=True, sheds_by_503=True)
    assert Tool(name="t", upstream_key=UpstreamKey()).profile == Profile()


# Undos

REFUND = HttpUndo(path="/refunds", body={"id": "{/id}"}, of="POST /charges*")


@pytest.mark.parametrize(
    ("method", "path", "is_undone"),
    [
        ("POST", "/charges", True),
        ("post", "/charges/7/capture", True),
        ("POST", "/customers", False),
        ("DELETE", "/charges", False),
    ],
)
def test_an_undo_is_kept_with_the_calls_that_it_is_of(
    method: str, path: str, is_undone: bool
) -> None:
    tool = Tool(name="t", undo=REFUND, upstream_key=UpstreamKey(prefix="p-"))
    text = '["POST","/refunds",{"id":"{/id}"},"p-"]'
    assert tool.undo_text(method, path) == (text if is_undone else "")
    assert not Tool(name="t").undo_text(method, path)
    of_all = HttpUndo(path="/undo")
    assert Tool(name="t", undo=of_all).undo_text(method, path) == '["POST","/undo",null,""]'


@pytest.mark.parametrize(
    ("undo", "key", "call_class"),
    [
        (REFUND, None, CallClass.ONCE),
        (REFUND, UpstreamKey(), CallClass.KEYED),
        (HttpUndo(method="DELETE", path="/x"), None, CallClass.IDEMPOTENT),
        (HttpUndo(method="PUT", path="/x"), UpstreamKey(), CallClass.KEYED),
        (HttpUndo(path="/x", effect=Effect.IDEMPOTENT), None, CallClass.IDEMPOTENT),
        (HttpUndo(path="/x", effect=Effect.ONCE), UpstreamKey(), CallClass.ONCE),
        (HttpUndo(path="/x", probe=PROBE), None, CallClass.PROBED),
    ],
)
def test_what_a_second_undo_would_do(
    undo: HttpUndo, key: UpstreamKey | None, call_class: CallClass
) -> None:
    tool = Tool(name="t", undo=undo, upstream_key=key, effects={"* *": Effect.READ}, probe=PROBE)
    as_undo = tool.undoing(undo)
    assert as_undo.class_of(as_undo.effect_of(undo.method, "/x")) is call_class
    assert as_undo.probe is undo.probe
