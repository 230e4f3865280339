"""client: what the import costs an agent, and a commit's CPU on both sides."""

import asyncio
import os
import statistics
import subprocess
import sys
import time

import coatcheck
import coatcheck.sync
from bench.measure import Line
from bench.pod import Pod, pod

ROUNDS = 9
IMPORT_MS_MAX = 35.0
COMMITS = 2_000
STATE_BYTES = 4_096
TIMED = (
    "import time; t = time.perf_counter(); import {module}; {use}"
    "print((time.perf_counter() - t) * 1e3)"
)
IMPORTS = (
    ("import coatcheck", "coatcheck", "", IMPORT_MS_MAX),
    ("coatcheck.sync.open_run", "coatcheck.sync", "coatcheck.sync.open_run; ", None),
    ("coatcheck.open_run", "coatcheck", "coatcheck.open_run; ", None),
)


def _import_ms(module: str, use: str = "") -> float:
    code = TIMED.format(module=module, use=use)
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return float(run.stdout)


def _imports(rounds: int) -> list[Line]:
    lines = []
    for what, module, use, limit in IMPORTS:
        floors: list[float] = []
        ours: list[float] = []
        _import_ms(module, use)  # the first one compiles
        for _ in range(rounds):
            floors.append(_import_ms("asyncio"))
            ours.append(_import_ms(module, use))
        lines.append(
            Line(
                what=f"client, {what}",
                ours=statistics.median(ours),
                floor=statistics.median(floors),
                unit="ms",
                limit=limit,
                note="floor: import asyncio",
            )
        )
    return lines


def _cpu(made: Pod, what: str, *, is_small: bool) -> list[Line]:
    states = [
        {"step": n, "data": "" if is_small else os.urandom(STATE_BYTES // 2).hex()}
        for n in range(COMMITS)
    ]
    sides: dict[str, list[float]] = {"client, sync": [], "client, asyncio": [], "sidecar": []}

    async def aio() -> None:
        async with coatcheck.open_run(f"cpu-aio-{is_small}", schema=1) as run:
            before = time.process_time()
            for state in states:
                await run.commit(state)
            sides["client, asyncio"].append(time.process_time() - before)

    with coatcheck.sync.open_run(f"cpu-sync-{is_small}", schema=1) as run:
        before, sidecar_s = time.process_time(), made.cpu_s()
        for state in states:
            run.commit(state)
        sides["client, sync"].append(time.process_time() - before)
        sides["sidecar"].append(made.cpu_s() - sidecar_s)
    asyncio.run(aio())
    return [
        Line(what=f"CPU of a commit of {what}, {side}", ours=took[0] / COMMITS * 1e6, unit="µs")
        for side, took in sides.items()
    ]


def run(*, is_quick: bool) -> list[Line]:
    """Lines of the table."""
    lines = _imports(3 if is_quick else ROUNDS)
    with pod() as made:
        lines += _cpu(made, "20 bytes", is_small=True)
        lines += _cpu(made, "4 KiB", is_small=False)
    return lines
