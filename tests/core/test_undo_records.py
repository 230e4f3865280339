import pytest

from coatcheck_sidecar.core.record import KINDS, Record, decode_record, encode_record
from coatcheck_sidecar.core.undo_records import END, Compensated, Compensating, Undo


@pytest.mark.parametrize(
    "event",
    [Undo(call=3, key="k", tool="t"), Compensating(by="ada"), Compensated()],
    ids=lambda event: event.kind,
)
def test_a_bare_one_is_a_record_like_any_other(event: Undo | Compensating | Compensated) -> None:
    assert KINDS[event.kind] is type(event)
    assert decode_record(encode_record(Record(9, 2, 5, event))) == Record(9, 2, 5, event)


def test_a_run_that_is_taken_back_ends_there_unless_somebody_says_more() -> None:
    assert Compensating(by="ada").then == END
