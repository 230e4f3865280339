"""What the sidecars' `/metrics` say, added up over all lives of all pods."""

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from examples.demo.pods import Pod

Sample = tuple[str, frozenset[tuple[str, str]]]
"""Name and labels."""
TIMEOUT = aiohttp.ClientTimeout(total=1.0)


def write_targets(path: Path, pods: Iterable[Pod]) -> None:
    """Name the pods for a Prometheus with `file_sd_configs`, labelled as in a cluster."""
    found = [
        {
            "targets": [pod.admin_url.removeprefix("http://")],
            "labels": {"namespace": "demo", "pod": pod.name},
        }
        for pod in pods
    ]
    path.write_text(json.dumps(found, indent=2))


class Meters:
    """The last reading of each sidecar stays when it dies: counters begin anew in its successor."""

    def __init__(self) -> None:
        self._readings: dict[tuple[str, int], dict[Sample, float]] = {}

    async def read(self, pods: Iterable[Pod]) -> None:
        """Read all that answer."""
        async with aiohttp.ClientSession(timeout=TIMEOUT) as http:
            await asyncio.gather(*(self._read(http, pod) for pod in pods))

    async def _read(self, http: aiohttp.ClientSession, pod: Pod) -> None:
        if pod.sidecar is None or not pod.sidecar.is_alive:
            return
        life = (pod.name, pod.sidecar.pid)
        try:
            async with http.get(f"{pod.admin_url}/metrics") as reply:
                text = await reply.text()
        except (aiohttp.ClientError, OSError, TimeoutError):
            return  # it is being killed or not up yet; that is what the demo is about
        self._readings[life] = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def total(self, name: str, **labels: str) -> float:
        """The sum of all samples of this name that have these labels."""
        wanted = set(labels.items())
        return sum(
            value
            for reading in self._readings.values()
            for (found, has), value in reading.items()
            if found == name and wanted <= has
        )
