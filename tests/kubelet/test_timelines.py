"""The model against what a real kubelet did: every measured case, with real processes.

`tests/vectors/kubelet_timelines.json` was measured on Kubernetes 1.36: probes that logged every
hook, signal and half-second tick. The cases run beside each other, each triggered a little after
the one before: to start two dozen hooks in one moment takes a small machine as long as the
tolerance.
"""

import asyncio
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from examples.demo.processes import free_ports
from tests.kubelet.node import Kubelet
from tests.kubelet.probes import Probes
from tests.kubelet.spec import ContainerSpec, Hook, HttpGet, PodLog, PodSpec, What

pytestmark = pytest.mark.alone

VECTORS: Final = Path(__file__).parent.parent / "vectors" / "kubelet_timelines.json"
TIMELINES: Final[dict[str, Any]] = json.loads(VECTORS.read_text())
CASES: Final[list[dict[str, Any]]] = TIMELINES["cases"]
TOLERANCE_S: Final = float(TIMELINES["tolerance_s"])
APART_S: Final = 0.4
"""Between the triggers of two cases."""
GONE_S: Final = 30.0
"""Longer than any case; the longest takes 16 s."""
NAMES: Final = ("sidecar", "agent")


class Case:
    """One measured case, and what the model made of it."""

    def __init__(self, case: dict[str, Any], folder: Path) -> None:
        self.case, self.folder = case, folder
        folder.mkdir()
        self.probes = Probes(folder)
        self.log = PodLog()
        self.seen: dict[str, Any] = case["seen"]
        (self.port,) = free_ports(1)

    def pod(self) -> PodSpec:
        return PodSpec(
            containers=tuple(self.container(name) for name in NAMES), grace_s=self.case["tgps_s"]
        )

    def container(self, name: str) -> ContainerSpec:
        flags: tuple[str, ...] = ()
        if name == "sidecar" and self.is_barrier:
            flags = ("--port", str(self.port), "--answers-after-s", str(self.hook_s("agent")))
        return self.probes.container(
            name,
            exits_after_term_s=self.case["exits_after_term_s"][name],
            flags=flags,
            pre_stop=self.hook(name),
            is_sidecar=name == "sidecar" and self.case["sidecar"] == "native",
        )

    @property
    def is_barrier(self) -> bool:
        return "agent_hook" in self.case["pre_stop_s"]

    def hook_s(self, name: str) -> float:
        return float(self.case["pre_stop_s"][name])

    def hook(self, name: str) -> Hook | None:
        """A hook that takes no time is there only if it was seen."""
        if not self.hook_s(name) and "pre_stop" not in self.seen[name]:
            return None
        if name == "agent" and self.is_barrier:
            return HttpGet(self.port, "/drain/barrier")
        return self.probes.hook(name, self.hook_s(name))

    async def prepare(self) -> Kubelet:
        kubelet = Kubelet(self.pod(), self.folder)
        self.log = kubelet.log
        await self.probes.start(kubelet)
        return kubelet

    async def run(self, kubelet: Kubelet, after_s: float) -> None:
        """From the trigger to the end of the pod."""
        await asyncio.sleep(after_s)
        kubelet.delete(self.case.get("override_s"))
        if killed_s := self.case.get("kubelet_killed_at"):
            await asyncio.sleep(killed_s)
            await kubelet.restart_kubelet(self.case["hooks_again_at"] - killed_s)
        await kubelet.wait_gone(GONE_S)

    def times(self) -> Iterator[tuple[str, float, float]]:
        """What, when it was measured, when the model did it."""
        for name in NAMES:
            for what, measured_s in self.seen[name].items():
                yield f"{name} {what}", measured_s, self.at(name, what)
        yield "pod gone", self.seen["pod_gone"], self.log.at(What.POD_GONE)
        if "hooks_again_at" in self.case:
            for name in NAMES:
                again_s = self.log.all(What.PRE_STOP, name)[1]
                yield f"{name} hook again", self.case["hooks_again_at"], again_s

    def at(self, name: str, what: str) -> float:
        if what == "term":  # as the process itself saw it
            return self.log.since(self.probes.notes(name, "term")[0])
        return self.log.at(What(what), name)

    def misfits(self) -> list[str]:
        return [
            f"{self.case['id']}: {what} at {seen_s:.2f}, measured {measured_s:.2f}"
            for what, measured_s, seen_s in self.times()
            if abs(seen_s - measured_s) > TOLERANCE_S
        ]


@pytest.mark.timeout(60)
async def test_every_measured_case_within_its_tolerance(tmp_path: Path) -> None:
    timed = [case for case in CASES if "by_order_only" not in case]
    assert len(timed) == 12
    cases = [Case(case, tmp_path / case["id"]) for case in timed]
    # First all processes are started; then nothing but the kubelet's work is left to do.
    kubelets = [await case.prepare() for case in cases]
    try:
        runs = enumerate(zip(cases, kubelets, strict=True))
        await asyncio.gather(*(case.run(kubelet, i * APART_S) for i, (case, kubelet) in runs))
    finally:
        for kubelet in kubelets:
            await kubelet.__aexit__(None, None, None)
    misfits = [misfit for case in cases for misfit in case.misfits()]
    logs = "\n".join(f"{case.case['id']}:\n{case.log}" for case in cases)
    assert not misfits, "\n".join([*misfits, logs])


async def test_two_native_sidecars_end_in_the_reverse_of_their_order(tmp_path: Path) -> None:
    (case,) = (case for case in CASES if case["id"] == "h1")
    probes = Probes(tmp_path)
    ends_s = {"s1": 0.0, "s2": 0.2, "agent": 0.4}
    pod = PodSpec(
        containers=tuple(
            probes.container(name, exits_after_term_s=end_s, is_sidecar=name != "agent")
            for name, end_s in ends_s.items()
        ),
        grace_s=case["tgps_s"],
    )
    async with Kubelet(pod, tmp_path) as kubelet:
        await probes.start(kubelet)
        kubelet.delete()
        await kubelet.wait_gone(GONE_S)
    moments = [
        (probes.notes(name, "term")[0], kubelet.log.at(What.EXIT, name))
        for name in ("agent", "s2", "s1")
    ]
    assert case["seen"]["order"][0] == "agent TERM"
    for (_, exit_s), (term_s, _) in itertools.pairwise(moments):
        assert kubelet.log.since(term_s) > exit_s, str(kubelet.log)
