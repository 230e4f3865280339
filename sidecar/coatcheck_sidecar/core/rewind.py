"""Setting a run back to a checkpoint that was kept. What it did since then stays done."""

from coatcheck_sidecar.core.head import Kept
from coatcheck_sidecar.core.model import Body
from coatcheck_sidecar.core.patch_delta import NewState
from coatcheck_sidecar.core.record import Checkpoint, Record
from coatcheck_sidecar.core.retention import blind_step
from coatcheck_sidecar.core.runlog import RunLog
from coatcheck_sidecar.core.runstate import RunState


def set_back(log: RunLog, kept: Kept, *, state: bytes, at_ms: int) -> Record:
    """Make the checkpoint `kept`, whose state this is, current again: by a checkpoint of its own.

    Calls and signals of later steps count again, so that a step that is done anew gets the answers
    that are recorded. Where their records are gone, the run is blind: see `Checkpoint.blind`.
    """
    at = log.state.checkpoint
    draft = log.draft(NewState(state))
    event = Checkpoint(
        step=kept.step,
        step_high=at.step_high,
        schema=kept.schema,
        code_version=kept.code_version,
        length=len(state),
        worked_ms=at.worked_ms,
        longest_ms=at.longest_ms,
        rewinds=kept.seq,
        blind=max(at.blind, blind_step(kept, step_high=at.step_high, horizon=log.horizon)),
        delta=Body(draft.delta),
    )
    return log.commit(event, draft.state, at_ms=at_ms)


def is_set_back_since(state: RunState, epoch: int) -> bool:
    """An agent of this epoch is at a step that is no longer the run's."""
    record = state.records.get(state.checkpoint_seq)
    return record is not None and bool(state.checkpoint.rewinds) and record.epoch > epoch
