"""Which call an asking is, and which new ones may not begin."""

import uuid
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.call_events import Code, Hold, Refuse, Wait
from coatcheck_sidecar.core.model import Call, CallClass, CallState, Effect, Outcome, OutcomeKind
from coatcheck_sidecar.core.policy import (
    NAMESPACE,
    ORPHAN_WAIT_S,
    Ask,
    AskedSoFar,
    Identified,
    Identity,
    class_of,
    default_effect,
    identify,
    resumed,
    upstream_key,
)
from tests.core.calls import RESULT, UNKEPT

R, I, K, P, U = CallClass  # noqa: E741 - the table's columns
A, B = b"\xaa" * 32, b"\xbb" * 32
HEX_A, HEX_B = "aa" * 16, "bb" * 16
UNKNOWN = Outcome(OutcomeKind.UNKNOWN, UNKEPT.body)


def ask(call_class: CallClass = U, fingerprint: bytes = A, **changed: Any) -> Ask:
    whole: dict[str, Any] = {"run": "run-1", "step": 2, "tool": "charge"}
    return Ask(call_class=call_class, fingerprint=fingerprint, **whole | changed)


def log(*calls: Call) -> dict[str, Call]:
    return {call.key: call for call in calls}


def old(key: str, state: CallState = CallState.DONE, **changed: Any) -> Call:
    whole: dict[str, Any] = {
        "number": 7,
        "key": key,
        "step": 2,
        "tool": "charge",
        "call_class": U,
        "fingerprint": A,
        "state": state,
        "outcome": RESULT if state is CallState.DONE else None,
    }
    return Call(**whole | changed)


class Agent:
    """One incarnation in one step: asks, and keeps what it asked so far."""

    def __init__(self, *calls: Call) -> None:
        self.calls = log(*calls)
        self.asked = AskedSoFar()

    def key(self, asking: Ask, **how: Any) -> str:
        found = self.try_(asking, **how)
        assert isinstance(found, Identified)
        return found.draft.key

    def try_(self, asking: Ask, **how: Any) -> object:
        found = identify(asking, self.asked, calls=self.calls, epoch=4, **how)
        asked = self.asked.keys
        apart = [call for key, call in self.calls.items() if call.is_unsettled or key not in asked]
        assert found == identify(
            asking, self.asked, calls=self.calls, in_the_way=apart, epoch=4, **how
        )
        if isinstance(found, Identified):
            self.asked = found.asked
        return found


@pytest.mark.parametrize(
    ("method", "effect"),
    [
        ("GET", Effect.READ),
        ("head", Effect.READ),
        ("OPTIONS", Effect.READ),
        ("QUERY", Effect.READ),
        ("PUT", Effect.IDEMPOTENT),
        ("DELETE", Effect.IDEMPOTENT),
        ("POST", Effect.ONCE),
        ("PATCH", Effect.ONCE),
        ("BREW", Effect.ONCE),
    ],
)
def test_effects_by_method(method: str, effect: Effect) -> None:
    assert default_effect(method) is effect


@pytest.mark.parametrize(
    ("effect", "has_probe", "key_lifetime_s", "expected"),
    [
        (Effect.READ, True, 60.0, R),
        (Effect.IDEMPOTENT, True, None, I),
        (Effect.IDEMPOTENT, False, 60.0, K),
        (Effect.ONCE, True, 60.0, P),
        (Effect.ONCE, False, None, U),
    ],
)
def test_classes(
    effect: Effect, has_probe: bool, key_lifetime_s: float | None, expected: CallClass
) -> None:
    assert class_of(effect, has_probe=has_probe, key_lifetime_s=key_lifetime_s) is expected


def test_upstream_keys_come_from_identity_alone() -> None:
    assert upstream_key("run-1", "k:a") == str(uuid.uuid5(NAMESPACE, "run-1\0k:a"))
    assert upstream_key("run-1", "k:a") != upstream_key("run-2", "k:a")
    assert str(NAMESPACE) == "74e79787-6109-5dc7-a39c-1a5aa11990d7"


@pytest.mark.parametrize(
    ("asking", "key", "is_named"),
    [
        (ask(key="pay-1", business="4711"), "k:pay-1", True),
        (ask(business="4711"), "b:charge:4711", True),
        (ask(business="4711", tool="a:b%"), "b:a%3Ab%25:4711", True),
        (ask(), f"c:2:charge:{HEX_A}:1", False),
        (ask(identity=Identity.POSITIONAL), "p:2:charge:1", False),
    ],
)
def test_keys(asking: Ask, key: str, is_named: bool) -> None:
    found = Agent().try_(asking)
    assert isinstance(found, Identified)
    draft = found.draft
    assert (draft.key, draft.is_named, draft.number, draft.epoch) == (key, is_named, 0, 4)
    assert (draft.state, draft.attempt) == (CallState.INTENT, 0)
    assert draft.upstream_key == upstream_key("run-1", key)
    assert draft.business_key == asking.business


def test_the_draft_carries_what_the_table_needs_later() -> None:
    asking = ask(P, settle_s=5.0, key_lifetime_s=60.0, summary="amount=5")
    found = Agent().try_(asking)
    assert isinstance(found, Identified)
    draft = found.draft
    assert (draft.settle_s, draft.key_lifetime_s, draft.summary) == (5.0, 60.0, "amount=5")
    assert (draft.call_class, draft.fingerprint, draft.step) == (P, A, 2)


@pytest.mark.parametrize("call_class", [R, I, K])
def test_equal_calls_of_a_step_are_counted(call_class: CallClass) -> None:
    agent = Agent()
    keys = [agent.key(ask(call_class, fp)) for fp in (A, B, A, A)]
    assert keys == [
        f"c:2:charge:{fp}:{n}" for fp, n in ((HEX_A, 1), (HEX_B, 1), (HEX_A, 2), (HEX_A, 3))
    ]


def test_places_are_counted() -> None:
    agent = Agent()
    serial: dict[str, Any] = {"identity": Identity.POSITIONAL}
    keys = [agent.key(ask(K, fp, **serial)) for fp in (A, B, A)]
    assert keys == ["p:2:charge:1", "p:2:charge:2", "p:2:charge:3"]
    assert agent.key(ask(K, tool="mail", **serial)) == "p:2:mail:1"


@pytest.mark.parametrize("identity", Identity)
def test_a_guarded_call_is_repeated_only_where_repeats_are_meant(identity: Identity) -> None:
    agent = Agent()
    once = [agent.key(ask(identity=identity)) for _ in range(3)]
    assert len(set(once)) == 1
    meant = Agent()
    assert len({meant.key(ask(identity=identity, repeats_ok=True)) for _ in range(3)}) == 3


@pytest.mark.parametrize("call_class", CallClass)
def test_a_retry_of_the_sdk_is_the_same_call(call_class: CallClass) -> None:
    agent = Agent()
    first = agent.key(ask(call_class, repeats_ok=True, marker="m1"))
    second = agent.key(ask(call_class, repeats_ok=True, marker="m2"))
    assert first != second
    assert agent.key(ask(call_class, repeats_ok=True, marker="m1")) == first
    assert agent.key(ask(call_class, repeats_ok=True, is_retry=True)) == second
    assert agent.key(ask(call_class, B, marker="m1")) not in (first, second)
    assert agent.key(ask(call_class, tool="mail", is_retry=True)).endswith(":1")


@pytest.mark.parametrize("call_class", CallClass)
def test_after_an_answer_that_was_not_final_the_same_call_goes_on(call_class: CallClass) -> None:
    agent = Agent()
    first = agent.key(ask(call_class, repeats_ok=True))
    second = agent.key(ask(call_class, repeats_ok=True))
    agent.asked = agent.asked.left_open(first)
    assert agent.key(ask(call_class, repeats_ok=True)) == first
    assert agent.key(ask(call_class, repeats_ok=True)) not in (first, second)


@given(st.permutations([A, A, B, B, B]))
def test_a_restored_agent_is_given_the_same_keys_in_any_order(order: list[bytes]) -> None:
    before, after = Agent(), Agent()
    one = {before.key(ask(K, fp)) for fp in (A, B, A, B, B)}
    assert {after.key(ask(K, fp)) for fp in order} == one


def test_who_asks_must_be_known() -> None:
    refused = Refuse(Code.HELD, 424, "no_run_incarnation_or_key")
    assert identify(ask(P), None, calls={}, epoch=4) == refused
    assert identify(ask(U), None, calls={}, epoch=4) == refused
    assert identify(ask(K), None, calls={}, epoch=4) is None
    orphan = log(old("c:2:charge:other:1"))
    for named in (ask(key="pay-1"), ask(business="4711")):
        assert isinstance(identify(named, None, calls=orphan, epoch=4), Identified)


# A new call that may be an old one in other words


@pytest.mark.parametrize("call_class", [K, P, U])
@pytest.mark.parametrize("key", [None, "pay-1"])
def test_orphans_are_waited_for_then_hold_the_new_call(
    call_class: CallClass, key: str | None
) -> None:
    orphans = (old("c:2:charge:x:1", number=9), old("c:2:charge:y:1", number=8, call_class=K))
    agent = Agent(*orphans)
    asking = ask(call_class, B, key=key)
    assert agent.try_(asking) == Wait(ORPHAN_WAIT_S)
    assert agent.try_(asking, wait_left_s=3.0) == Wait(3.0)
    assert agent.try_(asking, wait_left_s=0.0) == Hold(
        Code.REPLAY_DIVERGENCE, "replay_divergence", (8, 9)
    )
    assert agent.asked == AskedSoFar()


def test_orphans_that_are_asked_for_hold_nothing() -> None:
    agent = Agent(old(f"c:2:charge:{HEX_A}:1"))
    assert agent.try_(ask(U, B)) == Wait(ORPHAN_WAIT_S)
    assert agent.key(ask(U, A)) == f"c:2:charge:{HEX_A}:1"
    assert agent.key(ask(U, B)) == f"c:2:charge:{HEX_B}:1"


@pytest.mark.parametrize("call_class", [R, I])
def test_harmless_calls_wait_for_no_orphans(call_class: CallClass) -> None:
    assert Agent(old("c:2:charge:x:1")).key(ask(call_class, B))


@pytest.mark.parametrize(
    "changed",
    [
        {"step": 1},
        {"tool": "mail"},
        {"call_class": R},
        {"call_class": I},
        {"state": CallState.INTENT},
        {"state": CallState.NOT_APPLIED},
        {"state": CallState.COMPENSATED},
        {"state": CallState.TOMBSTONE},
    ],
)
def test_what_is_no_orphan(changed: dict[str, Any]) -> None:
    assert Agent(old("c:2:charge:x:1", **changed)).key(ask(U, B))


@pytest.mark.parametrize("state", [CallState.DISPATCHED, CallState.IN_DOUBT, CallState.DONE])
def test_what_is_an_orphan(state: CallState) -> None:
    assert Agent(old("c:2:charge:x:1", state)).try_(ask(U, B)) == Wait(ORPHAN_WAIT_S)


@pytest.mark.parametrize("call_class", [P, U])
@pytest.mark.parametrize(
    "changed", [{"state": CallState.IN_DOUBT, "outcome": None}, {"outcome": UNKNOWN}]
)
def test_an_unresolved_predecessor_holds_new_calls_of_its_tool(
    call_class: CallClass, changed: dict[str, Any]
) -> None:
    before = old("c:1:charge:x:1", step=1, **changed)
    held = Hold(Code.HELD, "unresolved_predecessor", (7,))
    assert Agent(before).try_(ask(call_class)) == held
    assert Agent(before).try_(ask(call_class, key="pay-2")) == held
    assert Agent(before).try_(ask(call_class, business="4711")) == held
    assert Agent(before).key(ask(call_class, unresolved_ok=True))
    assert Agent(before).key(ask(call_class, tool="mail"))
    for harmless in (R, I, K):
        assert Agent(before).key(ask(harmless))


def test_another_business_key_is_another_act() -> None:
    before = old("b:charge:4711", CallState.IN_DOUBT, step=1, business_key="4711", is_named=True)
    assert Agent(before).key(ask(business="4712")) == "b:charge:4712"
    assert Agent(before).key(ask(U, B, business="4711")) == "b:charge:4711"
    same_act = ask(key="pay-2", business="4711")
    assert isinstance(Agent(before).try_(same_act), Hold)


@pytest.mark.parametrize(
    "before",
    [
        old("c:1:charge:x:1", step=1),
        old("c:1:charge:x:1", CallState.DISPATCHED, step=1),
        old("c:1:charge:x:1", CallState.IN_DOUBT, step=1, call_class=K),
        old("c:1:charge:x:1", CallState.IN_DOUBT, step=1, call_class=I),
    ],
)
def test_what_is_no_unresolved_predecessor(before: Call) -> None:
    assert Agent(before).key(ask())


def test_another_request_at_a_place_is_a_divergence() -> None:
    serial: dict[str, Any] = {"identity": Identity.POSITIONAL}
    calls = (old("p:2:charge:1", number=5), old("p:2:charge:2", number=6))
    held = Hold(Code.REPLAY_DIVERGENCE, "replay_divergence", (5, 6))
    assert Agent(*calls).try_(ask(U, B, **serial)) == held
    keyed = [replace(call, call_class=K) for call in calls]
    assert Agent(*keyed).key(ask(K, B, **serial)) == "p:2:charge:1"  # refused by the table: 422
    assert Agent(*calls).key(ask(U, A, **serial)) == "p:2:charge:1"


def test_a_living_agent_goes_on_after_the_sidecars_restart() -> None:
    calls = [
        old(f"c:2:charge:{HEX_A}:1", number=20, call_class=K),
        old(f"c:2:charge:{HEX_A}:2", number=21, call_class=K),
        old("p:2:mail:1", number=22, tool="mail", epoch=4),
        old("c:2:charge:before:1", number=3, fingerprint=b"\xcc" * 32),
        old("c:2:charge:resent:1", number=4, epoch=4, fingerprint=b"\xdd" * 32),
        old("c:1:charge:step:1", number=23, step=1),
    ]
    asked = resumed(calls, step=2, since=10, epoch=4)
    assert set(asked.keys) == {calls[n].key for n in (0, 1, 2, 4)}
    agent = Agent(*calls)
    agent.asked = replace(asked, keys=asked.keys.grown("c:2:charge:before:1", None))
    assert agent.key(ask(K, A)) == f"c:2:charge:{HEX_A}:3"
    assert agent.key(ask(tool="mail", fingerprint=B, identity=Identity.POSITIONAL)) == "p:2:mail:2"


def test_an_answer_that_the_agent_has_ends_its_call() -> None:
    calls = [old(f"c:2:charge:{HEX_A}:1", number=20, call_class=K)]
    for answered, key in ((None, ":2"), ({20}, ":2"), (set[int](), ":1")):
        agent = Agent(*calls)
        agent.asked = resumed(calls, step=2, since=10, epoch=4, answered=answered)
        assert agent.key(ask(K, A)) == f"c:2:charge:{HEX_A}{key}"
    # An answer that it has from a life before names a call of its own.
    asked = resumed(calls, step=2, since=99, epoch=4, answered={20})
    assert set(asked.keys) == {calls[0].key}
    assert resumed(calls, step=2, since=99, epoch=4, answered=set()).keys == {}


@pytest.mark.parametrize("call_class", [R, I, K, P, U])
def test_what_was_relayed_may_never_have_reached_a_living_agent(call_class: CallClass) -> None:
    first = f"c:2:charge:{HEX_A}:1"
    call = old(first, number=20, call_class=call_class, is_relayed=True)
    for answered in (None, set[int]()):
        agent = Agent(call)
        agent.asked = resumed([call], step=2, since=10, epoch=4, answered=answered)
        assert agent.key(ask(call_class, A)) == first
        if not call_class.is_guarded:
            assert agent.key(ask(call_class, A)) == f"c:2:charge:{HEX_A}:2"


def test_a_read_whose_answer_is_not_known_is_read_anew() -> None:
    read = old(f"c:2:charge:{HEX_A}:1", CallState.DISPATCHED, number=20, call_class=R)
    assert resumed([read], step=2, since=10, epoch=4).open == set()


def test_a_final_answer_closes_what_one_that_was_not_left_open() -> None:
    agent = Agent()
    first = agent.key(ask(K, A))
    agent.asked = agent.asked.left_open(first)
    assert agent.key(ask(K, A)) == first
    agent.asked = agent.asked.left_open(first).settled(first)
    assert agent.key(ask(K, A)) == first.removesuffix("1") + "2"
