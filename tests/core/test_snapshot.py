from coatcheck_sidecar.core.head import Kept, decode_head, decode_sealed
from coatcheck_sidecar.core.objects import Kind
from coatcheck_sidecar.core.snapshot import seal_state
from tests.core.shipping import checkpoint, owned


def test_sealing_replaces_what_only_deltas_led_to() -> None:
    run = owned()
    for _ in range(4):
        checkpoint(run)
    first = run.log.snapshot(nonce=bytes(16), random=bytes(8))
    assert [kept.is_sealed for kept in first.head.kept] == [False] * 3
    done = seal_state(first, base_state=None, random=bytes(8))
    (kept,) = done.head.kept
    assert (kept.seq, kept.step) == (run.state.checkpoint_seq, 4)
    assert (kept.base, kept.mid) == (done.head.chain.base, None)
    (_, data) = done.puts[0]
    copy, _ = decode_sealed("o", data, kind=Kind.BASE)
    assert decode_head("copy", copy).kept == ()
    assert isinstance(kept, Kept)
