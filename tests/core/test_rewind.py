from coatcheck_sidecar.core.head import Kept
from coatcheck_sidecar.core.model import Body
from coatcheck_sidecar.core.record import CallOutcome, Claimed, Dispatched
from coatcheck_sidecar.core.rewind import is_set_back_since, set_back
from tests.core.shipping import call, checkpoint, done, owned


def test_an_older_checkpoint_is_current_again_and_its_calls_count() -> None:
    run = owned()
    checkpoint(run)
    first = run.log.kept[-1]
    number = call(run, key="k")
    done(run, number)
    checkpoint(run)
    assert run.log.state.calls == {}
    assert not is_set_back_since(run.log.state, 0)
    record = set_back(run.log, first, state=run.states[first.seq], at_ms=9)
    state = run.log.state
    assert (state.step, state.checkpoint.step_high, state.checkpoint.rewinds) == (1, 2, first.seq)
    assert state.checkpoint.blind == 0
    assert run.log.checkpoint_bytes == run.states[first.seq]
    assert [*state.calls] == [number]
    assert state.by_key["k"] is state.calls[number]
    assert not is_set_back_since(state, record.epoch)
    assert is_set_back_since(state, record.epoch - 1)
    run.log.claim(Claimed(owner="pod.b"), at_ms=10)
    assert not is_set_back_since(state, record.epoch)


def test_a_run_set_back_beyond_the_horizon_is_blind_until_it_was_there() -> None:
    run = owned()
    for _ in range(3):
        checkpoint(run)
    old = Kept(2, 1)
    run.log.horizon = 3
    set_back(run.log, old, state=b"", at_ms=0)
    assert run.log.state.checkpoint.blind == 3
    set_back(run.log, run.log.kept[-1], state=b"", at_ms=0)
    assert run.log.state.checkpoint.blind == 3


def test_a_call_that_was_in_doubt_once_comes_back_as_a_restore_finds_it() -> None:
    """It was sent again by another owner, whose claim is a record that still counts."""
    run = owned()
    checkpoint(run)
    first = run.log.kept[-1]
    number = call(run, key="k")
    run.append(Claimed(owner="pod.b"))
    run.append(Dispatched(call=number, attempt=2))
    run.append(CallOutcome(call=number, attempt=2, what="done", body=Body(b"ok")))
    checkpoint(run)
    run.ship()
    set_back(run.log, first, state=run.states[first.seq], at_ms=9)
    run.ship()
    assert run.log.state.calls[number].earlier_doubt
    assert run.restored().state.calls == run.log.state.calls
    run.log.claim(Claimed(owner="pod.c"), at_ms=10)
    run.ship()
    assert run.restored().state.calls == run.log.state.calls
