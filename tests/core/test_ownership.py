from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.head import Head
from coatcheck_sidecar.core.model import FINAL, Status
from coatcheck_sidecar.core.objects import BadObject, Kind, seal
from coatcheck_sidecar.core.ownership import (
    Accepts,
    Claimable,
    Closed,
    Elsewhere,
    Heartbeat,
    Later,
    RunSummary,
    Watch,
    crash_delay_s,
    decide_claim,
    decode_heartbeat,
    decode_summary,
    encode_heartbeat,
    encode_summary,
    pod_of,
    summary_of,
)
from tests.core.objects import HEARTBEAT, SUMMARY

# Markers and heartbeats


@given(SUMMARY)
def test_a_marker_comes_back(summary: RunSummary) -> None:
    assert decode_summary("m", encode_summary(summary)) == summary


@given(HEARTBEAT)
def test_a_heartbeat_comes_back(beat: Heartbeat) -> None:
    assert decode_heartbeat("b", encode_heartbeat(beat)) == beat


@pytest.mark.parametrize("raw", [[], {}, {"run": 3}, "x"])
def test_a_marker_of_a_wrong_shape_is_named(raw: object) -> None:
    with pytest.raises(BadObject, match=r"^ready/q/r/1: not a marker: "):
        decode_summary("ready/q/r/1", seal(Kind.MARKER, msgpack.packb(raw)))


@pytest.mark.parametrize("runs", [None, 3, [3], [{}], {"run": 1}])
def test_a_heartbeat_of_a_wrong_shape_is_named(runs: object) -> None:
    raw = {"owner": "o", "beat": 1, "address": "", "is_draining": False, "runs": runs}
    with pytest.raises(BadObject, match=r"^owners/o/heartbeat: not a heartbeat: "):
        decode_heartbeat("owners/o/heartbeat", seal(Kind.HEARTBEAT, msgpack.packb(raw)))


def test_a_summary_says_what_the_head_says() -> None:
    head = Head(
        run="r",
        epoch=3,
        owner="p.a",
        nonce=b"",
        seq=9,
        status=Status.HELD,
        reason="in_doubt",
        queue="q",
        step=4,
        code_version="v",
        state_schema=2,
        pinned=True,
        not_before_ms=7,
    )
    assert summary_of(head, in_doubt=1, stuck=True) == RunSummary(
        run="r",
        epoch=3,
        status="held",
        queue="q",
        step=4,
        in_doubt=1,
        schema=2,
        code_version="v",
        pinned=True,
        reason="in_doubt",
        not_before_ms=7,
        stuck=True,
        deadline_ms=0,
    )


# Watching

LEASE_S = 30.0


def look(watch: Watch, at_s: float, *, version: str = "v1", took_s: float = 0.1) -> None:
    watch.saw("head", version, asked_s=at_s, answered_s=at_s + took_s)


def test_an_object_that_stood_still_for_the_lease_has_lapsed() -> None:
    watch = Watch(LEASE_S)
    for at_s in range(0, 31, 10):
        look(watch, at_s)
        assert not watch.is_lapsed("head")
    look(watch, 31)
    assert watch.is_lapsed("head")
    assert watch.unchanged_s("head") == pytest.approx(30.9)


def test_time_counts_from_the_first_answer_to_the_last_question() -> None:
    watch = Watch(LEASE_S)
    watch.saw("head", "v1", asked_s=0, answered_s=5)
    watch.saw("head", "v1", asked_s=10, answered_s=14)
    assert watch.unchanged_s("head") == 5


def test_one_look_proves_nothing() -> None:
    watch = Watch(LEASE_S)
    look(watch, 0, took_s=100)
    assert watch.unchanged_s("head") == 0
    assert watch.unchanged_s("never seen") == 0


@pytest.mark.parametrize("broken_by", ["version", "gap", "late answer", "failed look", "forget"])
def test_a_window_begins_anew(broken_by: str) -> None:
    watch = Watch(LEASE_S)
    for at_s in range(0, 30, 10):
        look(watch, at_s)
    match broken_by:
        case "version":
            look(watch, 30, version="v2")
            look(watch, 40, version="v2")
        case "gap":
            look(watch, 20 + LEASE_S / 2 + 0.1)
            look(watch, 40)
        case "late answer":
            look(watch, 30, took_s=LEASE_S / 2 + 0.1)
            look(watch, 46)
        case "failed look":
            watch.failed()
            look(watch, 30)
            look(watch, 40)
        case _:
            watch.forget("head")
            look(watch, 30)
            look(watch, 40)
    assert watch.unchanged_s("head") < 10
    assert not watch.is_lapsed("head")


def test_the_longest_gap_and_the_latest_answer_that_count_are_half_a_lease() -> None:
    watch = Watch(LEASE_S)
    for at_s in (0, 15, 30, 45):
        look(watch, at_s, took_s=0)
    watch.saw("head", "v1", asked_s=60, answered_s=75)
    assert watch.unchanged_s("head") == 60


def test_all_must_have_stood_still_and_nothing_is_not_all() -> None:
    watch = Watch(LEASE_S)
    for at_s in range(0, 41, 10):
        look(watch, at_s)
    assert watch.is_lapsed("head")
    assert not watch.is_lapsed("head", "heartbeat")
    assert not watch.is_lapsed()


LOOKS = st.lists(st.tuples(st.floats(0, 20), st.floats(0, 20), st.booleans()), max_size=40)


@given(LOOKS)
def test_an_object_that_changed_within_the_lease_never_lapses(
    looks: list[tuple[float, float, bool]],
) -> None:
    watch, at_s, changed_s, version = Watch(LEASE_S), 0.0, 0.0, 0
    for pause_s, took_s, changes in looks:
        asked_s = at_s + pause_s
        if changes:
            version, changed_s = version + 1, asked_s
        at_s = asked_s + took_s
        watch.saw("head", str(version), asked_s=asked_s, answered_s=at_s)
        if watch.is_lapsed("head"):
            assert at_s - changed_s >= LEASE_S


# Claiming

ME = "pod1.b"


def head(status: Status, *, owner: str = "pod2.a", not_before_ms: int = 0, epoch: int = 3) -> Head:
    return Head(
        run="r",
        epoch=epoch,
        owner=owner,
        nonce=b"",
        seq=9,
        status=status,
        reason="why",
        not_before_ms=not_before_ms,
    )


def decide(stands: Head, *, is_lapsed: bool = False) -> object:
    return decide_claim(stands, me=ME, crashes=2, is_lapsed=is_lapsed, now_ms=1_000)


@pytest.mark.parametrize("is_lapsed", [False, True])
@pytest.mark.parametrize("status", [*sorted(FINAL), Status.HELD, Status.PARKED])
def test_nobody_claims_what_is_over_held_or_parked(status: Status, is_lapsed: bool) -> None:
    for owner in ("pod1.a", "pod2.a"):
        stands = head(status, owner=owner)
        assert decide(stands, is_lapsed=is_lapsed) == Closed(status, "why")


def test_a_ready_run_is_anybodys_and_no_crash() -> None:
    assert decide(head(Status.READY)) == Claimable("ready", 2)
    assert decide(head(Status.READY, not_before_ms=1_000)) == Claimable("ready", 2)
    assert decide(head(Status.READY, epoch=0)) == Claimable("new", 2)


def test_a_ready_run_may_have_to_wait_for_its_time() -> None:
    found = decide(head(Status.READY, not_before_ms=3_500))
    assert found == Later(2.5, "waits after 2 crashes without progress")


def test_a_former_life_of_this_pod_is_over_and_was_a_crash() -> None:
    assert decide(head(Status.OWNED, owner="pod1.a")) == Claimable("restart", 3)
    assert decide(head(Status.OWNED, owner=ME)) == Claimable("restart", 3)


def test_another_owner_must_have_lapsed() -> None:
    assert decide(head(Status.OWNED)) == Elsewhere("pod2.a")
    assert decide(head(Status.OWNED), is_lapsed=True) == Claimable("takeover", 3)


def test_two_owners_without_a_start_id_are_not_one_pod() -> None:
    assert pod_of("3f2a.s1") == pod_of("3f2a.s2") == "3f2a"
    assert pod_of("host.example.s1") == "host.example"
    assert pod_of("laptop") == "laptop" != pod_of("desktop")


def test_delays_grow_once_retrying_at_once_did_not_help() -> None:
    delays = [crash_delay_s(crashes) for crashes in range(12)]
    assert delays == [0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert crash_delay_s(1_000_000) == 60


# Versions

SUMMARY_V1 = RunSummary(run="r", epoch=1, status="ready", step=4, schema=1, code_version="v1")


def test_an_agent_goes_on_with_its_own_schema_whatever_its_code() -> None:
    assert Accepts(1, "v2").refusal(SUMMARY_V1) == ""
    refused = Accepts(2, "v1").refusal(SUMMARY_V1)
    assert "the state of run r has schema 1, this agent takes 2" in refused


@pytest.mark.parametrize(
    ("schema", "mend"),
    [
        (1, "takes 2 to 4: deploy one that takes it or lifts it (`migrate`), or rewind the run"),
        (2, ""),
        (3, ""),
        (4, ""),
        (5, "takes 2 to 4: deploy one that takes it, or rewind the run"),
    ],
)
def test_an_agent_goes_on_with_what_it_lifts_and_with_nothing_newer(schema: int, mend: str) -> None:
    refused = Accepts(4, "v2", 2).refusal(replace(SUMMARY_V1, schema=schema))
    assert refused.endswith(mend) if mend else not refused


def test_a_run_without_a_state_has_no_schema_to_refuse() -> None:
    fresh = RunSummary(run="r", epoch=1, status="ready", step=0, schema=1)
    assert Accepts(2).refusal(fresh) == ""


def test_a_pinned_run_goes_on_with_its_own_code_alone() -> None:
    pinned = RunSummary(run="r", epoch=1, status="ready", pinned=True, code_version="v1")
    assert Accepts(1, "v1").refusal(pinned) == ""
    assert Accepts(1, "v2").refusal(pinned) == (
        "run r is pinned to code version 'v1', this agent is 'v2'"
    )
