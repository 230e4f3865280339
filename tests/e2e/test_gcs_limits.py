"""A store that takes one write of an object a second: calls wait for it, and drains reckon so."""

import re
import time
from pathlib import Path

import pytest

from tests.e2e.real_sidecar import real_sidecar
from tests.gcs_fake import gcs


@pytest.mark.slow
@pytest.mark.timeout(60)
async def test_guarded_calls_wait_for_the_heads_next_write(tmp_path: Path) -> None:
    async with gcs(apart_s=1.0) as fake:
        where = {"COATCHECK_STORE": "gs://runs/x", "STORAGE_EMULATOR_HOST": fake.endpoint}
        async with real_sidecar(tmp_path, {}, **where) as real:
            wire, _ = await real.agent()
            began_s = time.monotonic()
            for number in range(4):
                go = await wire.call(args={"n": number})
                assert go.body["decision"] == "go"
                await wire.outcome(go, result=number)
            waited_s = time.monotonic() - began_s
            await wire.commit(b"state", level="remote")
            text = real.metrics().decode()
            await wire.release()
            await wire.drop()
            assert '"ship_failed"' not in real.said
            assert '"store_paced"' in real.said  # what they waited for is told
    heads = [name for name in fake.buckets["runs"] if name.endswith("/head")]
    assert heads == ["x/runs/r1/head"]
    assert 3.0 <= waited_s < 12.0
    (latency_s,) = re.findall(r"^coatcheck_link_latency_seconds (\S+)$", text, re.MULTILINE)
    assert float(latency_s) > 0.5
    (paced_s,) = re.findall(r"^coatcheck_store_paced_seconds_total (\S+)$", text, re.MULTILINE)
    assert float(paced_s) > 2.0
