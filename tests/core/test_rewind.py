from coatcheck_sidecar.core.head import Kept
from coatcheck_sidecar.core.record import Claimed
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
