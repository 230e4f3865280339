"""Big bodies of records, on their way to objects of their own as soon as they come."""

from typing import Final

from coatcheck_sidecar.core.layout import object_name
from coatcheck_sidecar.core.model import ObjectRef
from coatcheck_sidecar.core.objects import Kind, reference, seal
from coatcheck_sidecar.core.record import Record, bodies_of
from coatcheck_sidecar.core.runlog import BODY_BYTES_MAX
from coatcheck_sidecar.engine.shipper import Shipper
from coatcheck_sidecar.engine.tasks import TaskSet
from coatcheck_sidecar.ports import StoreError

RETRY_BASE_S: Final = 0.1
RETRY_MAX_S: Final = 2.0


class Uploads:
    """Those of one run; its shipper waits for them."""

    def __init__(self, shipper: Shipper, tasks: TaskSet) -> None:
        """Nothing is sent before `send`."""
        self._shipper = shipper
        self._run = shipper.log.state.run
        self._doors = shipper.doors
        self._tasks = tasks

    def send(self, record: Record) -> None:
        """Begin to upload what is too big for a head."""
        for body in bodies_of(record):
            if body.data is None or body.ref is not None or len(body.data) <= BODY_BYTES_MAX:
                continue
            random = self._doors.clock.random_bytes(8)
            name = object_name(self._run, epoch=record.epoch, seq=record.seq, random=random)
            data = seal(Kind.BODY, body.data)
            upload = self._tasks.start(self._upload(name, data), name=f"upload {name}")
            self._shipper.adopt(record.seq, upload)

    async def _upload(self, name: str, data: bytes) -> ObjectRef:
        delay_s = RETRY_BASE_S
        while True:
            try:
                async with self._shipper.place(), self._doors.gate:
                    await self._doors.store.put(name, data)
            except StoreError as error:
                self._doors.observer.note("ship_failed", run=self._run, error=str(error))
                await self._doors.clock.sleep(delay_s * self._doors.clock.uniform(0.5, 1.0))
                delay_s = min(RETRY_MAX_S, delay_s * 2)
            else:
                return reference(name, data)
