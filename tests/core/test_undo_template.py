import json
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.model import Body, Call, CallClass, CallState, Outcome, OutcomeKind
from coatcheck_sidecar.core.recorded import Head, encode_head
from coatcheck_sidecar.core.undo_records import Undo
from coatcheck_sidecar.core.undo_template import mistake, mistakes, pointers, undo_of
from tests.core.calls import recorded

CHARGED = {"id": "ch_7", "amount": 250, "card": {"last": "4242"}, "lines": [1], "ok": True}
EVERYTHING = {
    "charge": "{/id}",
    "amount": "{/amount}",
    "card": "{/card}",
    "why": "undo of {/id} for {/amount}, by {key}",
    "invoice": "{business}",
    "tags": ["{/ok}", 7, None],
}


def text(
    body: Any = None, *, method: str = "POST", path: str = "/refunds", prefix: str = ""
) -> str:
    return json.dumps([method, path, body, prefix])


def answered(
    value: Any = CHARGED, *, status: int = 200, headers: Any = (), undo: str = "", **more: Any
) -> Call:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    outcome = Outcome(OutcomeKind.RESULT, Body(body), encode_head(Head(status, headers)))
    given = {"number": 5, "upstream_key": "up", "business_key": "i-1", "outcome": outcome, **more}
    return replace(recorded(CallClass.ONCE, CallState.DONE), undo=undo, **given)


def body_of(call: Call) -> Any:
    undo = undo_of(call)
    assert undo is not None
    assert not undo.why
    assert undo.body.data is not None
    return json.loads(undo.body.data)


def why(call: Call) -> str:
    undo = undo_of(call)
    assert undo is not None
    assert (undo.method, undo.path, undo.body.data) == ("", "", None)
    return undo.why


def test_places_are_filled_in_with_values_of_their_own_type_or_within_a_text() -> None:
    assert body_of(answered(undo=text(EVERYTHING))) == {
        "charge": "ch_7",
        "amount": 250,
        "card": {"last": "4242"},
        "why": "undo of ch_7 for 250, by up",
        "invoice": "i-1",
        "tags": [True, 7, None],
    }


def test_a_path_is_filled_in_and_escaped() -> None:
    path = "/charges/{/id}/of/{business}?key={key}"
    call = answered({"id": "a/b c"}, undo=text(path=path, prefix="p-"), business_key="\u00fc")
    assert undo_of(call) == Undo(
        call=5, key=call.key, tool="charge", step=1, method="POST",
        path="/charges/a%2Fb%20c/of/%C3%BC?key=p-up",
    )  # fmt: skip


def test_a_template_without_pointers_needs_no_answer() -> None:
    for kind in (OutcomeKind.NOT_RETAINED, OutcomeKind.TRUNCATED):
        lost = answered(undo=text({"key": "{key}"}))
        assert lost.outcome is not None
        lost = replace(lost, outcome=replace(lost.outcome, kind=kind, body=Body(None)))
        assert body_of(lost) == {"key": "up"}
        assert why(replace(lost, undo=text({"id": "{/id}"}))) == f"its answer is {kind.value}"


def test_what_somebody_said_of_a_call_is_its_answer() -> None:
    said = Outcome(OutcomeKind.RESULT, Body(msgpack.packb({"id": 7})))
    assert body_of(answered(undo=text({"id": "{/id}"}), outcome=said)) == {"id": 7}
    odd = replace(said, body=Body(msgpack.packb({"id": b"7"})))
    assert "no JSON" in why(answered(undo=text({"id": "{/id}"}), outcome=odd))


@pytest.mark.parametrize(
    ("template", "value", "headers", "said"),
    [
        ({"id": "{/no}"}, CHARGED, (), "there is nothing at /no in its answer"),
        ({"id": "x{/card}"}, CHARGED, (), "what is at /card in its answer is no text and"),
        ({"id": "x{/ok}"}, CHARGED, (), "what is at /ok"),
        ({"id": "{/id}"}, b"hello", (), "its answer is no JSON"),
        ({"id": "{/id}"}, CHARGED, (("Content-Encoding", "gzip"),), "its answer is compressed"),
        ({"id": "{/id}"}, {"id": "x" * 70_000}, (), "its body would have 70009 bytes"),
    ],
)
def test_what_keeps_an_undo_from_being_made_is_kept_in_its_place(
    template: Any, value: Any, headers: Any, said: str
) -> None:
    assert said in why(answered(value, headers=headers, undo=text(template)))


@pytest.mark.parametrize("answer_id", ["..", "."])
@pytest.mark.parametrize("path", ["/charges/{/id}", "/a/{/id}/refund?x={key}"])
def test_a_path_leads_to_no_other_place(answer_id: str, path: str) -> None:
    assert "another place" in why(answered({"id": answer_id}, undo=text(path=path)))
    kept = undo_of(answered({"id": "../x"}, undo=text(path=path)))
    assert kept is not None
    assert "..%2Fx" in kept.path


def test_a_call_without_a_business_key_has_none_to_fill_in() -> None:
    for template in (text({"id": "{business}"}), text(path="/charges/{business}")):
        assert why(answered(undo=template, business_key=None)) == "the call has no business key"


@pytest.mark.parametrize("status", [302, 400, 404, 500])
def test_what_was_refused_leaves_nothing_to_undo(status: int) -> None:
    assert undo_of(answered(status=status, undo=text())) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"undo": ""},
        {"state": CallState.IN_DOUBT},
        {"state": CallState.COMPENSATED},
        {"outcome": None},
        {"key": "undo:c:1"},
        {"outcome": Outcome(OutcomeKind.UNKNOWN, Body(None), encode_head(Head(500)))},
    ],
)
def test_there_is_an_undo_only_of_what_is_known_to_be_done_and_says_how(changed: Any) -> None:
    assert undo_of(replace(answered(undo=text()), **changed)) is None


def test_a_handler_gets_the_result_and_what_is_irreversible_has_neither() -> None:
    result = Outcome(OutcomeKind.RESULT, Body(b"\xa2ok"))
    by_hand = undo_of(answered(outcome=result, handler="refund"))
    assert by_hand is not None
    assert (by_hand.handler, by_hand.body) == ("refund", Body(b"\xa2ok"))
    final = undo_of(answered(is_irreversible=True, undo=text()))
    assert final is not None
    assert (final.is_irreversible, final.method) == (True, "")


@pytest.mark.parametrize("wrong", ["{id}", "{", "a}b", "{/a{key}}", "{}", "{KEY}"])
def test_braces_around_what_is_no_place_are_a_mistake(wrong: str) -> None:
    assert "no place" in mistake(wrong)
    assert "no place" in mistakes({"a": [1, {"b": wrong}]})


def test_a_good_template_says_what_it_points_to() -> None:
    assert not mistake("a/{/id}?{key}")
    assert not mistakes(EVERYTHING)
    assert not mistakes(None)
    assert list(pointers("/x/{/id}", EVERYTHING)) == [
        "/id", "/id", "/amount", "/card", "/id", "/amount", "/ok",
    ]  # fmt: skip


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet="ab{}/key "),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON)
def test_whatever_comes_the_undo_is_made_or_says_why_not(template: Any, value: Any) -> None:
    call = answered(value, undo=text({"it": template}))
    undo = undo_of(call)
    assert undo is not None
    assert bool(undo.why) != bool(undo.method)
    if undo.method and not list(pointers("", template)):
        assert undo.body.data is not None
