import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck_sidecar.core.head import Tombstone
from coatcheck_sidecar.core.model import Body, CallClass, CallState, OutcomeKind, Status
from coatcheck_sidecar.core.record import (
    BadRecord,
    Birth,
    CallEvent,
    CallOutcome,
    Claimed,
    Commanded,
    Created,
    Dispatched,
    Event,
    Failed,
    Finished,
    Held,
    Intent,
    Parked,
    Record,
    Released,
    Resolved,
    Signalled,
)
from coatcheck_sidecar.core.runstate import COMMANDS_MAX, RunState, fold
from coatcheck_sidecar.core.undo_records import Undo
from tests.core.histories import CHOICES, Log, observed, play

# The fold law


@given(CHOICES)
def test_what_is_kept_folds_to_what_all_records_fold_to(numbers: list[int]) -> None:
    history = play(numbers)
    everything = fold("run", history.records)
    kept = fold("run", everything.records.values(), tombstones=everything.tombstones)
    assert observed(kept) == observed(everything)
    assert not kept.tombstones


@given(CHOICES, st.integers(0, 80))
def test_a_log_that_was_kept_and_folded_in_the_middle_goes_on_alike(
    numbers: list[int], cut: int
) -> None:
    history = play(numbers)
    half = fold("run", history.records[:cut])
    rest = fold("run", half.records.values(), tombstones=half.tombstones)
    for record in history.records[cut:]:
        rest.apply(record)
    assert observed(rest) == observed(history.state)
    stones = [*half.tombstones, *rest.tombstones]
    assert stones == history.state.tombstones


@given(CHOICES)
def test_no_key_has_two_tombstones_and_none_is_lost(numbers: list[int]) -> None:
    state = play(numbers).state
    keys = [stone.key for stone in state.tombstones]
    dead = {key for key, call in state.by_key.items() if call.state is CallState.TOMBSTONE}
    assert len(keys) == len(set(keys))
    assert set(keys) == dead


@given(CHOICES)
def test_what_is_kept_is_bounded_by_what_still_matters(numbers: list[int]) -> None:
    state = play(numbers).state
    events = [record.event for record in state.records.values()]
    assert {event.call for event in events if isinstance(event, CallEvent)} == set(state.calls)
    undos = [event for event in events if isinstance(event, Undo)]
    assert undos == list(state.undos.values())
    assert not (undos and state.status.is_final)
    claims = [r for r in state.records.values() if isinstance(r.event, Claimed)]
    sent = [r for r in state.records.values() if isinstance(r.event, Dispatched)]
    assert len(claims) <= 1 + len(sent)


# Rules, one by one


def owned() -> Log:
    log = Log()
    log.claim()
    return log


def test_a_new_run_is_ready_and_at_no_step() -> None:
    state = RunState("run")
    assert (state.status, state.step, state.seq, state.epoch) == (Status.READY, 0, 0, 0)


ENDS: list[tuple[Event, Status, str]] = [
    (Released(reason="left"), Status.READY, "left"),
    (Released(reason="error", error="boom"), Status.READY, "boom"),
    (Held(reason="crash_loop"), Status.HELD, "crash_loop"),
    (Parked(name="approval"), Status.PARKED, "approval"),
    (Finished(result=Body(b"r")), Status.FINISHED, ""),
    (Failed(error="no"), Status.FAILED, "no"),
    (Failed(error="no", is_cancelled=True), Status.CANCELLED, "no"),
]


@pytest.mark.parametrize(("event", "status", "reason"), ENDS)
def test_each_way_an_ownership_ends(event: Event, status: Status, reason: str) -> None:
    log = owned()
    number = log.send(CallClass.KEYED)
    log(event)
    assert (log.state.status, log.state.reason) == (status, reason)
    assert log.state.calls[number].state is CallState.IN_DOUBT
    assert [call.number for call in log.state.in_doubt] == [number]


def test_a_claim_ends_what_a_release_said() -> None:
    log = owned()
    log(Released(reason="error", crashes=3, not_before_ms=9_000))
    assert (log.state.crashes, log.state.not_before_ms) == (3, 9_000)
    log.claim(crashes=3)
    assert (log.state.status, log.state.reason) == (Status.OWNED, "")
    assert (log.state.crashes, log.state.not_before_ms) == (3, 0)


def test_a_doubt_outlives_the_claim_that_made_it() -> None:
    """Without the older claim, `not applied` of attempt 2 would settle attempt 1 as well."""
    log = owned()
    number = log.send(CallClass.KEYED)
    log.claim()
    log(
        Dispatched(call=number, attempt=2),
        CallOutcome(call=number, attempt=2, what="not_applied", reason="shed"),
    )
    log.checkpoint(1)
    log.claim()
    kept = fold("run", log.state.records.values())
    assert kept.calls[number].state is CallState.IN_DOUBT
    assert sum(isinstance(r.event, Claimed) for r in kept.records.values()) == 2
    log.done(number)
    log.checkpoint(2)
    assert sum(isinstance(r.event, Claimed) for r in log.state.records.values()) == 1


def test_the_newest_claim_outlives_its_doubts() -> None:
    log = owned()
    number = log.send()
    log.claim()
    log.done(number)
    log.checkpoint(2)
    kept = fold("run", log.state.records.values())
    assert (kept.status, kept.epoch) == (Status.OWNED, 2)


def test_the_last_moment_of_a_send_outlives_the_claim_that_set_it() -> None:
    log = owned()
    number = log.send(CallClass.PROBED)
    log.claim()
    until_ms = log.records[-1].at_ms
    log.claim()
    kept = fold("run", log.state.records.values())
    assert kept.calls[number].last_sent_ms == until_ms


def test_a_signal_makes_a_run_ready_that_is_parked_for_it_and_no_other() -> None:
    log = owned()
    log(Parked(name="approval"), Signalled(name="payment"))
    assert log.state.status is Status.PARKED
    log(Signalled(name="approval"))
    assert (log.state.status, log.state.parked) == (Status.READY, None)


def test_a_signal_for_an_owned_run_changes_no_status() -> None:
    log = owned()
    log(Signalled(name="approval", value=Body(b"v")))
    assert log.state.status is Status.OWNED
    assert [signal.value for signal in log.state.signals.values()] == [Body(b"v")]


def test_a_signal_is_gone_with_the_checkpoint_that_consumed_it() -> None:
    log = owned()
    log(Signalled(name="a"), Signalled(name="b"))
    first, second = log.state.signals
    log.checkpoint(1, consumed=(first, 999))
    assert list(log.state.signals) == [second]
    assert first not in log.state.records


def test_retry_lets_a_held_run_go_on_and_forgets_its_crashes() -> None:
    log = owned()
    log(Released(reason="error", crashes=5))
    log.claim(crashes=5)
    log(Held(reason="crash_loop"), Commanded(what="retry", by="ada"))
    assert (log.state.status, log.state.crashes) == (Status.READY, 0)


@pytest.mark.parametrize("refused", ["", "it runs"])
def test_retry_changes_no_run_that_is_not_held_and_nothing_if_refused(refused: str) -> None:
    log = Log()
    log.claim(crashes=2)
    log(Commanded(what="retry", by="ada", refused=refused))
    assert (log.state.status, log.state.crashes) == (Status.OWNED, 2 if refused else 0)


def test_a_cancel_alone_changes_no_status() -> None:
    log = owned()
    log(Commanded(what="cancel", by="ada"))
    assert log.state.status is Status.OWNED


def test_what_an_operator_said_is_kept_until_the_next_checkpoint() -> None:
    log = owned()
    log(Commanded(what="cancel", by="ada"))
    at = log.seq
    assert at in log.state.records
    log.checkpoint(1)
    assert at not in log.state.records


def test_each_command_id_is_remembered_once_and_the_oldest_is_forgotten() -> None:
    log = owned()
    for number in range(COMMANDS_MAX + 2):
        log(Signalled(name="a", command=f"c{number}"), Signalled(name="a", command=f"c{number}"))
    assert log.state.commands == tuple(f"c{n}" for n in range(2, COMMANDS_MAX + 2))


def test_a_run_held_for_its_doubts_is_ready_once_all_are_decided() -> None:
    log = owned()
    first, second = log.send(key="a"), log.send(key="b")
    log(Held(reason="in_doubt: calls [3, 5]"))
    statuses = []
    for number, verdict in ((first, "applied"), (second, "not_applied")):
        log(Resolved(call=number, verdict=verdict, by="ada", body=Body(b"r")))
        statuses.append(log.state.status)
    assert statuses == [Status.HELD, Status.READY]
    assert [call.state for call in log.state.calls.values()] == [
        CallState.DONE,
        CallState.NOT_APPLIED,
    ]


def test_a_run_held_for_another_reason_stays_held_when_its_doubts_are_decided() -> None:
    log = owned()
    number = log.send()
    log(Held(reason="crash_loop"), Resolved(call=number, verdict="retry", by="ada"))
    assert log.state.status is Status.HELD


def test_a_result_and_a_checkpoint_are_progress() -> None:
    for progress in ("result", "checkpoint", "neither"):
        log = Log()
        log.claim(crashes=2)
        number = log.send(CallClass.KEYED)
        if progress == "result":
            log.done(number)
        elif progress == "checkpoint":
            log.checkpoint(1)
        else:
            log(CallOutcome(call=number, attempt=1, what="not_applied"))
        assert log.state.crashes == (2 if progress == "neither" else 0)


def test_an_outcome_without_a_kind_is_a_result() -> None:
    log = owned()
    number = log.send()
    log(CallOutcome(call=number, attempt=1, what="done", body=Body(b"r")))
    outcome = log.state.calls[number].outcome
    assert outcome is not None
    assert outcome.kind is OutcomeKind.RESULT


# What a checkpoint does to calls


@pytest.mark.parametrize("kind", [None, *OutcomeKind])
@pytest.mark.parametrize("call_class", CallClass)
def test_a_checkpoint_ends_calls_of_its_step_that_are_settled(
    call_class: CallClass, kind: OutcomeKind | None
) -> None:
    log = owned()
    number = log.send(call_class)
    if kind is None:
        log(CallOutcome(call=number, attempt=1, what="in_doubt"))
    else:
        log.done(number, kind)
    is_unsettled = log.state.calls[number].is_unsettled
    log.checkpoint(1)
    assert (number in log.state.calls) == is_unsettled
    assert (number in log.state.records) == is_unsettled


def test_a_call_in_flight_or_of_a_later_step_outlives_a_checkpoint() -> None:
    log = owned()
    sent, later = log.send(CallClass.KEYED, key="a"), log.send(key="b", step=2)
    log.done(later)
    log.checkpoint(1)
    assert set(log.state.calls) == {sent, later}


def test_a_named_call_that_took_place_leaves_a_tombstone() -> None:
    log = owned()
    first = log.send(named=True)
    log.done(first)
    second = log.send(key="k2", named=True)
    log(
        CallOutcome(call=second, attempt=1, what="in_doubt"),
        Resolved(call=second, verdict="compensate", by="ada"),
    )
    log.checkpoint(1)
    assert log.state.tombstones == [
        Tombstone("k", first, "charge", b"f", "done"),
        Tombstone("k2", second, "charge", b"f", "compensated"),
    ]
    kept = log.state.by_key["k"]
    assert (kept.state, kept.number, kept.fingerprint) == (CallState.TOMBSTONE, first, b"f")


def test_a_call_by_content_leaves_nothing() -> None:
    log = owned()
    log.done(log.send())
    log.checkpoint(1)
    assert not log.state.by_key
    assert not log.state.tombstones


@pytest.mark.parametrize("state", ["intent", "not_applied", "idempotent in doubt"])
def test_a_call_that_need_not_have_taken_place_is_as_if_never_asked(state: str) -> None:
    log = owned()
    if state == "intent":
        log.intent(named=True)
    elif state == "not_applied":
        log(CallOutcome(call=log.send(named=True), attempt=1, what="not_applied"))
    else:
        number = log.send(CallClass.IDEMPOTENT, named=True)
        log(CallOutcome(call=number, attempt=1, what="in_doubt"))
    log.checkpoint(1)
    assert not log.state.calls
    assert not log.state.by_key
    assert not log.state.tombstones
    log.intent(named=True, step=2)


# What can't come


def test_a_record_must_be_newer_and_of_no_older_epoch() -> None:
    state = RunState("run")
    state.apply(Record(3, 2, 0, Created()))
    for seq, epoch in ((3, 2), (2, 2), (4, 1)):
        with pytest.raises(BadRecord, match=rf"record {seq} of epoch {epoch} after record 3"):
            state.apply(Record(seq, epoch, 0, Created()))


def test_a_record_of_a_call_that_is_not_there_is_refused() -> None:
    log = owned()
    for event in (
        Dispatched(call=77, attempt=1),
        CallOutcome(call=77, attempt=1, what="done"),
        Resolved(call=77, verdict="retry", by="ada"),
    ):
        with pytest.raises(BadRecord, match="there is no call 77"):
            log(event)


def test_a_key_has_one_call_and_a_call_the_number_of_its_intent() -> None:
    log = owned()
    log.send()
    with pytest.raises(BadRecord, match="under key 'k'"):
        log.intent()
    birth = Birth(key="n", step=1, tool="t", call_class=CallClass.ONCE, fingerprint=b"")
    with pytest.raises(BadRecord, match="call 1 can't be new"):
        log(Intent(call=1, birth=birth))
